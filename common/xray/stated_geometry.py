"""The detector of an X-ray: from stated values, else the file, else a fallback.

The file is a DICOM header, or ``NAME.json`` next to an image. The origin of each value is part of
the result.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError
from common.geometry import Detector
from common.xray.dicom import is_dicom
from common.xray.header import Header, Reading
from common.xray.lens import Lens

logger = logging.getLogger(__name__)

LIKE = 0.5  # similarity of a key to a known one from which it looks misspelt
PAIRS = ("pixel_spacing_mm", "principal_point_px")  # in NAME.json, in addition to sdd_mm
SDD_MM = (250, 10_000)  # of a mini C-arm and above
PIXEL_MM = (0.005, 20)
OBLIQUE_DEG = 30.0  # from the perpendicular ray to the centre of the image; no tube shines so far
# standard deviation of the SDD: of a file or a calibration, and of what someone states by hand
MEASURED_SD_PERCENT, STATED_SD_PERCENT = 0.1, 0.5

Pair = tuple[float, float]


@dataclass(frozen=True)
class StatedGeometry:
    """What is known about the detector without the file; None if not."""

    sdd_mm: float | None = None
    pixel_mm: Pair | None = None  # pixel spacing at the detector: width, height
    principal_px: Pair | None = None  # (column, row)
    # from a calibration file: only the ratio of SDD to pixel spacing is known
    calibrated: bool = False
    lens: Lens | None = None  # by which the X-ray is to be undistorted


def geometry_beside(image: Path) -> Header:
    """Return the geometry in ``NAME.json`` next to ``NAME.png``.

    Its keys are sdd_mm, pixel_spacing_mm [width, height] and principal_point_px [column, row]. A
    JSON file with none of these keys is ignored, but for a key that looks misspelt. Raises
    InputError if a value is not valid.
    """
    path = image.with_suffix(".json")
    if not path.exists() or path == image:
        return Header()
    content = files.read_json(path, f"the geometry of {image.name} (or move it away)")
    known = ("sdd_mm", *PAIRS)
    for key in content:
        like = difflib.get_close_matches(key.lower(), known, 1, LIKE) if key not in known else []
        if like and like[0] not in content:
            raise InputError(
                path, f"has a key {key!r}", f"{', '.join(known)}", f"is {like[0]} meant? rename it"
            )
    stated = {key: content[key] for key in ("sdd_mm", *PAIRS) if content.get(key) is not None}
    try:
        sdd = float(stated["sdd_mm"]) if "sdd_mm" in stated else None
        if isinstance(stated.get(PAIRS[0]), int | float):  # square pixels
            stated[PAIRS[0]] = [stated[PAIRS[0]]] * 2
        pixel, principal = (_pair(stated[key]) if key in stated else None for key in PAIRS)
    except (TypeError, ValueError):
        raise InputError(
            path,
            f"has {stated}",
            "sdd_mm, a number, and pixel_spacing_mm [width, height] and principal_point_px"
            " [column, row], two numbers each",
            "correct it",
        ) from None
    return Header(sdd_mm=sdd, pixel_mm=pixel, principal_px=principal)


def _pair(values: list[float]) -> Pair:
    """Return two finite numbers. Raises ValueError or TypeError for anything else."""
    first, second = map(float, values)
    if not np.isfinite([first, second]).all():
        raise ValueError("not finite")
    return first, second


def detector_of(
    path: Path,
    shape: tuple[int, int],
    stated: StatedGeometry,
    header: Header,
    fallback: Detector | None,
) -> tuple[Detector, Reading]:
    """Return the detector of an X-ray of ``shape`` (H, W), and the origin of its values.

    A value comes from ``stated``, else from ``header``, else from ``fallback``, whose field of view
    is spread over the image. Raises InputError if SDD or pixel spacing is missing or out of range.
    """
    height, width = shape
    sdd, pixel = stated.sdd_mm or header.sdd_mm, stated.pixel_mm or header.pixel_mm
    origin, assumed = _origin(path, stated, header), []
    if fallback is not None:
        if not sdd:
            sdd = fallback.sdd_mm
            assumed.append(f"source-to-detector distance of {sdd:g} mm")
        if not pixel:
            spacing = max(fallback.size_mm) / max(height, width)
            pixel = spacing, spacing
            assumed.append(f"pixel spacing of {spacing:.4g} mm")
    if assumed:
        origin = " and ".join([*filter(None, [origin]), "checkpoint's training geometry"])
        logger.warning(
            f"{path.name}: neither the file nor settings state a {' and a '.join(assumed)}; taken"
            " from the checkpoint, so distances depend on it; set `sdd` and `pixel_spacing`"
        )
    sdd, pixel = _known(path, sdd, pixel)
    principal = stated.principal_px or header.principal_px
    shown = f", principal point {principal[0]:.1f}, {principal[1]:.1f}" if principal else ""
    logger.info(
        f"{path.name}: SDD {sdd:g} mm, pixel spacing {pixel[0]:.4g} x {pixel[1]:.4g} mm{shown}"
        f" ({origin})"
    )
    detector = Detector.centred(height, width, sdd, pixel)
    if principal:
        off_mm = (np.array(detector.principal_px) - principal) * pixel
        oblique_deg = float(np.degrees(np.arctan(np.linalg.norm(off_mm) / sdd)))
        if oblique_deg > OBLIQUE_DEG:
            logger.warning(
                f"{path.name}: by its principal point, the centre of the image is"
                f" {oblique_deg:.0f} degrees off the perpendicular ray; tubes shine about 20"
                " degrees to each side; check `principal_point`"
            )
        detector = replace(detector, principal_px=principal)
    measured = stated.calibrated or (header.sdd_mm and not stated.sdd_mm)
    sd_percent = MEASURED_SD_PERCENT if measured else STATED_SD_PERCENT
    return detector, {"geometry": origin, "assumed": assumed, "sdd_sd_percent": sd_percent}


def _origin(path: Path, stated: StatedGeometry, header: Header) -> str:
    """Return the origin of the values that are known without the fallback; may be empty."""
    pairs = (
        (stated.sdd_mm, header.sdd_mm),
        (stated.pixel_mm, header.pixel_mm),
        (stated.principal_px, header.principal_px),
    )
    origins = []
    if any(value for value, _ in pairs):
        origins.append("calibration" if stated.calibrated else "settings")
    if any(not value and in_file for value, in_file in pairs):
        origins.append("DICOM header" if is_dicom(path) else path.with_suffix(".json").name)
    return " and ".join(origins)


def _known(path: Path, sdd: float | None, pixel: Pair | None) -> tuple[float, Pair]:
    """Return SDD and pixel spacing. Raises InputError if one is missing or out of range."""
    if not sdd or not pixel:
        missing = [] if sdd else ["source-to-detector distance"]
        missing += [] if pixel else ["pixel spacing"]
        remedies = [] if sdd else ["set `sdd` or use add_dicom_data.py"]
        remedies += [] if pixel else ["set `pixel_spacing`"]
        raise InputError(
            path,
            f"no {' and no '.join(missing)} in the file",
            f"values in mm in the file, in {path.stem}.json next to an image, or as settings",
            ", and ".join(remedies),
        )
    if not SDD_MM[0] <= sdd <= SDD_MM[1] or not all(PIXEL_MM[0] <= p <= PIXEL_MM[1] for p in pixel):
        raise InputError(
            path,
            f"SDD {sdd:g} mm with a pixel spacing of {pixel[0]:g} x {pixel[1]:g} mm",
            f"{SDD_MM[0]} to {SDD_MM[1]} mm and {PIXEL_MM[0]} to {PIXEL_MM[1]} mm",
            "correct `sdd`, `pixel_spacing` or the header"
            + ("; is the distance in centimetres?" if sdd < SDD_MM[0] else ""),
        )
    return sdd, pixel
