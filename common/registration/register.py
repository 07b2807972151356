"""Register structures: start poses, competition, joint refinement and verdict of one instant."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.errors import InputError
from common.registration.competition import (
    KEEP,
    SCATTER_COUNT,
    Solution,
    advance,
    finish,
)
from common.registration.cues import of_bone
from common.registration.finding import find, is_enough, search_further
from common.registration.following import follow_frame, moved_alike
from common.registration.found import Found
from common.registration.joints import is_alone, largest_apart_mm, largest_overlap
from common.registration.neighbours import Placed, behind, search_beside, search_beside_metal
from common.registration.pyramid import LEVELS
from common.registration.request import Followed
from common.registration.scene import Structure, View
from common.registration.search.anywhere import STAGES, Stage
from common.registration.starts import Starter
from common.registration.together import refine_together
from common.registration.twins import with_twin
from common.registration.verdict import Surroundings, is_found, is_ok, judge
from common.results.result import Verdict
from common.results.scanner_view import BoneMotion, ScannerView

logger = logging.getLogger(__name__)

LEAST_PX = 9  # of the coarsest level, along each side of an X-ray


@dataclass(frozen=True)
class Registration:
    """One structure with its pose and verdict."""

    structure: Structure
    views: tuple[View, ...]
    start: np.ndarray  # (4, 4) volume_from_rig: the given start pose, or that of the search
    solution: Solution
    verdict: Verdict
    hidden_by: tuple[Structure, ...] = ()  # metal, in whose silhouettes it is not compared

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) volume_from_rig."""
        return self.solution.fit.poses[0]

    def camera(self, view: int = 0, pose: np.ndarray | None = None) -> np.ndarray:
        """Return volume_from_camera (4, 4) of a view, for the X-ray as registered.

        ``pose`` is volume_from_rig, by default the final pose.
        """
        return (self.pose if pose is None else pose) @ self.views[view].rig_from_camera

    def scanner_view(self, view: int = 0, bones: Sequence[BoneMotion] = ()) -> ScannerView:
        """Return a view in the scanner frame, for the X-ray as stored on disk."""
        xray = self.views[view].xray
        return ScannerView.of(
            xray.detector,
            self.camera(view),
            self.camera(view, self.start),
            self.structure.ct.lineage.scanner_from_volume,
            xray.flipped,
            bones,
            str(xray.path),
        )

    def followed(self, before: Followed | None) -> Followed:
        """Return the state of this structure for the next frame of a sequence."""
        if before is None:
            return Followed(self.pose, self.solution.evidence)
        motion = geometry.invert(before.pose) @ self.pose
        now, competed = self.solution.evidence, self.solution.candidates > 1
        confirmed = now if competed else max(before.confirmed, now)
        return Followed(self.pose, max(before.evidence, now), motion, confirmed)


def register(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    last: Sequence[Followed] | None = None,
) -> list[Registration]:
    """Register every structure in the views of one instant.

    ``last`` is the state of each structure after the previous frame of a sequence. Raises
    InputError if a structure is out of view or an X-ray is too small.
    """
    check_sizes(views)
    registrations = _register(views, structures, starter, seed, last)
    # a silhouette is the same from behind: metal does not tell whether the X-ray is flipped
    silhouettes = any(structure.body.metal for structure in structures)
    if last or len(views) > 1 or silhouettes or not (starter.mirrored and starter.anywhere()):
        return registrations
    return _register_mirrored(views, structures, starter, seed, registrations) or registrations


def _register_mirrored(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    as_it_is: Sequence[Registration],
) -> list[Registration] | None:
    """Register in the X-ray flipped left to right. Returns None unless it fits better.

    But for its perspective, a flipped X-ray is one from behind: with a pose at hand, the fit in the
    flipped X-ray starts there. With none, everything is searched again. How well flipped X-rays and
    others are told apart is in benchmarks/README.md, 'Template bank'.
    """
    name, flipped = views[0].xray.path.name, [view.flip() for view in views]
    certain = any(is_found(one.solution, views, one.structure) for one in as_it_is)
    if certain:
        from_behind = [
            advance(flipped, body, [start], SCATTER_COUNT, KEEP, seed)
            for body, start in (
                (
                    one.structure.body,
                    geometry.from_behind(one.camera(), one.structure.body.centre_mm),
                )
                for one in as_it_is
            )
        ]
        similarities = [field.finals[0].fit.similarity if field else 0.0 for field in from_behind]
        before = [one.solution.fit.similarity for one in as_it_is]
        if _unexplained(before) < _unexplained(similarities):
            return None
        logger.info(f"{name}: fits better flipped left to right; searching there")
    else:
        logger.info(f"{name}: nothing is certain; searching the X-ray flipped left to right")
    found = _register(flipped, structures, starter, seed, None, STAGES[:1], mirrored=True)
    if not any(is_found(one.solution, flipped, one.structure) for one in found):
        return None
    after = [one.solution.fit.similarity for one in found]
    before = [one.solution.fit.similarity for one in as_it_is]
    return found if _unexplained(before) >= _unexplained(after) else None


def _unexplained(similarities: Sequence[float]) -> float:
    """Mean fraction of the contrast that the fits do not explain."""
    return float(np.mean([1 - similarity**2 for similarity in similarities]))


def _register(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    last: Sequence[Followed] | None,
    stages: Sequence[Stage] = STAGES,
    mirrored: bool = False,
) -> list[Registration]:
    before = list(last) if last else [None] * len(structures)
    metal = [number for number, structure in enumerate(structures) if structure.body.metal]
    others = [number for number in range(len(structures)) if number not in metal]
    found: dict[int, Found] = {}
    seen: dict[int, tuple[View, ...]] = {}
    hiding: list[Placed] = []
    hidden_by: dict[int, tuple[Structure, ...]] = {}
    for numbers in filter(None, (metal, others)):  # metal first, which hides the others
        clear = behind(views, hiding)
        hidden_by |= dict.fromkeys(numbers, tuple(part for part, _ in hiding))
        some, earlier = [structures[n] for n in numbers], [before[n] for n in numbers]
        now = _found(clear, some, starter, seed, earlier, stages, hiding)
        found |= zip(numbers, now, strict=True)
        seen |= dict.fromkeys(numbers, clear)
        hiding = [
            (structure, one.solution.fit.poses[0])
            for structure, one in zip(some, now, strict=True)
            if is_found(one.solution, clear, structure)
        ]
    in_order = range(len(structures))
    judged = _judged(
        views,
        [seen[number] for number in in_order],
        structures,
        [found[number] for number in in_order],
        before,
        mirrored,
    )
    return [replace(one, hidden_by=hidden_by[number]) for number, one in enumerate(judged)]


def _found(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    before: Sequence[Followed | None],
    stages: Sequence[Stage],
    hiding: Sequence[Placed],
) -> list[Found]:
    """Return structures of one kind, metal or bone, where they are found.

    Parts that are ``hiding`` them are metal that is found. Metal and bone are not refined together:
    bones end nearer to the truth if they are compared beside it (benchmarks/README.md, 'Implants').
    """
    found, lost = _found_by_themselves(views, structures, starter, seed, before, hiding)
    found = _searched_on(views, structures, starter, seed, found, lost, stages)
    _log_searched(views, structures, found)
    finished = []
    for structure, one in zip(structures, found, strict=True):
        twins = replace(one, solution=with_twin(views, structure, one.solution, seed))
        finished.append(_finished(views, structure, twins))
    return refine_together(views, structures, finished)


def _found_by_themselves(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    before: Sequence[Followed | None],
    hiding: Sequence[Placed],
) -> tuple[list[Found], list[int]]:
    """Return each structure where it is found, and the numbers of those lost since ``before``."""
    found: list[Found] = []
    lost: list[int] = []
    for number, (structure, previous) in enumerate(zip(structures, before, strict=True)):
        tracked = None
        if previous:
            carried = moved_alike(found, before, previous)
            tracked = follow_frame(views, structure, seed, previous, carried)
        if tracked is None:
            found.append(_found_from_nothing(views, structure, starter, seed, hiding))
        else:
            found.append(Found(tracked.start, tracked, ("near the previous frame",)))
            if not is_ok(tracked, views, structure):
                lost.append(number)
    return found, lost


def _found_from_nothing(
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
    hiding: Sequence[Placed],
) -> Found:
    """Return a structure where it is found, first around metal parts that are ``hiding`` it."""
    around = search_beside_metal(views, structure, starter, seed, hiding)
    if around is not None and is_found(around.solution, views, structure):
        return around
    anywhere = find(views, structure, starter, seed)
    if around is None:
        return anywhere
    return around.after("; ".join(anywhere.searched), anywhere.solution)


def _searched_on(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    before: Sequence[Found],
    lost: Sequence[int],
    stages: Sequence[Stage],
) -> list[Found]:
    """Search for what is not certain: beside what is found, again, and by further stages."""
    found = list(before)
    several = len(structures) > 1
    beside = several and any(
        is_found(o.solution, views, s) for s, o in zip(structures, found, strict=True)
    )
    if beside:
        found = search_beside(views, structures, starter, seed, found)
    for number in lost:
        structure, one = structures[number], found[number]
        if not is_found(one.solution, views, structure):
            logger.info(
                f"{views[0].xray.path.name}: {structure.ct.name} was lost after the previous frame;"
                " searching again"
            )
            again = find(views, structure, starter, seed)
            found[number] = one.after("; ".join(again.searched), again.solution)
            beside = False
    if starter.anywhere() and not is_enough(views, structures, found):
        found = search_further(views, structures, starter, seed, found, stages[1:])
        beside = False
    if several and not beside:  # beside a bone found only now, or else the most certain one
        found = search_beside(views, structures, starter, seed, found)
    return found


def _judged(
    views: Sequence[View],
    seen: Sequence[Sequence[View]],
    structures: Sequence[Structure],
    found: Sequence[Found],
    before: Sequence[Followed | None],
    mirrored: bool,
) -> list[Registration]:
    """Return each structure with its verdict, which also follows from the others.

    ``seen`` are the views in which each was registered.
    """
    poses = [one.solution.fit.poses[0] for one in found]
    registrations = []
    for number, (structure, one, previous) in enumerate(
        zip(structures, found, before, strict=True)
    ):
        around = Surroundings(
            overlap=largest_overlap(number, structures, poses),
            expected_evidence=previous.evidence if previous else 0.0,
            mirrored=mirrored,
            apart_mm=largest_apart_mm(number, structures, found),
            alone=is_alone(number, seen[number], structures, found),
            # not worth their time in frames that follow others
            cues=None if previous else of_bone(one.solution, seen[number], structure),
        )
        verdict = judge(one.solution, seen[number], structure, around)
        registrations.append(
            Registration(structure, tuple(views), one.start, one.solution, verdict)
        )
    return registrations


def _log_searched(
    views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> None:
    """Log where structures that are not certain were searched for."""
    for structure, one in zip(structures, found, strict=True):
        if one.searched and not is_found(one.solution, views, structure):
            logger.info(
                f"{views[0].xray.path.name}: {structure.ct.name} is not certain (similarity"
                f" {one.solution.fit.similarity:.2f}); searched {'; '.join(one.searched)}"
            )


def _finished(views: Sequence[View], structure: Structure, found: Found) -> Found:
    """Return what was found, refined to full resolution; where that leaves the view, as it is."""
    return replace(found, solution=finish(views, structure.body, found.solution) or found.solution)


def check_sizes(views: Sequence[View]) -> None:
    """Raise InputError if an X-ray is too small for the coarsest level."""
    least_mm = LEAST_PX * LEVELS[0].pixel_mm
    for view in views:
        width, height = view.xray.detector.size_mm
        if min(width, height) < least_mm:
            raise InputError(
                view.xray.path,
                f"measures {width:.0f} x {height:.0f} mm at the detector",
                f"at least {least_mm:.0f} mm per side",
                "correct the pixel spacing, or give the whole image",
            )
