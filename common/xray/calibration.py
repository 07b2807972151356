"""Calibrated X-ray cameras of a biplane rig: XMALab's MayaCam 2.0, the older MayaCam 1, and JSON with K, R and t.

All three become the same thing: a detector, and ``rig_from_camera`` in the world in which the cameras were calibrated
(millimetres). A point P of the rig is seen at column = K00 x/z + K02, row = K11 y/z + K12, where (x, y, z) = R P + t: OpenCV's pinhole
model, which XMALab writes, with rows downwards, z > 0 and integers at pixel centres.

A calibration knows focal lengths in pixels only. Any pixel size gives the same picture, so one is chosen: the caller's, or a nominal one with which
the rig's origin is magnified 1.5 times. Unequal focal lengths become pixels of unequal height and width, and nothing is rounded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError, reading
from common.geometry import Detector, invert, rotation_matrix

logger = logging.getLogger(__name__)


NOMINAL_MAGNIFICATION = (
    1.5  # usual for joints in a biplane rig; it only has to put the detector behind the patient
)
MIN_NOMINAL_SDD_MM = 1000.0  # where the rig's origin lies at the source or behind it
EXPECTED = "an X-ray calibration (MayaCam 2.0 or 1 text, or JSON with K, R, t)"
MAX_BYTES, MAX_SIDE_PX = 1_000_000, 50_000
SECTIONS = {
    "image size": (1, 2),
    "camera matrix": (3, 3),
    "rotation": (3, 3),
    "translation": (3, 1),
}  # rows, columns


@dataclass(frozen=True)
class Calibration:
    """One calibrated camera: its detector and where it stands in the rig."""

    detector: Detector
    rig_from_camera: np.ndarray  # (4, 4), millimetres; columns as in `common.geometry`

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the pictures that were calibrated."""
        return self.detector.width, self.detector.height


def read(
    path: str | Path, pixel_mm: float | None = None, image_size: tuple[int, int] | None = None
) -> Calibration:
    """Read a calibration.

    ``pixel_mm`` is the pixel size along columns at the detector, where it is known. ``image_size`` (width, height) is that of the picture it is meant for.
    Raises InputError for another file, lens distortion, skewed axes, a mirrored or scaled rotation, and a picture of another size.
    """
    path = files.existing_file(path, EXPECTED)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            path,
            f"has {path.stat().st_size} bytes",
            f"{EXPECTED}, a few lines",
            "choose another file",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(path, "is not text", EXPECTED, "choose another file") from None
    with reading(path, EXPECTED, "export it again"):
        size, matrix, rotation, shift = _parse(path, text)
        _check(path, size, matrix, rotation, shift)
    if image_size is not None and tuple(image_size) != size:
        raise InputError(
            path,
            f"is of pictures of {size[0]} x {size[1]} pixels",
            f"the X-ray's {image_size[0]} x {image_size[1]}",
            "give the calibration of this camera and the undistorted, uncropped picture",
        )
    sdd = (
        matrix[0, 0] * pixel_mm
        if pixel_mm
        else max(NOMINAL_MAGNIFICATION * shift[2], MIN_NOMINAL_SDD_MM)
    )
    detector = Detector(
        size[1],
        size[0],
        float(sdd),
        (float(sdd / matrix[0, 0]), float(sdd / matrix[1, 1])),
        (float(matrix[0, 2]), float(matrix[1, 2])),
    )
    camera_from_rig = np.eye(4)
    camera_from_rig[:3, :3], camera_from_rig[:3, 3] = _nearest_rotation(rotation), shift
    return Calibration(detector, invert(camera_from_rig))


def _parse(path: Path, text: str) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """Image size (width, height), camera matrix, rotation and translation, whatever the format."""
    if text.lstrip().startswith("{"):
        return _json(path)
    return (
        _mayacam_2(path, text)
        if text.lstrip().lower().startswith("image size")
        else _mayacam_1(path, text)
    )


def _mayacam_2(path: Path, text: str) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """Sections named in the file, each with comma-separated rows."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blocks = {}
    for name, (rows, columns) in SECTIONS.items():
        starts = [i for i, line in enumerate(lines) if line.lower() == name]
        if len(starts) != 1:
            raise InputError(
                path,
                f"holds {len(starts)} sections '{name}'",
                "one, as XMALab exports it",
                "export MayaCams 2.0 again",
            )
        blocks[name] = _numbers(
            path, lines[starts[0] + 1 : starts[0] + 1 + rows], rows, columns, f"section '{name}'"
        )
    width, height = blocks["image size"][0]
    return (
        (int(width), int(height)),
        blocks["camera matrix"],
        blocks["rotation"],
        blocks["translation"][:, 0],
    )


def _mayacam_1(path: Path, text: str) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """Five rows of three numbers: source, angles, film plane (unused), (u0, v0, -focal length) and (scale, width, height).

    The angles turn Maya's camera (x right, y up, looking along -z) about z, then its new y, then its new x. u0 and v0 count pixels from 1, v0 upwards from the
    lower edge. There is one focal length: the mean of both.
    """
    rows = _numbers(path, [line for line in text.splitlines() if line.strip()], 5, 3, "MayaCam 1")
    source, (about_x, about_y, about_z), _, (u0, v0, depth), (_, width, height) = rows
    if width == 0 or height == 0:
        raise InputError(
            path,
            f"has an image size of {width:g} x {height:g}",
            "that of the pictures",
            "write width and height into its last line, or export MayaCams 2.0",
        )
    world_from_maya = _turn(2, about_z) @ _turn(1, about_y) @ _turn(0, about_x)
    rotation = np.diag([1.0, -1.0, -1.0]) @ world_from_maya.T
    matrix = np.array([[-depth, 0, u0 - 1], [0, -depth, height - v0], [0, 0, 1.0]])
    logger.info(
        f"{path.name}: MayaCam 1 has one focal length for both axes; taken as millimetres; MayaCams"
        " 2.0 say more"
    )
    return (int(width), int(height)), matrix, rotation, -rotation @ source


def _json(path: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]:
    """Keys K (3x3), R (3x3), t (3, millimetres) and image_size [width, height]."""
    content = files.read_json(path, EXPECTED)
    absent = [key for key in ("K", "R", "t", "image_size") if key not in content]
    if absent:
        raise InputError(
            path,
            f"has no {', '.join(absent)}",
            "K (3x3), R (3x3), t (3, mm) and image_size [width, height]",
            "add them",
        )
    for key in ("distortion", "dist", "D"):
        if np.any(np.asarray(content.get(key) or 0)):
            raise InputError(
                path,
                f"states lens distortion ({key})",
                "the calibration of undistorted pictures",
                f"undistort them first and leave {key} out",
            )
    try:
        matrix, rotation, shift = (np.array(content[key], float) for key in ("K", "R", "t"))
        width, height = map(int, content["image_size"])
    except (TypeError, ValueError):
        raise InputError(
            path,
            "K, R, t or image_size are not numbers in that shape",
            "K (3x3), R (3x3), t (3, mm) and image_size [width, height]",
            "correct it",
        ) from None
    if matrix.shape != (3, 3) or rotation.shape != (3, 3) or shift.size != 3:
        raise InputError(
            path,
            f"K is {matrix.shape}, R {rotation.shape}, t {shift.shape}",
            "3x3, 3x3 and 3 numbers",
            "correct it",
        )
    return (width, height), matrix, rotation, shift.ravel()


def _numbers(path: Path, lines: list[str], rows: int, columns: int, what: str) -> np.ndarray:
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


def _check(
    path: Path, size: tuple[int, int], matrix: np.ndarray, rotation: np.ndarray, shift: np.ndarray
) -> None:
    if not 16 <= min(size) <= max(size) <= MAX_SIDE_PX or not all(
        np.isfinite(a).all() for a in (matrix, rotation, shift)
    ):
        raise InputError(
            path,
            f"has an image size of {size[0]} x {size[1]} or numbers that are not finite",
            EXPECTED,
            "export it again",
        )
    focal = matrix[0, 0], matrix[1, 1]
    upper = abs(matrix[0, 1]) + abs(matrix[1, 0]) > 1e-6 * abs(focal[0]) or not np.allclose(
        matrix[2], [0, 0, 1]
    )
    if min(focal) <= 0 or not 0.5 < focal[0] / focal[1] < 2 or upper:
        raise InputError(
            path,
            f"its camera matrix is {matrix.round(3).tolist()}",
            "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths in pixels",
            "calibrate again",
        )
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise InputError(
            path,
            f"its rotation is no rotation (determinant {np.linalg.det(rotation):.3f})",
            "an orthogonal matrix with determinant 1",
            "calibrate again",
        )
    if np.linalg.norm(shift) < 100:
        logger.warning(
            f"{path.name}: the source is {np.linalg.norm(shift):.1f} mm from the rig's origin; if"
            " the calibration is in centimetres or metres, write its translation in millimetres"
        )


def _turn(axis: int, degrees: float) -> np.ndarray:
    """3x3 rotation about a coordinate axis."""
    return rotation_matrix(np.radians(degrees) * np.eye(3)[axis])


def _nearest_rotation(rotation: np.ndarray) -> np.ndarray:
    """The rotation closest to one written with few digits."""
    left, _, right = np.linalg.svd(rotation)
    return left @ right
