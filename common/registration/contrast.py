"""Residuals between X-ray and DRR, and their derivative by the pose.

Local contrasts are compared after a smooth monotone tone curve. Its coefficients solve a linear
least-squares problem in each iteration (variable projection: Golub and Pereyra 1973, Kaufman 1975).
The cost is the fraction of the DRR's contrast that the X-ray does not explain, 1 - R^2, over the
silhouettes of the bodies and a rim around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# the tone curve is a sum of these functions of the X-ray's attenuation (0..1), with their slopes
TONE_BASIS = (
    (lambda g: g, np.ones_like),
    (lambda g: np.sqrt(np.maximum(g, 0) + 0.05), lambda g: 0.5 / np.sqrt(np.maximum(g, 0) + 0.05)),
    (lambda g: g**2, lambda g: 2 * g),
    (lambda g: g**3, lambda g: 3 * g**2),
)
# ridge on all functions but the straight line, times (unexplained / explained contrast)^2: at a
# poor fit, a tone curve cannot be told from missing structures
TONE_STIFFNESS = 16.0
# residuals above this many robust standard deviations have less weight
# (benchmarks/README.md, 'What was tried for the refinement, and what it gave')
CAUCHY = 2.5
MIN_ZONE_PX = 20  # pixels; fewer are not compared


@dataclass(frozen=True)
class Residual:
    """Residuals of one view over the P pixels of its zone, and their derivative for M bodies."""

    r: np.ndarray  # (P,), in units of the DRR's contrast
    jacobian: np.ndarray  # (6 M, P)
    w: np.ndarray  # (P,) weights of sum 1
    cost: float  # weighted sum of squares: unexplained fraction of the contrast
    image: np.ndarray  # (H, W) the residuals in place, 0 outside the zone


def unexplained(
    contrast: np.ndarray,
    jacobian: np.ndarray,
    features: np.ndarray,
    image: np.ndarray,
    weights: np.ndarray,
) -> Residual | None:
    """Return the contrast of a DRR that the X-ray does not explain, in units of its contrast.

    ``contrast`` (H, W) is the local contrast of the DRR, ``jacobian`` (6 M, H, W) its derivative.
    ``features`` (F, H, W) is the local contrast of each function in `TONE_BASIS` of the X-ray's
    attenuation ``image`` (H, W). Returns None if ``weights`` (H, W) leave too few pixels or the DRR
    has no contrast.
    """
    inside = weights.ravel() > 0
    w = weights.ravel()[inside]
    if w.size < MIN_ZONE_PX:
        return None
    w = w / w.sum()

    def centred(stack: np.ndarray) -> np.ndarray:
        rows = stack.reshape(len(stack), -1)[:, inside]
        return rows - (rows @ w)[:, None]

    z = centred(contrast[None])[0]
    energy = float(np.sqrt(w @ (z * z)))
    if energy < 1e-9:
        return None
    z = z / energy
    slopes = centred(jacobian) / energy
    slopes -= (slopes @ (w * z))[:, None] * z
    basis = centred(features)
    tone, gram = fit_tone(basis, w, z, image.ravel()[inside])
    used = basis[: len(tone)]
    r = z - tone @ used
    if len(tone):
        slopes = slopes - np.linalg.solve(gram, (used * w) @ slopes.T).T @ used
    full = np.zeros(weights.size, np.float32)
    full[inside] = r
    return Residual(r, slopes, w, float(w @ (r * r)), full.reshape(weights.shape))


def robust_weights(zone: np.ndarray, residual: Residual | None) -> np.ndarray:
    """Return ``zone`` (H, W) with less weight for pixels with other structures (Cauchy)."""
    if residual is None:
        return zone
    spread = 1.4826 * np.median(np.abs(residual.r)) + 1e-6
    return zone / (1 + (residual.image / (CAUCHY * spread)) ** 2)


def mean_cost(residuals: Sequence[Residual]) -> float:
    """Return the unexplained fraction of contrast, mean over the views; infinite without views."""
    return float(np.mean([r.cost for r in residuals])) if residuals else np.inf


def similarity_of(cost: float) -> float:
    """Return the similarity of DRR and X-ray: their multiple correlation, 0..1, from the cost."""
    return float(np.sqrt(max(0.0, 1 - cost))) if np.isfinite(cost) else 0.0


def fit_tone(
    features: np.ndarray, w: np.ndarray, z: np.ndarray, grey: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least-squares coefficients (F',) of the tone curve, and their Gram matrix.

    ``features`` (F, P) are the functions, ``w`` the weights, ``z`` the contrast and ``grey`` the
    attenuation, each (P,). The ridge follows from the quality of the fit (empirical Bayes). If the
    curve falls within the grey range of the image, fewer functions are used, and none if even the
    straight line falls: bone dark in the X-ray but bright in the DRR is not explained.
    """
    low, high = np.percentile(grey, [1, 99])
    at = np.linspace(low, high, 9)
    gram = (features * w) @ features.T
    right = features @ (w * z)
    if gram[0, 0] < 1e-14 or right[0] <= 0:
        return np.zeros(0), np.zeros((0, 0))
    explained = right[0] ** 2 / gram[0, 0]
    for count in range(len(features), 1, -1):
        tone, block, explained = _stiff_fit(gram[:count, :count], right[:count], explained)
        slope = sum(
            share * derivative(at) for share, (_, derivative) in zip(tone, TONE_BASIS, strict=False)
        )
        if (slope > 0).all():
            return tone, block
    return right[:1] / gram[0, 0], gram[:1, :1]


def _stiff_fit(
    gram: np.ndarray, right: np.ndarray, explained: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Solve with a ridge that depends on the explained fraction: (coefficients, matrix, fraction).

    The fraction never falls below that of the straight line.
    """
    block = gram.copy()
    tone = right
    for _ in range(3):
        ridge = 1 + TONE_STIFFNESS * ((1 - explained) / explained) ** 2 + 1e-6
        np.fill_diagonal(block[1:, 1:], np.diag(gram)[1:] * ridge)
        tone = np.linalg.solve(block, right)
        gain = 2 * tone @ right - tone @ gram @ tone
        explained = float(np.clip(gain, explained, 1 - 1e-6))
    return tone, block, explained
