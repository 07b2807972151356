"""Digitally reconstructed radiographs behind one interface: `Renderer`.

`FusedRenderer` runs on any CPU, `NanodrrRenderer` on CUDA and MPS, `SiddonRenderer` is DiffDRR's exact integral for
reference pictures. All take attenuation in 1/mm and return line integrals (no unit), for cameras in the volume's world.
"""

from __future__ import annotations

import numpy as np

from common.errors import InputError
from common.volume.volume import Volume, affine_of_box, index_box, same_grid

WHOLE_ATTENUATION_HU = -1000.0
# a bone's labelmap ends where a segmentation ends it, half inside its blurred edge: cut there, it comes out 0.6 % too small, which is 5 mm of depth
MARGIN_MM = 1.6


def select_structures(
    ct: Volume,
    labelmap: Volume | None,
    labels: list[int] | None,
    above_hu: float,
    margin_mm: float = MARGIN_MM,
) -> Volume:
    """The attenuation volume to render: the whole CT, or only the labelled structures grown by a margin.

    ``above_hu`` as in `volumes.attenuation`. Labels default to all of the labelmap; the margin leaves its other structures out. The result is cut
    to the structures' box. Raises InputError where the grids differ or a label is absent.
    """
    if labelmap is None:
        return Volume(attenuation(ct.data, above_hu), ct.affine, ct.lineage, ct.path)
    if not same_grid(ct, labelmap):
        raise InputError(
            labelmap.name,
            f"lies on another grid than {ct.name} ({labelmap.shape} against {ct.shape})",
            "a labelmap of this very CT",
            "run the preparing steps on both",
        )
    inside = labelmap.data > 0 if labels is None else np.isin(labelmap.data, labels)
    absent = (
        [] if labels is None else [label for label in labels if not (labelmap.data == label).any()]
    )
    if absent or not inside.any():
        raise InputError(
            labelmap.name,
            f"holds no voxel of label {absent or 'any'}",
            f"labels {np.unique(labelmap.data)[1:].tolist()}",
            "correct `labels` or the labelmap",
        )
    box = index_box(inside, np.ceil(margin_mm / ct.spacing_mm).astype(int) + 1)
    grown = grow(inside[box], ct.spacing_mm, margin_mm) & (inside[box] | (labelmap.data[box] == 0))
    return Volume(
        np.where(grown, attenuation(ct.data[box], above_hu), np.float32(0)),
        affine_of_box(ct.affine, box),
        ct.lineage,
        ct.path,
    )


def grow(inside: np.ndarray, spacing_mm: np.ndarray, margin_mm: float) -> np.ndarray:
    """A mask and what lies within ``margin_mm`` of it, at least its direct neighbours; the mask itself for a margin of 0."""
    from scipy.ndimage import binary_dilation

    if margin_mm <= 0:
        return inside
    reach = np.maximum(np.ceil(margin_mm / spacing_mm), 1).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    near = (np.linalg.norm(offsets * spacing_mm, axis=-1) <= margin_mm + 1e-6) | (
        np.abs(offsets).sum(-1) <= 1
    )
    return binary_dilation(inside, near)


WATER_PER_MM = 0.0193  # linear attenuation of water at 70 keV, NIST XCOM (0.193 / cm)
SOFT_TISSUE_HU = 40.0


def air_hu(data: np.ndarray) -> float:
    """What to put outside a CT's field: the CT's own padding where it has one (a lowest value below every scanner's air), else air."""
    lowest = float(data.min())
    return lowest if lowest < -1024 else -1000.0


def attenuation(hu: np.ndarray, above_hu: float = -1000.0) -> np.ndarray:
    """Linear attenuation in 1/mm, float32, in excess of a material of ``above_hu``.

    The definition of the Hounsfield unit, mu = mu_water (1 + HU / 1000), clipped at zero. ``above_hu`` = -1000 is the
    whole attenuation; `SOFT_TISSUE_HU` leaves what bone adds to the tissue that it displaces, which is what a
    single bone contributes to a picture of the whole limb.
    """
    mu = hu.astype(np.float32)
    mu -= np.float32(above_hu)
    np.clip(mu, 0, None, out=mu)
    mu *= np.float32(WATER_PER_MM / 1000)
    return mu
