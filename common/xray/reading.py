"""Reads an X-ray (PNG, JPEG, TIFF with 8 or 16 bit, or DICOM) as attenuation with its detector."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import get_args

import numpy as np

from common import files
from common.errors import InputError, one_line
from common.geometry import Detector
from common.xray import dicom
from common.xray.dicom import MAX_PIXELS, is_dicom
from common.xray.grey_values import Polarity, to_attenuation
from common.xray.header import Header, Reading, contradictions
from common.xray.stated_geometry import StatedGeometry, detector_of, geometry_beside
from common.xray.xray import Xray

logger = logging.getLogger(__name__)

BONE: tuple[Polarity, ...] = get_args(Polarity)
# not all formats that Pillow opens: some of its readers start other programs
FORMATS = ("PNG", "JPEG", "TIFF")
LEAST_PX = 16  # along each side
LEAST_GREYS = 8  # different values; with fewer, the image is a mask or a drawing
COLOUR_LEVELS = 8  # largest difference of channels; JPEG tints grey images slightly


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
    bone in the file as a viewer shows it. ``frame`` is that of a multi-frame DICOM. Raises
    InputError if the file cannot be read, has no contrast or has no geometry.
    """
    stated = stated or StatedGeometry()
    path = files.existing_file(path, "an X-ray (PNG, JPEG, TIFF or DICOM)")
    if is_dicom(path):
        pixels, header = dicom.read(path, frame)
    else:
        pixels, header = read_picture(path), geometry_beside(path)
    _check_pixels(path, pixels)
    detector, origin = detector_of(path, pixels.shape, stated, header, fallback)
    image, valid, about = to_attenuation(path, pixels, header, bone)
    findings = _findings(path, header, stated)
    orientation = list(header.patient_orientation) if header.patient_orientation else None
    reading: Reading = {
        **about,
        **origin,
        "findings": findings,
        "patient_orientation": orientation,
        "source_to_patient_mm": header.source_to_patient_mm,
    }
    return Xray(image, valid, detector, path, frame=frame, reading=reading)


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


def read_picture(path: Path) -> np.ndarray:
    """Return the grey values (H, W) float32 of a PNG, JPEG or TIFF, as stored.

    Raises InputError if the file is not such an image, has colours or has several pages.
    """
    from PIL import Image, UnidentifiedImageError

    # Pillow raises above twice this number, before it allocates
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    wanted, remedy = "PNG, JPEG, TIFF or DICOM", "export the X-ray again"
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise InputError(
                    path, f"has {pages} pages", "a single image", "export the frame to register"
                )
            if image.mode in ("I;16", "I;16B", "I;16L", "I", "F", "L"):
                return np.asarray(image).astype(np.float32)
            channels = np.asarray(image.convert("RGB")).astype(np.int16)
    except UnidentifiedImageError:
        raise InputError(path, "not an image that can be read", wanted, remedy) from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # any exception of Pillow for a damaged or hostile file
        raise InputError(path, f"cannot be read ({one_line(error)})", wanted, remedy) from error
    spread = int(np.ptp(channels, axis=2).max())
    if spread > COLOUR_LEVELS:
        raise InputError(
            path,
            f"is a colour image (channels differ by up to {spread})",
            "grey values",
            "export the X-ray without colours or annotations",
        )
    return channels.mean(axis=2).astype(np.float32)
