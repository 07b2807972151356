"""Neighbouring bones: a registered bone shows where the others can be, and where they cannot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common import geometry
from common.registration.competition import (
    MIDDLE,
    Solution,
    advance,
    better,
    compete,
    follow,
)
from common.registration.found import Found
from common.registration.joints import OVERLAPPING, apart_mm, is_alike, joint_of, overlap, same_scan
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
from common.registration.search.attached import attached_starts
from common.registration.search.in_space import Alongside
from common.registration.search.limits import Near
from common.registration.starts import Starter
from common.registration.verdict import SUSPECT_SIMILARITY, is_found, is_ok
from common.xray.outline import COMPARED_SHARE, silhouette

logger = logging.getLogger(__name__)

# two bones side by side, such as those of a forearm (benchmarks/README.md, 'Two views of a wrist')
ALONGSIDE_MM, ALONGSIDE_DEG = 45.0, 25.0  # between their centres and long axes, at most
HIDDEN_RIM_MM = 2.0  # around metal at the detector: its blur

Placed = tuple[Structure, np.ndarray]  # a structure at its pose (volume_from_rig)


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
        alike = structure.body.metal or is_alike(one.solution, solution)
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
            if other and misplaced and again[number].solution.fit is one.solution.fit:
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


def search_beside_metal(
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
    metal: Sequence[Placed],
) -> Found | None:
    """Search for a bone around metal parts, in the views `behind` them; None without parts.

    Each view is searched by itself, and the ends are compared in all.
    """
    if not (metal and starter.method == "search" and starter.anywhere()):
        return None
    body, best = structure.body, None
    searched = tuple(f"around {part.ct.name}" for part, _ in metal)
    for (part, pose), words in zip(metal, searched, strict=True):
        logger.info(f"{views[0].xray.path.name}: searching {structure.ct.name} {words}")
        point = geometry.apply(geometry.invert(pose), part.body.centre_mm)
        ends = []
        for view in views:
            starts = attached_starts(view, structure, point)
            field = advance([view], body, starts, 0, len(starts), seed)
            ends += [run.pose for run in field.finals] if field else []
        chosen = follow(views, body, ends, MIDDLE)
        if chosen is not None:
            best = better(best, compete(views, body, [chosen.fit.poses[0]], seed=seed))
        if best is not None and is_found(best, views, structure):
            break
    return Found(best.start, best, searched) if best else None


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
    if same_scan(known, other):
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
    if not same_scan(known, other):
        centre = geometry.apply(from_rig, known.body.centre_mm)
        return Near(centre, 0.0, known.body.radius_mm + other.body.radius_mm)
    joint, _ = joint_of(known, other)
    return replace(joint, point=geometry.apply(from_rig, joint.point))


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


def behind(views: Sequence[View], metal: Sequence[Placed]) -> tuple[View, ...]:
    """Return views that are not valid where metal parts hide what is behind them, with a rim."""
    from scipy.ndimage import binary_dilation

    if not metal:
        return tuple(views)
    clear = []
    for view in views:
        xray = view.xray
        hidden = np.zeros(xray.valid.shape, bool)
        for part, pose in metal:
            drr = part.body.renderer.render((pose @ view.rig_from_camera)[None], xray.detector)[0]
            hidden |= silhouette(drr, COMPARED_SHARE)
        rim = max(1, round(HIDDEN_RIM_MM / max(xray.detector.pixel_mm)))
        hidden = binary_dilation(hidden, iterations=rim)
        clear.append(view.behind(hidden))
    return tuple(clear)
