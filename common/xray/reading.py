"""X-ray pictures: read, turned into attenuation (bone bright), with the detector that took them.

PNG, JPEG, TIFF (8 or 16 bit) and DICOM. The geometry comes from flags, else from the DICOM header or from ``NAME.json`` beside a picture,
else from the caller's fallback; which one it was is part of the result.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, one_line
from common.geometry import Detector
from common.xray import dicom
from common.xray.dicom import MAX_PIXELS, Header
from common.xray.grey_values import to_attenuation
from common.xray.xray import Xray

logger = logging.getLogger(__name__)


BONE = ("auto", "bright", "dark")
FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
)  # not all that Pillow opens: some of its readers start other programs
LEAST_GREYS = 8  # different values; with fewer it is a mask or a drawing
PAIRS = ("pixel_spacing_mm", "principal_point_px")  # in NAME.json, beside sdd_mm


@dataclass(frozen=True)
class GeometryFlags:
    """What the user said about the detector; None where nothing was said."""

    sdd_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # width, height
    principal_px: tuple[float, float] | None = None
    calibrated: bool = (
        False  # from a calibration file: only the ratio of distance to pixel size is known
    )


def read(
    path: str | Path,
    flags: GeometryFlags | None = None,
    fallback: Detector | None = None,
    bone: str = "auto",
    frame: int | None = None,
) -> Xray:
    """Read an X-ray.

    ``fallback`` is the detector to assume where neither flags nor header give SDD and pixel size: its field of view is
    spread over the picture. ``bone`` says whether bone is bright or dark in the file as a viewer shows it. ``frame`` chooses
    from a multi-frame DICOM. Raises InputError for a file that cannot be read, holds no contrast or has no geometry.
    """
    flags = flags or GeometryFlags()
    path = files.existing_file(path, "an X-ray (PNG, JPEG, TIFF or DICOM)")
    if is_dicom(path):
        pixels, header = dicom.read(path, frame)
    else:
        pixels, header = read_picture(path), geometry_beside(path)
    if min(pixels.shape) < 16:
        raise InputError(
            path,
            f"has {pixels.shape[1]} x {pixels.shape[0]} pixels",
            "an X-ray of at least 16 x 16",
            "choose another file",
        )
    if not np.isfinite(pixels).all():
        raise InputError(
            path, "holds NaN or infinite pixels", "grey values", "export the X-ray again"
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
    detector, origin = _detector(path, pixels.shape, flags, header, fallback)
    image, valid, tone = to_attenuation(path, pixels, header, bone)
    findings = [
        *header.findings,
        *dicom.contradictions(header, flags.sdd_mm, flags.pixel_mm, flags.calibrated),
    ]
    for finding in findings:
        logger.warning(f"{path.name}: {finding}")
    orientation = list(header.patient_orientation) if header.patient_orientation else None
    reading = {
        **tone,
        **origin,
        "findings": findings,
        "patient_orientation": orientation,
        "source_to_patient_mm": header.source_to_patient_mm,
    }
    return Xray(image, valid, detector, path, frame=frame, reading=reading)


def is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def read_picture(path: Path) -> np.ndarray:
    """Grey values (H, W), float32, of a PNG, JPEG or TIFF as stored. Raises InputError for colours, several pages or no picture."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice this number before it allocates
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    path,
                    f"holds {image.n_frames} pages",
                    "one picture",
                    "export the frame to register",
                )
            if image.mode in ("I;16", "I;16B", "I;16L", "I", "F", "L"):
                return np.asarray(image).astype(np.float32)
            channels = np.asarray(image.convert("RGB")).astype(np.int16)
    except UnidentifiedImageError:
        raise InputError(
            path,
            "is not a picture that can be read",
            "PNG, JPEG, TIFF or DICOM",
            "export the X-ray again",
        ) from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever Pillow meets in a damaged or hostile file
        raise InputError(
            path,
            f"cannot be read ({one_line(error)})",
            "PNG, JPEG, TIFF or DICOM",
            "export the X-ray again",
        ) from error
    spread = int(np.ptp(channels, axis=2).max())
    if spread > 8:  # JPEG turns grey into colours a few levels apart
        raise InputError(
            path,
            f"is a colour picture (channels differ by up to {spread})",
            "grey values",
            "export the X-ray without colours or annotations",
        )
    return channels.mean(axis=2).astype(np.float32)


def geometry_beside(picture: Path) -> Header:
    """What ``NAME.json`` beside ``NAME.png`` states: sdd_mm, pixel_spacing_mm [width, height], principal_point_px [column, row].

    A JSON with none of these keys is something else and is left alone. Raises InputError for values that are no geometry.
    """
    beside = picture.with_suffix(".json")
    if not beside.exists():
        return Header()
    content = files.read_json(beside, f"the geometry of {picture.name} (or move it away)")
    stated = {key: content[key] for key in ("sdd_mm", *PAIRS) if content.get(key) is not None}
    try:
        pairs = {key: tuple(map(float, stated[key])) for key in PAIRS if key in stated}
        sdd = float(stated["sdd_mm"]) if "sdd_mm" in stated else None
    except (TypeError, ValueError):
        pairs, sdd = {"": ()}, None
    if not all(len(pair) == 2 and np.isfinite(pair).all() for pair in pairs.values()):
        raise InputError(
            beside,
            f"holds {stated}",
            "sdd_mm, a number, and pixel_spacing_mm [width, height] and principal_point_px [column,"
            " row], two numbers each",
            "correct it",
        )
    return Header(
        sdd_mm=sdd,
        pixel_mm=pairs.get("pixel_spacing_mm"),
        principal_px=pairs.get("principal_point_px"),
    )


def _detector(
    path: Path,
    shape: tuple[int, int],
    flags: GeometryFlags,
    header: Header,
    fallback: Detector | None,
) -> tuple[Detector, dict[str, Any]]:
    height, width = shape
    sdd, pixel, principal = (
        flags.sdd_mm or header.sdd_mm,
        flags.pixel_mm or header.pixel_mm,
        flags.principal_px or header.principal_px,
    )
    file = "DICOM header" if is_dicom(path) else path.with_suffix(".json").name
    pairs = (
        (flags.sdd_mm, header.sdd_mm),
        (flags.pixel_mm, header.pixel_mm),
        (flags.principal_px, header.principal_px),
    )
    origin = " and ".join(
        name
        for name, used in (
            ("calibration" if flags.calibrated else "flags", any(flag for flag, _ in pairs)),
            (file, any(not flag and stated for flag, stated in pairs)),
        )
        if used
    )
    assumed = []
    if fallback is not None:
        if not sdd:
            sdd = fallback.sdd_mm
            assumed.append(f"source-to-detector distance of {sdd:g} mm")
        if not pixel:  # the training field of view, spread over this picture
            pixel = (max(fallback.size_mm) / max(height, width),) * 2
            assumed.append(f"pixel size of {pixel[0]:.4g} mm")
    if assumed:
        origin = " and ".join([*filter(None, [origin]), "checkpoint's training geometry"])
        logger.warning(
            f"{path.name}: neither file nor flags state a {' and a '.join(assumed)}; taken from the"
            " checkpoint. Distances are only as true as that; give `sdd` and `pixel_spacing`"
        )
    absent = [
        name
        for name, value in (
            ("source-to-detector distance (--sdd, or add_dicom_data.py)", sdd),
            ("pixel size (--pixel_spacing)", pixel),
        )
        if not value
    ]
    if absent:
        raise InputError(
            path,
            f"no {' and no '.join(absent)} in the file",
            f"it there, in {path.stem}.json beside a picture, or as flags, in mm",
            "give the flags",
        )
    if not (50 <= sdd <= 10_000) or not all(0.005 <= p <= 20 for p in pixel):
        raise InputError(
            path,
            f"SDD {sdd:g} mm with pixels of {pixel[0]:g} x {pixel[1]:g} mm",
            "50 to 10000 mm and 0.005 to 20 mm",
            "correct `sdd`, `pixel_spacing` or the header",
        )
    detector = Detector.centred(height, width, sdd, pixel)
    logger.info(
        f"{path.name}: SDD {sdd:g} mm, pixel {pixel[0]:.4g} x {pixel[1]:.4g}"
        f" mm{', principal point {:.1f}, {:.1f}'.format(*principal) if principal else ''}"
        f" ({origin})"
    )
    return (replace(detector, principal_px=principal) if principal else detector), {
        "geometry": origin,
        "assumed": assumed,
    }
