"""Frames of a sequence: a structure is followed from the frame before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import geometry
from common.registration.candidates import near_duplicates
from common.registration.competition import Solution, better, compete, follow
from common.registration.found import Found
from common.registration.pyramid import LEVELS, Level
from common.registration.request import Followed
from common.registration.scene import Structure, View
from common.registration.verdict import is_ok

# evidence below the best of a sequence by which a frame gets more start poses
# (benchmarks/README.md, 'Sequences')
SLIDING = 0.02
# levels from the pose that the motion so far leads to (benchmarks/README.md, 'Sequences')
PREDICTED = (LEVELS[2], Level(1.1, 2.5, 30), LEVELS[4])


def follow_frame(
    views: Sequence[View],
    structure: Structure,
    seed: int,
    last: Followed,
    carried: Sequence[np.ndarray] = (),
) -> Solution | None:
    """Return the best solution near the previous frames.

    The pose that the motion so far leads to is refined through the last levels. Low evidence gets
    more start poses: that of the last frame, through all levels, then candidates around both, and
    around each of ``carried``, until some end where the frame was already.
    """
    least = (last.confirmed or last.evidence) - SLIDING

    def holds(solution: Solution | None) -> bool:
        return (
            solution is not None and is_ok(solution, views, structure) and solution.evidence > least
        )

    moving = not np.array_equal(last.motion, np.eye(4))
    near = [last.expected, last.pose] if moving else [last.pose]
    if moving:
        solution = follow(views, structure.body, near[:1], PREDICTED)
        if holds(solution):
            return solution
    solution = follow(views, structure.body, near, LEVELS)
    for pose in (*near, *carried):
        if holds(solution):
            break
        around = compete(views, structure.body, [pose], seed=seed)
        confirmed = solution and around and _is_same(solution, around, views, structure)
        solution = better(around, solution)
        if confirmed and solution and is_ok(solution, views, structure):
            break
    return solution


def _is_same(one: Solution, other: Solution, views: Sequence[View], structure: Structure) -> bool:
    """Return whether two solutions are at nearly the same pose."""
    poses = one.fit.poses[0], other.fit.poses[0]
    return near_duplicates(*poses, views[0].rig_from_camera, structure.body)


def moved_alike(
    found: Sequence[Found], before: Sequence[Followed | None], previous: Followed | None
) -> list[np.ndarray]:
    """Return poses of a structure if it had moved like each one already found in this frame."""
    if previous is None:
        return []
    return [
        previous.pose @ geometry.invert(earlier.pose) @ one.solution.fit.poses[0]
        for one, earlier in zip(found, before, strict=False)
        if earlier is not None
    ]
