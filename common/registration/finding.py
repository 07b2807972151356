"""One structure by itself: start poses, their competition, and further stages of the search."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from common.errors import InputError
from common.registration.competition import Solution, better, compete_from, evidence
from common.registration.found import Found
from common.registration.scene import Structure, View
from common.registration.search.anywhere import Stage, stage_starts
from common.registration.starts import Starter
from common.registration.verdict import is_clear, is_found, is_trusted

logger = logging.getLogger(__name__)

# of a search: mostly one of them is right (benchmarks/README.md, 'Template bank')
FIRST_STARTS = 24
# similarity below which a fit is refined to full resolution only if nothing better is found: that
# of wrong fits (benchmarks/README.md, 'Template bank')
WORTH_FINISHING = 0.65


def find(
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
) -> Found:
    """Find one structure separately from the others. Raises InputError if it is out of view."""
    name = views[0].xray.path.name
    starts = starts_of(views, structure, starter, seed)
    if starter.optimizer == "adam":
        solution = ascend(views, structure, starts[0])
    else:
        solution = _compete_in_turn(views, structure, starts, seed)
        certain = solution is not None and is_found(solution, views, structure)
        if starter.method == "model" and not certain:
            logger.info(
                f"{name}: pose uncertain from the network's start pose; searching everywhere too"
            )
            searched = starter(views, structure, "search")
            other = _compete_in_turn(views, structure, searched, seed)
            # the network knows the usual views: elsewhere only a certain pose is better
            if solution is None or (other and is_found(other, views, structure)):
                solution = other
    if solution is None:
        raise InputError(
            views[0].xray.path,
            f"at the start pose, {structure.ct.name} is outside the image",
            "the bone in view",
            "check the X-ray, its geometry and the start pose (several views: that their"
            " calibrations belong together, in mm), or use `init` search without a pose range",
        )
    start = starts[0] if len(starts) == 1 else solution.start
    return Found(start, solution, starter.first_stage())


def starts_of(
    views: Sequence[View], structure: Structure, starter: Starter, seed: int
) -> list[np.ndarray]:
    """Return start poses, best first: a bone is found as part of the CT around it, if that is."""
    around = structure.context
    if around is not None and starter.method == "search" and starter.anywhere():
        solution = find(views, around, starter, seed).solution
        if is_found(solution, views, around):
            return [solution.fit.poses[0]]
    return starter(views, structure)


def _compete_in_turn(
    views: Sequence[View], structure: Structure, starts: Sequence[np.ndarray], seed: int
) -> Solution | None:
    """Let the first start poses compete, and the others only if none of those is certain."""
    if not starts:
        return None
    solution = compete_from(views, structure.body, starts[:FIRST_STARTS], seed, WORTH_FINISHING)
    if len(starts) > FIRST_STARTS and not (solution and is_found(solution, views, structure)):
        rest = compete_from(views, structure.body, starts[FIRST_STARTS:], seed, WORTH_FINISHING)
        solution = better(solution, rest)
    return solution


def search_further(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    found: Sequence[Found],
    stages: Sequence[Stage],
) -> list[Found]:
    """Search stage by stage until that `is_enough`."""
    further = list(found)
    if starter.full:
        return further
    for stage in stages:
        for number, structure in enumerate(structures):
            logger.info(
                f"{views[0].xray.path.name}: {structure.ct.name} is not certain; searching"
                f" {stage.words}"
            )
            starts = stage_starts(views, structure, stage, starter.banks)
            solution = _compete_in_turn(views, structure, starts, seed)
            certain = solution is not None and is_found(solution, views, structure)
            if starter.method == "model" and not certain:
                solution = None  # see `find`
            further[number] = further[number].after(stage.words, solution)
            if is_enough(views, structures, further):
                return further
    return further


def is_enough(
    views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> bool:
    """Return whether no other orientation need be searched.

    That is so if one structure is clear, as the others are then looked for beside it only, or if
    all can be trusted: in noise, none is clear.
    """
    pairs = list(zip(structures, found, strict=True))
    return any(is_clear(one.solution, views, structure) for structure, one in pairs) or all(
        is_trusted(one.solution, views, structure) for structure, one in pairs
    )


def ascend(views: Sequence[View], structure: Structure, start: np.ndarray) -> Solution | None:
    """Return the solution of the reference optimiser, or None if out of view."""
    from common.registration import adam  # imports torch

    fit = adam.ascend(views, structure.body, start)
    if fit is None:
        return None
    return Solution(start, fit, None, 1, 1.0, evidence(views, structure.body, fit))
