"""CTs that hold only the bone, with one value outside it: the outside is filled with soft tissue.

Such a CT comes from Autoscoper, from "mask volume" of 3D Slicer and from masks of TotalSegmentator.
Its edge is the problem: wherever a voxel is interpolated, bone would be averaged with air that was
tissue, the bone would become thinner and be placed nearer to the detector (benchmarks/README.md,
'CTs that hold only the bone'). So everything that reads a CT gets tissue around the bone, and the
outer half of the bone's blurred edge, which the mask has cut off.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from common.volume.hounsfield import ABOVE_MUSCLE_HU, SOFT_TISSUE_HU
from common.volume.lineage import FILLED_STEP
from common.volume.volume import Volume, index_box, voxel_edge_mm

logger = logging.getLogger(__name__)

LEAST_OUTSIDE = 0.1  # share of a CT that the constant value takes at least
# share of the voxels next to the constant value that are denser than muscle: 0.8 and more around a
# masked bone, 0.1 and less where a whole CT or a crop of one is padded
LEAST_DENSE = 0.35
LOOKED_AT = 48  # slices in which that is counted
LAYER_MM, LAYER_VOXELS = 4.0, 3  # of tissue: no interpolation or blur of the suite reaches further
# standard deviation, in voxels, of the blur by which the surface is found between voxels
SURFACE_VOXELS = 1.0
# width of a bone's edge: of the voxel (its diagonal counts), and of a scanner's resolution
EDGE_VOXELS, SCANNER_EDGE_MM = 1.3, 0.8
# share of bone in the outermost voxels of a mask that cuts the edge at its half, and of one that
# holds the whole edge; 0.75 to 0.84, and 0.1 to 0.32, in seven CTs
TIGHT, GENEROUS = 0.7, 0.4
# standard deviation of the surface that results, in voxels (benchmarks/README.md,
# 'CTs that hold only the bone')
SURFACE_SD_VOXELS = 0.05


def outside_value(data: np.ndarray) -> float | None:
    """Return the value outside the bone of a CT (I, J, K) that holds only a bone, else None."""
    value = _value_of_faces(data)
    if value > SOFT_TISSUE_HU:
        return None
    planes = data[:, :, :: max(1, data.shape[2] // LOOKED_AT)]
    outside = planes == value
    if outside.mean() < LEAST_OUTSIDE or outside.all():
        return None
    beside = np.zeros_like(outside)
    beside[1:] |= outside[:-1]
    beside[:-1] |= outside[1:]
    beside[:, 1:] |= outside[:, :-1]
    beside[:, :-1] |= outside[:, 1:]
    edge = planes[beside & ~outside]
    dense = (edge > ABOVE_MUSCLE_HU).mean() if edge.size else 0.0
    return value if dense >= LEAST_DENSE else None


def _value_of_faces(data: np.ndarray) -> float:
    """Return the most frequent value on the six faces of a volume."""
    # `take` would copy the whole volume for each
    faces = [np.moveaxis(data, axis, 0)[index].ravel() for axis in range(3) for index in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return float(values[counts.argmax()])


def surface_sd_mm(volume: Volume) -> float:
    """Return the standard deviation of the place of a bone's surface, 0 for an unmasked CT."""
    steps = [e["settings"] for e in volume.lineage.history if e["step"] == FILLED_STEP]
    return SURFACE_SD_VOXELS * max((s["voxel_mm"] for s in steps), default=0.0)


def fill_around_bone(ct: Volume) -> Volume:
    """Return a CT (HU) with soft tissue around the bone, if it holds only a bone.

    Any other CT is returned as it is. The layer is `LAYER_MM` thick; the lineage records it.
    """
    value = outside_value(ct.data)
    if value is None:
        return ct
    logger.info(
        f"{ct.name}: holds only a bone ({value:g} HU outside it); filled with soft tissue around"
        " it, and the outer half of its edge is estimated"
    )
    layer_mm = max(LAYER_MM, LAYER_VOXELS * float(ct.spacing_mm.max()))
    inside = ct.data != value
    box = index_box(inside, np.ceil(layer_mm / ct.spacing_mm).astype(int) + 1)
    data = ct.data.copy()
    data[box] = _filled(ct.data[box], inside[box], ct.spacing_mm, layer_mm)
    voxel_mm = voxel_edge_mm(ct)
    settings = {"outside_hu": value, "layer_mm": layer_mm, "voxel_mm": voxel_mm}
    return replace(ct, data=data, lineage=ct.lineage.then(FILLED_STEP, settings))


def _filled(
    data: np.ndarray, inside: np.ndarray, spacing_mm: np.ndarray, layer_mm: float
) -> np.ndarray:
    """Return the voxels of a box: bone as it is, then its edge falling to soft tissue.

    The edge of a bone is blurred over a width of ``edge_mm``. A mask cuts it where the bone fills
    half a voxel: then a voxel whose centre lies d mm outside the surface holds 0.5 - d / edge_mm of
    the bone next to it. A generous mask has cut nothing: its outermost voxels hold little bone, and
    each next one less by d / edge_mm. Their mean says which of the two a mask is.
    """
    from scipy import ndimage
    from scipy.special import ndtri

    inside = ndimage.binary_fill_holes(inside)  # marrow may have the value too
    voxel_mm = float(np.cbrt(spacing_mm.prod()))
    edge_mm = float(np.hypot(EDGE_VOXELS * voxel_mm, SCANNER_EDGE_MM))
    distance, nearest = ndimage.distance_transform_edt(
        ~inside, sampling=spacing_mm, return_indices=True
    )
    bone = ndimage.grey_dilation(np.where(inside, data, data.min()), size=3)[tuple(nearest)]
    blur_mm = SURFACE_VOXELS * voxel_mm
    covered = ndimage.gaussian_filter(
        inside.astype(np.float32), blur_mm / spacing_mm, mode="nearest"
    )
    depth_mm = ndtri(np.clip(covered, 1e-6, 0.5)) * blur_mm
    excess = np.maximum(bone.astype(np.float32) - SOFT_TISSUE_HU, 1)
    rim = np.clip((data[tuple(nearest)] - SOFT_TISSUE_HU) / excess, 0, 1)
    beside = ~inside & (distance <= spacing_mm.max())
    tight = np.clip((rim[beside].mean() - GENEROUS) / (TIGHT - GENEROUS), 0, 1)
    by_surface = np.clip(0.5 + depth_mm / edge_mm, 0, 0.5)
    by_rim = np.clip(rim - distance / edge_mm, 0, 0.5)
    tissue = SOFT_TISSUE_HU + excess * (tight * by_surface + (1 - tight) * by_rim)
    if data.dtype.kind in "iu":
        tissue = np.rint(tissue)
    around = ~inside & (distance <= layer_mm)
    return np.where(around, tissue, data).astype(data.dtype)
