"""Gauss-Newton refinement of poses: any number of views of one instant, any number of bodies.

The bodies' attenuation adds along each ray. The solver compares the local contrast (a high-pass) of the rendering with
the local contrast of the X-ray, see `common.residuals`, from coarse pictures to fine ones, see `common.pyramid`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common import geometry
from common.registration.contrast import Residual, mean_cost, similarity_of
from common.registration.pyramid import JUDGED, LEVELS, Body, Level, Pyramid, Rendered, View
from common.registration.uncertainty import covariance_of

MAX_STEP_DEG, MAX_STEP_MM, MAX_STEP_DEPTH_MM = 6.0, 12.0, 40.0  # trust region of one step
PLATEAU = 1e-4  # relative gain of a step below which a level is finished
PROMISE = 1e-5  # relative gain below which a step is not rendered


@dataclass
class Trace:
    """Every pose that a refinement evaluated, in order: volume_from_rig of each body, similarity, seconds since the start, pixel size."""

    started: float = field(default_factory=time.perf_counter)
    rows: list[tuple[list[np.ndarray], float, float, float]] = field(default_factory=list)

    def add(self, poses: Sequence[np.ndarray], similarity: float, pixel_mm: float) -> None:
        self.rows.append((list(poses), similarity, time.perf_counter() - self.started, pixel_mm))


@dataclass(frozen=True)
class Fit:
    """Where a refinement ended."""

    poses: list[np.ndarray]  # volume_from_rig of each body
    similarity: float  # multiple correlation of rendering and X-ray in the zone, 0..1, at the last level or `JUDGED`, whichever is coarser
    covariance: np.ndarray  # (6 M, 6 M) of the left twists: radians and mm, see `covariance_of`


def refine(
    views: Sequence[View],
    bodies: Sequence[Body],
    poses: Sequence[np.ndarray],
    levels: Sequence[Level] = LEVELS,
    trace: Trace | None = None,
) -> Fit | None:
    """Levenberg-Marquardt through the levels from ``poses`` (volume_from_rig of each body).

    Returns None where the bodies lie outside all pictures.
    """
    trace = trace if trace is not None else Trace()
    poses, fit = list(poses), None
    for level in levels:
        fit = _refine_level(Pyramid(views, bodies, poses, level), poses, trace)
        if fit is None:
            return None
        poses = fit.poses
    if fit is not None and levels[-1].pixel_mm < JUDGED.pixel_mm:
        judged = assess_fit(views, bodies, poses, JUDGED)
        fit = replace(fit, similarity=judged.similarity if judged else 0.0)
    return fit


def assess_fit(
    views: Sequence[View], bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level
) -> Fit | None:
    """Similarity and covariance at ``poses`` (volume_from_rig) as they are. None where nothing of the bodies is in view."""
    rendered = Pyramid(views, bodies, poses, level).evaluate(poses)
    residuals = _residuals(rendered, [r.weights() for r in rendered])
    return (
        Fit(list(poses), similarity_of(mean_cost(residuals)), covariance_of(residuals))
        if residuals
        else None
    )


def _refine_level(pyramid: Pyramid, poses: list[np.ndarray], trace: Trace) -> Fit | None:
    rendered = pyramid.evaluate(poses)
    residuals: list[Residual] = []
    damping = 1e-2
    pixel = pyramid.level.pixel_mm
    for step in range(pyramid.level.steps):
        weights = [r.weights() for r in rendered]
        residuals = _residuals(rendered, weights)
        if not residuals:
            return None
        cost = mean_cost(residuals)
        if step == 0:
            trace.add(poses, similarity_of(cost), pixel)
        normal = sum((r.jacobian * r.w) @ r.jacobian.T for r in residuals)
        right = sum(r.jacobian @ (r.w * r.r) for r in residuals)
        gain = 0.0
        for _ in range(5):
            delta = _trusted(
                -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), right),
                pyramid,
                poses,
            )
            if -delta @ (2 * right + normal @ delta) < PROMISE * cost * len(residuals):
                break  # the step promises nothing: no rendering for it
            moved = _move(pyramid, poses, delta)
            candidate = pyramid.evaluate(moved)
            judged = _residuals(candidate, weights)
            new_cost = mean_cost(judged) if len(judged) == len(residuals) else np.inf
            trace.add(moved, similarity_of(new_cost), pixel)
            if new_cost < cost:
                gain = (cost - new_cost) / cost
                poses, rendered, residuals = moved, candidate, judged
                damping = max(damping / 5, 1e-6)
                break
            damping *= 5
        if gain < PLATEAU:
            break
    return Fit(poses, similarity_of(mean_cost(residuals)), covariance_of(residuals))


def _residuals(rendered: Sequence[Rendered], weights: Sequence[np.ndarray]) -> list[Residual]:
    return [
        r
        for r in (view.residual(w) for view, w in zip(rendered, weights, strict=True))
        if r is not None
    ]


def _trusted(delta: np.ndarray, pyramid: Pyramid, poses: Sequence[np.ndarray]) -> np.ndarray:
    """The step, shortened to the trust region: depth is the direction from source to body in the first view."""
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
    return [
        geometry.twist(delta[6 * i : 6 * i + 6], body.renderer.centre_mm) @ pose
        for i, (body, pose) in enumerate(zip(pyramid.bodies, poses, strict=True))
    ]
