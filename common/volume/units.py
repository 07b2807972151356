"""Whether the values of a CT are Hounsfield units: air, fat, muscle and cortex have known ones."""

from __future__ import annotations

import numpy as np

from common.volume.hounsfield import ABOVE_MUSCLE_HU, LOWEST_AIR_HU

STEP = 4  # every fourth voxel along each axis is looked at
# raw values of a scanner (HU + 1024): none of fat or air, and most that are above muscle are above
# trabecular bone too, since muscle is at about 1080
LEAST_RAW, MEDIAN_RAW = -50.0, 700.0
LOWEST_PERCENT = 0.1
# 5th and 95th percentile inside a bone: from fatty marrow, and up to cortex
LOW_IN_BONE_HU, HIGH_IN_BONE_HU = (-300.0, 500.0), (150.0, 3200.0)
# Hounsfield units of grey value 0 that exporters use: HU + 1024, HU, and HU + 32768
INTERCEPTS = (-1024.0, 0.0, -32768.0)


def are_raw(data: np.ndarray) -> bool:
    """Return whether a CT (I, J, K) holds values of the scanner (HU + 1024), perhaps with padding.

    Padding is what lies below the air of every scanner.
    """
    some = data[::STEP, ::STEP, ::STEP]
    some = some[some >= LOWEST_AIR_HU]
    dense = some[some > ABOVE_MUSCLE_HU]
    if not dense.size or np.percentile(some, LOWEST_PERCENT) < LEAST_RAW:
        return False
    return bool(np.median(dense) >= MEDIAN_RAW)


def fits_bone(grey: np.ndarray, slope: float, intercept: float) -> bool:
    """Return whether grey values inside a bone are those of bone, in HU by slope and intercept."""
    low, high = np.percentile(grey, [5, 95]) * slope + intercept
    return bool(
        LOW_IN_BONE_HU[0] <= low <= LOW_IN_BONE_HU[1]
        and HIGH_IN_BONE_HU[0] <= high <= HIGH_IN_BONE_HU[1]
    )
