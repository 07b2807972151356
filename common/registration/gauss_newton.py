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
from common.registration.contrast import Residual, mean_cost, similarity_of
from common.registration.pyramid import JUDGED, LEVELS, Level, Pyramid, Rendered
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
    covariance: np.ndarray  # (6 M, 6 M) of the left twists, radians and mm: `covariance_of`
    trace: tuple[Evaluation, ...] = ()  # all evaluated poses, in order


class Trace:
    """Records the evaluations of one refinement, with their times."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.evaluations: list[Evaluation] = []

    def add(self, poses: Sequence[np.ndarray], similarity: float, pixel_mm: float) -> None:
        """Record poses that were evaluated just now."""
        seconds = time.perf_counter() - self._began
        self.evaluations.append(Evaluation(list(poses), similarity, seconds, pixel_mm))


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
    trace = Trace()
    fit, reached = None, list(poses)
    for level in levels:
        fit = _refine_level(Pyramid(views, bodies, reached, level), reached, trace)
        if fit is None:
            return None
        reached = fit.poses
    if fit is None:
        return None
    if levels[-1].pixel_mm < JUDGED.pixel_mm:
        judged = assess_fit(views, bodies, fit.poses, JUDGED)
        fit = replace(fit, similarity=judged.similarity if judged else 0.0)
    return replace(fit, trace=tuple(trace.evaluations))


def assess_fit(
    views: Sequence[View], bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level
) -> Fit | None:
    """Return similarity and covariance at ``poses`` (volume_from_rig), or None if out of view."""
    rendered = Pyramid(views, bodies, poses, level).evaluate(poses)
    residuals = _residuals(rendered, [r.weights() for r in rendered])
    return _fit(list(poses), residuals) if residuals else None


@dataclass(frozen=True)
class _State:
    """Poses, the DRRs at them, and their residuals."""

    poses: list[np.ndarray]
    rendered: list[Rendered]
    residuals: list[Residual]


def _refine_level(pyramid: Pyramid, poses: list[np.ndarray], trace: Trace) -> Fit | None:
    """Refine at one level until the gain of an iteration is small."""
    state = _State(poses, pyramid.evaluate(poses), [])
    damping = DAMPING
    for iteration in range(pyramid.level.iterations):
        weights = [r.weights() for r in state.rendered]
        state = replace(state, residuals=_residuals(state.rendered, weights))
        if not state.residuals:
            return None
        cost = mean_cost(state.residuals)
        if iteration == 0:
            trace.add(poses, similarity_of(cost), pyramid.level.pixel_mm)
        better, damping = _improve(pyramid, state, weights, damping, trace)
        if better is None:
            break
        state = better
        if (cost - mean_cost(state.residuals)) / cost < PLATEAU:
            break
    return _fit(state.poses, state.residuals)


def _improve(
    pyramid: Pyramid, state: _State, weights: list[np.ndarray], damping: float, trace: Trace
) -> tuple[_State | None, float]:
    """Return a state of lower cost after one iteration, or None, and the next damping."""
    residuals = state.residuals
    cost = mean_cost(residuals)
    normal = sum((r.jacobian * r.w) @ r.jacobian.T for r in residuals)
    right = sum(r.jacobian @ (r.w * r.r) for r in residuals)
    for _ in range(ATTEMPTS):
        damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
        delta = _trusted(-np.linalg.solve(damped, right), pyramid, state.poses)
        if -delta @ (2 * right + normal @ delta) < PROMISE * cost * len(residuals):
            break
        poses = _move(pyramid, state.poses, delta)
        rendered = pyramid.evaluate(poses)
        compared = _residuals(rendered, weights)
        new_cost = mean_cost(compared) if len(compared) == len(residuals) else np.inf
        trace.add(poses, similarity_of(new_cost), pyramid.level.pixel_mm)
        if new_cost < cost:
            lower = max(damping / DAMPING_FACTOR, LEAST_DAMPING)
            return _State(poses, rendered, compared), lower
        damping *= DAMPING_FACTOR
    return None, damping


def _fit(poses: list[np.ndarray], residuals: Sequence[Residual]) -> Fit:
    return Fit(poses, similarity_of(mean_cost(residuals)), covariance_of(residuals))


def _residuals(rendered: Sequence[Rendered], weights: Sequence[np.ndarray]) -> list[Residual]:
    """Return the residuals of the views in which the bodies are in view."""
    compared = (view.residual(w) for view, w in zip(rendered, weights, strict=True))
    return [residual for residual in compared if residual is not None]


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


def _move(pyramid: Pyramid, poses: Sequence[np.ndarray], delta: np.ndarray) -> list[np.ndarray]:
    """Return the poses after the twists (6 M,), each about the centre of its body."""
    return [
        geometry.twist(delta[6 * i : 6 * i + 6], body.centre_mm) @ pose
        for i, (body, pose) in enumerate(zip(pyramid.bodies, poses, strict=True))
    ]
