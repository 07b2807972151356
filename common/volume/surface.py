"""Iso-surfaces of a CT as triangles, for 3D views."""

from __future__ import annotations

import numpy as np

from common import geometry
from common.errors import InputError
from common.volume.hounsfield import AIR_HU
from common.volume.volume import Volume, block_average


def extract_surface(
    volume: Volume, threshold_hu: float, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the iso-surface at ``threshold_hu``: vertices (V, 3) in RAS mm and triangles (T, 3).

    The CT is first averaged to about ``longest`` voxels along its longest axis. Triangles are
    vertex numbers, counterclockwise seen from outside. Raises InputError if no voxel is above the
    threshold.
    """
    from skimage.measure import marching_cubes

    extent = volume.spacing_mm * volume.shape
    voxel_mm = extent.max() / longest
    factors = [max(1, int(np.ceil(voxel_mm / mm - 1e-6))) for mm in volume.spacing_mm]
    # relative to air, since zeros fill the last blocks
    above_air = np.maximum(volume.data.astype(np.float32), AIR_HU) - np.float32(AIR_HU)
    coarse = block_average(Volume(above_air, volume.affine, volume.lineage, volume.path), factors)
    level = threshold_hu - AIR_HU
    if not (coarse.data > level).any():
        raise InputError(
            volume.name,
            f"contains nothing above {threshold_hu:g} HU",
            "bone",
            f"lower `threshold`, the densest voxel has {volume.data.max():g} HU",
        )
    vertices, triangles, _, _ = marching_cubes(np.pad(coarse.data, 1), level)
    # scikit-image orders vertices clockwise seen from outside; a left-handed grid reverses that
    counterclockwise = triangles[:, ::-1] if np.linalg.det(coarse.affine) > 0 else triangles
    return geometry.apply(coarse.affine, vertices - 1), counterclockwise
