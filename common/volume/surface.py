"""A registered view in space: the bone's surface, the source, the detector and its picture, in the volume's world. numpy and scikit-image."""

from __future__ import annotations

import numpy as np

from common import geometry
from common.errors import InputError
from common.volume.volume import Volume

BONE_HU = 250.0  # Hounsfield units of a surface of bone


def extract_surface(
    volume: Volume, threshold_hu: float, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) vertices in world millimetres and (T, 3) triangles (counterclockwise seen from outside) of an iso-surface of the volume averaged to about ``longest`` voxels an axis.

    Raises InputError where no voxel lies above the threshold.
    """
    from skimage.measure import marching_cubes

    from common.volume.volume import block_average

    extent = volume.spacing_mm * volume.shape
    voxel_mm = extent.max() / longest
    factors = tuple(max(1, int(np.ceil(voxel_mm / mm - 1e-6))) for mm in volume.spacing_mm)
    # zeros fill the last blocks, so air is what lies outside
    above_air = Volume(
        np.maximum(volume.data.astype(np.float32), -1000) + 1000,
        volume.affine,
        volume.lineage,
        volume.path,
    )
    coarse = block_average(above_air, factors)
    level = threshold_hu + 1000
    if not (coarse.data > level).any():
        raise InputError(
            volume.name,
            f"holds nothing above {threshold_hu:g} HU",
            "bone",
            f"lower `threshold` (the densest is {volume.data.max():g} HU)",
        )
    vertices, triangles, _, _ = marching_cubes(np.pad(coarse.data, 1), level)
    # scikit-image winds triangles clockwise seen from outside; a left-handed grid turns that round
    counterclockwise = triangles[:, ::-1] if np.linalg.det(coarse.affine) > 0 else triangles
    return geometry.apply(coarse.affine, vertices - 1), counterclockwise
