"""Smooth the relative pose of two bones over time, each frame weighted by its covariance.

The prior is white noise on the acceleration of the rotation and of a point of the distal bone
(Anderson and Barfoot, IROS 2015); all frames are solved at once by Gauss-Newton. The normal
equations are block-tridiagonal: banded for a solve, and one pass each way for marginal covariances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.errors import InputError
from common.kinematics.movement import BAND, Coordinates, Movement, slopes_of

ITERATIONS, CONVERGED = 12, 1e-7
# Student's t with few degrees of freedom: a frame whose pose is flipped hardly counts
TAIL = 4.0
OUTLIER = 0.1  # weight below which a frame is one
LEAST_FRAMES = 5
# coordinates with one strength each: a joint turns about Z, and bones hardly shift along it
GROUPS = (0, 0, 1, 2, 2, 3)
# of the search for the prior's strength: simplex steps in its natural logarithm, evaluations
FIRST_STEP, EVALUATIONS = 2.0, 60


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A smoothed movement; frames without a pose stay NaN."""

    values: np.ndarray  # (N, 6) joint coordinates
    half: np.ndarray  # (N, 6) half the width of their 95 % band
    weights: np.ndarray  # (N,) of each frame, about 1; near 0 for an outlier
    # of the prior, about and along X, Y, Z of the proximal frame: three in rad²/s³, three in mm²/s³
    strength: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Measured:
    """Poses with a precision: rotations (N, 3, 3), positions (N, 3), information (N, 6, 6)."""

    rotations: np.ndarray
    positions: np.ndarray
    information: np.ndarray  # 0 in frames without a pose
    times: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Mask (N,) of the frames with a pose."""
        return self.information[:, 0, 0] > 0


@dataclass(frozen=True, eq=False)
class _State:
    rotations: np.ndarray  # (N, 3, 3)
    positions: np.ndarray  # (N, 3)
    velocities: np.ndarray  # (N, 6)


def smooth(
    found: Movement, times: np.ndarray, coordinates: Coordinates, cutoff_hz: float | None = None
) -> Smoothed:
    """Return a movement smoothed over its ``times`` (N,), seconds.

    The strength of the prior has the largest marginal likelihood, or passes half the amplitude at
    ``cutoff_hz``. Raises InputError for too few frames with a pose.
    """
    known = found.known
    point = _steady_point(found.proximal_from_distal[known])
    measured = _measured(found, times, point)
    count = int(measured.known.sum())
    if count < LEAST_FRAMES:
        raise InputError(
            "smooth",
            f"has {count} frames with a pose",
            f"at least {LEAST_FRAMES}",
            "leave `smooth` out",
        )
    state = _start(measured)
    strength = _strength_at(measured, cutoff_hz) if cutoff_hz else _most_likely(measured, state)
    solved = _solve(measured, state, strength)
    state, spreads = solved.state, _marginals(*solved.equations)[:, :6, :6]
    weights = np.where(measured.known, solved.weights, np.nan)
    values, half = (np.full((len(times), 6), np.nan) for _ in range(2))
    poses = np.tile(np.eye(4), (len(known), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = state.rotations[known], state.positions[known]
    poses = poses @ geometry.translation(-point)
    values[known] = coordinates(np.eye(4), poses)
    # a turn about the steady point, which the state has, to one about the proximal origin
    carry = np.tile(np.eye(6), (len(known), 1, 1))
    carry[:, 3:, :3] = geometry.cross_matrix(state.positions[known])
    slopes = slopes_of(coordinates, poses) @ carry
    spread = slopes @ spreads[known] @ slopes.transpose(0, 2, 1)
    half[known] = BAND * np.sqrt(np.diagonal(spread, axis1=1, axis2=2))
    return Smoothed(values, half, weights, strength)


def _steady_point(poses: np.ndarray) -> np.ndarray:
    """Return the point (3,) of the distal frame that stays nearest the proximal origin.

    A turn of the joint hardly moves it, whereas it swings the distal origin to and fro: the prior
    then need not allow for fast translations.
    """
    turns = poses[:, :3, :3]
    return np.asarray(-np.einsum("nji,nj->i", turns, poses[:, :3, 3]) / max(len(poses), 1))


def _measured(found: Movement, times: np.ndarray, point: np.ndarray) -> _Measured:
    """Return the rotation of the distal bone and the position of a point (3,) of its frame."""
    count = len(times)
    rotations, positions = np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3))
    information = np.zeros((count, 6, 6))
    for number in found.known:
        pose = found.proximal_from_distal[number] @ geometry.translation(point)
        rotations[number], positions[number] = pose[:3, :3], pose[:3, 3]
        # a turn about the proximal origin moves the point too
        carry = np.eye(6)
        carry[3:, :3] = -geometry.cross_matrix(pose[:3, 3])
        information[number] = np.linalg.inv(carry @ found.relative_covariances[number] @ carry.T)
    return _Measured(rotations, positions, information, np.asarray(times, float))


def _start(measured: _Measured) -> _State:
    """Return the measured poses, those of gaps interpolated, with no velocity."""
    from scipy.spatial.transform import Rotation, Slerp

    known = np.flatnonzero(measured.known)
    times = np.clip(measured.times, measured.times[known[0]], measured.times[known[-1]])
    turns = Slerp(measured.times[known], Rotation.from_matrix(measured.rotations[known]))(times)
    positions = [
        np.interp(times, measured.times[known], measured.positions[known, axis])
        for axis in range(3)
    ]
    velocities = np.zeros((len(times), 6))
    return _State(turns.as_matrix(), np.stack(positions, axis=1), velocities)


def _strength_at(measured: _Measured, cutoff_hz: float) -> tuple[float, ...]:
    """Return the strengths that pass half the amplitude at a frequency.

    For frames of variance s² every dt, the smoother's gain is 1 / (1 + (w / c)^4) with
    c^4 = q / (s² dt).
    """
    spreads = np.linalg.inv(measured.information[measured.known])
    variances = np.median(np.diagonal(spreads, axis1=1, axis2=2), axis=0)
    interval = float(np.median(np.diff(measured.times)))
    return tuple(variances * (2 * np.pi * cutoff_hz) ** 4 * interval)


def _most_likely(measured: _Measured, state: _State) -> tuple[float, ...]:
    """Return the strengths of the largest marginal likelihood.

    First one for all rotations and one for all translations, then one for each `GROUPS`.
    """
    from scipy.optimize import minimize

    span = float(measured.times[-1] - measured.times[0])
    best = np.log([100.0 * (10 / span) ** 3 * 1e-2, 100.0 * (10 / span) ** 3 * 1e2])
    for groups in ((0, 0, 0, 1, 1, 1), GROUPS):
        first = best[[0, 0, 1, 1][: max(groups) + 1]] if max(groups) > 1 else best

        def cost(logarithms: np.ndarray, groups: tuple[int, ...] = groups) -> float:
            return _solve(measured, state, np.exp(logarithms)[list(groups)], 4).cost

        steps = np.vstack([np.zeros(len(first)), np.eye(len(first))])
        best = minimize(
            cost,
            first,
            method="Nelder-Mead",
            options={
                "initial_simplex": first + FIRST_STEP * steps,
                "maxfev": EVALUATIONS * len(first) // 2,
                "xatol": 0.2,
                "fatol": 0.1,
            },
        ).x
    return tuple(np.exp(best)[list(GROUPS)])


@dataclass(frozen=True, eq=False)
class _Solved:
    state: _State
    weights: np.ndarray  # (N,)
    cost: float  # negative log likelihood
    equations: tuple[np.ndarray, np.ndarray]  # blocks on and above the diagonal


def _solve(
    measured: _Measured,
    state: _State,
    strength: Sequence[float] | np.ndarray,
    iterations: int = ITERATIONS,
) -> _Solved:
    count = len(measured.times)
    density = np.asarray(strength, float)
    for _ in range(iterations):
        misses = _misses(measured, state)
        distance = np.einsum("ni,nij,nj->n", misses, measured.information, misses)
        weights = np.where(measured.known, (TAIL + 6) / (TAIL + distance), 1.0)
        diagonal, upper, right, prior_cost = _system(measured, state, weights, density, misses)
        step, log_determinant = _solve_banded(diagonal, upper, right)
        state = _moved(state, step)
        if np.abs(step).max() < CONVERGED:
            break
    tails = (TAIL + 6) / 2 * np.log1p(distance[measured.known] / TAIL)
    transitions = -2 * (count - 1) * np.log(density).sum()
    cost = tails.sum() + (prior_cost + log_determinant - transitions) / 2
    return _Solved(state, weights, float(cost), (diagonal, upper))


def _misses(measured: _Measured, state: _State) -> np.ndarray:
    """Return the measured poses relative to the state: rotation vectors and shifts (N, 6)."""
    turns = _logarithm(measured.rotations @ state.rotations.transpose(0, 2, 1))
    return np.concatenate([turns, measured.positions - state.positions], axis=1)


def _system(
    measured: _Measured,
    state: _State,
    weights: np.ndarray,
    density: np.ndarray,
    misses: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the normal equations and the cost of the prior.

    They are blocks (N, 12, 12) on and (N - 1, 12, 12) above the diagonal, and the right side
    (N, 12).
    """
    count = len(weights)
    diagonal, right = np.zeros((count, 12, 12)), np.zeros((count, 12))
    upper = np.zeros((count - 1, 12, 12))
    information = measured.information * weights[:, None, None]
    diagonal[:, :6, :6] = information
    diagonal[:, :6, :6] += 1e-12 * np.eye(6)
    right[:, :6] = np.einsum("nij,nj->ni", information, misses)
    turns = _logarithm(state.rotations[1:] @ state.rotations[:-1].transpose(0, 2, 1))
    intervals = np.diff(measured.times)
    skew = geometry.cross_matrix(turns)
    squared = skew @ skew / 12
    before, after = np.zeros_like(upper), np.tile(np.eye(12), (count - 1, 1, 1))
    before[:, :3, :3] = -(np.eye(3) + skew / 2 + squared)
    before[:, 3:6, 3:6] = -np.eye(3)
    before[:, :6, 6:] = -intervals[:, None, None] * np.eye(6)
    before[:, 6:, 6:] = -np.eye(6)
    after[:, :3, :3] = np.eye(3) - skew / 2 + squared
    moved = np.concatenate([turns, np.diff(state.positions, axis=0)], axis=1)
    residual = np.concatenate(
        [moved - intervals[:, None] * state.velocities[:-1], np.diff(state.velocities, axis=0)],
        axis=1,
    )
    # of white noise on acceleration: [dt^3/3, dt^2/2; dt^2/2, dt] times the density, inverted
    inverse = np.zeros_like(upper)
    apart = intervals[:, None, None]
    precision = np.diag(1 / density)
    inverse[:, :6, :6] = 12 / apart**3 * precision
    inverse[:, :6, 6:] = inverse[:, 6:, :6] = -6 / apart**2 * precision
    inverse[:, 6:, 6:] = 4 / apart * precision
    before_weighted = before.transpose(0, 2, 1) @ inverse
    after_weighted = after.transpose(0, 2, 1) @ inverse
    diagonal[:-1] += before_weighted @ before
    diagonal[1:] += after_weighted @ after
    upper = before_weighted @ after
    right[:-1] -= np.einsum("nij,nj->ni", before_weighted, residual)
    right[1:] -= np.einsum("nij,nj->ni", after_weighted, residual)
    cost = float(np.einsum("ni,nij,nj->", residual, inverse, residual))
    return diagonal, upper, right, cost


def _solve_banded(
    diagonal: np.ndarray, upper: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the solution (N, 12) and the log determinant of the normal equations.

    Raises LinAlgError if they are not positive definite.
    """
    from scipy.linalg import cho_solve_banded, cholesky_banded

    count, size = right.shape
    bands = np.zeros((2 * size, count, size))  # row i holds the elements i below the diagonal
    row, column = np.indices((size, size))
    below = row >= column
    bands[(row - column)[below], :, column[below]] = diagonal[:, row[below], column[below]].T
    bands[size + row - column, :-1, column] = np.moveaxis(upper, 0, -1).transpose(1, 0, 2)
    factor = cholesky_banded(bands.reshape(2 * size, -1), lower=True)
    solution = cho_solve_banded((factor, True), right.ravel())
    return solution.reshape(count, size), float(2 * np.log(factor[0]).sum())


def _marginals(diagonal: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the diagonal blocks (N, 12, 12) of the inverse of the normal equations."""
    schur = diagonal.copy()
    gains = np.zeros_like(upper)
    for k in range(1, len(diagonal)):
        gains[k - 1] = np.linalg.solve(schur[k - 1], upper[k - 1])
        schur[k] -= upper[k - 1].T @ gains[k - 1]
    inverse = np.linalg.inv(schur)
    for k in range(len(diagonal) - 2, -1, -1):
        inverse[k] += gains[k] @ inverse[k + 1] @ gains[k].T
    return inverse


def _moved(state: _State, step: np.ndarray) -> _State:
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_rotvec(step[:, :3]).as_matrix() @ state.rotations
    return _State(turns, state.positions + step[:, 3:6], state.velocities + step[:, 6:])


def _logarithm(rotations: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotations).as_rotvec()
