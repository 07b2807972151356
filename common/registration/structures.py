"""Loads the structures to register: a CT, cut to labels, as a body that the solver renders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import geometry
from common.drr.renderer import Device, Renderer, make_renderer
from common.errors import InputError
from common.registration.request import AttenuationMode
from common.registration.scene import Body, Structure
from common.volume import cut_ends
from common.volume.attenuation import (
    WHOLE_ATTENUATION_HU,
    region_of,
    select_region,
    select_structures,
)
from common.volume.bone_only import surface_sd_mm
from common.volume.folders import labelmap_beside
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.materials import Material, material_of, rendered_above_hu
from common.volume.nifti import load_ct, load_labelmap
from common.volume.volume import Volume, points_of, same_grid

logger = logging.getLogger(__name__)

# the points of a whole CT are drawn from its voxels above this attenuation
LEAST_ATTENUATION_PER_MM = 0.002


def load_structure(
    volume: Path,
    mask: Path | None = None,
    labels: Sequence[int] | None = None,
    attenuation: AttenuationMode = "auto",
    context: Path | None = None,
    device: Device = "cpu",
    material: Material | None = None,
) -> Structure:
    """Read a CT and, with a labelmap, cut it to the structure.

    ``attenuation`` "auto" is "excess" (over soft tissue) for a labelled or cropped bone, and
    "whole" otherwise. With ``context``, a CT of the same patient, the solver renders that whole CT
    and compares it around the structure only. ``volume`` may be a surface of a ``material``, which
    is rendered without the tissue around it. Raises InputError if a file is not a CT or a labelmap
    on its grid, or if nothing in them absorbs X-rays.
    """
    ct = load_ct(volume, material=material)
    labelmap = load_labelmap(mask, ct) if mask else None
    chosen = list(labels) if labels else None
    surface = material_of(ct.lineage)
    cropped = mask is not None or ct.lineage.bone is not None or surface is not None
    excess = context is None and (attenuation == "excess" or (attenuation == "auto" and cropped))
    whole, shown = _attenuations(ct, labelmap, chosen, excess)
    if not shown.data.any():
        raise InputError(
            volume, "nothing in it absorbs X-rays", "a CT in Hounsfield units", "check the file"
        )
    _log_choice(volume, mask, chosen, excess)
    points = points_of(shown, shown.data > 0 if excess else shown.data > LEAST_ATTENUATION_PER_MM)
    centre = shown.isocentre_mm if mask else ct.isocentre_mm
    renderer = make_renderer(shown, device, centre)
    surrounded = None
    if context is None:
        ends = _end_points(ct, shown, labelmap, chosen)
        complete = not excess and mask is None
        body = Body(
            renderer,
            points,
            complete=complete,
            ends=ends,
            surface_sd_mm=surface_sd_mm(ct),
            metal=surface == "metal",
        )
    else:
        around = surroundings(ct, load_ct(context))
        body = Body(make_renderer(around, device, centre), points, renderer)
        surrounded = _whole(around, ct, body.renderer)
    only = tuple(chosen) if chosen else None
    return Structure(ct, whole, body, excess, mask, only, context=surrounded)


def _whole(around: Volume, ct: Volume, renderer: Renderer) -> Structure:
    """Return the context of ``ct``, in its volume frame, as a structure of its own."""
    points = points_of(around, around.data > LEAST_ATTENUATION_PER_MM)
    body = Body(renderer.about(around.isocentre_mm), points, complete=True)
    return Structure(ct, around, body, excess=False, mask=None, labels=None)


def _attenuations(
    ct: Volume, labelmap: Volume | None, labels: list[int] | None, excess: bool
) -> tuple[Volume, Volume]:
    """Return the whole attenuation of a structure, and what the solver renders of it."""
    region = region_of(ct, labelmap, labels) if labelmap else None  # slow to grow: once for both

    def above(hu: float) -> Volume:
        return select_region(ct, region, hu) if region else select_structures(ct, None, None, hu)

    whole = above(rendered_above_hu(ct.lineage))
    return whole, above(SOFT_TISSUE_HU) if excess else whole


def _log_choice(volume: Path, mask: Path | None, labels: list[int] | None, excess: bool) -> None:
    """Log what the solver renders, and a labelmap that would render the bone alone."""
    structures = f"labels {labels or 'all'} of {mask.name}" if mask else "the whole volume"
    kind = "excess over soft tissue" if excess else "whole attenuation"
    logger.info(f"{volume.name}: {kind} of {structures}")
    if mask is None and (beside := labelmap_beside(volume)):
        logger.info(
            f"{volume.name}: other structures in the crop box are rendered too;"
            f" use `mask` {beside} to render the bone alone"
        )


def _end_points(
    ct: Volume, shown: Volume, labelmap: Volume | None, labels: list[int] | None
) -> np.ndarray | None:
    """Return points (K, 3) of the bone at its cut ends, or None without a cut.

    A cut is recorded by an earlier step, or the labelmap reaches a face of the volume there.
    """
    cuts = cut_ends.recorded_cuts(ct)
    if labelmap is None:
        return cut_ends.end_points(shown.data > 0, ct, cuts) if cuts else None
    inside = labelmap.data > 0 if labels is None else np.isin(labelmap.data, labels)
    cuts = cut_ends.cuts_of(labelmap.data, labels, ct) if cuts is None else cuts
    return cut_ends.end_points(inside, ct, cuts) if cuts else None


def surroundings(ct: Volume, context: Volume) -> Volume:
    """Return the attenuation (1/mm) of the context CT in the volume frame of ``ct``.

    The lineages place both in the scanner frame, so either may be a prepared file of the other.
    Raises InputError if the centre of ``ct`` is outside ``context``.
    """
    moved = (
        np.linalg.inv(ct.lineage.scanner_from_volume)
        @ context.lineage.scanner_from_volume
        @ context.affine
    )
    placed = Volume(context.data, moved, context.lineage, context.path)
    volume = select_structures(placed, None, None, WHOLE_ATTENUATION_HU)
    if not same_grid(ct, volume) and not _contains(volume, ct.isocentre_mm):
        raise InputError(
            context.name,
            f"does not contain {ct.name}",
            "a CT of the same patient in one scanner frame",
            "give the original CT or leave `context` out",
        )
    return volume


def _contains(volume: Volume, point: np.ndarray) -> bool:
    """Return whether a point (3,), mm in the volume frame, is inside the volume."""
    index = geometry.apply(geometry.invert(volume.affine), point)
    return bool((index >= 0).all() and (index <= np.array(volume.shape) - 1).all())
