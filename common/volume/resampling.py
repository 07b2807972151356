"""Volumes on other grids, and rigid transforms as ITK takes and stores them."""

from __future__ import annotations

import numpy as np

from common.geometry import RAS_FROM_LPS, apply, invert
from common.volume.itk import from_sitk, sitk_from_rigid, to_sitk
from common.volume.volume import Volume, affine_of_box

SLAB_VOXELS = 2**24  # resampled at a time


def resample(
    volume: Volume,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    volume_from_new: np.ndarray | None = None,
    nearest: bool = False,
    outside: float = 0.0,
    blur_voxels: np.ndarray | None = None,
) -> Volume:
    """The volume's voxels on another grid, linear or nearest neighbour, in the same data type.

    ``volume_from_new`` (4x4, RAS millimetres, identity by default) leads from the new grid's world to the volume's. ``blur_voxels`` (3,) are standard deviations
    of a Gaussian applied first, in the volume's voxels. Goes slab by slab: a whole CT as floating-point numbers, twice, would need several times its memory.
    The lineage is left to the caller.
    """
    moved = np.eye(4) if volume_from_new is None else volume_from_new
    shape = tuple(map(int, shape))
    data = np.empty(shape, volume.data.dtype, order="F")
    planes = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    for first in range(0, shape[2], planes):
        slab = (slice(0, shape[0]), slice(0, shape[1]), slice(first, min(first + planes, shape[2])))
        data[slab] = _resample_slab(volume, slab, affine, moved, nearest, outside, blur_voxels)
    return Volume(data, affine, volume.lineage, volume.path)


def _resample_slab(
    volume: Volume,
    slab: tuple[slice, slice, slice],
    affine: np.ndarray,
    volume_from_new: np.ndarray,
    nearest: bool,
    outside: float,
    blur_voxels: np.ndarray | None,
) -> np.ndarray:
    """Voxels of one slab of the new grid, from the part of the volume that it lies in."""
    import SimpleITK as sitk
    from scipy import ndimage

    corners = np.array(np.meshgrid(*[(s.start, s.stop - 1) for s in slab])).reshape(3, -1).T
    index = apply(invert(volume.affine) @ volume_from_new @ affine, corners)
    reach = (
        2 if blur_voxels is None else 2 + np.ceil(4 * blur_voxels + 1).astype(int)
    )  # SciPy cuts the Gaussian at four deviations
    low = np.clip(np.floor(index.min(0)).astype(int) - reach, 0, volume.shape)
    high = np.clip(np.ceil(index.max(0)).astype(int) + reach + 1, 0, volume.shape)
    size = [s.stop - s.start for s in slab]
    if (low >= high).any():
        return np.full(size, outside, volume.data.dtype)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    whole = volume.data.dtype.kind in "iu"
    part = volume.data[box]
    if blur_voxels is not None:
        part = ndimage.gaussian_filter(part, blur_voxels, output=np.float32, mode="nearest")
    elif not nearest:
        part = part.astype(np.float32)
    lps = RAS_FROM_LPS @ affine_of_box(affine, slab)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.Resample(
        to_sitk(Volume(part, affine_of_box(volume.affine, box), volume.lineage)), size, sitk_from_rigid(volume_from_new),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear, lps[:3, 3].tolist(), spacing.tolist(), (lps[:3, :3] / spacing).ravel().tolist(), outside,
    )  # fmt: skip
    result = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    if whole and not nearest:
        np.rint(result, out=result)
    return result.astype(volume.data.dtype, copy=False)


def resample_labels(labelmap: Volume, like: Volume) -> Volume:
    """The labelmap on another volume's grid, nearest neighbour; the grids share one world."""
    import SimpleITK as sitk

    grid = to_sitk(Volume(np.zeros(like.shape, np.uint8), like.affine, like.lineage))
    image = sitk.Resample(to_sitk(labelmap), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return Volume(from_sitk(image, like.lineage).data, like.affine, like.lineage, labelmap.path)
