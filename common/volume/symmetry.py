"""Planes of symmetry of a part: a symmetric one has two poses that look alike in one view."""

from __future__ import annotations

import numpy as np

from common import geometry
from common.volume.volume import Volume

# share of a part inside its mirror image from which it counts as symmetric: trays of three designs
# have 0.87 to 0.93, femoral components up to 0.35
SYMMETRIC = 0.8


def reflection(normal: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the reflection (4, 4) across the plane through a point (3,) with a unit normal."""
    matrix = np.eye(4)
    matrix[:3, :3] -= 2 * np.outer(normal, normal)
    matrix[:3, 3] = 2 * (normal @ point) * normal
    return matrix


def mirror_planes(volume: Volume) -> list[np.ndarray]:
    """Return the reflections (4, 4), in the volume frame, that map a part onto itself nearly.

    ``volume`` is 0 outside the part. Planes through its centroid across its principal axes are
    tried.
    """
    from scipy.ndimage import map_coordinates

    share = volume.data / volume.data.max()
    index = np.argwhere(share > 0.5)
    points = geometry.apply(volume.affine, index)
    centroid = points.mean(axis=0)
    planes = []
    for normal in np.linalg.eigh(np.cov(points.T))[1].T:
        matrix = reflection(normal, centroid)
        mirrored = geometry.apply(geometry.invert(volume.affine) @ matrix, points)
        overlap = map_coordinates(share, mirrored.T, order=1, cval=0.0).clip(0, 1).mean()
        if overlap >= SYMMETRIC:
            planes.append(matrix)
    return planes
