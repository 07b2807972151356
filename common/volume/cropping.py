"""Boxes around single bones, their mirror images, and labelmaps brought onto the grid of a CT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.errors import InputError
from common.geometry import MIRROR, apply, invert
from common.volume.hounsfield import BODY_HU
from common.volume.resampling import resample_labels
from common.volume.volume import Volume, affine_of_box, index_box, same_grid

logger = logging.getLogger(__name__)

BODY_STEP = 4  # voxels between those that are looked at for the middle of the body


def crop_bone(
    ct: Volume, labelmap: Volume, label: int, padding_mm: float, attached: Sequence[int] = ()
) -> tuple[Volume, Volume] | None:
    """Return CT and labelmap in the padded box of one label, or None if the label is missing.

    Both are on one grid; the returned labelmap contains only that label and the ``attached`` ones,
    which move with it. The box is grown by ``padding_mm``, rounded up to whole voxels, and clipped
    at the edge of the CT.
    """
    if not (labelmap.data == label).any():
        return None
    inside = np.isin(labelmap.data, [label, *attached])
    box = index_box(inside, np.ceil(padding_mm / ct.spacing_mm - 1e-6).astype(int))
    affine = affine_of_box(ct.affine, box)
    mask = np.where(inside[box], labelmap.data[box], labelmap.data.dtype.type(0))
    return (
        replace(ct, data=ct.data[box], affine=affine),
        replace(labelmap, data=mask, affine=affine),
    )


def mirror(volume: Volume) -> Volume:
    """Return the volume reflected about x = 0 of its frame: a right bone becomes a left one.

    The affine is reflected, and the array is flipped along the axis closest to x, so that the file
    keeps its handedness and orientation. The lineage is left to the caller.
    """
    axis = int(np.abs(volume.affine[0, :3]).argmax())
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, volume.shape[axis] - 1
    return replace(volume, data=np.flip(volume.data, axis), affine=MIRROR @ volume.affine @ flip)


def onto_grid(labelmap: Volume, ct: Volume, labels: Sequence[int]) -> Volume:
    """Return the labelmap on the grid of the CT.

    Raises InputError if they are in different frames, or a voxel of ``labels`` is outside the CT.
    """
    if not np.allclose(
        labelmap.lineage.scanner_from_volume, ct.lineage.scanner_from_volume, atol=1e-3
    ):
        raise InputError(
            labelmap.path,
            f"is in another frame than {ct.name} by its lineage",
            "one frame for both",
            "use CT and labelmap of the same step",
        )
    if same_grid(labelmap, ct):
        return replace(labelmap, affine=ct.affine)
    outside, total = _count_outside(labelmap, ct, labels)
    if outside:
        raise InputError(
            labelmap.path,
            f"{outside} of {total} labelled voxels are outside {ct.name}"
            f" (grids {labelmap.shape} and {ct.shape})",
            "a labelmap of this CT",
            "check that both files belong together",
        )
    logger.info(
        f"{labelmap.name}: grid {labelmap.shape} differs from the CT's {ct.shape};"
        " resampled onto it (nearest neighbour)"
    )
    return replace(resample_labels(labelmap, ct), lineage=labelmap.lineage)


def _count_outside(labelmap: Volume, ct: Volume, labels: Sequence[int]) -> tuple[int, int]:
    """Return how many voxels of ``labels`` are outside the CT, and how many there are.

    A voxel is outside if its centre is more than half a labelmap voxel away from the CT.
    """
    index_from_index = invert(ct.affine) @ labelmap.affine
    margin = 0.5 + 0.5 * labelmap.spacing_mm.max() / ct.spacing_mm
    outside = total = 0
    for k in range(labelmap.shape[2]):  # by slices, to keep memory small
        i, j = np.nonzero(np.isin(labelmap.data[:, :, k], labels))
        index = apply(index_from_index, np.stack([i, j, np.full_like(i, k)], 1))
        outside += int(((index < -margin) | (index > np.array(ct.shape) - 1 + margin)).any(1).sum())
        total += len(i)
    return outside, total


def x_of_label(data: np.ndarray, label: int, affine: np.ndarray) -> float:
    """Return x of the centre of a label, mm in the frame of ``affine``; NaN if it is missing."""
    inside = data == label
    if not inside.any():
        return float("nan")
    index = [
        np.average(
            np.arange(n),
            weights=np.count_nonzero(inside, axis=tuple(a for a in range(3) if a != axis)),
        )
        for axis, n in enumerate(data.shape)
    ]
    return float(apply(affine, np.array(index))[0])


def x_of_body(ct: Volume, bone: np.ndarray) -> float:
    """Return x of the middle of the body around a bone, mm in the scanner frame.

    The body is all that is denser than `BODY_HU` in the slices of the mask ``bone`` (I, J, K).
    """
    scanner_from_index = ct.lineage.scanner_from_volume @ ct.affine
    up = int(np.abs(scanner_from_index[2, :3]).argmax())
    box: list[slice] = [slice(None, None, BODY_STEP)] * 3
    box[up] = index_box(bone)[up]
    body = np.argwhere(ct.data[tuple(box)] > BODY_HU) * np.where(np.arange(3) == up, 1, BODY_STEP)
    body[:, up] += box[up].start
    return float(apply(scanner_from_index, body.mean(axis=0))[0])
