"""The calibration of JointTrack and JTML: one camera, as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import InputError
from common.xray.pinhole import EXPECTED, Pinhole

HEADER = "JT_INTCALIB"


def jointtrack(path: Path, text: str) -> Pinhole:
    """Return the camera of a JointTrack calibration, in the frame of the camera.

    After the header come the source-to-detector distance, the place of the principal point from the
    middle of the image (x, y) and the pixel spacing, in mm. The image size is not stated. Raises
    InputError if these are not four numbers, or if the principal point is not in the middle: which
    way its numbers count is not documented.
    """
    words = text.split()[1:]
    try:
        sdd_mm, across, up, pixel_mm = map(float, words)
    except ValueError:
        raise InputError(
            path, f"has {len(words)} words after {HEADER}", "4 numbers", "export it again"
        ) from None
    if across or up:
        raise InputError(
            path,
            f"its principal point is {across:g} and {up:g} mm from the middle of the image",
            "one in the middle",
            "give sdd, pixel_spacing and principal_point instead of this file",
        )
    if not min(sdd_mm, pixel_mm) > 0:
        raise InputError(path, f"has {sdd_mm:g} and {pixel_mm:g} mm", EXPECTED, "export it again")
    focal_px = sdd_mm / pixel_mm
    return Pinhole(
        0, 0, np.diag([focal_px, focal_px, 1.0]), np.eye(3), np.zeros(3), pixel_mm=pixel_mm
    )
