"""Ground truth: the camera of an X-ray, and points of the bone, from a file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, reading

logger = logging.getLogger(__name__)

CAMERA_KEYS = ("camera", "C2W")


@dataclass(frozen=True)
class Truth:
    """The true pose of a bone in an X-ray."""

    camera: np.ndarray  # (4, 4) scanner_from_camera, RAS mm of the original CT
    points_mm: np.ndarray | None  # (N, 3) points of the bone in the scanner frame, if known


def read_truth(path: str | Path, label: int | None) -> Truth:
    """Read the true pose from JSON or from another parameters.pt.

    ``label`` selects the bone, if bones have moved since the CT. Raises InputError if the file has
    no camera, or nothing for the label.
    """
    if str(path).lower().endswith((".pt", ".pth")):
        from common.results import parameters_file

        return Truth(parameters_file.load(path).scanner_pose[0].camera, None)
    content = files.read_json(path, "a true pose")
    with reading(path, "moved_bones with labels and C2W_of_bone", "correct the file"):
        moved = [
            bone["C2W_of_bone"]
            for bone in content.get("moved_bones", ())
            if label in bone["labels"]
        ]
    matrix = moved[0] if moved else next((content[k] for k in CAMERA_KEYS if k in content), None)
    if not moved and content.get("moved_bones") and label is None:
        logger.warning(
            f"{path}: bones have moved since the CT; the camera of the bones that have not moved is"
            " used; set `label` to select a bone"
        )
    return Truth(_camera(path, matrix), _fiducials(path, content.get("fiducials"), label))


def _camera(path: str | Path, matrix: Any) -> np.ndarray:
    try:
        camera = np.array(matrix, float)
    except (TypeError, ValueError):
        camera = np.empty(0)
    if not geometry.is_rigid(camera):
        raise InputError(
            path,
            "no usable camera",
            'a rigid 4x4 matrix, RAS mm, under "camera" or "C2W"',
            "see `help`",
        )
    return camera


def _fiducials(path: str | Path, content: Any, label: int | None) -> np.ndarray | None:
    """Points (N, 3) of the bone: of ``label`` if they are stored by label."""
    if isinstance(content, dict):
        if label is None:
            return None
        if str(label) not in content:
            raise InputError(
                path,
                f"no fiducials of label {label}",
                f"one of {sorted(content)}",
                "correct `label`",
            )
        content = content[str(label)]
    expected = "a list of (x, y, z) in RAS mm"
    with reading(path, f"fiducials as {expected}", "correct the file"):
        points = np.array(
            content["ras_in_ct"] if isinstance(content, dict) else content or np.empty((0, 3)),
            float,
        )
    if not len(points):
        return None
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(
            path, f"its fiducials have shape {points.shape}", expected, "correct the file"
        )
    return points
