"""What a registration looks for: bones as bodies to render, with everything that the results say about them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.drr.renderer import make_renderer
from common.errors import InputError
from common.registration.pyramid import Body
from common.registration.request import AttenuationMode
from common.volume import cut_ends
from common.volume.attenuation import SOFT_TISSUE_HU, WHOLE_ATTENUATION_HU, select_structures
from common.volume.folders import labelmap_beside
from common.volume.nifti import load_ct, load_labelmap
from common.volume.volume import Volume, points_of, same_grid

logger = logging.getLogger(__name__)

LEAST_ATTENUATION_PER_MM = 0.002  # of points that stand for a whole CT


@dataclass(frozen=True)
class Structure:
    """One bone (or a whole CT) to register."""

    ct: Volume  # as on disk, Hounsfield units
    whole: Volume  # whole attenuation of what is rendered, for pictures
    body: Body
    excess: bool  # the solver renders what exceeds soft tissue
    mask: Path | None
    labels: tuple[int, ...] | None
    start_camera: np.ndarray | None = (
        None  # (4, 4) scanner_from_camera of the X-ray as stored on disk
    )


def load_structure(
    volume: Path,
    mask: Path | None = None,
    labels: Sequence[int] | None = None,
    attenuation: AttenuationMode = "auto",
    context: Path | None = None,
    device: str = "cpu",
) -> Structure:
    """Read a CT and, with a labelmap, cut it to the structure.

    ``attenuation`` "auto" takes the excess over soft tissue for a labelled or cropped bone, and the whole attenuation otherwise. With
    ``context``, a CT that shares the volume's world, the solver renders that whole CT and compares it around the structure only.
    Raises InputError for files that are not a CT or a labelmap on its grid, and if nothing in them absorbs X-rays.
    """
    ct = load_ct(volume)
    labelmap = load_labelmap(mask) if mask else None
    chosen = list(labels) if labels else None
    cropped = mask is not None or ct.lineage.bone is not None
    excess = context is None and (attenuation == "excess" or (attenuation == "auto" and cropped))
    whole = select_structures(ct, labelmap, chosen, WHOLE_ATTENUATION_HU)
    shown = select_structures(ct, labelmap, chosen, SOFT_TISSUE_HU) if excess else whole
    if not shown.data.any():
        raise InputError(
            volume, "nothing in it absorbs X-rays", "a CT in Hounsfield units", "check the file"
        )
    _tell(volume, mask, chosen, excess)
    points = points_of(shown, shown.data > 0 if excess else shown.data > LEAST_ATTENUATION_PER_MM)
    centre = shown.isocentre_mm if mask else ct.isocentre_mm
    renderer = make_renderer(shown, device, centre)
    if context is None:
        ends = _ends(ct, shown, labelmap, chosen)
        body = Body(renderer, points, complete=not excess and mask is None, ends=ends)
    else:
        around = surroundings(ct, load_ct(context))
        body = Body(make_renderer(around, device, centre), points, renderer)
    return Structure(ct, whole, body, excess, mask, tuple(chosen) if chosen else None)


def _tell(volume: Path, mask: Path | None, labels: list[int] | None, excess: bool) -> None:
    what = f"labels {labels or 'all'} of {mask.name}" if mask else "the whole volume"
    kind = "excess over soft tissue" if excess else "whole attenuation"
    logger.info(f"{volume.name}: {kind} of {what}")
    if mask is None and (beside := labelmap_beside(volume)):
        logger.info(
            f"{volume.name}: other structures in the crop box are rendered too; "
            f"`mask` {beside} renders the bone alone"
        )


def _ends(
    ct: Volume, shown: Volume, labelmap: Volume | None, labels: list[int] | None
) -> np.ndarray | None:
    """Points of the bone where its CT ended, None without a cut: a step before has recorded the cuts, or the labelmap reaches a face of the volume."""
    cuts = cut_ends.recorded_cuts(ct)
    if labelmap is None:
        return cut_ends.end_points(shown.data > 0, ct, cuts) if cuts else None
    inside = labelmap.data > 0 if labels is None else np.isin(labelmap.data, labels)
    cuts = cut_ends.cuts_of(labelmap.data, labels, ct) if cuts is None else cuts
    return cut_ends.end_points(inside, ct, cuts) if cuts else None


def surroundings(ct: Volume, context: Volume) -> Volume:
    """Attenuation of the context CT in the world of ``ct``: by both lineages, so either may be a prepared file of the other."""
    moved = (
        np.linalg.inv(ct.lineage.scanner_from_volume)
        @ context.lineage.scanner_from_volume
        @ context.affine
    )
    volume = select_structures(
        Volume(context.data, moved, context.lineage, context.path), None, None, WHOLE_ATTENUATION_HU
    )
    if not same_grid(ct, volume) and not _overlap(ct, volume):
        raise InputError(
            context.name,
            f"does not contain {ct.name}",
            "a CT of the same patient in one scanner frame",
            "give the original CT or drop `context`",
        )
    return volume


def _overlap(ct: Volume, context: Volume) -> bool:
    """Whether the middle of ``ct`` lies inside ``context``."""
    index = np.linalg.inv(context.affine) @ np.r_[ct.isocentre_mm, 1]
    return bool((index[:3] >= 0).all() and (index[:3] <= np.array(context.shape) - 1).all())
