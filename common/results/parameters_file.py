"""``parameters.pt``, the result of a registration: one schema, one writer, one reader.

It contains plain types and tensors only, so that ``torch.load(..., weights_only=True)`` opens it;
the suite reads and writes it without torch.
Frames are those of `common.geometry`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, reading
from common.files import tensor_archive
from common.results.pose_uncertainty import PoseUncertainty
from common.results.result import DETECTOR_KEYS, TRAJECTORY_COLUMNS, Result, Verdict
from common.results.scanner_view import ScannerView

SCHEMA = "registration/1"
MAX_PIXELS = 200_000_000
MAX_POINTS = 100_000


def save(path: str | Path, result: Result) -> None:
    """Write ``parameters.pt``. Raises as `files.atomic`."""
    lengths = {name: len(result.trajectory[name]) for name in TRAJECTORY_COLUMNS}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"trajectory columns differ in length: {lengths}")
    content = {
        "schema": SCHEMA,
        "drr": result.drr,
        "xray": result.xray,
        "init_pose": np.asarray(result.init_pose, float)[None],
        "final_pose": np.asarray(result.final_pose, float)[None],
        "trajectory": {
            name: np.array(result.trajectory[name], float) for name in TRAJECTORY_COLUMNS
        },
        "verdict": result.verdict.entries(),
        "metrics": result.metrics,
        "scanner_pose": [view.entries() for view in result.scanner_pose],
        "runtime_s": result.runtime_s,
        "settings": result.settings,
        "versions": result.versions,
    }
    if result.pose_uncertainty is not None:
        content["pose_uncertainty"] = result.pose_uncertainty.entries()
    if result.rival_poses:
        content["rival_poses"] = np.stack(result.rival_poses).astype(float)
    with files.writing(path) as stream:
        tensor_archive.save(stream, content)


def load(path: str | Path) -> Result:
    """Read ``parameters.pt`` without running code from it.

    Raises InputError if the file does not have this schema, or if an entry is missing or invalid.
    """
    what = "parameters.pt of registration.py"
    path = files.existing_file(path, what)
    content = _content(path, what)
    schema = _schema(content)
    if schema != SCHEMA:
        checkpoint = isinstance(content, dict) and "model_state_dict" in content
        found = "a model checkpoint" if checkpoint else f"schema {schema!r}"
        raise InputError(
            path,
            f"is {found}",
            f"{SCHEMA!r}, parameters.pt of registration.py",
            "look inside with read_pt.py",
        )
    with reading(path, f"all entries of {SCHEMA!r}", "register again", "incomplete"):
        unknown = set(content) - {"schema", *(each.name for each in fields(Result))}
        if unknown:
            raise ValueError(f"unknown entries {sorted(unknown)}")
        views = content["scanner_pose"]
        wrong = [] if _holds_views(views) else ["it has no scanner_pose"]
        if not wrong:
            result = _result_of(content)
            wrong = list(_problems(result))
    if wrong:
        raise InputError(path, wrong[0], "what registration.py writes", "register again")
    return result


def _content(path: Path, what: str) -> Any:
    with contextlib.suppress(tensor_archive.NotPlainError):
        content = tensor_archive.load(path)
        if _schema(content) == SCHEMA:
            return content
    from common.files import torch_files

    return torch_files.load(path, what)  # says what it is instead


def _schema(content: Any) -> str | None:
    return content.get("schema") if isinstance(content, dict) else type(content).__name__


def _holds_views(views: Any) -> bool:
    return isinstance(views, list) and bool(views) and all(isinstance(view, dict) for view in views)


def _result_of(content: dict[str, Any]) -> Result:
    return Result(
        drr=content["drr"],
        xray={**content["xray"], "image": np.asarray(content["xray"]["image"])},
        init_pose=np.array(content["init_pose"][0], float),
        final_pose=np.array(content["final_pose"][0], float),
        trajectory={name: content["trajectory"][name].tolist() for name in TRAJECTORY_COLUMNS},
        verdict=Verdict.from_entries(content["verdict"]),
        metrics=content["metrics"],
        scanner_pose=[ScannerView.from_entries(view) for view in content["scanner_pose"]],
        runtime_s=content["runtime_s"],
        settings=content["settings"],
        versions=content["versions"],
        pose_uncertainty=(
            PoseUncertainty.from_entries(content["pose_uncertainty"])
            if "pose_uncertainty" in content
            else None
        ),
        rival_poses=(
            list(np.array(content["rival_poses"], float)) if "rival_poses" in content else []
        ),
    )


def _problems(result: Result) -> Iterator[str]:
    """Yield what is wrong with a result, the basics first.

    Entries of another type raise whatever they raise.
    """
    if not all(isinstance(result.drr[key], int | float) for key in DETECTOR_KEYS):
        yield "its detector is not stated in numbers"
        return
    yield from _problems_of_image(result)
    yield from _problems_of_poses(result)
    stated = result.drr.get("points_mm", [result.drr["isocentre_mm"]])
    if not isinstance(stated, list) or len(stated) > MAX_POINTS:  # before an array is made of it
        yield "its points_mm is not a list of points"
        return
    points = np.array(stated, float)
    placed = np.array(result.drr.get("scanner_from_volume", np.eye(4)), float)
    if (
        points.ndim != 2
        or points.shape[1] != 3
        or placed.shape != (4, 4)
        or not (np.isfinite(points).all() and np.isfinite(placed).all())
    ):
        yield "its points_mm or scanner_from_volume is invalid"
    if not isinstance(result.xray["file"], str) or not isinstance(result.drr["volume"], str):
        yield "it does not name its X-ray and volume"


def _problems_of_image(result: Result) -> Iterator[str]:
    """Yield problems of detector and image."""
    detector, image = result.detector, result.image
    numbers = np.array(
        [detector.sdd_mm, *detector.pixel_mm, *detector.principal_px, *result.drr["isocentre_mm"]]
    )
    if not np.isfinite(numbers).all() or min(detector.sdd_mm, *detector.pixel_mm) <= 0:
        yield (
            f"its detector is impossible (SDD {detector.sdd_mm:g} mm, pixels of"
            f" {detector.pixel_mm[0]:g} x {detector.pixel_mm[1]:g} mm)"
        )
    if (
        image.dtype != np.uint8
        or image.shape != (detector.height, detector.width)
        or not 0 < image.size <= MAX_PIXELS
    ):
        yield (
            f"its image is {image.shape} {image.dtype}, its detector {detector.height} x"
            f" {detector.width}"
        )


def _problems_of_poses(result: Result) -> Iterator[str]:
    """Yield problems of orientation, poses and trajectory."""
    orientation, reverse = result.drr["orientation"], result.drr["reverse_x_axis"]
    if orientation not in list(geometry.REORIENT) or reverse not in (True, False):
        yield f"its orientation is {orientation!r}"
    rigid = {"init_pose": result.init_pose, "final_pose": result.final_pose}
    rigid |= {f"rival_poses[{i}]": pose for i, pose in enumerate(result.rival_poses)}
    for view in result.scanner_pose:
        rigid |= {"scanner_pose camera": view.camera, "scanner_pose camera_init": view.camera_init}
    for name, matrix in rigid.items():
        if not geometry.is_rigid(matrix):
            yield f"its {name} is not a rigid 4x4 transform"
    columns = [np.array(column, float) for column in result.trajectory.values()]
    if (
        len({column.shape for column in columns}) != 1
        or columns[0].ndim != 1
        or not all(np.isfinite(column).all() for column in columns)
    ):
        yield "its trajectory has columns of different lengths or numbers that are not finite"
