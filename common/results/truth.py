"""Known poses: what an X-ray's truth file says about where its camera stood."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """The true camera, scanner_from_camera (4, 4), and points of the bone in the scanner's frame (N, 3), if the file has any."""

    camera: np.ndarray
    points_mm: np.ndarray | None


def read_truth(path: str | Path, label: int | None) -> Truth:
    """The true pose from JSON or from another parameters.pt. Raises InputError where the file or the label does not say."""
    if str(path).lower().endswith((".pt", ".pth")):
        from common.results import parameters_file

        return Truth(np.asarray(parameters_file.load(path).scanner_pose[0]["camera"]), None)
    content = files.read_json(path, "a true pose")
    with reading(path, "moved_bones with labels and C2W_of_bone", "correct the file"):
        moved = [
            bone["C2W_of_bone"]
            for bone in content.get("moved_bones", ())
            if label in bone["labels"]
        ]
    matrix = moved[0] if moved else content.get("camera", content.get("C2W"))
    if not moved and content.get("moved_bones") and label is None:
        logger.warning(
            f"{path}: says that bones have moved since the CT; taken as one that has not; give"
            " `label` to choose"
        )
    return Truth(_camera(path, matrix), _fiducials(path, content.get("fiducials"), label))


def _camera(path: str | Path, matrix: Any) -> np.ndarray:
    try:
        camera = np.array(matrix, float)
    except (TypeError, ValueError):
        camera = np.empty(0)
    if (
        camera.shape != (4, 4)
        or not np.allclose(camera[3], [0, 0, 0, 1])
        or not np.allclose(camera[:3, :3].T @ camera[:3, :3], np.eye(3), atol=1e-3)
    ):
        raise InputError(
            path,
            "holds no usable camera",
            'a rigid 4x4 matrix, RAS mm, under "camera" or "C2W"',
            "see `help`",
        )
    return camera


def _fiducials(path: str | Path, content: Any, label: int | None) -> np.ndarray | None:
    if isinstance(content, dict):
        if label is None:
            return None
        if str(label) not in content:
            raise InputError(
                path,
                f"has no fiducials of label {label}",
                f"one of {sorted(content)}",
                "correct `label`",
            )
        content = content[str(label)]
    with reading(path, "fiducials as a list of (x, y, z) in RAS mm", "correct the file"):
        points = np.array(
            content["ras_in_ct"] if isinstance(content, dict) else content or np.empty((0, 3)),
            float,
        )
    if not len(points):
        return None
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(
            path,
            f"its fiducials have shape {points.shape}",
            "a list of (x, y, z) in RAS mm",
            "correct the file",
        )
    return points
