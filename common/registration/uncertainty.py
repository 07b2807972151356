"""Gauss-Newton refinement of poses: any number of views of one instant, any number of bodies.

The bodies' attenuation adds along each ray. The solver compares the local contrast (a high-pass) of the rendering with
the local contrast of the X-ray, see `common.residuals`, from coarse pictures to fine ones, see `common.pyramid`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.registration.contrast import MIN_ZONE_PX, Residual, mean_cost


def covariance_of(residuals: Sequence[Residual]) -> np.ndarray:
    """Covariance of the twists from the curvature at the optimum.

    Neighbouring residuals are not independent: structures that the model lacks are as wide as the high-pass. Their number is taken as the
    number of pixels divided by the area over which the residuals correlate.
    """
    normal = sum((r.jacobian * r.w) @ r.jacobian.T for r in residuals)
    cost = mean_cost(residuals)
    independent = sum(1 / float((r.w**2).sum()) / _correlated_pixels(r.picture) for r in residuals)
    return np.linalg.pinv(normal / len(residuals)) * cost / max(independent, 1.0)


def _correlated_pixels(picture: np.ndarray) -> float:
    """Area in pixels over which a residual picture correlates with itself, from its lag-1 correlations (AR(1) on each axis)."""
    area = 1.0
    for axis in (0, 1):
        a, b = (
            np.take(picture, range(picture.shape[axis] - 1), axis),
            np.take(picture, range(1, picture.shape[axis]), axis),
        )
        both = (a != 0) & (b != 0)
        if both.sum() < MIN_ZONE_PX:
            continue
        rho = float(
            (a[both] * b[both]).sum() / np.sqrt((a[both] ** 2).sum() * (b[both] ** 2).sum() + 1e-20)
        )
        rho = min(max(rho, 0.0), 0.99)
        area *= (1 + rho) / (1 - rho)
    return area
