"""Reads an X-ray (DICOM, picture or video) as attenuation with its detector."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from common import files
from common.errors import InputError
from common.geometry import Detector
from common.xray import dicom, image_files
from common.xray.dicom import is_dicom
from common.xray.grey_values import Polarity, to_attenuation
from common.xray.header import Header, Reading, contradictions
from common.xray.stated_geometry import StatedGeometry, detector_of, geometry_beside
from common.xray.xray import Xray

logger = logging.getLogger(__name__)

BONE: tuple[Polarity, ...] = get_args(Polarity)
LEAST_PX = 16  # along each side
LEAST_GREYS = 8  # different values; with fewer, the image is a mask or a drawing


def read(
    path: str | Path,
    stated: StatedGeometry | None = None,
    fallback: Detector | None = None,
    bone: Polarity = "auto",
    frame: int | None = None,
) -> Xray:
    """Read an X-ray.

    ``stated`` geometry overrules the file's. ``fallback`` is the detector to assume if neither has
    SDD and pixel spacing: its field of view is spread over the image. ``bone`` is the polarity of
    bone in the file as a viewer shows it. ``frame`` is that of a multi-frame DICOM, a multi-page
    TIFF or a video.

    Raises InputError if the file cannot be read, has no contrast or has no geometry.
    """
    stated = stated or StatedGeometry()
    path = files.existing_file(path, f"an X-ray ({image_files.EXPECTED})")
    if is_dicom(path):
        pixels, header = dicom.read(path, frame)
    else:
        picture = image_files.read(path, frame)
        pixels = picture.grey
        header = replace(geometry_beside(path), remarks=picture.remarks)
        for warning in picture.warnings:
            logger.warning(f"{path.name}: {warning}")
    _check_pixels(path, pixels)
    shown = None
    if stated.lens:
        pixels, shown = stated.lens.undistort(pixels)
        header = replace(header, remarks=(*header.remarks, "undistorted by its calibration"))
    detector, origin = detector_of(path, pixels.shape, stated, header, fallback)
    image, valid, about = to_attenuation(path, pixels, header, bone)
    if shown is not None:
        image, valid = np.where(shown, image, np.float32(0)), valid & shown
    height, width = pixels.shape
    logger.info(
        f"{path.name}: {width} x {height} pixels; {'; '.join(header.remarks)}; bone"
        f" {about['bone']} as stored, by {about['decided_by']}"
    )
    findings = _findings(path, header, stated)
    orientation = list(header.patient_orientation) if header.patient_orientation else None
    reading: Reading = {
        **about,
        **origin,
        "findings": findings,
        "patient_orientation": orientation,
        "laterality": header.laterality,
        "view_position": header.view_position,
        "flipped_after_detector": header.flipped_after_detector,
        "source_to_patient_mm": header.source_to_patient_mm,
    }
    return Xray(image, valid, detector, path, frame=frame, reading=reading)


def size_of(path: str | Path, frame: int | None = None) -> tuple[int, int]:
    """Return (width, height) of an X-ray in pixels. Raises InputError if it cannot be read."""
    path = files.existing_file(path, f"an X-ray ({image_files.EXPECTED})")
    if is_dicom(path):
        height, width = dicom.read(path, frame)[0].shape
    else:
        height, width = image_files.read(path, frame).grey.shape
    return width, height


def count_frames(path: Path) -> int:
    """Return the number of frames of an X-ray file. Raises InputError if it cannot be read."""
    return dicom.count_frames(path) if is_dicom(path) else image_files.count_frames(path)


def _check_pixels(path: Path, pixels: np.ndarray) -> None:
    """Raise InputError if the grey values (H, W) cannot be an X-ray's."""
    if min(pixels.shape) < LEAST_PX:
        raise InputError(
            path,
            f"has {pixels.shape[1]} x {pixels.shape[0]} pixels",
            f"an X-ray of at least {LEAST_PX} x {LEAST_PX}",
            "choose another file",
        )
    if not np.isfinite(pixels).all():
        raise InputError(
            path, "has NaN or infinite pixels", "grey values", "export the X-ray again"
        )
    if pixels.min() == pixels.max():
        raise InputError(
            path,
            f"has a single grey value ({pixels.flat[0]:g})",
            "an X-ray with contrast",
            "export it again",
        )
    if (greys := len(np.unique(pixels))) < LEAST_GREYS:
        raise InputError(
            path,
            f"has {greys} different grey values",
            "an X-ray, not a mask or a drawing",
            "export it with its grey values",
        )


def _findings(path: Path, header: Header, stated: StatedGeometry) -> list[str]:
    """Return the contradictions within the header and with the stated geometry; each is logged."""
    findings = [
        *header.findings,
        *contradictions(header, stated.sdd_mm, stated.pixel_mm, stated.calibrated),
    ]
    for finding in findings:
        logger.warning(f"{path.name}: {finding}")
    return findings
