"""A registered view for 3D Slicer: transforms, the X-ray on its detector, and the bone's outline. Needs only ``scanner_pose``.

Slicer's scene is the original CT's RAS millimetres; the files are in LPS, as ITK's are. A transform file holds what ITK resamples with, from
parent to child; Slicer inverts it on loading, so that a node under the transform is moved from child to parent.
"""

from __future__ import annotations

import numpy as np

OUTLINE_SHARE = (
    0.05  # of the DRR's largest value: the silhouette's edge, above interpolation's fringe
)
MIN_OUTLINE_PX = 12  # shorter closed curves are specks of the rendering


def outline(drr: np.ndarray) -> list[np.ndarray]:
    """Closed curves (N, 2), pixels (column, row), around the silhouette of a rendering (H, W) of line integrals."""
    from skimage.measure import find_contours

    padded = np.pad(drr, 1)  # a bone cut by the picture's edge is closed along it
    curves = find_contours(padded, OUTLINE_SHARE * float(drr.max())) if drr.max() > 0 else []
    limits = np.array(drr.shape[::-1]) - 1
    return [
        np.clip(curve[:, ::-1] - 1, 0, limits) for curve in curves if len(curve) >= MIN_OUTLINE_PX
    ]
