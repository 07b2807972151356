"""Hounsfield units as linear attenuation, and the structures of a CT that are rendered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from common.volume.hounsfield import AIR_HU, LOWEST_AIR_HU
from common.volume.volume import Box, Volume, affine_of_box, index_box, same_grid

WHOLE_ATTENUATION_HU = AIR_HU  # everything that is denser than air attenuates
WATER_PER_MM = 0.0193  # linear attenuation of water at 70 keV, NIST XCOM (0.193 / cm)
# a labelmap ends half inside the blurred edge of a bone: cut there, the bone would be 0.6 % too
# small, which is 5 mm of depth
MARGIN_MM = 1.6


def attenuation(hu: np.ndarray, above_hu: float = WHOLE_ATTENUATION_HU) -> np.ndarray:
    """Return the linear attenuation above that of a material of ``above_hu``, 1/mm, float32.

    By the definition of the Hounsfield unit, mu = mu_water (1 + HU / 1000), clipped at zero. With
    `WHOLE_ATTENUATION_HU` it is the whole attenuation; with `SOFT_TISSUE_HU` the excess attenuation
    of bone, which is what a bone adds to an X-ray of the limb, since it displaces soft tissue.
    """
    mu = hu.astype(np.float32)
    mu -= np.float32(above_hu)
    np.clip(mu, 0, None, out=mu)
    mu *= np.float32(WATER_PER_MM / 1000)
    return mu


def air_hu(data: np.ndarray) -> float:
    """Return the value to fill in outside the field of a CT.

    It is the CT's own padding, if its lowest value is below the air of every scanner, else air.
    """
    lowest = float(data.min())
    return lowest if lowest < LOWEST_AIR_HU else AIR_HU


def select_structures(
    ct: Volume,
    labelmap: Volume | None,
    labels: list[int] | None,
    above_hu: float,
    margin_mm: float = MARGIN_MM,
) -> Volume:
    """Return the attenuation to render, 1/mm, float32: the whole CT, or some structures of it.

    Structures are the ``labels`` of the labelmap (default: all) grown by ``margin_mm``, without
    the labelmap's other structures, cropped to their box. ``above_hu`` is that of `attenuation`.
    Raises InputError if the grids differ or a label is missing.
    """
    if labelmap is None:
        return Volume(attenuation(ct.data, above_hu), ct.affine, ct.lineage, ct.path)
    return select_region(ct, region_of(ct, labelmap, labels, margin_mm), above_hu)


@dataclass(frozen=True, eq=False)
class Region:
    """Voxels of a CT that are rendered: a mask inside a box of it."""

    box: Box
    inside: np.ndarray  # of the shape of the box


def region_of(
    ct: Volume, labelmap: Volume, labels: list[int] | None, margin_mm: float = MARGIN_MM
) -> Region:
    """Return the region that `select_structures` selects."""
    inside = _labelled(ct, labelmap, labels)
    box = index_box(inside, np.ceil(margin_mm / ct.spacing_mm).astype(int) + 1)
    grown = grow(inside[box], ct.spacing_mm, margin_mm)
    return Region(box, grown & (inside[box] | (labelmap.data[box] == 0)))


def select_region(ct: Volume, region: Region, above_hu: float) -> Volume:
    """Return the attenuation of a region of a CT, 1/mm, float32, and 0 around it in its box."""
    return Volume(
        np.where(region.inside, attenuation(ct.data[region.box], above_hu), np.float32(0)),
        affine_of_box(ct.affine, region.box),
        ct.lineage,
        ct.path,
    )


def _labelled(ct: Volume, labelmap: Volume, labels: list[int] | None) -> np.ndarray:
    """Return the mask of ``labels``. Raises InputError as `select_structures`."""
    if not same_grid(ct, labelmap):
        raise InputError(
            labelmap.name,
            f"lies on another grid than {ct.name} ({labelmap.shape} and {ct.shape} voxels)",
            "a labelmap of this CT",
            "run the same preparation steps on both",
        )
    inside = labelmap.data > 0 if labels is None else np.isin(labelmap.data, labels)
    missing = [label for label in labels or () if not (labelmap.data == label).any()]
    if missing or not inside.any():
        raise InputError(
            labelmap.name,
            f"no voxel of label {missing or 'any'}",
            f"labels {np.unique(labelmap.data)[1:].tolist()}",
            "correct `labels` or the labelmap",
        )
    return inside


def grow(inside: np.ndarray, spacing_mm: np.ndarray, margin_mm: float) -> np.ndarray:
    """Return a mask and the voxels within ``margin_mm`` of it.

    The six neighbours of a voxel are always within; a margin of 0 returns the mask itself.
    """
    from scipy.ndimage import binary_dilation

    if margin_mm <= 0:
        return inside
    reach = np.maximum(np.ceil(margin_mm / spacing_mm), 1).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    near = np.linalg.norm(offsets * spacing_mm, axis=-1) <= margin_mm + 1e-6
    neighbours = np.abs(offsets).sum(-1) <= 1
    return binary_dilation(inside, near | neighbours)
