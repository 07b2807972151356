"""What an X-ray does not explain of a rendering, and its derivative: local contrasts compared after a smooth monotone tone curve.

The curve is a linear least-squares problem of its own, solved anew at every step (variable projection: Golub and Pereyra 1973, Kaufman 1975). The cost is the share of the
rendering's contrast that the X-ray does not explain, 1 - R^2, over the bodies' silhouettes and a rim around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# the tone curve is a sum of these functions of the X-ray's attenuation (0..1), each with its slope
TONE_BASIS = (
    (lambda g: g, np.ones_like),
    (lambda g: np.sqrt(np.maximum(g, 0) + 0.05), lambda g: 0.5 / np.sqrt(np.maximum(g, 0) + 0.05)),
    (lambda g: g**2, lambda g: 2 * g),
    (lambda g: g**3, lambda g: 3 * g**2),
)
TONE_STIFFNESS = 16.0  # ridge on all but the straight line, times (unexplained / explained contrast)^2: a poor fit cannot tell a tone curve from missing structures
CAUCHY = 2.5  # residuals beyond this many robust standard deviations lose weight
MIN_ZONE_PX = 20


@dataclass(frozen=True)
class Residual:
    r: np.ndarray  # (P,)
    jacobian: np.ndarray  # (6 M, P)
    w: np.ndarray  # (P,), sum 1
    cost: float
    picture: np.ndarray  # (H, W) residual


def unexplained(
    contrast: np.ndarray,
    jacobian: np.ndarray,
    features: np.ndarray,
    image: np.ndarray,
    weights: np.ndarray,
) -> Residual | None:
    """Contrast (H, W) of a rendering that the X-ray does not explain, in units of the rendering's own.

    ``jacobian`` (6 M, H, W) is the derivative of ``contrast``; ``features`` (F, H, W) is the contrast of each function in `TONE_BASIS` of
    the X-ray's attenuation ``image`` (H, W). Returns None where ``weights`` (H, W) leave too few pixels or the rendering has no contrast.
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
    """``zone`` (H, W) times Cauchy weights of the residuals: pixels that other structures disturb count less."""
    if residual is None:
        return zone
    spread = 1.4826 * np.median(np.abs(residual.r)) + 1e-6
    return zone / (1 + (residual.picture / (CAUCHY * spread)) ** 2)


def mean_cost(residuals: Sequence[Residual]) -> float:
    """Share of the contrast that stays unexplained, mean over the views; infinite without any view."""
    return float(np.mean([r.cost for r in residuals])) if residuals else np.inf


def similarity_of(cost: float) -> float:
    """Multiple correlation of rendering and X-ray, 0..1, from the unexplained share."""
    return float(np.sqrt(max(0.0, 1 - cost))) if np.isfinite(cost) else 0.0


def fit_tone(
    features: np.ndarray, w: np.ndarray, z: np.ndarray, grey: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least-squares coefficients of the tone curve's functions, and their Gram matrix.

    The ridge follows from the fit's own quality (empirical Bayes). A curve that falls anywhere in the picture's range is no tone
    curve: then fewer functions are used, and none where even a straight line falls (bone dark where the rendering is bright explains nothing).
    """
    low, high = np.percentile(grey, [1, 99])
    at = np.linspace(low, high, 9)
    gram = (features * w) @ features.T
    right = features @ (w * z)
    if gram[0, 0] < 1e-14 or right[0] <= 0:
        return np.zeros(0), np.zeros((0, 0))
    explained = right[0] ** 2 / gram[0, 0]
    for count in range(len(features), 1, -1):
        block = gram[:count, :count].copy()
        for _ in range(3):
            np.fill_diagonal(
                block[1:, 1:],
                np.diag(gram)[1:count]
                * (1 + TONE_STIFFNESS * ((1 - explained) / explained) ** 2 + 1e-6),
            )
            tone = np.linalg.solve(block, right[:count])
            explained = float(
                np.clip(
                    2 * tone @ right[:count] - tone @ gram[:count, :count] @ tone,
                    explained,
                    1 - 1e-6,
                )
            )
        slope = sum(
            share * derivative(at) for share, (_, derivative) in zip(tone, TONE_BASIS, strict=False)
        )
        if (slope > 0).all():
            return tone, block
    return right[:1] / gram[0, 0], gram[:1, :1]
