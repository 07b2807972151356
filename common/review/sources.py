"""What a result was registered from: its request, and whether its files are there and unchanged."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import files
from common.errors import InputError
from common.registration.request import Request, StructureRequest, XrayRequest
from common.results.result import Result

KEPT_HASHES = 1000  # of files


def _sha256(path: Path) -> str:
    """Return the hash of a file or folder; that of a file is kept until it changes."""
    stat = path.stat()
    return files.sha256(path) if path.is_dir() else _kept_sha256(path, stat.st_mtime_ns)


@functools.lru_cache(KEPT_HASHES)
def _kept_sha256(path: Path, _changed: int) -> str:
    return files.sha256(path)


def check_sources(request: Request, result: Result) -> None:
    """Raise InputError if the CT, the labelmap or an X-ray is missing, or has changed since."""
    (own,), (first, *others) = request.structures, request.xrays
    recorded: list[tuple[str, Path, str | None]] = [
        ("the CT", own.volume, result.drr.get("volume_sha256")),
        ("the X-ray", first.path, result.xray.get("sha256")),
    ]
    if own.mask:
        recorded.append(("the labelmap", own.mask, result.drr.get("mask_sha256")))
    known = result.xray.get("other_views_sha256") or [None] * len(others)  # not in earlier files
    recorded += [("the X-ray", each.path, at) for each, at in zip(others, known, strict=True)]
    for what, path, sha256 in recorded:
        if not path.exists():
            raise InputError(
                path,
                "is not there any more",
                f"{what} that was registered",
                "put it back to look closer, or register again from where it is now",
            )
        if sha256 and _sha256(path) != sha256:
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
            material=result.drr.get("material"),
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
