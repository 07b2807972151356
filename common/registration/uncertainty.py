"""Covariance of a pose, from the curvature of the cost and the correlation of the residuals."""

from __future__ import annotations

import numpy as np

from common.registration.tone_kernel import MIN_ZONE_PX


def covariance_of(
    normal: np.ndarray, cost: float, residuals: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the covariance (6 M, 6 M) of the left twists of M bodies at the optimum.

    Units are radians and mm. ``normal`` (6 M, 6 M) is J^T W J summed over the views, ``cost`` the
    mean over the views, and ``residuals`` the image (H, W) and weights (H, W) of each view.
    Neighbouring residuals are not independent: structures that are not rendered are as wide as the
    high-pass. The number of independent residuals is the number of pixels divided by the area over
    which residuals correlate.
    """
    independent = sum(
        _effective_pixels(weights) / _correlated_pixels(image) for image, weights in residuals
    )
    return np.linalg.pinv(normal / len(residuals)) * cost / max(independent, 1.0)


def own_first(joint: np.ndarray, index: int) -> np.ndarray:
    """Return a covariance (6 M, 6 M) with the block of body ``index`` moved to the front."""
    bodies = np.arange(len(joint) // 6)
    order = np.r_[index, bodies[bodies != index]]
    rows = (6 * order[:, None] + np.arange(6)).ravel()
    return joint[np.ix_(rows, rows)]


def _effective_pixels(weights: np.ndarray) -> float:
    """Return the number of pixels of equal weight that would say as much."""
    return float(weights.sum(dtype=float) ** 2 / (weights.astype(float) ** 2).sum())


def _correlated_pixels(image: np.ndarray) -> float:
    """Return the area in pixels over which residuals (H, W) correlate, by AR(1) along each axis."""
    area = 1.0
    for axis in (0, 1):
        a = np.take(image, range(image.shape[axis] - 1), axis)
        b = np.take(image, range(1, image.shape[axis]), axis)
        both = (a != 0) & (b != 0)
        if both.sum() < MIN_ZONE_PX:
            continue
        rho = float(
            (a[both] * b[both]).sum() / np.sqrt((a[both] ** 2).sum() * (b[both] ** 2).sum() + 1e-20)
        )
        rho = min(max(rho, 0.0), 0.99)
        area *= (1 + rho) / (1 - rho)
    return area
