"""A bone as its solid and its surface, in the scanner frame, from the labelmap of a cropped CT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.errors import InputError
from common.geometry.blocks import block_mean
from common.volume.volume import Volume, affine_of_box, index_box

logger = logging.getLogger(__name__)

SMOOTHING_MM = 1.0  # standard deviation of the Gaussian that removes the steps of the voxels
# a second piece larger than this fraction of the largest is another bone; a patella has 0.1 of a
# cropped femur, a fibula 0.1 of a cropped tibia
SECOND_BONE = 0.35
LEAST_VOXELS = 2000
MOST_SOLID_POINTS = 1_500_000


@dataclass(frozen=True, eq=False)
class BoneSurface:
    """A bone: points that fill it, and the triangles of its surface, RAS mm of the scanner."""

    solid: np.ndarray  # (N, 3) evenly spaced
    point_volume_mm3: float  # that one point stands for
    centres: np.ndarray  # (T, 3) of the triangles
    normals: np.ndarray  # (T, 3) unit vectors, outward
    areas: np.ndarray  # (T,) mm²

    def moved(self, target_from_scanner: np.ndarray) -> BoneSurface:
        """Return the bone in another frame, (4, 4) of a rotation or a reflection."""
        return replace(
            self,
            solid=geometry.apply(target_from_scanner, self.solid),
            centres=geometry.apply(target_from_scanner, self.centres),
            normals=self.normals @ target_from_scanner[:3, :3].T,
        )

    def part(self, inside: np.ndarray) -> BoneSurface:
        """Return the bone with only some of its triangles: a mask (T,)."""
        return replace(
            self,
            centres=self.centres[inside],
            normals=self.normals[inside],
            areas=self.areas[inside],
        )


def bone_mask(labelmap: Volume, labels: Sequence[int] | None = None) -> Volume:
    """Return the largest piece of the labels in its box, as a mask with a margin.

    The default is the label that the lineage states, without labels attached to it, else all.
    Smaller pieces, such as a patella or debris, are left out and logged. Raises InputError if the
    labels are missing, or if a second piece is as large as another bone.
    """
    from scipy import ndimage

    name = labelmap.path or labelmap.name
    data = labelmap.data
    own = labelmap.lineage.label
    if labels is None and own is not None and (data == own).any():
        labels = [own]
    inside = data > 0 if labels is None else np.isin(data, list(labels))
    if np.count_nonzero(inside) < LEAST_VOXELS:
        present = ", ".join(map(str, np.unique(data[data > 0])[:10])) or "none"
        raise InputError(
            name,
            f"has {np.count_nonzero(inside)} voxels of the bone (labels in it: {present})",
            f"a bone of at least {LEAST_VOXELS} voxels",
            "choose the labelmap of this CT, or state `labels`",
        )
    box = index_box(inside, 4)
    pieces, count = ndimage.label(inside[box])
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    order = np.argsort(sizes)[::-1]
    if count > 1 and sizes[order[1]] > SECOND_BONE * sizes[order[0]]:
        raise InputError(
            name,
            f"has two large pieces ({sizes[order[0]]} and {sizes[order[1]]} voxels)",
            "one bone of one leg",
            "crop the bone (crop_cts.py), or state `labels`",
        )
    if count > 1:
        logger.info(
            f"{labelmap.name}: {count - 1} smaller pieces ({sizes.sum() - sizes.max()} voxels) are"
            " left out"
        )
    largest = pieces == order[0] + 1
    return replace(labelmap, data=largest, affine=affine_of_box(labelmap.affine, box))


def bone_surface(
    mask: Volume, smoothing_mm: float = SMOOTHING_MM, coarsening: int = 1
) -> BoneSurface:
    """Return the bone of a mask (I, J, K) in the scanner frame; a mirror is undone.

    The surface is the one where the mask, blurred by ``smoothing_mm``, is one half.
    ``coarsening`` first merges blocks of so many voxels per axis.
    """
    blurred, scanner_from_index = _blurred(mask, smoothing_mm, coarsening)
    vertices, triangles = _isosurface(blurred, scanner_from_index)
    corners = vertices[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    areas = np.linalg.norm(cross, axis=1)
    real = areas > 0
    index = np.argwhere(blurred > 0.5)
    chosen = np.arange(0, len(index), 1 + len(index) // MOST_SOLID_POINTS)
    spacing = np.linalg.norm(scanner_from_index[:3, :3], axis=0)
    return BoneSurface(
        geometry.apply(scanner_from_index, index[chosen]),
        float(spacing.prod()) * len(index) / len(chosen),
        corners.mean(axis=1)[real],
        cross[real] / areas[real, None],
        areas[real],
    )


def bone_mesh(
    mask: Volume, smoothing_mm: float = SMOOTHING_MM, coarsening: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface of `bone_surface` as a mesh.

    Vertices (V, 3) are in the scanner frame; triangles (T, 3) are vertex numbers, counterclockwise
    seen from outside.
    """
    return _isosurface(*_blurred(mask, smoothing_mm, coarsening))


def _blurred(mask: Volume, smoothing_mm: float, coarsening: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask blurred with a margin, and scanner_from_index (4, 4) of its voxels."""
    from scipy import ndimage

    margin = int(np.ceil(3 * smoothing_mm / mask.spacing_mm.min())) + coarsening
    filled = np.pad(mask.data.astype(np.float32), margin)
    filled = np.pad(filled, [(0, -size % coarsening) for size in filled.shape])
    filled = block_mean(filled, [coarsening] * 3)
    coarse = np.diag([float(coarsening)] * 3 + [1.0])
    coarse[:3, 3] = (coarsening - 1) / 2
    index_from_padded = geometry.translation(np.full(3, -float(margin))) @ coarse
    scanner_from_index = mask.lineage.scanner_from_volume @ mask.affine @ index_from_padded
    spacing = np.linalg.norm(scanner_from_index[:3, :3], axis=0)
    return ndimage.gaussian_filter(filled, smoothing_mm / spacing), scanner_from_index


def _isosurface(
    blurred: np.ndarray, scanner_from_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (V, 3) where a blurred mask is one half, and outward triangles (T, 3)."""
    from skimage.measure import marching_cubes

    vertices, triangles, _, _ = marching_cubes(blurred, 0.5)
    # scikit-image orders vertices clockwise seen from outside; a left-handed grid reverses that
    outward = np.linalg.det(scanner_from_index[:3, :3]) < 0
    return (
        geometry.apply(scanner_from_index, vertices),
        triangles if outward else triangles[:, ::-1],
    )
