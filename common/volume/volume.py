"""CT and labelmap files (NIfTI) with their lineage, their grid, and Hounsfield units as attenuation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.geometry import apply, invert
from common.volume.lineage import Lineage


def block_average(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """The volume with blocks of voxels averaged; zeros fill the last blocks."""
    padding = [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)]
    data = np.pad(volume.data, padding)
    blocks = data.reshape(
        *[m for n, f in zip(data.shape, factors, strict=True) for m in (n // f, f)]
    )
    coarse = np.eye(4)
    coarse[:3, :3] = np.diag(factors)
    coarse[:3, 3] = (np.array(factors) - 1) / 2
    return Volume(
        blocks.mean(axis=(1, 3, 5), dtype=np.float32),
        volume.affine @ coarse,
        volume.lineage,
        volume.path,
    )


def voxel_edge_mm(volume: Volume) -> float:
    return float(np.cbrt(volume.spacing_mm.prod()))


@dataclass(frozen=True)
class Volume:
    """A 3-D image: ``data[i, j, k]``, its voxel-to-world affine (RAS millimetres), and where it came from."""

    data: np.ndarray
    affine: np.ndarray
    lineage: Lineage
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape

    @property
    def spacing_mm(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def isocentre_mm(self) -> np.ndarray:
        """World position of the volume's middle, RAS millimetres."""
        return apply(self.affine, (np.array(self.shape) - 1) / 2)

    @property
    def name(self) -> str:
        return self.path.name if self.path else "volume"


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes share shape and affine to a thousandth of a millimetre at the corners."""
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape])).reshape(3, -1).T
    return bool(np.allclose(apply(a.affine, corners), apply(b.affine, corners), atol=1e-3))


def index_box(mask: np.ndarray, pad: np.ndarray | int = 0) -> tuple[slice, slice, slice]:
    """Bounding box of the true voxels, grown by ``pad`` voxels (one number or three) and clipped to the array."""
    pad = np.broadcast_to(pad, 3)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(
            slice(
                max(0, int(inside[0]) - int(pad[axis])),
                min(mask.shape[axis], int(inside[-1]) + 1 + int(pad[axis])),
            )
        )
    return tuple(box)


def affine_of_box(affine: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """Affine of ``data[box]``."""
    moved = affine.copy()
    moved[:3, 3] = apply(affine, np.array([b.start for b in box]))
    return moved


def points_of(
    volume: Volume, mask: np.ndarray | None = None, count: int = 500, seed: int = 0
) -> np.ndarray:
    """(count, 3) world points of the masked voxels (or of voxels denser than muscle), drawn at random, RAS millimetres."""
    inside = np.flatnonzero(mask if mask is not None else volume.data > 150)
    if not inside.size:
        inside = np.arange(volume.data.size)
    chosen = np.random.default_rng(seed).choice(inside, min(count, inside.size), replace=False)
    return apply(volume.affine, np.stack(np.unravel_index(chosen, volume.shape), 1))


def world_from_world(affine_new: np.ndarray, affine_old: np.ndarray) -> np.ndarray:
    """new_from_old of two affines of one voxel grid."""
    return affine_new @ invert(affine_old)
