"""How an X-ray and a rendering are shown together: equal grey values, overlays, outlines, scale bars, one palette. numpy only at import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.geometry import Detector

# Okabe and Ito's palette, told apart by colour-blind eyes
BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
)
OUTLINE = ORANGE  # bright on black and on grey alike
DRR_NAMES = ("drr.png", "hq_drr.png")  # usual names of create_drr.py's picture
LINE_INTEGRALS = (
    "line integral at 0",
    "line integral at 65535",
)  # what its grey values mean, as text in the file
CHECKS = 8  # of a checkerboard along the picture's shorter side


def high_quality_drrs(folder: Path) -> list[Path]:
    """Pictures of create_drr.py in a results folder, by the line integrals that they state: `DRR_NAMES` first, then by name."""
    pictures = sorted(
        folder.glob("*.png"), key=lambda path: (path.name not in DRR_NAMES, path.name)
    )
    return [path for path in pictures if path.name in DRR_NAMES or _states_line_integrals(path)]


def _states_line_integrals(path: Path) -> bool:
    with open(path, "rb") as stream:
        return LINE_INTEGRALS[1].encode() in stream.read(
            4096
        )  # a PNG's texts come before its pixels


def match_tone(drr: np.ndarray, xray: np.ndarray) -> Any:
    """The monotone curve, a function of an array, that gives a DRR the grey values of the X-ray where it covers it.

    Matches quantiles over the DRR's shadow, both (H, W); pixels without attenuation become 0.
    """
    shadow = drr > 0.02 * drr.max()
    levels = np.linspace(0, 100, 65)
    source = np.r_[0, np.percentile(drr[shadow], levels)]
    target = np.r_[0, np.percentile(xray[shadow], levels)]
    return lambda image: np.interp(image, source, np.maximum.accumulate(target))


def red_cyan(xray: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """(H, W, 3): the X-ray in red, the DRR in cyan, both in 0..1; grey where they agree."""
    return np.stack([xray, drr, drr], -1)


def checkerboard(xray: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """(H, W): squares of the X-ray and of the DRR in turn; an edge that runs on across squares is an edge in both."""
    side = max(1, min(xray.shape) // CHECKS)
    rows, columns = np.indices(xray.shape) // side
    return np.where((rows + columns) % 2 == 0, xray, drr)


def mm_per_pixel(detector: Detector, depth_mm: float) -> float:
    """Size of a pixel along columns, seen ``depth_mm`` from the source: what a scale bar at the bone says."""
    return detector.pixel_mm[0] * depth_mm / detector.sdd_mm


def scale_bar(width_mm: float) -> float:
    """Length of a scale bar, mm: 1, 2 or 5 times a power of ten, about a fifth of the picture's width and never above a third."""
    power = 10.0 ** np.floor(np.log10(width_mm / 5))
    return float(max(step * power for step in (1, 2, 5, 10) if step * power <= width_mm / 3))
