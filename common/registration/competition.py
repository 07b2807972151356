"""Competition of start poses: candidates are scored, the best refined, and the best fit is kept.

Evidence decides: similarity times the square root of the share in view, because a shaft that is
half outside the image fits more easily than a whole bone. Only the best fit and a serious
runner-up are refined to full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.registration.candidates import distinct, near_duplicates, scattered, score
from common.registration.gauss_newton import Fit, continued, refine_each
from common.registration.pyramid import LEVELS, WIDE, Level
from common.registration.scene import Body, View

COARSE, MIDDLE, FINE = LEVELS[:2], LEVELS[2:3], LEVELS[3:]
SCATTER_COUNT = 200  # candidates around a start pose
# candidates that are refined coarsely, and then to the level at which similarities are compared
# (benchmarks/README.md, 'What was tried for convergence')
KEEP, FINALISTS = 12, 3
# evidence below the best by which a coarse fit is dropped
# (benchmarks/README.md, 'What was tried for speed')
HOPELESS = 0.15
# rotations along the valley of a cost (benchmarks/README.md, 'What was tried for convergence')
VALLEY_STEPS_DEG = (-14.0, -7.0, 7.0, 14.0)
VALLEY_WALKS = 4
VALLEY_GAIN = 2e-3  # of evidence; smaller gains mean the same minimum
KEPT_RIVALS = 5  # other poses that are stored with a result
RIVAL_SIMILARITY = 0.03  # below that of the best fit: a runner-up with more is a serious one
SAME_EVIDENCE = 1e-3
# similarity of a whole CT above which nothing else is tried
# (benchmarks/README.md, 'What was tried for speed')
CLEAR_SIMILARITY = 0.9


@dataclass(frozen=True)
class Solution:
    """The fit with most evidence, and how it was found."""

    start: np.ndarray  # (4, 4) volume_from_rig, the candidate that it was refined from
    fit: Fit
    runner_up: Fit | None  # best fit that ended at another pose
    candidates: int
    agreement: float  # fraction of the coarsely refined candidates that ended at this pose
    evidence: float
    finished: bool = True  # refined to full resolution
    # volume_from_rig of other fits on the way, best first, some near each other: the verdict does
    # not weigh them, a person may (`rivals`)
    others: tuple[np.ndarray, ...] = ()

    def beating(self, other: Solution) -> Solution:
        """Return this solution with the poses of another one that had less evidence."""
        rival = other.runner_up.poses if other.runner_up else []
        return replace(self, others=(*self.others, other.fit.poses[0], *rival, *other.others))


@dataclass(frozen=True)
class Run:
    """A candidate on its way through the levels."""

    start: np.ndarray  # (4, 4) volume_from_rig
    fit: Fit
    evidence: float
    merged: int = 1  # candidates that ended at this pose

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) volume_from_rig."""
        return self.fit.poses[0]

    @classmethod
    def from_starts(
        cls,
        views: Sequence[View],
        body: Body,
        starts: Sequence[np.ndarray],
        levels: Sequence[Level],
    ) -> list[Run]:
        """Refine from each of ``starts``, without those out of view in all X-rays."""
        fits = refine_each(views, [body], [[start] for start in starts], levels)
        return [
            cls(start, fit, evidence(views, body, fit))
            for start, fit in zip(starts, fits, strict=True)
            if fit is not None
        ]

    @staticmethod
    def further(
        views: Sequence[View], body: Body, runs: Sequence[Run], levels: Sequence[Level]
    ) -> list[Run]:
        """Refine runs through further levels, without those that leave the view."""
        fits = refine_each(views, [body], [run.fit.poses for run in runs], levels)
        return [
            replace(
                run,
                fit=replace(fit, trace=continued(run.fit.trace, fit.trace)),
                evidence=evidence(views, body, fit),
            )
            for run, fit in zip(runs, fits, strict=True)
            if fit is not None
        ]

    def alone(self) -> Solution:
        """Return the solution if nothing competed."""
        return Solution(self.start, self.fit, None, 1, 1.0, self.evidence)


@dataclass(frozen=True)
class Field:
    """A competition at the level where similarities are compared."""

    finals: list[Run]  # best first
    coarse: list[Run]  # all that were refined coarsely
    candidates: int


def compete(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    scatter: int = SCATTER_COUNT,
    keep: int = KEEP,
    seed: int = 0,
) -> Solution | None:
    """Refine the best of ``starts`` (volume_from_rig) and of candidates around the first of them.

    Returns the fit with the highest evidence, or None if no candidate is in view. A whole CT
    converges from distant start poses: if its single start pose converges, no other is tried.
    """
    far: list[Run] = []
    if body.complete and len(starts) == 1:
        far = Run.from_starts(views, body, starts, (WIDE, *COARSE, *MIDDLE))
    if far and is_clear(far[0]):
        return finish(views, body, settle(views, body, Field(far, far, 1)))
    field = advance(views, body, starts, scatter, keep, seed)
    if field and far:
        field = replace(field, finals=best_first([*field.finals, *far]))
    return finish(views, body, settle(views, body, field)) if field else None


def compete_from(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    seed: int = 0,
    worth_finishing: float = 0.0,
) -> Solution | None:
    """Return the solution around a single start pose, or among several and around the best.

    Among several it is not finished if its similarity is below ``worth_finishing``. Returns None if
    there are none, or none is in view.
    """
    if not starts:
        return None
    if len(starts) == 1:
        return compete(views, body, starts, seed=seed)
    field = advance(views, body, starts, 0, len(starts), seed)
    if field is None:
        return None
    first = field.finals[0]
    if not (body.complete and is_clear(first)):
        around = advance(views, body, [first.pose], SCATTER_COUNT, KEEP, seed)
        if around and around.finals[0].evidence > first.evidence - SAME_EVIDENCE:
            field = around
    solution = settle(views, body, field)
    if solution.fit.similarity < worth_finishing:
        return solution
    return finish(views, body, solution)


def follow(
    views: Sequence[View], body: Body, poses: Sequence[np.ndarray], levels: Sequence[Level]
) -> Solution | None:
    """Refine near poses, such as that of the previous frame; the best, None if out of view."""
    runs = Run.from_starts(views, body, poses, levels)
    return max(runs, key=lambda run: run.evidence).alone() if runs else None


def better(one: Solution | None, other: Solution | None) -> Solution | None:
    """Return the solution with more evidence, or the first if both have the same."""
    if one is None or other is None:
        return one or other
    return other.beating(one) if exceeds(other, one) else one.beating(other)


def exceeds(one: Solution, other: Solution) -> bool:
    """Return whether a solution has more evidence than another."""
    return one.evidence > other.evidence + SAME_EVIDENCE


def rivals(views: Sequence[View], body: Body, solution: Solution) -> list[np.ndarray]:
    """Return at most `KEPT_RIVALS` other poses (volume_from_rig) that were fitted, best first.

    They are the runner-up and fits that ended elsewhere, without near-duplicates.
    """
    found = [solution.runner_up.poses[0]] if solution.runner_up else []
    for pose in solution.others:
        known = [solution.fit.poses[0], *found]
        rig = views[0].rig_from_camera
        if not any(near_duplicates(each, pose, rig, body) for each in known):
            found.append(pose)
    return found[:KEPT_RIVALS]


def advance(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    scatter: int,
    keep: int,
    seed: int,
) -> Field | None:
    """Return the competition at the level where similarities are compared; None if out of view."""
    coarse, candidates = explore(views, body, starts, scatter, keep, seed)
    if not coarse:
        return None
    hopeful = [run for run in coarse if run.evidence > coarse[0].evidence - HOPELESS]
    first, *others = merge(hopeful, views[0].rig_from_camera, body)[:FINALISTS]
    chosen = [walk_valley(views, body, first), *others]
    finals = Run.further(views, body, chosen, MIDDLE)
    if len(starts) == 1:
        # coarse images of a slender bone lead away from a near start pose
        # (benchmarks/README.md, 'Starts from nothing')
        finals += Run.from_starts(views, body, starts, MIDDLE)
    finals = best_first(finals)
    return Field(finals, coarse, candidates) if finals else None


def settle(views: Sequence[View], body: Body, field: Field) -> Solution:
    """Return the best fit at the level where similarities are compared, with a serious rival."""
    best = field.finals[0]

    def same(run: Run) -> bool:
        return near_duplicates(best.pose, run.pose, views[0].rig_from_camera, body)

    rival = next((run for run in field.finals[1:] if not same(run)), None)
    agreeing = sum(run.merged for run in field.coarse if same(run))
    return Solution(
        start=best.start,
        fit=best.fit,
        runner_up=rival.fit if rival else None,
        candidates=field.candidates,
        agreement=agreeing / sum(run.merged for run in field.coarse),
        evidence=best.evidence,
        finished=False,
        others=tuple(run.pose for run in (*field.finals[1:], *field.coarse)),
    )


def finish(views: Sequence[View], body: Body, solution: Solution) -> Solution | None:
    """Refine to full resolution, and a serious runner-up too; None if out of view."""
    if solution.finished:
        return solution
    run = Run(solution.start, solution.fit, solution.evidence)
    finished = Run.further(views, body, [run], FINE)
    if not finished:
        return None
    (best,) = finished
    rival = solution.runner_up
    if rival and rival.similarity > best.fit.similarity - RIVAL_SIMILARITY:
        rivals = Run.further(views, body, [Run(solution.start, rival, 0.0)], FINE)
        rival = rivals[0].fit if rivals else None
        if rival and near_duplicates(best.pose, rival.poses[0], views[0].rig_from_camera, body):
            rival = None
    return replace(solution, fit=best.fit, runner_up=rival, evidence=best.evidence, finished=True)


def explore(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    scatter: int,
    keep: int,
    seed: int,
) -> tuple[list[Run], int]:
    """Return coarse fits of the ``keep`` best candidates, best first, and their number before."""
    rig_from_camera = views[0].rig_from_camera
    rng = np.random.default_rng(seed)
    candidates = [*starts, *scattered(starts[0], rig_from_camera, body, scatter, rng)]
    scores = score(views, body, candidates, COARSE[0], candidates[: len(starts)])
    order = [i for i in np.argsort(-scores) if np.isfinite(scores[i])]
    chosen = distinct([candidates[i] for i in order], rig_from_camera, body, keep)
    first = Run.from_starts(views, body, chosen, COARSE[:1])
    merged = merge(best_first(first), rig_from_camera, body)
    return best_first(Run.further(views, body, merged, COARSE[1:])), len(candidates)


def merge(runs: Sequence[Run], rig_from_camera: np.ndarray, body: Body) -> list[Run]:
    """Merge runs (best first) that ended at the same pose, keeping the best of each group."""
    merged: list[Run] = []
    for run in runs:
        for number, other in enumerate(merged):
            if near_duplicates(other.pose, run.pose, rig_from_camera, body):
                merged[number] = replace(other, merged=other.merged + 1)
                break
        else:
            merged.append(run)
    return merged


def walk_valley(views: Sequence[View], body: Body, run: Run) -> Run:
    """Return the best of a run and of fits along its least constrained direction.

    A tibia seen from the side can rotate by 10 degrees about its shaft, with small changes of
    translation and depth, at nearly the same cost. That valley has several minima; each is the
    start for the next, in both directions, until none is better.
    """
    for _ in range(VALLEY_WALKS):
        covariance = run.fit.covariance
        turn = np.linalg.eigh(covariance[:3, :3])[1][:, -1]
        # translation that accompanies the rotation
        shift = covariance[3:6, :3] @ np.linalg.pinv(covariance[:3, :3]) @ turn
        along = np.r_[turn, shift]
        starts = [
            geometry.twist(np.radians(angle) * along, body.centre_mm) @ run.pose
            for angle in VALLEY_STEPS_DEG
        ]
        found = best_first(Run.from_starts(views, body, starts, COARSE[-1:]))
        if not found or found[0].evidence <= run.evidence + VALLEY_GAIN:
            return run
        best = found[0]
        trace = continued(run.fit.trace, best.fit.trace)
        run = replace(best, start=run.start, fit=replace(best.fit, trace=trace))
    return run


def is_clear(run: Run) -> bool:
    """Return whether the similarity of a whole-CT fit exceeds that of every known wrong fit."""
    return run.fit.similarity > CLEAR_SIMILARITY


def best_first(runs: Sequence[Run]) -> list[Run]:
    """Return runs that ended at one level, the one with most evidence first."""
    return sorted(runs, key=lambda run: -run.evidence)


def evidence(views: Sequence[View], body: Body, fit: Fit) -> float:
    """Return the similarity of a fit times the square root of the mean share in view."""
    shares = [view.share_in_view(body, fit.poses[0]) for view in views]
    return fit.similarity * float(np.sqrt(np.mean(shares)))
