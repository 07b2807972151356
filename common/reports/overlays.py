"""An X-ray and a DRR in one image: matched grey values, colours, checkerboard, scale bar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.geometry import Detector
from common.xray.outline import TONE_SHARE, silhouette

CHECKS = 8  # squares of a checkerboard along the shorter side of the image


def match_tone(drr: np.ndarray, xray: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the monotone curve that gives a DRR the grey values of the X-ray.

    It matches the quantiles of both images (H, W) over the silhouette of the DRR; pixels without
    attenuation become 0. The curve is a function of an array of DRR values.
    """
    covered = silhouette(drr, TONE_SHARE)
    levels = np.linspace(0, 100, 65)
    source = np.r_[0, np.percentile(drr[covered], levels)]
    target = np.r_[0, np.percentile(xray[covered], levels)]
    return lambda image: np.interp(image, source, np.maximum.accumulate(target))


def red_cyan(xray: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) with the X-ray in red and the DRR in cyan, both (H, W) in 0..1.

    Pixels are grey where both agree.
    """
    return np.stack([xray, drr, drr], -1)


def checkerboard(xray: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """Return (H, W) whose squares show X-ray and DRR alternately.

    An edge that continues across squares is an edge in both.
    """
    side = max(1, min(xray.shape) // CHECKS)
    rows, columns = np.indices(xray.shape) // side
    return np.where((rows + columns) % 2 == 0, xray, drr)


def mm_per_pixel(detector: Detector, depth_mm: float) -> float:
    """Return the width of a pixel at ``depth_mm`` from the source, mm: the scale at the bone."""
    return detector.pixel_mm[0] * depth_mm / detector.sdd_mm


def scale_bar_mm(width_mm: float) -> float:
    """Return the length of a scale bar for an image of a width, both mm.

    The length is 1, 2 or 5 times a power of ten, about a fifth of the width and at most a third.
    """
    power = 10.0 ** np.floor(np.log10(width_mm / 5))
    return float(max(step * power for step in (1, 2, 5, 10) if step * power <= width_mm / 3))
