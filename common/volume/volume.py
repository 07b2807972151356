"""A volume in memory: voxels, affine and lineage; boxes, blocks and points of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.geometry import apply
from common.geometry.blocks import block_mean
from common.volume.hounsfield import ABOVE_MUSCLE_HU
from common.volume.lineage import Lineage

Box = tuple[slice, slice, slice]

SAME_VOXEL = 0.02  # deviation of places, in voxels, of one and the same voxel


@dataclass(frozen=True)
class Volume:
    """A 3D image with its position in the volume frame and its origin.

    ``data`` is (I, J, K); ``affine`` is 4x4, volume_from_index, RAS mm; ``path`` is the file that
    it was read from.
    """

    data: np.ndarray
    affine: np.ndarray
    lineage: Lineage
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along the three axes."""
        return self.data.shape

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel spacing along the three axes of ``data``, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def isocentre_mm(self) -> np.ndarray:
        """Centre of the volume, (3,), RAS mm."""
        return apply(self.affine, (np.array(self.shape) - 1) / 2)

    @property
    def name(self) -> str:
        """File name, or "volume" if it was not read from a file."""
        return self.path.name if self.path else "volume"


def voxel_edge_mm(volume: Volume) -> float:
    """Return the edge of a cube as large as a voxel, mm."""
    return float(np.cbrt(volume.spacing_mm.prod()))


def same_grid(a: Volume, b: Volume) -> bool:
    """Return whether two volumes have the same shape, and the same corners to 0.001 mm."""
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape])).reshape(3, -1).T
    return bool(np.allclose(apply(a.affine, corners), apply(b.affine, corners), atol=1e-3))


def embedded(part: Volume, like: Volume) -> Volume | None:
    """Return a volume on the grid of another one, zero around it; None if it has other voxels.

    Its axes may run in another order or the other way, as in a segmentation that is stored in its
    own box.
    """
    like_from_part = np.linalg.inv(like.affine) @ part.affine
    whole = np.rint(like_from_part)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in part.shape])).reshape(3, -1).T
    ends = apply(whole, corners)
    low, high = ends.min(axis=0).astype(int), ends.max(axis=0).astype(int) + 1
    axes = np.abs(whole[:3, :3])
    if (
        not np.array_equal(axes @ axes.T, np.eye(3))
        or np.abs(apply(like_from_part, corners) - ends).max() > SAME_VOXEL
        or (low < 0).any()
        or (high > like.shape).any()
    ):
        return None
    order = axes.argmax(axis=1)
    turned = part.data.transpose(order)
    backwards = [n for n in range(3) if whole[n, order[n]] < 0]
    data = np.zeros(like.shape, part.data.dtype)
    data[tuple(slice(*each) for each in zip(low, high, strict=True))] = np.flip(
        turned, tuple(backwards)
    )
    return Volume(data, like.affine, part.lineage, part.path)


def index_box(mask: np.ndarray, pad: np.ndarray | int = 0) -> Box:
    """Return the bounding box of the true voxels of a mask (I, J, K).

    It is grown by ``pad`` voxels (one number, or one per axis) and clipped to the array.
    """
    pads = np.broadcast_to(pad, 3)

    def along(axis: int) -> slice:
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last, grow = int(inside[0]), int(inside[-1]), int(pads[axis])
        return slice(max(0, first - grow), min(mask.shape[axis], last + 1 + grow))

    return along(0), along(1), along(2)


def affine_of_box(affine: np.ndarray, box: Box) -> np.ndarray:
    """Return the affine of ``data[box]``, given that of ``data``."""
    moved = affine.copy()
    moved[:3, 3] = apply(affine, np.array([b.start for b in box]))
    return moved


def block_average(volume: Volume, factors: Sequence[int]) -> Volume:
    """Return the mean of blocks of ``factors`` voxels, float32; zeros fill the last blocks."""
    padding = [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)]
    coarse = np.eye(4)
    coarse[:3, :3] = np.diag(factors)
    coarse[:3, 3] = (np.array(factors) - 1) / 2
    data = block_mean(np.pad(volume.data, padding), factors)
    return Volume(data, volume.affine @ coarse, volume.lineage, volume.path)


def points_of(
    volume: Volume, mask: np.ndarray | None = None, count: int = 500, seed: int = 0
) -> np.ndarray:
    """Return random voxel centres, (N, 3) with N <= ``count``, RAS mm in the volume frame.

    They are drawn from the voxels of ``mask``, by default from those denser than muscle, and from
    all voxels if there are none.
    """
    inside = np.flatnonzero(mask if mask is not None else volume.data > ABOVE_MUSCLE_HU)
    if not inside.size:
        inside = np.arange(volume.data.size)
    chosen = np.random.default_rng(seed).choice(inside, min(count, inside.size), replace=False)
    return apply(volume.affine, np.stack(np.unravel_index(chosen, volume.shape), 1))
