"""Neighbouring bones: a registered bone shows where the others can be, and where they cannot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from common import geometry
from common.registration.competition import (
    MIDDLE,
    Solution,
    advance,
    better,
    compete,
    exceeds,
    follow,
)
from common.registration.pyramid import LEVELS
from common.registration.scene import Body, Structure, View
from common.registration.search.anywhere import (
    ALONGSIDE,
    BESIDE,
    STATED,
    Stage,
    alongside_starts,
    stage_starts,
)
from common.registration.search.in_space import Alongside
from common.registration.search.limits import Near
from common.registration.starts import Starter
from common.registration.verdict import SUSPECT_SIMILARITY, is_found, is_ok
from common.volume.attenuation import WATER_PER_MM
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.xray.outline import COMPARED_SHARE, silhouette

logger = logging.getLogger(__name__)

# evidence below that of the best bone by which another one is searched for again
# (benchmarks/README.md, 'Starts from nothing')
UNEQUAL = 0.05
# fraction of a bone inside another from which one of the two is wrong: less can be the part of the
# neighbour in a crop box
OVERLAPPING = 0.2
# by which a joint gives, beyond turning about where its bones are nearest: a knee turns about an
# axis 20 mm above, which puts the tibia 38 mm farther at 150 degrees
NEARER_MM, FARTHER_MM = 25.0, 45.0
TURNED_DEG = 160.0  # from its orientation in the CT, at most: a knee flexes by 150 degrees
# similarity from which a pose stands against that of a bone with less evidence that its joint does
# not allow (benchmarks/README.md, 'Template bank')
STANDS_ALONE = 0.9
# two bones side by side, such as those of a forearm (benchmarks/README.md, 'Two views of a wrist')
ALONGSIDE_MM, ALONGSIDE_DEG = 45.0, 25.0  # between their centres and long axes, at most
JOINT_GAP_MM = 30.0  # between the bones of a joint where they are nearest, at most


@dataclass(frozen=True)
class Found:
    """A solution and its start pose; one that was given need not be the one that won."""

    start: np.ndarray  # (4, 4) volume_from_rig
    solution: Solution
    searched: tuple[str, ...] = ()  # stages of the search so far, in words

    def after(self, words: str, other: Solution | None) -> Found:
        """Return the better of this and ``other``, found by one more stage of the search."""
        searched = (*self.searched, words)
        if other is None:
            return replace(self, searched=searched)
        start = other.start if exceeds(other, self.solution) else self.start
        return Found(start, better(self.solution, other) or other, searched)


def search_beside(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    found: Sequence[Found],
) -> list[Found]:
    """Search again for structures that are uncertain, have less evidence, or overlap the best one.

    They are searched for next to the certain structure with most evidence, whose attenuation is
    removed from the images, so that it cannot mislead. Stated start poses are not changed.
    """
    again = list(found)
    best = _most_certain(views, structures, found)
    known, solution = structures[best], found[best].solution
    searchable = starter.method in ("model", "search") and starter.optimizer != "adam"
    if not searchable or solution.fit.similarity < SUSPECT_SIMILARITY:
        return again
    pose = solution.fit.poses[0]
    cleared: list[View] = []
    for number, (structure, one) in enumerate(zip(structures, found, strict=True)):
        overlaps = overlap(structure, one.solution.fit.poses[0], known, pose) >= OVERLAPPING
        displaced = apart_mm(known, pose, structure, one.solution.fit.poses[0]) > 0
        # silhouettes of two parts differ in evidence by their shapes, not by their poses
        alike = structure.body.metal or one.solution.evidence > solution.evidence - UNEQUAL
        equal = alike and is_ok(one.solution, views, structure)
        if number == best or (equal and not overlaps and not displaced):
            continue
        cleared = cleared or [without(view, known.body, pose) for view in views]
        for stage in _stages(views, structure, starter, known, pose):
            logger.info(
                f"{views[0].xray.path.name}: {structure.ct.name} is less certain than"
                f" {known.ct.name}; searching {stage.words}"
            )
            other = _search_near(cleared, views, structure, starter, seed, known, pose, stage)
            misplaced = overlaps or (displaced and other and is_found(other, views, structure))
            if other and misplaced and again[number].solution is one.solution:
                again[number] = Found(other.start, other, (*again[number].searched, stage.words))
            else:
                again[number] = again[number].after(stage.words, other)
            if is_found(again[number].solution, views, structure):
                break
    since = _most_certain(views, structures, again)
    certain_since = is_found(again[since].solution, views, structures[since])
    if certain_since and not is_found(solution, views, known):
        # the bone that the others were searched beside is uncertain itself: now it has its turn
        return search_beside(views, structures, starter, seed, again)
    return again


def _most_certain(
    views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> int:
    """Return the number of the structure with most evidence, of those that are certain if any."""
    return max(
        range(len(found)),
        key=lambda number: (
            is_found(found[number].solution, views, structures[number]),
            found[number].solution.evidence,
        ),
    )


def _stages(
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    known: Structure,
    pose: np.ndarray,
) -> tuple[Stage, ...]:
    """Return the stages of a search beside a ``known`` structure at its pose."""
    if not starter.anywhere():
        return (STATED,)
    beside = len(views) > 1 and _alongside(known, structure, pose) is not None
    return (ALONGSIDE, *BESIDE) if beside else BESIDE


def _search_near(
    cleared: Sequence[View],
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
    known: Structure,
    pose: np.ndarray,
    stage: Stage,
) -> Solution | None:
    """Search for a structure in the ``cleared`` views, within reach of a ``known`` one at its pose.

    The best pose is then refined in the X-rays as they are, ``views``.
    """
    if stage is ALONGSIDE:
        beside = _alongside(known, structure, pose)
        if beside is None:
            return None
        return _search_alongside(cleared, views, structure, starter, seed, beside)
    body = structure.body
    reach = _reach(known, structure, pose)
    starts = stage_starts(cleared, structure, stage, starter.banks, starter.limits(reach))
    field = advance(cleared, body, starts, 0, len(starts), seed) if starts else None
    return compete(views, body, [field.finals[0].pose], seed=seed) if field else None


def _search_alongside(
    cleared: Sequence[View],
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
    beside: Alongside,
) -> Solution | None:
    """Search for a structure that lies beside a known one as in its scan, but for its turn.

    The place is right before the turn about the long axis is. Turns are therefore tried again from
    there, in the ``cleared`` views and in the X-rays as they are: a shadow may hide the one or the
    other (benchmarks/README.md, 'Two views of a wrist').
    """
    body = structure.body
    starts = alongside_starts(cleared, structure, starter.banks, beside)
    field = advance(cleared, body, starts, 0, len(starts), seed) if starts else None
    if field is None:
        return None
    ends = [run.pose for run in field.finals]
    for placed in ends.copy():
        turned = beside.turned(placed, body.centre_mm)
        fields = [advance(some, body, turned, 0, len(turned), seed) for some in (cleared, views)]
        ends += [each.finals[0].pose for each in fields if each]
    best = follow(views, body, ends, MIDDLE)
    return compete(views, body, [best.fit.poses[0]], seed=seed) if best else None


def _alongside(known: Structure, other: Structure, pose: np.ndarray) -> Alongside | None:
    """Return where ``other`` lies beside a ``known`` bone at its pose (volume_from_rig).

    None for metal, and for two bones that lie one after the other in their CT.
    """
    if known.body.metal or other.body.metal:
        return None
    from_scanner = geometry.invert(other.ct.lineage.scanner_from_volume)
    as_scanned = from_scanner @ known.ct.lineage.scanner_from_volume @ pose
    centre = geometry.apply(geometry.invert(pose), known.body.centre_mm)
    if _same_scan(known, other):
        in_scan = geometry.apply(geometry.invert(as_scanned), other.body.centre_mm)
        if np.linalg.norm(in_scan - centre) > ALONGSIDE_MM:
            return None
        centre = in_scan
    rotation = as_scanned[:3, :3]
    axis = np.linalg.eigh(np.cov(other.body.points.T))[1][:, -1]
    return Alongside(rotation, axis, centre, ALONGSIDE_MM, ALONGSIDE_DEG)


def _reach(known: Structure, other: Structure, pose: np.ndarray) -> Near:
    """Return where the centre of ``other`` can be, in the rig, with ``known`` at its pose.

    If both were cut from one CT, the joint is where they are nearest to each other there, and the
    other bone has turned about it. Otherwise their spheres touch.
    """
    from_rig = geometry.invert(pose)
    if not _same_scan(known, other):
        centre = geometry.apply(from_rig, known.body.centre_mm)
        return Near(centre, 0.0, known.body.radius_mm + other.body.radius_mm)
    joint, _ = _joint(known, other)
    return replace(joint, point=geometry.apply(from_rig, joint.point))


def _joint(known: Structure, other: Structure) -> tuple[Near, float]:
    """Return where the centre of ``other`` can be, in the volume of ``known``, and their gap.

    Both were cut from one CT, in which the gap is the distance between their nearest points.
    """
    placed = [s.ct.lineage.scanner_from_volume for s in (known, other)]
    known_from_other = geometry.invert(placed[0]) @ placed[1]
    points = geometry.apply(known_from_other, other.body.points)
    distances, nearest = KDTree(known.body.points).query(points)
    touching = int(np.argmin(distances))
    joint = (points[touching] + known.body.points[nearest[touching]]) / 2
    centre = geometry.apply(known_from_other, other.body.centre_mm)
    lever = float(np.linalg.norm(centre - joint))
    near = Near(joint, max(0.0, lever - NEARER_MM), lever + FARTHER_MM)
    return near, float(distances[touching])


def apart_mm(known: Structure, pose: np.ndarray, other: Structure, pose_other: np.ndarray) -> float:
    """Return how far ``other`` is from where its joint with ``known`` lets it be; 0 if acceptable.

    Poses are volume_from_rig. Structures that share no joint are never apart.
    """
    if not shares_joint(known, other):
        return 0.0
    joint, _ = _joint(known, other)
    known_from_other = pose @ geometry.invert(pose_other)
    centre = geometry.apply(known_from_other, other.body.centre_mm)
    distance = float(np.linalg.norm(centre - joint.point))
    in_ct = geometry.invert(known.ct.lineage.scanner_from_volume)
    in_ct = in_ct @ other.ct.lineage.scanner_from_volume
    turned = geometry.rotation_angle_deg(known_from_other[:3, :3] @ in_ct[:3, :3].T)
    too_far = np.radians(max(0.0, turned - TURNED_DEG)) * distance
    return max(joint.least_mm - distance, distance - joint.most_mm, too_far, 0.0)


def largest_apart_mm(number: int, structures: Sequence[Structure], found: Sequence[Found]) -> float:
    """Return the largest `apart_mm` of one structure from any other.

    Of two with unequal evidence, only the one with less is apart, unless the other is no clear fit.
    """
    poses = [one.solution.fit.poses[0] for one in found]
    clear = found[number].solution.fit.similarity >= STANDS_ALONE
    enough = found[number].solution.evidence - UNEQUAL if clear else -np.inf
    others = [
        other
        for other, one in enumerate(found)
        if other != number and one.solution.evidence >= enough
    ]
    return max(
        (
            apart_mm(structures[other], poses[other], structures[number], poses[number])
            for other in others
        ),
        default=0.0,
    )


def is_alone(
    number: int, views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> bool:
    """Return whether a structure is no clear fit and another one of its joint is not found.

    In lateral X-rays with both legs, a wrong tibia lies where a wrong femur lets it be
    (benchmarks/README.md, 'Template bank').
    """
    if found[number].solution.fit.similarity >= STANDS_ALONE:
        return False
    return any(
        other != number
        and shares_joint(structures[number], structure)
        and not is_found(one.solution, views, structure)
        for other, (structure, one) in enumerate(zip(structures, found, strict=True))
    )


def shares_joint(one: Structure, other: Structure) -> bool:
    """Return whether two structures of one CT are so near to each other that they share a joint."""
    return _same_scan(one, other) and _joint(one, other)[1] <= JOINT_GAP_MM


def _same_scan(one: Structure, other: Structure) -> bool:
    source = one.ct.lineage.source.get("sha256")
    same_source = bool(source) and source == other.ct.lineage.source.get("sha256")
    return same_source or (one.ct.path is not None and one.ct.path == other.ct.path)


def largest_overlap(
    number: int, structures: Sequence[Structure], poses: Sequence[np.ndarray]
) -> float:
    """Return the largest fraction of one structure inside any other; 0 if acceptable."""
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
    """Return the fraction of a bone's points in dense voxels of another, each at its pose."""
    points = geometry.apply(pose_other, geometry.apply(geometry.invert(pose_one), one.body.points))
    index = np.round(geometry.apply(geometry.invert(other.whole.affine), points)).astype(int)
    inside = ((index >= 0) & (index < other.whole.shape)).all(axis=1)
    dense = other.whole.data[tuple(index[inside].T)] > WATER_PER_MM * (1 + SOFT_TISSUE_HU / 1000)
    return float(dense.sum() / len(points))


def without(view: View, body: Body, pose: np.ndarray) -> View:
    """Return the view without the attenuation of a body at its pose (volume_from_rig).

    The attenuation is scaled to the image by the local contrast in the silhouette.
    """
    from scipy.ndimage import gaussian_filter

    xray, level, camera = view.xray, LEVELS[1], pose @ view.rig_from_camera
    small = xray.coarser(level.pixel_mm)
    drr = body.renderer.render(camera[None], small.detector)[0]
    inside = silhouette(drr, COMPARED_SHARE) & small.valid
    sigma = [level.highpass_mm / mm for mm in small.detector.pixel_mm[::-1]]
    rendered, seen = (
        (stack - gaussian_filter(stack, sigma))[inside] for stack in (drr, small.image)
    )
    scale = max(0.0, float(rendered @ seen) / max(float(rendered @ rendered), 1e-12))
    image = xray.image - scale * body.renderer.render(camera[None], xray.detector)[0]
    return replace(view, xray=replace(xray, image=image))
