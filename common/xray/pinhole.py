"""OpenCV's pinhole camera, as calibrations state it, and the numbers that they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.xray.lens import Lens

EXPECTED = (
    "an X-ray calibration (MayaCam 2.0 or 1, JointTrack, JSON with K, R, t, JSON of a VTK camera,"
    " OpenCV YAML, or a 3x4 matrix)"
)
KEYS_EXPECTED = "K (3x3), R (3x3), t (3, mm) and image_size [width, height]"
SKEW_PX = 1.0  # largest skew of a 3x4 matrix that counts as none


@dataclass(frozen=True)
class Pinhole:
    """OpenCV's pinhole model, as stated in a file: pixel = K (R P + t) / z."""

    width: int  # 0 if the file does not state the size
    height: int
    matrix: np.ndarray  # (3, 3) K
    rotation: np.ndarray  # (3, 3) R
    shift: np.ndarray  # (3,) t, mm
    lens: Lens | None = None
    # if it is stated; the principal point is then in the middle of the image, whatever its size
    pixel_mm: float | None = None


def camera_of_matrix(path: Path, projection: np.ndarray) -> Pinhole:
    """Return the camera of a projection (3, 4): homogeneous mm to pixel (column, row).

    Integers are at pixel centres. The size of the image is not part of it.
    """
    from scipy.linalg import rq

    left = projection[:, :3]
    if not np.isfinite(projection).all() or abs(np.linalg.det(left)) < 1e-12:
        raise InputError(
            path,
            "its matrix has no camera (it is singular or not finite)",
            "a projection of mm to pixels",
            "calibrate again",
        )
    matrix, rotation = rq(left * np.sign(np.linalg.det(left)))
    signs = np.diag(np.sign(np.diag(matrix)))
    matrix, rotation = matrix @ signs, signs @ rotation
    scale = matrix[2, 2]
    shift = np.linalg.solve(matrix, projection[:, 3] * np.sign(np.linalg.det(left)))
    matrix = matrix / scale
    if abs(matrix[0, 1]) < SKEW_PX:  # of a matrix with few digits
        matrix[0, 1] = 0.0
    return Pinhole(0, 0, matrix, rotation, shift)


def array_of(
    path: Path, content: Mapping[str, Any], key: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Return an entry as an array of a shape. Raises InputError if it is none."""
    try:
        found = np.array(content[key], float)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.size != np.prod(shape) or (found.ndim > 1 and len(shape) > 1 and found.shape != shape):
        what = f"is {found.shape}" if found.size else "does not hold numbers"
        raise InputError(
            path,
            f"{key} {what}",
            f"{' x '.join(map(str, shape))} numbers, of {KEYS_EXPECTED}",
            "correct it",
        )
    return found.reshape(shape)


def table_of(path: Path, lines: list[str], rows: int, columns: int, what: str) -> np.ndarray:
    """Return lines of numbers, separated by commas, semicolons, tabs or blanks, (rows, columns).

    Raises InputError for any other shape.
    """
    try:
        table = np.array(
            [
                [float(value) for value in re.split(r"[,;\s]+", line.strip(" ,;\t"))]
                for line in lines
            ]
        )
    except ValueError:
        table = np.empty(0)
    if table.shape != (rows, columns):
        raise InputError(
            path,
            f"{what} does not hold {rows} rows of {columns} numbers",
            EXPECTED,
            "export it again",
        )
    return table
