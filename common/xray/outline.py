"""Silhouettes of DRRs, and their outlines."""

from __future__ import annotations

import numpy as np

# shares of the highest line integral of a DRR above which a pixel belongs to the silhouette
COMPARED_SHARE = 0.03  # pixels compared with the X-ray in registration
OUTLINE_SHARE = 0.05  # drawn outlines: above the fringe of interpolation
TONE_SHARE = 0.02  # pixels whose grey values are matched to the X-ray's for display

MIN_OUTLINE_PX = 12  # points of a curve; shorter closed curves are specks of the DRR


def silhouette(drr: np.ndarray, share: float) -> np.ndarray:
    """Return the mask of the pixels of a DRR above ``share`` of its highest line integral."""
    return drr > share * drr.max()


def outline(drr: np.ndarray) -> list[np.ndarray]:
    """Return closed curves (N, 2), pixels (column, row), around the silhouette of a DRR (H, W).

    The DRR holds line integrals. A structure cut by the edge of the image is closed along it.
    """
    from skimage.measure import find_contours

    padded = np.pad(drr, 1)
    curves = find_contours(padded, OUTLINE_SHARE * float(drr.max())) if drr.max() > 0 else []
    limits = np.array(drr.shape[::-1]) - 1
    return [
        np.clip(curve[:, ::-1] - 1, 0, limits) for curve in curves if len(curve) >= MIN_OUTLINE_PX
    ]
