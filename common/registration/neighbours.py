"""Where each structure is in the X-rays of one instant: start poses, competition, verdict, and what one bone that is found says about the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common import geometry
from common.registration.competition import Winner, advance, better, compete
from common.registration.pyramid import LEVELS, SILHOUETTE, Body, View
from common.registration.scene import Structure
from common.registration.search import search
from common.registration.starts import Starter
from common.registration.verdict import SUSPECT_SIMILARITY, is_ok
from common.volume.attenuation import SOFT_TISSUE_HU, WATER_PER_MM

logger = logging.getLogger(__name__)


UNEQUAL = 0.05  # of evidence: a bone that has so much less than another in the same pictures is looked for beside it (a wrong ulna had 0.14 less than the radius and was ok)
OVERLAPPING = 0.2  # share of a bone inside another from which one of the two is wrong: a crop box holds some of its neighbour


def look_beside(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    found: list[tuple[np.ndarray, Winner]],
) -> list[tuple[np.ndarray, Winner]]:
    """Bones that are not certain, explain less than the one with most evidence, or lie inside it, looked for beside that one: its shadow is taken out of the pictures, so that no neighbour of like shape misleads."""
    best = max(range(len(found)), key=lambda number: found[number][1].evidence)
    known, pose = structures[best], found[best][1].fit.poses[0]
    if (
        found[best][1].fit.similarity < SUSPECT_SIMILARITY
        or starter.optimizer == "adam"
        or starter.method not in ("model", "search")
    ):
        return found
    beside, cleared, again = (
        geometry.apply(geometry.invert(pose), known.body.renderer.centre_mm),
        None,
        list(found),
    )
    for number, (structure, (_, winner)) in enumerate(zip(structures, found, strict=True)):
        equal = winner.evidence > found[best][1].evidence - UNEQUAL and is_ok(
            winner, views, structure
        )
        if number == best or (
            equal and overlap(structure, winner.fit.poses[0], known, pose) < OVERLAPPING
        ):
            continue
        logger.info(
            f"{views[0].xray.path.name}: {structure.ct.name} is less certain than {known.ct.name};"
            " looking for it beside that"
        )
        cleared = cleared or [without(view, known.body, pose) for view in views]
        starts = search.search(
            cleared,
            structure.body,
            starter.ranges,
            starter.full,
            near=search.Near(beside, radius(known.body) + radius(structure.body)),
        )
        field = advance(cleared, structure.body, starts, 0, len(starts), seed) if starts else None
        other = field and compete(views, structure.body, [field.finals[0].pose], seed=seed)
        if other and (
            overlap(structure, winner.fit.poses[0], known, pose) >= OVERLAPPING
            or better(winner, other) is other
        ):
            again[number] = starts[0], other
    return again


def overlap(
    one: Structure, pose_one: np.ndarray, other: Structure, pose_other: np.ndarray
) -> float:
    """Share of a bone's points that lie in the dense voxels of another, each at its pose (volume_from_rig): none where two bones are where they belong."""
    points = geometry.apply(geometry.invert(pose_one), one.body.points)
    index = np.round(
        geometry.apply(geometry.invert(other.whole.affine), geometry.apply(pose_other, points))
    ).astype(int)
    inside = ((index >= 0) & (index < other.whole.shape)).all(axis=1)
    dense = other.whole.data[tuple(index[inside].T)] > WATER_PER_MM * (1 + SOFT_TISSUE_HU / 1000)
    return float(dense.sum() / len(points))


def radius(body: Body) -> float:
    """Of the sphere around the body's centre that holds it, mm."""
    return float(np.linalg.norm(body.points - body.renderer.centre_mm, axis=1).max())


def without(view: View, body: Body, pose: np.ndarray) -> View:
    """The view less what a body at its pose (volume_from_rig) absorbs; the picture's unit follows from its local contrast in the body's silhouette."""
    from scipy.ndimage import gaussian_filter

    xray, level, camera = view.xray, LEVELS[1], pose @ view.rig_from_camera
    small = xray.coarser(level.pixel_mm)
    shadow = body.renderer.render(camera[None], small.detector)[0]
    inside = (shadow > SILHOUETTE * shadow.max()) & small.valid
    sigma = [level.highpass_mm / mm for mm in small.detector.pixel_mm[::-1]]
    rendered, seen = (
        (stack - gaussian_filter(stack, sigma))[inside] for stack in (shadow, small.image)
    )
    unit = max(0.0, float(rendered @ seen) / max(float(rendered @ rendered), 1e-12))
    return replace(
        view,
        xray=replace(
            xray, image=xray.image - unit * body.renderer.render(camera[None], xray.detector)[0]
        ),
    )
