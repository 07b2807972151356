"""Reading a CT and splitting it into the layers that training renders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common import files, geometry
from common.drr import voxels
from common.drr.renderer import Device
from common.errors import InputError
from common.training.patient import Layer, Patient
from common.training.sources import Source
from common.training.view import TrainingView
from common.volume import attenuation, nifti
from common.volume.hounsfield import ABOVE_MUSCLE_HU, SOFT_TISSUE_HU
from common.volume.materials import is_metal
from common.volume.volume import (
    Volume,
    affine_of_box,
    block_average,
    index_box,
    points_of,
    same_grid,
)

LEAST_BONE_ML = 1.0
POINTS = 200  # of the bone, to judge poses
MOST_NEIGHBOURS = 4  # largest neighbours that move independently; the others move with the body


def load_patient(source: Source, view: TrainingView, device: Device) -> Patient:
    """Read a CT and split it into layers, at the resolution that the view shows.

    Raises InputError if a file is invalid, the grids differ, or the CT has no bone.
    """
    ct = nifti.load_ct(source.ct)
    if is_metal(ct.lineage):
        raise InputError(
            source.ct,
            "is a metal part, which hides what is behind it",
            "bone, whose attenuation adds to that of its surroundings",
            "leave the network out: registration.py finds implants by its search",
        )
    wanted, neighbours = _masks(ct, source)
    excess = attenuation.attenuation(ct.data, SOFT_TISSUE_HU)
    solid = (ct.data > ABOVE_MUSCLE_HU) if wanted is None else wanted & (excess > 0)
    _check_bone(solid, ct, source)
    whole = attenuation.attenuation(ct.data)
    beyond = np.maximum(0.0, view.reach_mm - np.array(ct.shape) * ct.spacing_mm / 2)

    def layer(where: np.ndarray | None, data: np.ndarray, voxel_mm: float) -> Layer:
        chosen = data if where is None else np.where(where, data, np.float32(0))
        return _continued(Volume(chosen, ct.affine, ct.lineage, ct.path), voxel_mm, beyond)

    fine, coarse = view.voxel_mm, 2 * view.voxel_mm
    others = [
        replace(layer(where, excess, coarse), centre_mm=_centre_mm(where, ct))
        for where in neighbours
    ]
    if wanted is not None:
        others.append(layer(~np.logical_or.reduce([wanted, *neighbours]), excess, coarse))
    return Patient(
        name=files.stem(source.ct),
        isocentre_mm=ct.isocentre_mm,
        points_mm=points_of(ct, solid, count=POINTS) - ct.isocentre_mm,
        shape=ct.shape,
        spacing_mm=ct.spacing_mm,
        beyond_mm=beyond,
        bone=layer(wanted, excess, fine),
        tissue=layer(None, whole - excess, coarse),
        others=tuple(others),
        device=device,
    )


def _check_bone(solid: np.ndarray, ct: Volume, source: Source) -> None:
    millilitres = solid.sum() * np.prod(ct.spacing_mm) / 1000
    if millilitres < LEAST_BONE_ML:
        within = " inside its labelmap" if source.mask else ""
        raise InputError(
            source.ct,
            f"only {millilitres:.2g} ml above {ABOVE_MUSCLE_HU:g} HU{within}",
            "a bone",
            "check the units of the CT and the crop",
        )


def _masks(ct: Volume, source: Source) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """Masks of the wanted bone and of each of its largest neighbours, dilated by one voxel.

    None and no neighbours without a labelmap. Raises InputError if the labelmap has another grid
    or lacks the labels.
    """
    if source.mask is None:
        return None, []
    from scipy.ndimage import binary_dilation

    labelmap = nifti.load_labelmap(source.mask, ct)
    if not same_grid(ct, labelmap):
        raise InputError(
            source.mask,
            f"lies on another grid than {source.ct} ({labelmap.shape} and {ct.shape} voxels)",
            "a labelmap of this CT",
            "run steps 1 to 4 on both",
        )
    inside = labelmap.data > 0 if source.labels is None else np.isin(labelmap.data, source.labels)
    if not inside.any():
        raise InputError(
            source.mask,
            f"no voxel of label {source.labels or 'any'}",
            f"labels {np.unique(labelmap.data)[1:].tolist()}",
            "correct `labels` or the labelmap",
        )
    wanted = binary_dilation(inside)
    labels, counts = np.unique(labelmap.data[~inside & (labelmap.data > 0)], return_counts=True)
    largest = labels[np.argsort(-counts)][:MOST_NEIGHBOURS]
    return wanted, [binary_dilation(labelmap.data == label) & ~wanted for label in largest]


def _centre_mm(mask: np.ndarray, ct: Volume) -> np.ndarray:
    """Centre of gravity (3,) of a mask in the canonical frame."""
    return geometry.apply(ct.affine, np.argwhere(mask).mean(0)[None])[0] - ct.isocentre_mm


def _continued(volume: Volume, voxel_mm: float, beyond_mm: np.ndarray) -> Layer:
    """Layer with voxels of about ``voxel_mm``, cropped to the voxels that absorb.

    Its outermost slices are repeated for ``beyond_mm`` (3,) on either side.
    """
    i, j, k = (
        max(1, min(int(voxel_mm / mm + 0.25), n))
        for mm, n in zip(volume.spacing_mm, volume.shape, strict=True)
    )
    factors = (i, j, k)
    blocks = tuple(slice(0, n // f * f) for n, f in zip(volume.shape, factors, strict=True))
    trimmed = Volume(volume.data[blocks], volume.affine, volume.lineage, volume.path)
    coarse = block_average(trimmed, factors)
    more = np.ceil(beyond_mm / coarse.spacing_mm).astype(int)
    data = np.pad(coarse.data, [(n, n) for n in more], mode="edge")
    box = index_box(data > 0) if data.any() else (slice(0, 1), slice(0, 1), slice(0, 1))
    affine = affine_of_box(coarse.affine @ geometry.translation(-more), box)
    chosen, unit = voxels.rounded(Volume(data[box], affine, volume.lineage, volume.path))
    return Layer(chosen, unit, geometry.invert(volume.affine) @ affine)
