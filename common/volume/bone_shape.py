"""Shape of a bone in a CT: the signed distance to its surface, at several resolutions.

Unlike grey values, the distance is smooth, so that an alignment converges from a distant start, and
a larger or denser bone is centred on a smaller one instead of being caught at its cortex.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from common.errors import InputError
from common.geometry import apply
from common.geometry.blocks import block_mean
from common.volume import resampling
from common.volume.hounsfield import BONE_HU
from common.volume.volume import Volume

SHAPE_MM = 15.0  # distances to the surface are limited to this
MARGIN_MM = 6.0  # the bone and its surroundings up to this distance are compared
# voxels of a shape; a cropped bone has fewer, a whole body at 0.8 mm twenty times as many
MOST_VOXELS = 20_000_000
MOST_POINTS = 20_000  # about as many determine centre and principal axes


@dataclass(frozen=True)
class ShapeLevel:
    """A bone's shape at one resolution.

    ``distance`` is the signed distance to the surface, mm, positive inside; ``near`` is a mask on
    its grid of the voxels that are compared.
    """

    distance: Volume
    near: np.ndarray

    @cached_property
    def points_mm(self) -> np.ndarray:
        """Positions of the voxels compared, (N, 3), RAS mm."""
        return apply(self.distance.affine, np.argwhere(self.near))

    @cached_property
    def values(self) -> np.ndarray:
        """Distances of the voxels compared, (N,), mm."""
        return self.distance.data[self.near]


class BoneShape:
    """A CT prepared for alignment: shape, centre and principal axes of its bone, RAS mm.

    The bone is the whole labelmap or, without one, all voxels above `BONE_HU`. Raises InputError
    if the CT contains no bone, or nothing else.
    """

    def __init__(self, ct: Volume, labelmap: Volume | None):
        from scipy import ndimage

        bone = labelmap.data > 0 if labelmap is not None else ct.data > BONE_HU
        inside, affine = thinned(bone, ct.affine)
        if not inside.any() or inside.all():
            by = "by its labelmap" if labelmap is not None else f"by its voxels above {BONE_HU} HU"
            raise InputError(
                ct.path or ct.name,
                f"is {('all' if inside.any() else 'no')} bone {by}",
                "a bone and its surroundings",
                "move this CT out of the folder",
            )
        grid = replace(ct, data=inside, affine=affine)
        depth, height = (
            ndimage.distance_transform_edt(part, sampling=grid.spacing_mm).astype(np.float32)
            for part in (inside, ~inside)
        )
        # the surface lies between two voxel centres
        half_voxel = np.float32(grid.spacing_mm.mean() / 2)
        distance = np.where(inside, depth - half_voxel, half_voxel - height)
        self.distance = replace(grid, data=np.clip(distance, -SHAPE_MM, SHAPE_MM))
        self.near = replace(grid, data=(height <= MARGIN_MM).astype(np.uint8))
        index = np.argwhere(inside)
        points = apply(affine, index[:: 1 + len(index) // MOST_POINTS])
        self.centre_mm = points.mean(0)
        self.principal_axes = _principal_axes(points)
        self.surface = inside & ~ndimage.binary_erosion(inside, border_value=1)

    def at(self, spacing_mm: float) -> ShapeLevel:
        """Return the shape at about ``spacing_mm``, never finer than the CT.

        Distances are smooth, so they are interpolated without a filter.
        """
        fine, spacing = self.distance.spacing_mm, np.maximum(self.distance.spacing_mm, spacing_mm)
        size = np.maximum(1 + np.floor((np.array(self.distance.shape) - 1) * fine / spacing), 2)
        shape = (int(size[0]), int(size[1]), int(size[2]))
        affine = self.distance.affine @ np.diag([*(spacing / fine), 1])
        distance = resampling.resample(self.distance, shape, affine, outside=-SHAPE_MM)
        near = resampling.resample(self.near, shape, affine, nearest=True)
        return ShapeLevel(distance, near.data > 0)


def _principal_axes(points: np.ndarray) -> np.ndarray:
    """Return the principal axes of points (N, 3): columns of a rotation, widest first."""
    axes = np.linalg.eigh(np.cov(points.T))[1][:, ::-1]
    return axes * [1, 1, np.linalg.det(axes)]


def thinned(inside: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask (I, J, K) and its affine with at most `MOST_VOXELS` voxels.

    A larger mask is merged in blocks, by majority: distances take about 50 bytes per voxel.
    """
    factor = int(np.ceil((inside.size / MOST_VOXELS) ** (1 / 3)))
    if factor == 1:
        return inside, affine
    coarse = np.diag([factor] * 3 + [1.0])
    coarse[:3, 3] = (factor - 1) / 2
    return block_mean(inside, [factor] * 3) >= 0.5, affine @ coarse
