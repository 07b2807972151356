"""Where each structure is in the X-rays of one instant: start poses, competition, verdict, and what one bone that is found says about the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common import geometry
from common.errors import InputError
from common.registration.competition import Winner, better, compete, compete_from, evidence, follow
from common.registration.gauss_newton import Fit, Trace, assess, refine
from common.registration.neighbours import OVERLAPPING, look_beside, overlap
from common.registration.pyramid import JUDGED, LEVELS, View
from common.registration.scene import Structure
from common.registration.starts import Starter
from common.registration.verdict import is_ok, verdict_of

logger = logging.getLogger(__name__)


SLIDING = 0.02  # of evidence: a frame that has so much less than the best of its sequence is tried from further starts


@dataclass(frozen=True)
class Followed:
    """One structure in a sequence so far."""

    pose: np.ndarray  # volume_from_rig in the last frame that did not fail
    evidence: float  # the most that a frame has had: less is a pose that slides away while its similarity still looks well

    def then(self, winner: Winner) -> Followed:
        return Followed(winner.fit.poses[0], max(self.evidence, winner.evidence))


def register(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    last: Sequence[Followed] | None = None,
) -> list[tuple[np.ndarray, Winner, dict[str, Any]]]:
    """Pose of each structure in the views of one instant: (start, winner, verdict) of each. ``last`` is what the frames before have left, in a sequence.

    Raises InputError where a structure cannot be seen in the pictures.
    """
    check_sizes(views)
    found: list[tuple[np.ndarray, Winner]] = []
    for number, structure in enumerate(structures):
        carried = (
            [
                last[number].pose @ geometry.invert(before.pose) @ winner.fit.poses[0]
                for before, (_, winner) in zip(last, found, strict=False)
            ]
            if last
            else []
        )
        found.append(find(views, structure, starter, seed, last[number] if last else None, carried))
    if len(structures) > 1:
        found = refine_together(
            views, structures, look_beside(views, structures, starter, seed, found)
        )
    poses = [winner.fit.poses[0] for _, winner in found]
    occupied = [
        max(
            (
                overlap(s, pose, other, at)
                for other, at in zip(structures, poses, strict=True)
                if other is not s
            ),
            default=0.0,
        )
        for s, pose in zip(structures, poses, strict=True)
    ]
    return [
        (
            start,
            winner,
            verdict_of(
                winner,
                views,
                structure,
                within if within >= OVERLAPPING else 0.0,
                before.evidence if before else 0.0,
            ),
        )
        for structure, (start, winner), within, before in zip(
            structures, found, occupied, last or [None] * len(structures), strict=True
        )
    ]


def check_sizes(views: Sequence[View]) -> None:
    """InputError for a picture too small for the coarsest level, which needs eight pixels."""
    least_mm = 9 * LEVELS[0].pixel_mm
    for view in views:
        width, height = view.xray.detector.size_mm
        if min(width, height) < least_mm:
            raise InputError(
                view.xray.path,
                f"measures {width:.0f} x {height:.0f} mm at the detector",
                f"{least_mm:.0f} mm or more a side",
                "correct the pixel size, or give the whole picture",
            )


def find(
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
    last: Followed | None = None,
    carried: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, Winner]:
    """Start pose and best refined pose of one structure by itself, from the starter's poses.

    In a sequence first from the frame before (``last``), then with candidates around it, then around where bones already found would have carried it.
    """

    def certain(winner: Winner | None) -> bool:
        return winner is not None and is_ok(winner, views, structure)

    name, body = views[0].xray.path.name, structure.body
    if last:
        winner = follow(views, body, last.pose)
        for pose in (last.pose, *carried):
            if winner and certain(winner) and winner.evidence > last.evidence - SLIDING:
                break
            winner = better(winner, compete(views, body, [pose], seed=seed))
        if winner and certain(winner):
            return winner.start, winner
        logger.info(f"{name}: lost {structure.ct.name} of the frame before; looking for it anew")
    starts = starter(views, structure)
    if starter.optimizer == "adam":
        winner = ascend(views, structure, starts[0])
    else:
        winner = compete_from(views, body, starts, seed)
        if starter.method == "model" and not certain(winner):
            logger.info(
                f"{name}: not certain from the network's start; searching the pose range too"
            )
            winner = better(
                winner, compete_from(views, body, starter(views, structure, "search"), seed)
            )
    if winner is None:
        raise InputError(
            views[0].xray.path,
            f"the start pose shows nothing of {structure.ct.name} inside the picture",
            "the bone in view",
            "widen the pose range or use `init` search",
        )
    return starts[0], winner


def ascend(views: Sequence[View], structure: Structure, start: np.ndarray) -> Winner | None:
    """The reference optimiser's result from one start."""
    from common.registration import adam  # brings torch

    trace = Trace()
    fit = adam.ascend(views, structure.body, start, trace)
    return fit and Winner(start, fit, trace, None, 1, 1.0, evidence(views, structure.body, fit))


def refine_together(
    views: Sequence[View], structures: Sequence[Structure], found: list[tuple[np.ndarray, Winner]]
) -> list[tuple[np.ndarray, Winner]]:
    """All structures refined at once from where each was found alone, so that where they overlap neither pulls the other."""
    trace = Trace()
    fit = refine(
        views,
        [s.body for s in structures],
        [winner.fit.poses[0] for _, winner in found],
        LEVELS[2:],
        trace,
    )
    if fit is None:
        return found
    together = []
    for index, (start, winner) in enumerate(found):
        block = slice(6 * index, 6 * index + 6)
        alone = winner.trace.rows
        clock = alone[-1][2] if alone else 0.0
        joint = [
            ([poses[index]], similarity, clock + seconds, pixel)
            for poses, similarity, seconds, pixel in trace.rows
        ]
        alone_here = assess(views, [structures[index].body], [fit.poses[index]], JUDGED)
        own = Fit(
            [fit.poses[index]],
            alone_here.similarity if alone_here else 0.0,
            fit.covariance[block, block],
        )
        together.append(
            (start, replace(winner, fit=own, trace=Trace(winner.trace.started, [*alone, *joint])))
        )
    return together
