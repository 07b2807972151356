"""Cues from which the trust in a pose follows, measured at the pose: cheap, and without thresholds.

Some are known when the solver ends. The others look at the X-ray once more: how much worse the
poses around it are (a wrong pose lies in a shallow minimum), how much better the bone would fit if
each part of it moved by itself (the shape of a wrong bone differs, and a wrong pose fits in one
place and not in another), and how well the bone fits the X-ray flipped left to right (the bone of
the other leg fits that better).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common import geometry
from common.registration.competition import Solution
from common.registration.contrast import Compared
from common.registration.gauss_newton import refine
from common.registration.pyramid import JUDGED, LEVELS, Pyramid, Rendered, Weights
from common.registration.scene import Body, Structure, View

# by which a pose is displaced along axes of the first camera, forth and back; not in depth, which
# changes the image of a small bone too little
TURN_DEG, SHIFT_MM = 3.0, 2.0
# of the blocks in which contrasts are compared, at the detector (benchmarks/README.md, 'The verdict
# put to the test')
BLOCK_MM = 24.0
LEAST_SHARE = 4e-3  # of the contrast, that a block has at least
BLOCK_SD_MM = 2.0  # at the detector, standard deviation of how far a block may move by itself
LEAST_GAIN = 0.05  # of the X-ray's contrast over the DRR's
FLIPPED_LEVELS = LEVELS[1:3]  # down to the one at which similarities are compared
LEAST_COST = 1e-3  # of an unexplained fraction


@dataclass(frozen=True)
class Cues:
    """What speaks for and against a pose."""

    similarity: float
    rival_gap: float  # similarity above that of a rival; 1 without a rival
    least_rise: float  # of the unexplained fraction at poses around it, smallest over directions
    # fraction of the X-ray's contrast that blocks explain only if each moves by itself
    moved: float
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
            blocks.append(_blocks_of(rendered.of([0]), weights.of([0]), compared.of([0])))
            noises.append(view.noise(0, weights.pixels[0]))
    cost = np.mean(costs, axis=0)
    rises = (cost[1:].reshape(-1, 2) - cost[0]).mean(1)
    rival = solution.runner_up
    return Cues(
        similarity=solution.fit.similarity,
        rival_gap=solution.fit.similarity - rival.similarity if rival else 1.0,
        least_rise=float(rises.min()),
        moved=_mean_moved(blocks),
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
    """Return poses (10, 4, 4), turned about the axes of a camera and shifted along those across the
    view, forth and back.
    """
    axes = (pose @ view.rig_from_camera)[:3, :3]
    steps = [np.radians(TURN_DEG)] * 3 + [SHIFT_MM] * 2
    poses = []
    for number, step in enumerate(steps):
        twist = np.zeros(6)
        first = 3 * (number // 3)
        twist[first : first + 3] = step * axes[:, number % 3]
        poses += [geometry.twist(sign * twist, body.centre_mm) @ pose for sign in (1, -1)]
    return np.array(poses)


class _Blocks(NamedTuple):
    """What an X-ray shows of a DRR in K blocks of it, (K,) each."""

    contrast: np.ndarray  # sum of squares of the DRR's
    moved: np.ndarray  # fraction of the X-ray's contrast that the DRR explains only if moved


def _blocks_of(rendered: Rendered, weights: Weights, compared: Compared) -> _Blocks:
    """Compare one rendered trial with its X-ray block by block."""
    view, pixels = rendered.view, weights.pixels[0]
    contrast = np.ascontiguousarray(rendered.contrast[:, 0])
    residual = compared.residuals(contrast, view.features, rendered.which, weights.pixels)[0]
    drr = contrast[0] * compared.parts[0, 0]
    drr = drr - (pixels * drr).sum() / pixels.sum()
    pixel_mm = view.detectors[int(rendered.which[0])].pixel_mm
    numbers = _numbered(drr.shape, pixel_mm)
    energy = np.bincount(numbers, (pixels * drr**2).ravel())
    full = energy > LEAST_SHARE * energy.sum()
    weight, products = _products(drr, drr - residual, pixels, numbers, pixel_mm)
    return _Blocks(energy[full], _by_moving(weight[full], products[full]))


def _products(
    drr: np.ndarray,
    xray: np.ndarray,
    weights: np.ndarray,
    numbers: np.ndarray,
    pixel_mm: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (K,) and sums of products (K, 4, 4) about the mean in each block.

    The products are those of DRR, its derivatives per mm across and down, and X-ray.
    """
    down, across = np.gradient(drr, *pixel_mm[::-1])
    images = np.stack([drr, across, down, xray]).reshape(4, -1)
    weights = weights.ravel()
    weight = np.maximum(np.bincount(numbers, weights), 1e-9)
    mean = np.array([np.bincount(numbers, weights * image) for image in images]) / weight
    images = images - mean[:, numbers]
    products = [[np.bincount(numbers, weights * a * b) for a in images] for b in images]
    return weight, np.moveaxis(np.array(products), -1, 0)


def _by_moving(weight: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Return the fraction (K,) of the X-ray's contrast that a DRR explains only if it moves.

    To first order, a moved block is a times the DRR plus a dx and a dy times its derivatives. What
    an ``a`` of its own explains is not counted. Ridge regression: the standard deviations of dx and
    dy are `BLOCK_SD_MM`, with the ``a`` of all blocks together.
    """
    within, shared, whole = products[:, :3, :3], products[:, :3, 3], products[:, 3, 3]
    whole = np.maximum(whole, 1e-12)
    own = np.maximum(within[:, 0, 0], 1e-12)
    still = shared[:, 0] ** 2 / own
    gain = max(shared[:, 0].sum() / own.sum(), LEAST_GAIN)
    noise = np.maximum(whole - still, 1e-12) / weight
    ridge = (noise / (BLOCK_SD_MM * gain) ** 2)[:, None, None] * np.diag([0.0, 1.0, 1.0])
    ridge = ridge + 1e-9 * own[:, None, None] * np.eye(3)
    found = np.linalg.solve(within + ridge, shared[:, :, None])[:, :, 0]
    moved = 2 * (found * shared).sum(1) - np.einsum("ki,kij,kj->k", found, within, found)
    return (moved - still) / whole


def _numbered(shape: tuple[int, ...], pixel_mm: tuple[float, float]) -> np.ndarray:
    """Return the number of the block of each pixel of an image (H, W), flat."""
    rows, columns = np.indices(shape)
    down, across = (max(1, round(BLOCK_MM / mm)) for mm in pixel_mm[::-1])
    return (rows // down * (shape[1] // across + 1) + columns // across).ravel()


def _mean_moved(blocks: Sequence[_Blocks]) -> float:
    """Return what moving explains, over the blocks of all X-rays.

    It is the square of the mean root: one block where another structure passes counts less.
    """
    if not blocks:
        return 1.0
    contrast, moved = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return float(np.average(np.sqrt(np.maximum(moved, 0)), weights=contrast) ** 2)
