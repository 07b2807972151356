"""X-rays and calibrations whose names say which camera they are of."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError

logger = logging.getLogger(__name__)


def in_order_of_cameras(xrays: Sequence[Path], calibrations: Sequence[Path]) -> list[Path]:
    """Return the X-rays instant by instant, each in the order of the calibrations.

    A shell lists cam1_*.tif cam2_*.tif camera by camera; if the name of each X-ray contains that of
    one calibration (cam1.txt), it says which camera it is of. Otherwise the order is kept. Raises
    InputError if cameras have different numbers of X-rays.
    """
    cameras = [_camera_of(xray, calibrations) for xray in xrays]
    count = len(calibrations)
    if count < 2 or None in cameras or cameras == [n % count for n in range(len(xrays))]:
        return list(xrays)
    each = [
        [xray for xray, camera in zip(xrays, cameras, strict=True) if camera == number]
        for number in range(count)
    ]
    if len({len(some) for some in each}) > 1:
        counts = ", ".join(
            f"{len(some)} of {path.stem}" for some, path in zip(each, calibrations, strict=True)
        )
        raise InputError(
            "--calibration",
            f"the names of the X-rays say {counts}",
            "as many of each camera",
            "add what is missing, or rename them",
        )
    logger.info("X-rays belong to the calibrations by their names: " + "; ".join(
        " + ".join(xray.name for xray in instant) for instant in zip(*each, strict=True)
    ))  # fmt: skip
    return [xray for instant in zip(*each, strict=True) for xray in instant]


def _camera_of(xray: Path, calibrations: Sequence[Path]) -> int | None:
    """Return the number of the only calibration whose name is in that of an X-ray."""
    named = [
        number
        for number, path in enumerate(calibrations)
        if re.search(rf"(?<![^\W_]){re.escape(path.stem)}(?![^\W_])", xray.stem, re.IGNORECASE)
    ]
    return named[0] if len(named) == 1 else None
