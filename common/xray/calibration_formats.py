"""The three formats of an X-ray calibration: MayaCam 2.0, MayaCam 1, and JSON with K, R and t."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError
from common.geometry import rotation_matrix

EXPECTED = "an X-ray calibration (MayaCam 2.0 or 1 text, or JSON with K, R, t)"
KEYS_EXPECTED = "K (3x3), R (3x3), t (3, mm) and image_size [width, height]"
# (rows, columns) of the sections of MayaCam 2.0
SECTIONS = {
    "image size": (1, 2),
    "camera matrix": (3, 3),
    "rotation": (3, 3),
    "translation": (3, 1),
}


@dataclass(frozen=True)
class Pinhole:
    """OpenCV's pinhole model, as stated in a file: pixel = K (R P + t) / z."""

    width: int
    height: int
    matrix: np.ndarray  # (3, 3) K
    rotation: np.ndarray  # (3, 3) R
    shift: np.ndarray  # (3,) t, mm


def parse(path: Path, text: str) -> tuple[Pinhole, str | None]:
    """Return the camera stated in a file of any format, and a remark on the format, if any."""
    if text.lstrip().startswith("{"):
        return _json(path), None
    if text.lstrip().lower().startswith("image size"):
        return _mayacam_2(path, text), None
    remark = "MayaCam 1 has one focal length for both axes, and its unit is assumed to be mm"
    return _mayacam_1(path, text), f"{remark}; MayaCam 2.0 is more complete"


def _mayacam_2(path: Path, text: str) -> Pinhole:
    """Return the camera of named sections, each with comma-separated rows."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blocks = {}
    for name, (rows, columns) in SECTIONS.items():
        starts = [i for i, line in enumerate(lines) if line.lower() == name]
        if len(starts) != 1:
            raise InputError(
                path,
                f"has {len(starts)} sections '{name}'",
                "one, as exported by XMALab",
                "export MayaCams 2.0 again",
            )
        first = starts[0] + 1
        blocks[name] = _numbers(
            path, lines[first : first + rows], rows, columns, f"section '{name}'"
        )
    width, height = blocks["image size"][0]
    return Pinhole(
        int(width),
        int(height),
        blocks["camera matrix"],
        blocks["rotation"],
        blocks["translation"][:, 0],
    )


def _mayacam_1(path: Path, text: str) -> Pinhole:
    """Return the camera of five rows of three numbers.

    The rows are the source, the angles, the film plane (unused), (u0, v0, -focal length) and
    (scale, width, height). The angles rotate Maya's camera (x right, y up, looking along -z) about
    z, then its new y, then its new x. u0 and v0 count pixels from 1, v0 upwards from the lower
    edge. The focal length is the mean of both axes.
    """
    rows = _numbers(path, [line for line in text.splitlines() if line.strip()], 5, 3, "MayaCam 1")
    source, (about_x, about_y, about_z), _, (u0, v0, depth), (_, width, height) = rows
    if width == 0 or height == 0:
        raise InputError(
            path,
            f"has an image size of {width:g} x {height:g}",
            "the size of the X-rays",
            "write width and height into its last line, or export MayaCams 2.0",
        )
    world_from_maya = _turn(2, about_z) @ _turn(1, about_y) @ _turn(0, about_x)
    rotation = np.diag([1.0, -1.0, -1.0]) @ world_from_maya.T
    matrix = np.array([[-depth, 0, u0 - 1], [0, -depth, height - v0], [0, 0, 1.0]])
    return Pinhole(int(width), int(height), matrix, rotation, -rotation @ source)


def _json(path: Path) -> Pinhole:
    """Return the camera of keys K (3x3), R (3x3), t (3, mm) and image_size [width, height]."""
    content = files.read_json(path, EXPECTED)
    missing = [key for key in ("K", "R", "t", "image_size") if key not in content]
    if missing:
        raise InputError(path, f"has no {', '.join(missing)}", KEYS_EXPECTED, "add them")
    for key in ("distortion", "dist", "D"):
        if np.any(np.asarray(content.get(key) or 0)):
            raise InputError(
                path,
                f"states lens distortion ({key})",
                "the calibration of undistorted X-rays",
                f"undistort them first and leave {key} out",
            )
    try:
        matrix, rotation, shift = (np.array(content[key], float) for key in ("K", "R", "t"))
        width, height = map(int, content["image_size"])
    except (TypeError, ValueError):
        raise InputError(
            path,
            "K, R, t or image_size are not numbers in that shape",
            KEYS_EXPECTED,
            "correct it",
        ) from None
    if matrix.shape != (3, 3) or rotation.shape != (3, 3) or shift.size != 3:
        raise InputError(
            path,
            f"K is {matrix.shape}, R {rotation.shape}, t {shift.shape}",
            "3x3, 3x3 and 3 numbers",
            "correct it",
        )
    return Pinhole(width, height, matrix, rotation, shift.ravel())


def _numbers(path: Path, lines: list[str], rows: int, columns: int, what: str) -> np.ndarray:
    """Return the lines as an array (rows, columns). Raises InputError for any other shape."""
    try:
        table = np.array(
            [
                [float(value) for value in line.replace(";", ",").strip().rstrip(",").split(",")]
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


def _turn(axis: int, degrees: float) -> np.ndarray:
    """Return the 3x3 rotation about a coordinate axis."""
    return rotation_matrix(np.radians(degrees) * np.eye(3)[axis])
