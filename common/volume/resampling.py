"""Volumes interpolated on other grids (SimpleITK), slab by slab to keep memory small."""

from __future__ import annotations

import numpy as np

from common.geometry import RAS_FROM_LPS, apply, invert
from common.volume.itk import from_sitk, sitk_from_rigid, to_sitk
from common.volume.volume import Box, Volume, affine_of_box

SLAB_VOXELS = 2**24  # resampled at a time
GAUSSIAN_REACH = 4  # standard deviations at which SciPy truncates a Gaussian


def resample(
    volume: Volume,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    volume_from_new: np.ndarray | None = None,
    nearest: bool = False,
    outside: float = 0.0,
    blur_voxels: np.ndarray | None = None,
) -> Volume:
    """Return the volume on another grid, linear or nearest neighbour, in the same data type.

    ``shape`` and ``affine`` are those of the new grid. ``volume_from_new`` (4x4, RAS mm, default:
    identity) maps points of the new volume frame to the old one. ``outside`` fills voxels outside
    the old grid. ``blur_voxels`` (3,) are standard deviations, in voxels of the old grid, of a
    Gaussian that is applied first. The lineage is left to the caller.

    The new grid is computed slab by slab: a whole CT in floating-point numbers, twice, would need
    several times its memory.
    """
    moved = np.eye(4) if volume_from_new is None else volume_from_new
    width, height, depth = map(int, shape)
    data = np.empty((width, height, depth), volume.data.dtype, order="F")
    planes = max(1, SLAB_VOXELS // (width * height))
    for first in range(0, depth, planes):
        slab = (slice(0, width), slice(0, height), slice(first, min(first + planes, depth)))
        data[slab] = _resample_slab(volume, slab, affine, moved, nearest, outside, blur_voxels)
    return Volume(data, affine, volume.lineage, volume.path)


def _resample_slab(
    volume: Volume,
    slab: Box,
    affine: np.ndarray,
    volume_from_new: np.ndarray,
    nearest: bool,
    outside: float,
    blur_voxels: np.ndarray | None,
) -> np.ndarray:
    """Return the voxels of one slab of the new grid."""
    import SimpleITK as sitk
    from scipy import ndimage

    size = [s.stop - s.start for s in slab]
    box = _box_around(volume, slab, affine, volume_from_new, blur_voxels)
    if box is None:
        return np.full(size, outside, volume.data.dtype)
    part = volume.data[box]
    if blur_voxels is not None:
        part = ndimage.gaussian_filter(part, blur_voxels, output=np.float32, mode="nearest")
    elif not nearest:
        part = part.astype(np.float32)
    lps = RAS_FROM_LPS @ affine_of_box(affine, slab)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.Resample(
        to_sitk(Volume(part, affine_of_box(volume.affine, box), volume.lineage)),
        size,
        sitk_from_rigid(volume_from_new),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        lps[:3, 3].tolist(),
        spacing.tolist(),
        (lps[:3, :3] / spacing).ravel().tolist(),
        outside,
    )
    result = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    if volume.data.dtype.kind in "iu" and not nearest:
        np.rint(result, out=result)
    return result.astype(volume.data.dtype, copy=False)


def _box_around(
    volume: Volume,
    slab: Box,
    affine: np.ndarray,
    volume_from_new: np.ndarray,
    blur_voxels: np.ndarray | None,
) -> Box | None:
    """Return the part of the volume that a slab of the new grid depends on, None if empty."""
    corners = np.array(np.meshgrid(*[(s.start, s.stop - 1) for s in slab])).reshape(3, -1).T
    index = apply(invert(volume.affine) @ volume_from_new @ affine, corners)
    blur = 0 if blur_voxels is None else np.ceil(GAUSSIAN_REACH * blur_voxels + 1).astype(int)
    reach = 2 + blur
    low = np.clip(np.floor(index.min(0)).astype(int) - reach, 0, volume.shape)
    high = np.clip(np.ceil(index.max(0)).astype(int) + reach + 1, 0, volume.shape)
    if (low >= high).any():
        return None
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def resample_labels(labelmap: Volume, like: Volume) -> Volume:
    """Return the labelmap on the grid of another volume in the same frame, nearest neighbour."""
    import SimpleITK as sitk

    grid = to_sitk(Volume(np.zeros(like.shape, np.uint8), like.affine, like.lineage))
    image = sitk.Resample(to_sitk(labelmap), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return Volume(from_sitk(image, like.lineage).data, like.affine, like.lineage, labelmap.path)
