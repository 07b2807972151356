"""Calibrated X-ray cameras of a rig, from the formats of `calibration_formats`.

All become a detector, and ``rig_from_camera`` in the frame of the calibration, in millimetres. A
point P of the rig is seen at column = K00 x/z + K02 and row = K11 y/z + K12, where (x, y, z) =
R P + t. This is OpenCV's pinhole model, which XMALab writes: rows run downwards, z > 0, and
integers are at pixel centres.

A calibration has focal lengths in pixels only. Any pixel spacing gives the same image, so one is
chosen: the caller's, or a nominal one that magnifies the rig's origin 1.5 times. Unequal focal
lengths become pixels of unequal width and height, and nothing is rounded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError, reading
from common.geometry import Detector, invert
from common.xray.calibration_formats import parse
from common.xray.lens import Lens
from common.xray.pinhole import EXPECTED, Pinhole

logger = logging.getLogger(__name__)

# usual for joints in a biplane rig; it has to put the detector behind the patient
NOMINAL_MAGNIFICATION = 1.5
MIN_NOMINAL_SDD_MM = 1000.0  # if the rig's origin is at the source or behind it
LEAST_SHIFT_MM = 300  # distance of the rig's origin from the source; less is doubtful
MAX_BYTES = 1_000_000
MIN_SIDE_PX, MAX_SIDE_PX = 16, 50_000


@dataclass(frozen=True)
class Calibration:
    """One calibrated camera: its detector and its position in the rig."""

    detector: Detector
    rig_from_camera: np.ndarray  # (4, 4), millimetres; columns as in `common.geometry`
    lens: Lens | None = None  # of the X-ray as it is; the camera is that of the undistorted one

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the images that were calibrated."""
        return self.detector.width, self.detector.height


def read(
    path: str | Path, pixel_mm: float | None = None, image_size: tuple[int, int] | None = None
) -> Calibration:
    """Read a calibration.

    ``pixel_mm`` is the pixel spacing along columns at the detector, if known. ``image_size``
    (width, height) is that of the X-ray, which is checked, and taken if the file states none.

    Raises InputError if the file is not a calibration or is for another image size, and for skewed
    axes or a mirrored or scaled rotation.
    """
    path = files.existing_file(path, EXPECTED)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            path,
            f"has {path.stat().st_size} bytes",
            f"{EXPECTED}, a few lines",
            "choose another file",
        )
    with reading(path, EXPECTED, "export it again"):
        camera, remarks, doubts = parse(path)
        if camera.width == 0 and image_size:
            camera = _sized(camera, *image_size)
        _check(path, camera)
    _log(path, camera, remarks, doubts)
    if image_size is not None and tuple(image_size) != (camera.width, camera.height):
        raise InputError(
            path,
            f"its calibration is for images of {camera.width} x {camera.height} pixels",
            f"the X-ray's {image_size[0]} x {image_size[1]}",
            "give the calibration of this camera and the undistorted, uncropped X-ray",
        )
    camera_from_rig = np.eye(4)
    camera_from_rig[:3, :3] = _nearest_rotation(camera.rotation)
    camera_from_rig[:3, 3] = camera.shift
    detector = _detector(camera, camera.pixel_mm or pixel_mm)
    return Calibration(detector, invert(camera_from_rig), camera.lens)


def _sized(camera: Pinhole, width: int, height: int) -> Pinhole:
    """Return a camera of which the file does not state the size of its images."""
    matrix = camera.matrix.copy()
    if camera.pixel_mm:
        matrix[:2, 2] = (width - 1) / 2, (height - 1) / 2
    return replace(camera, width=width, height=height, matrix=matrix)


def _log(path: Path, camera: Pinhole, remarks: list[str], doubts: list[str]) -> None:
    """Log what was read, and warn of doubts."""
    distance, (fx, fy) = np.linalg.norm(camera.shift), np.diag(camera.matrix)[:2]
    logger.info(
        f"{path.name}: {'; '.join(remarks)}: {camera.width} x {camera.height} pixels, focal lengths"
        f" {fx:.1f} and {fy:.1f} pixels, source {distance:.0f} mm from the rig's origin"
    )
    if camera.lens:
        logger.warning(
            f"{path.name}: has lens terms, in OpenCV's order; the X-ray is undistorted by them; if"
            " it already is, leave them out"
        )
    if distance and distance < LEAST_SHIFT_MM:
        doubts = [
            *doubts,
            f"the source is {distance:.1f} mm from the rig's origin; if the calibration is in"
            " centimetres or metres, write its translation in millimetres",
        ]
    for doubt in doubts:
        logger.warning(f"{path.name}: {doubt}")


def _check(path: Path, camera: Pinhole) -> None:
    """Raise InputError if the numbers are not those of a pinhole camera without distortion."""
    sides, matrix, rotation = (camera.width, camera.height), camera.matrix, camera.rotation
    finite = all(np.isfinite(a).all() for a in (matrix, rotation, camera.shift))
    if not MIN_SIDE_PX <= min(sides) <= max(sides) <= MAX_SIDE_PX or not finite:
        raise InputError(
            path,
            f"has an image size of {sides[0]} x {sides[1]} or numbers that are not finite",
            EXPECTED,
            "export it again",
        )
    focal = matrix[0, 0], matrix[1, 1]
    skewed = abs(matrix[0, 1]) + abs(matrix[1, 0]) > 1e-6 * abs(focal[0])
    if (
        min(focal) <= 0
        or not 0.5 < focal[0] / focal[1] < 2
        or skewed
        or not np.allclose(matrix[2], [0, 0, 1])
    ):
        raise InputError(
            path,
            f"camera matrix is {matrix.round(3).tolist()}",
            "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths in pixels",
            "calibrate again",
        )
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise InputError(
            path,
            f"R is not a rotation matrix (determinant {np.linalg.det(rotation):.3f})",
            "an orthogonal matrix with determinant 1",
            "calibrate again",
        )


def _detector(camera: Pinhole, pixel_mm: float | None) -> Detector:
    """Return the detector with the stated pixel spacing along columns, or a nominal one."""
    (fx, fy), (cx, cy) = np.diag(camera.matrix)[:2], camera.matrix[:2, 2]
    nominal = max(NOMINAL_MAGNIFICATION * camera.shift[2], MIN_NOMINAL_SDD_MM)
    sdd = fx * pixel_mm if pixel_mm else nominal
    return Detector(
        camera.height,
        camera.width,
        float(sdd),
        (float(sdd / fx), float(sdd / fy)),
        (float(cx), float(cy)),
    )


def _nearest_rotation(rotation: np.ndarray) -> np.ndarray:
    """Return the rotation nearest to one that was written with few digits."""
    left, _, right = np.linalg.svd(rotation)
    return left @ right
