"""Which part of each ray can meet something: the surface of the bricks of voxels that are not 0.

Most of a bone's box is empty, and a ray that passes by a bone costs as much to set up as 80 samples
along it. So the bricks on the surface of what absorbs are projected, each into the tiles of pixels
that can see it. A tile then knows where its rays enter the first brick and leave the last one.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from common import geometry
from common.drr.parallel import parallel

TILE = 4  # pixels per side
LEAST_EDGE = 8  # voxels per side of a brick
MOST_BRICKS = 4000  # of a volume; larger volumes have larger bricks
NEAREST_MM = 1.0  # bricks beside the source have no outline
EVERYWHERE = (0.0, 1.0)  # from source to detector
NOWHERE = (2.0, -1.0)


def surface(padded: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the bricks (N, 3) on the surface of what is not 0, as first voxels, and their edge.

    ``padded`` (I, J, K) are voxels in a layer of zeros.
    """
    edge = max(LEAST_EDGE, int(np.ceil((padded.size / MOST_BRICKS) ** (1 / 3))))
    counts = [-(-n // edge) for n in padded.shape]
    full = np.zeros([n + 2 for n in counts], np.bool_)  # in a layer of empty bricks
    _occupy(padded, edge, full[1:-1, 1:-1, 1:-1])
    inside = full.copy()
    for axis in range(3):
        inside &= np.roll(full, 1, axis) & np.roll(full, -1, axis)
    return (np.argwhere(full & ~inside) - 1).astype(np.float64) * edge, edge


def reached(
    bricks: np.ndarray,
    edge: int,
    world_from_voxel: np.ndarray,
    cameras: np.ndarray,
    table: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Return where the rays of each tile may meet a brick (B, tiles down, tiles across, 2).

    The two numbers are shares of the way from the source to the detector; the first is larger if
    the rays meet nothing. ``bricks`` and ``edge`` are those of `surface`, ``cameras`` (B, 4, 4) are
    world_from_camera, ``table`` (B, 5) are the detectors, see `joseph_kernel.integrate`, and
    ``shape`` is that of the images.
    """
    # an interpolated sample sees the voxels before and after it
    camera_from_voxel = (
        np.linalg.inv(cameras) @ world_from_voxel @ geometry.translation(-np.ones(3))
    )
    edges = camera_from_voxel[:, :3, :3] * (edge + 1)
    low, high = np.minimum(edges, 0).sum(2), np.maximum(edges, 0).sum(2)  # (B, 3)
    firsts = bricks @ camera_from_voxel[:, :3, :3].mT + camera_from_voxel[:, None, :3, 3]
    out = np.empty((len(cameras), -(-shape[0] // TILE), -(-shape[1] // TILE), 2), np.float32)
    out[:] = NOWHERE
    _mark(firsts + low[:, None], high - low, table, out)
    return out


@parallel()
def _occupy(voxels, edge, out):
    """Mark the bricks (A, B, C) that have a voxel which is not 0."""
    for c in numba.prange(out.shape[2]):
        for k in range(c * edge, min((c + 1) * edge, voxels.shape[2])):
            for j in range(voxels.shape[1]):
                b = j // edge
                for a in range(out.shape[0]):
                    if out[a, b, c]:
                        continue
                    for i in range(a * edge, min((a + 1) * edge, voxels.shape[0])):
                        if voxels[i, j, k] != 0:
                            out[a, b, c] = True
                            break


@parallel()
def _mark(firsts, sizes, table, out):
    """Widen the part of each tile's rays by the bricks that it sees.

    firsts: (B, N, 3) first corners of the boxes around the bricks in the cameras' frames, mm;
    sizes: (B, 3) of the boxes; table: (B, 5) detectors; out: (B, H, W, 2) see `reached`.
    """
    down, across = out.shape[1:3]
    for b in numba.prange(len(firsts)):
        sdd = table[b, 4]
        for n in range(firsts.shape[1]):
            near = firsts[b, n, 2]
            far = near + sizes[b, 2]
            if far < 0:
                continue  # behind the source
            if near < NEAREST_MM:
                out[b, :, :, 0], out[b, :, :, 1] = EVERYWHERE
                break
            left, right = _seen(firsts[b, n, 0], sizes[b, 0], sdd / near, sdd / far)
            top, bottom = _seen(firsts[b, n, 1], sizes[b, 1], sdd / near, sdd / far)
            first, last = _tiles(left, right, table[b, 0], table[b, 2], across)
            first_row, last_row = _tiles(top, bottom, table[b, 1], table[b, 3], down)
            near, far = near / sdd, far / sdd
            for row in range(first_row, last_row + 1):
                for column in range(first, last + 1):
                    out[b, row, column, 0] = min(out[b, row, column, 0], near)
                    out[b, row, column, 1] = max(out[b, row, column, 1], far)


@numba.njit(inline="always")
def _seen(first, size, most, least):
    """Return the ends of a box on the detector, mm from the principal point.

    It is magnified by ``most`` at its near and by ``least`` at its far side.
    """
    last = first + size
    return min(first * most, first * least), max(last * most, last * least)


@numba.njit(inline="always")
def _tiles(low, high, principal, pixel_mm, count):
    """Return the first and the last of ``count`` tiles that see a part of the detector."""
    first = math.floor((principal + low / pixel_mm) / TILE)
    last = math.floor((principal + high / pixel_mm) / TILE)
    return max(0, first), min(count - 1, last)
