"""What one structure that is found says about the others: they do not overlap, and lie beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.registration.competition import Solution, advance, better, compete
from common.registration.pyramid import LEVELS, SILHOUETTE, Body, View
from common.registration.scene import Structure
from common.registration.search import search
from common.registration.starts import Starter
from common.registration.verdict import SUSPECT_SIMILARITY, is_ok
from common.volume.attenuation import SOFT_TISSUE_HU, WATER_PER_MM

logger = logging.getLogger(__name__)

# of evidence: a bone with so much less than another in the same images is searched for beside it
# (a wrong ulna that was ok had 0.14 less than the radius)
UNEQUAL = 0.05
# share of a bone inside another from which one of the two is wrong: a crop box holds some of its neighbour
OVERLAPPING = 0.2


@dataclass(frozen=True)
class Found:
    """A solution and the best start pose, which it may not have come from."""

    start: np.ndarray  # (4, 4) volume_from_rig
    solution: Solution


def search_beside(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    found: Sequence[Found],
) -> list[Found]:
    """Search again, beside the structure with the highest evidence, for those that are uncertain, explain less, or overlap it.

    The attenuation of that structure is removed from the images first, so that it cannot mislead.
    """
    again = list(found)
    best = max(range(len(found)), key=lambda number: found[number].solution.evidence)
    known, solution = structures[best], found[best].solution
    searchable = starter.method in ("model", "search") and starter.optimizer != "adam"
    if not searchable or solution.fit.similarity < SUSPECT_SIMILARITY:
        return again
    pose = solution.fit.poses[0]
    centre = geometry.apply(geometry.invert(pose), known.body.renderer.centre_mm)
    cleared: list[View] = []
    for number, (structure, one) in enumerate(zip(structures, found, strict=True)):
        overlaps = overlap(structure, one.solution.fit.poses[0], known, pose) >= OVERLAPPING
        equal = one.solution.evidence > solution.evidence - UNEQUAL and is_ok(
            one.solution, views, structure
        )
        if number == best or (equal and not overlaps):
            continue
        logger.info(
            f"{views[0].xray.path.name}: {structure.ct.name} is less certain than {known.ct.name}; "
            "searching beside it"
        )
        cleared = cleared or [without(view, known.body, pose) for view in views]
        near = search.Near(centre, radius_mm(known.body) + radius_mm(structure.body))
        starts = search.search(cleared, structure.body, starter.ranges, starter.full, near=near)
        field = advance(cleared, structure.body, starts, 0, len(starts), seed) if starts else None
        other = compete(views, structure.body, [field.finals[0].pose], seed=seed) if field else None
        if other and (overlaps or better(one.solution, other) is other):
            again[number] = Found(starts[0], other)
    return again


def largest_overlap(
    number: int, structures: Sequence[Structure], poses: Sequence[np.ndarray]
) -> float:
    """Largest share of one structure inside any of the others, 0 if acceptable."""
    others = [other for other in range(len(structures)) if other != number]
    shares = [
        overlap(structures[number], poses[number], structures[other], poses[other])
        for other in others
    ]
    largest = max(shares, default=0.0)
    return largest if largest >= OVERLAPPING else 0.0


def overlap(
    one: Structure, pose_one: np.ndarray, other: Structure, pose_other: np.ndarray
) -> float:
    """Share of a bone's points that lie in dense voxels of another, each at its pose (volume_from_rig)."""
    points = geometry.apply(pose_other, geometry.apply(geometry.invert(pose_one), one.body.points))
    index = np.round(geometry.apply(geometry.invert(other.whole.affine), points)).astype(int)
    inside = ((index >= 0) & (index < other.whole.shape)).all(axis=1)
    dense = other.whole.data[tuple(index[inside].T)] > WATER_PER_MM * (1 + SOFT_TISSUE_HU / 1000)
    return float(dense.sum() / len(points))


def radius_mm(body: Body) -> float:
    """Radius of the sphere around the body's centre that holds it."""
    return float(np.linalg.norm(body.points - body.renderer.centre_mm, axis=1).max())


def without(view: View, body: Body, pose: np.ndarray) -> View:
    """The view without the attenuation of a body at its pose (volume_from_rig), scaled to the image by its local contrast in the silhouette."""
    from scipy.ndimage import gaussian_filter

    xray, level, camera = view.xray, LEVELS[1], pose @ view.rig_from_camera
    small = xray.coarser(level.pixel_mm)
    shadow = body.renderer.render(camera[None], small.detector)[0]
    inside = (shadow > SILHOUETTE * shadow.max()) & small.valid
    sigma = [level.highpass_mm / mm for mm in small.detector.pixel_mm[::-1]]
    rendered, seen = (
        (stack - gaussian_filter(stack, sigma))[inside] for stack in (shadow, small.image)
    )
    scale = max(0.0, float(rendered @ seen) / max(float(rendered @ rendered), 1e-12))
    image = xray.image - scale * body.renderer.render(camera[None], xray.detector)[0]
    return replace(view, xray=replace(xray, image=image))
