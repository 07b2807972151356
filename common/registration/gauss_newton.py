"""Gauss-Newton refinement of poses, with any number of views of one instant and of bodies.

The attenuations of the bodies add along each ray. The solver compares the local contrast of the DRR
with that of the X-ray (`contrast`), from coarse to fine (`pyramid`), and is damped as in the
Levenberg-Marquardt method.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.registration.contrast import Compared, similarity_of
from common.registration.pyramid import (
    JUDGED,
    LEVELS,
    Level,
    LevelView,
    Pyramid,
    Rendered,
    Weights,
    grouped,
)
from common.registration.scene import Body, View
from common.registration.uncertainty import covariance_of

# trust region of one iteration
MAX_STEP_DEG, MAX_STEP_MM, MAX_STEP_DEPTH_MM = 6.0, 12.0, 40.0
PLATEAU = 1e-4  # relative gain of an iteration below which a level ends
# predicted relative gain below which an iteration is not rendered
# (benchmarks/README.md, 'What was tried for speed')
PROMISE = 1e-5
DAMPING, LEAST_DAMPING, DAMPING_FACTOR = 1e-2, 1e-6, 5
ATTEMPTS = 5  # damped steps that one iteration tries


@dataclass(frozen=True)
class Evaluation:
    """Poses at which a refinement has rendered."""

    poses: list[np.ndarray]  # volume_from_rig of each body
    similarity: float
    seconds: float  # of refinement since the start pose
    pixel_mm: float  # of the level, at the detector


@dataclass(frozen=True)
class Fit:
    """Result of a refinement of M bodies."""

    poses: list[np.ndarray]  # volume_from_rig of each body
    similarity: float  # at the last level or at `JUDGED`, whichever is coarser
    # (6 M, 6 M) of the left twists, radians and mm: `covariance_of`
    covariance: np.ndarray
    trace: tuple[Evaluation, ...] = ()  # all evaluated poses, in order
    # (6 M, 6 M) of all bodies that were refined together, this one first and the others in their
    # order; None for a body refined alone
    joint_covariance: np.ndarray | None = None


class Trace:
    """Records the evaluations of one refinement, with their times."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds = 0.0
        self.evaluations: list[Evaluation] = []

    def resume(self) -> None:
        """Start the clock again, after the trials of other refinements."""
        self._last = time.perf_counter()

    def add(
        self,
        poses: Sequence[np.ndarray] | np.ndarray,
        similarity: float,
        pixel_mm: float,
        side_by_side: int = 1,
    ) -> None:
        """Record poses of the bodies that were evaluated just now, ``side_by_side`` with others."""
        now = time.perf_counter()
        self._seconds += (now - self._last) / side_by_side
        self._last = now
        self.evaluations.append(Evaluation(list(poses), similarity, self._seconds, pixel_mm))


def continued(trace: Sequence[Evaluation], later: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """Return a trace followed by that of a later refinement, whose clock continues."""
    clock = trace[-1].seconds if trace else 0.0
    return (*trace, *(replace(each, seconds=clock + each.seconds) for each in later))


def refine(
    views: Sequence[View],
    bodies: Sequence[Body],
    poses: Sequence[np.ndarray],
    levels: Sequence[Level] = LEVELS,
) -> Fit | None:
    """Refine ``poses`` (volume_from_rig of each body) through the levels.

    Returns None if the bodies are out of view in all X-rays.
    """
    return refine_each(views, bodies, [poses], levels)[0]


def refine_each(
    views: Sequence[View],
    bodies: Sequence[Body],
    trials: Sequence[Sequence[np.ndarray]],
    levels: Sequence[Level] = LEVELS,
) -> list[Fit | None]:
    """Refine several trials side by side, each as `refine` would."""
    poses = np.array(trials, float)  # (B, M, 4, 4)
    traces = [Trace() for _ in poses]
    alive = np.arange(len(poses))
    fits: list[Fit | None] = [None] * len(poses)
    for level in levels:
        refined: list[Fit | None] = [None] * len(poses)
        for group in grouped(views, bodies, poses[alive], level):
            numbers = alive[group]
            level_fits = _refine_level(
                Pyramid(views, bodies, poses[numbers], level),
                poses[numbers],
                [traces[number] for number in numbers],
                level is levels[-1],
            )
            for number, fit in zip(numbers, level_fits, strict=True):
                refined[number] = fit
                if fit is not None:
                    poses[number] = fit.poses
        fits = refined
        alive = np.array([number for number in alive if fits[number] is not None], int)
        if not len(alive):
            break
    finished: list[Fit | None] = []
    for fit, trace in zip(fits, traces, strict=True):
        if fit is not None and levels[-1].pixel_mm < JUDGED.pixel_mm:
            judged = assess_fit(views, bodies, fit.poses, JUDGED)
            fit = replace(fit, similarity=judged.similarity if judged else 0.0)
        finished.append(fit and replace(fit, trace=tuple(trace.evaluations)))
    return finished


def assess_fit(
    views: Sequence[View], bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level
) -> Fit | None:
    """Return similarity and covariance at ``poses`` (volume_from_rig), or None if out of view."""
    trial = np.array([poses], float)
    state = _State(Pyramid(views, bodies, trial, level), trial)
    state.begin(np.arange(1))
    return state.fit(0, covariance=True)


class _State:
    """Trials of one level, rendered and compared at their poses; changed as they improve."""

    def __init__(self, pyramid: Pyramid, poses: np.ndarray):
        self.pyramid, self.poses = pyramid, poses.copy()  # (B, M, 4, 4)
        count, unknowns = len(poses), 6 * poses.shape[1]
        self.views = [
            _ViewState(
                Weights(np.zeros_like(view.image), np.zeros((count, 2))),
                np.zeros_like(view.image),
                Compared.empty(count, unknowns, view.features.shape[1]),
            )
            for view in pyramid.views
        ]

    def begin(self, which: np.ndarray, rendered: Sequence[Rendered] | None = None) -> None:
        """Weigh trials ``which`` anew at their poses; ``rendered`` are the DRRs, if there are."""
        if rendered is None:
            rendered = self.pyramid.evaluate(which, self.poses[which])
        for view, images in zip(self.views, rendered, strict=True):
            weights = images.weigh()
            view.weights.put(which, weights)
            view.keep(which, images, images.compare(weights))

    def propose(
        self, which: np.ndarray, poses: np.ndarray
    ) -> tuple[list[Rendered], list[Compared]]:
        """Render trials at other poses and compare them with the weights as they are."""
        rendered = self.pyramid.evaluate(which, poses)
        compared = [
            images.compare(view.weights.of(which))
            for view, images in zip(self.views, rendered, strict=True)
        ]
        return rendered, compared

    def seen(self, number: int) -> list[_ViewState]:
        """Return the views in which a trial is in view."""
        return [view for view in self.views if view.compared.seen[number]]

    def cost(self, number: int) -> float:
        """Return the unexplained fraction of contrast, mean over the views; infinite without."""
        costs = [view.compared.cost[number] for view in self.seen(number)]
        return float(np.mean(costs)) if costs else np.inf

    def system(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the normal equations: J^T W J (6 M, 6 M) and J^T W r (6 M,) over the views."""
        seen = self.seen(number)
        normal = np.sum([view.compared.normal[number] for view in seen], axis=0)
        return normal, np.sum([view.compared.right[number] for view in seen], axis=0)

    def fit(self, number: int, covariance: bool) -> Fit | None:
        """Return where a trial has ended, or None if it is out of view."""
        seen = self.seen(number)
        if not seen:
            return None
        cost = self.cost(number)
        spread = np.zeros((0, 0))
        if covariance:
            spread = covariance_of(
                self.system(number)[0],
                cost,
                [
                    (view.residual(number, level_view), view.weights.pixels[number])
                    for view, level_view in zip(self.views, self.pyramid.views, strict=True)
                    if view.compared.seen[number]
                ],
            )
        return Fit(list(self.poses[number]), similarity_of(cost), spread)


@dataclass
class _ViewState:
    """One view of the trials of a level."""

    weights: Weights
    contrast: np.ndarray  # (B, H, W) of the DRR at the poses
    compared: Compared

    def keep(self, which: np.ndarray, images: Rendered, compared: Compared) -> None:
        """Keep what was rendered and compared for trials ``which`` (N,)."""
        self.contrast[which] = images.contrast[:, 0]
        self.compared.put(which, compared)

    def residual(self, number: int, view: LevelView) -> np.ndarray:
        """Return the residuals (H, W) of a trial."""
        which = np.array([number])
        return self.compared.of(which).residuals(
            self.contrast[which], view.features, which, self.weights.pixels[which]
        )[0]


def _refine_level(
    pyramid: Pyramid, poses: np.ndarray, traces: Sequence[Trace], last: bool
) -> list[Fit | None]:
    """Refine trials (B, M, 4, 4) at one level, each until the gain of an iteration is small.

    Only the ``last`` level has covariances.
    """
    for trace in traces:
        trace.resume()
    state = _State(pyramid, poses)
    everything = np.arange(len(poses))
    state.begin(everything)
    active = [number for number in everything if state.seen(number)]
    for number in active:
        similarity = similarity_of(state.cost(number))
        traces[number].add(poses[number], similarity, pyramid.level.pixel_mm, len(active))
    damping = np.full(len(poses), DAMPING)
    iterations, attempts = np.zeros(len(poses), int), np.zeros(len(poses), int)
    while active:
        tried = [(number, _step(state, number, damping[number])) for number in active]
        steps = {number: poses for number, poses in tried if poses is not None}
        if not steps:
            break
        which, proposed = np.array(list(steps)), np.stack(list(steps.values()))
        rendered, compared = state.propose(which, proposed)
        going_on, better, ended = [], [], []  # indices in ``which``
        for index, number in enumerate(which):
            cost, seen = state.cost(number), state.seen(number)
            costs = [view.cost[index] for view in compared if view.seen[index]]
            new = float(np.mean(costs)) if len(costs) == len(seen) else np.inf
            level_mm = pyramid.level.pixel_mm
            traces[number].add(proposed[index], similarity_of(new), level_mm, len(which))
            if new < cost:
                better.append(index)
                damping[number] = max(damping[number] / DAMPING_FACTOR, LEAST_DAMPING)
                iterations[number] += 1
                attempts[number] = 0
                at_limit = iterations[number] == pyramid.level.iterations
                (ended if at_limit or (cost - new) / cost < PLATEAU else going_on).append(index)
            else:
                damping[number] *= DAMPING_FACTOR
                attempts[number] += 1
        state.poses[which[better]] = proposed[better]
        for view, images, found in zip(state.views, rendered, compared, strict=True):
            view.keep(which[ended], images.of(ended), found.of(ended))
        if going_on:
            state.begin(which[going_on], [images.of(going_on) for images in rendered])
        finished = set(which[ended])
        active = [
            number for number in which if number not in finished and attempts[number] < ATTEMPTS
        ]
        active = [number for number in active if state.seen(number)]
    return [state.fit(number, last) for number in everything]


def _step(state: _State, number: int, damping: float) -> np.ndarray | None:
    """Return the poses (M, 4, 4) after one damped step, or None if it promises no gain."""
    pyramid, poses = state.pyramid, state.poses[number]
    normal, right = state.system(number)
    damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
    delta = _trusted(-np.linalg.solve(damped, right), pyramid, poses)
    promise = PROMISE * state.cost(number) * len(state.seen(number))
    if -delta @ (2 * right + normal @ delta) < promise:
        return None
    return _move(pyramid, poses, delta)


def _trusted(delta: np.ndarray, pyramid: Pyramid, poses: Sequence[np.ndarray]) -> np.ndarray:
    """Return the twists (6 M,), shortened to the trust region; depth is that of the first view."""
    scale = 1.0
    for index, pose in enumerate(poses):
        part = delta[6 * index : 6 * index + 6]
        axis = (pose @ pyramid.views[0].rig_from_camera)[:3, 2]
        depth = float(part[3:] @ axis)
        across = np.linalg.norm(part[3:] - depth * axis)
        scale = min(
            scale,
            np.radians(MAX_STEP_DEG) / max(np.linalg.norm(part[:3]), 1e-9),
            MAX_STEP_MM / max(across, 1e-9),
            MAX_STEP_DEPTH_MM / max(abs(depth), 1e-9),
        )
    return delta * scale


def _move(pyramid: Pyramid, poses: Sequence[np.ndarray], delta: np.ndarray) -> np.ndarray:
    """Return the poses (M, 4, 4) after the twists (6 M,), each about the centre of its body."""
    return np.stack(
        [
            geometry.twist(delta[6 * i : 6 * i + 6], body.centre_mm) @ pose
            for i, (body, pose) in enumerate(zip(pyramid.bodies, poses, strict=True))
        ]
    )
