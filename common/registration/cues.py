"""Cues from which the trust in a pose follows, measured at the pose: cheap, and without thresholds.

Some are known when the solver ends. The others look at the X-ray once more: how much worse the
poses around it are (a wrong pose lies in a shallow minimum), which share of the bone the X-ray does
not show there (a wrong pose fits in one place and not in another), and how well the bone fits the
X-ray flipped left to right (the bone of the other leg fits that better).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.registration.competition import Solution
from common.registration.gauss_newton import refine
from common.registration.pyramid import JUDGED, LEVELS, LevelView, Pyramid, Rendered
from common.registration.scene import Body, Structure, View

# by which a pose is displaced along each axis of the first camera, forth and back
TURN_DEG, SHIFT_MM, DEPTH_MM = 3.0, 2.0, 15.0
BLOCK_MM = 12.0  # at the detector, of the blocks in which contrasts are compared
POOR = 0.3  # fraction of a block's contrast below which the X-ray does not show it
LEAST_SHARE = 4e-3  # of the contrast, that a block has at least
FLIPPED_LEVELS = LEVELS[1:3]  # down to the one at which similarities are compared
LEAST_COST = 1e-3  # of an unexplained fraction


@dataclass(frozen=True)
class Cues:
    """What speaks for and against a pose."""

    similarity: float
    agreement: float  # fraction of the candidates that ended at this pose
    rival_gap: float  # similarity above that of a rival; 1 without a rival
    in_view: float  # smallest share in view
    rise: float  # of the unexplained fraction at poses around it, mean
    least_rise: float  # smallest over the directions
    poor: float  # share of the contrast in blocks that the X-ray does not show
    weakest: float  # explained fraction of the block at the tenth percentile of the contrast
    # logarithm of the unexplained fraction over that in the flipped X-ray, seen from behind; None
    # in several views, where that is not tried
    flipped: float | None
    noise: float = 0.0  # share of noise in the variance of the X-ray's local contrast there


def of_bone(solution: Solution, views: Sequence[View], structure: Structure) -> Cues | None:
    """Return the cues of a bone, None for metal and for a whole CT: `trust` knows bones only."""
    if not structure.excess or structure.body.metal:
        return None
    return measure(solution, views, structure.body)


def measure(solution: Solution, views: Sequence[View], body: Body) -> Cues:
    """Return the cues of a solution."""
    pose = solution.fit.poses[0]
    trials = np.concatenate([pose[None], _around(pose, views[0], body)])[:, None]
    which = np.arange(len(trials))
    costs, blocks, noises = [], [], []
    for view in Pyramid(views, [body], trials, JUDGED).views:
        rendered = view.render([body], which, trials)
        weights = rendered.weigh()
        compared = rendered.compare(weights)
        costs.append(np.where(compared.seen, compared.cost, 1.0))
        if compared.seen[0]:
            blocks.append(_explained(view, rendered.of([0])))
            noises.append(view.noise(0, weights.pixels[0]))
    cost = np.mean(costs, axis=0)
    rises = (cost[1:].reshape(6, 2) - cost[0]).mean(1)
    poor, weakest = _poor(blocks)
    rival = solution.runner_up
    return Cues(
        similarity=solution.fit.similarity,
        agreement=solution.agreement,
        rival_gap=solution.fit.similarity - rival.similarity if rival else 1.0,
        in_view=min(view.share_in_view(body, pose) for view in views),
        rise=float(rises.mean()),
        least_rise=float(rises.min()),
        poor=poor,
        weakest=weakest,
        flipped=_against_flipped(views, body, pose, float(cost[0])),
        noise=float(np.mean(noises)) if noises else 0.0,
    )


def _against_flipped(
    views: Sequence[View], body: Body, pose: np.ndarray, cost: float
) -> float | None:
    """Return how much better (above 0) a structure fits the X-ray if that is flipped.

    The flipped X-ray is refined from the pose that sees the structure from behind. Bones of the
    other leg and X-rays that were exported flipped fit better so.
    """
    if len(views) > 1:
        return None
    behind = geometry.from_behind(pose @ views[0].rig_from_camera, body.centre_mm)
    fit = refine([views[0].flip()], [body], [behind], FLIPPED_LEVELS)
    flipped = 1 - fit.similarity**2 if fit else 1.0
    return float(np.log(max(cost, LEAST_COST) / max(flipped, LEAST_COST)))


def _around(pose: np.ndarray, view: View, body: Body) -> np.ndarray:
    """Return poses (12, 4, 4), turned and shifted along the axes of a camera, forth and back."""
    axes = (pose @ view.rig_from_camera)[:3, :3]
    steps = [np.radians(TURN_DEG)] * 3 + [SHIFT_MM, SHIFT_MM, DEPTH_MM]
    poses = []
    for number, step in enumerate(steps):
        twist = np.zeros(6)
        first = 3 * (number // 3)
        twist[first : first + 3] = step * axes[:, number % 3]
        poses += [geometry.twist(sign * twist, body.centre_mm) @ pose for sign in (1, -1)]
    return np.array(poses)


def _explained(view: LevelView, rendered: Rendered) -> tuple[np.ndarray, np.ndarray]:
    """Return contrast (K,) and explained fraction (K,) of the blocks of one rendered trial.

    Here no pixel has less weight because it does not fit.
    """
    zone, weights = view.zone(rendered), rendered.weigh()
    compared = rendered.compare(weights)
    contrast = np.ascontiguousarray(rendered.contrast[:, 0])
    residual = compared.residuals(contrast, view.features, rendered.which, zone)[0]
    scaled = contrast[0] * compared.parts[0, 0]
    scaled = scaled - (zone[0] * scaled).sum() / zone[0].sum()
    blocks = _numbered(residual.shape, view.detectors[int(rendered.which[0])].pixel_mm)
    energy = np.bincount(blocks, (zone[0] * scaled**2).ravel())
    missed = np.bincount(blocks, (zone[0] * residual**2).ravel())
    full = energy > LEAST_SHARE * energy.sum()
    return energy[full], 1 - missed[full] / energy[full]


def _numbered(shape: tuple[int, ...], pixel_mm: tuple[float, float]) -> np.ndarray:
    """Return the number of the block of each pixel of an image (H, W), flat."""
    rows, columns = np.indices(shape)
    down, across = (max(1, round(BLOCK_MM / mm)) for mm in pixel_mm[::-1])
    return (rows // down * (shape[1] // across + 1) + columns // across).ravel()


def _poor(blocks: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Return the share of contrast in poor blocks, and what the weakest tenth explains."""
    if not blocks:
        return 1.0, 0.0
    energy, explained = (np.concatenate(part) for part in zip(*blocks, strict=True))
    order = np.argsort(explained)
    share = np.cumsum(energy[order]) / energy.sum()
    weakest = explained[order][min(np.searchsorted(share, 0.1), len(order) - 1)]
    return float(energy[explained < POOR].sum() / energy.sum()), float(weakest)
