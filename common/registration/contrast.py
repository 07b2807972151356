"""What the X-ray does not explain of a DRR, and its derivative by the pose, for many trials.

Local contrasts are compared after a smooth monotone tone curve. Its coefficients solve a linear
least-squares problem in each iteration (variable projection: Golub and Pereyra 1973, Kaufman 1975).
The cost is the fraction of the DRR's contrast that the X-ray does not explain, 1 - R^2, over the
silhouettes of the bodies and a rim around them.

All of it follows from the weighted covariance of the DRR, its derivatives and the functions of the
X-ray, which takes one pass over the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from common.registration import contrast_kernel, tone_kernel

# the tone curve is a sum of these functions of the X-ray's attenuation (0..1); their slopes are in
# `tone_kernel`
TONE_BASIS = (
    lambda g: g,
    lambda g: np.sqrt(np.maximum(g, 0) + tone_kernel.ROOT_OFFSET),
    lambda g: g**2,
    lambda g: g**3,
)
# residuals above this many robust standard deviations have less weight
# (benchmarks/README.md, 'What was tried for the refinement, and what it gave')
CAUCHY = 2.5


@dataclass(frozen=True)
class Compared:
    """N trials compared with the X-ray in one view, for poses of M bodies each."""

    seen: np.ndarray  # (N,) bool: enough pixels with contrast; the rest is 0 without
    cost: np.ndarray  # (N,) unexplained fraction of the contrast
    normal: np.ndarray  # (N, 6 M, 6 M) J^T W J of the residuals
    right: np.ndarray  # (N, 6 M) J^T W r
    parts: np.ndarray  # (N, 1 + F) of contrast and functions in a residual
    offsets: np.ndarray  # (N,) added to it

    @classmethod
    def empty(cls, trials: int, unknowns: int, functions: int) -> Compared:
        """Return trials that are not in view."""
        return cls(
            np.zeros(trials, bool),
            np.zeros(trials),
            np.zeros((trials, unknowns, unknowns)),
            np.zeros((trials, unknowns)),
            np.zeros((trials, 1 + functions)),
            np.zeros(trials),
        )

    def of(self, which: np.ndarray | list[int]) -> Compared:
        """Return some trials."""
        return Compared(*(getattr(self, each.name)[which] for each in fields(self)))

    def put(self, which: np.ndarray, others: Compared) -> None:
        """Replace some trials."""
        for each in fields(self):
            getattr(self, each.name)[which] = getattr(others, each.name)

    def residuals(
        self, contrast: np.ndarray, features: np.ndarray, which: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Return the residuals (N, H, W) float32, in units of the DRR's contrast, 0 elsewhere.

        ``contrast`` (N, H, W) is that of the DRR.
        """
        out = np.empty(contrast.shape, np.float32)
        contrast_kernel.residuals(contrast, features, which, weights, self.parts, self.offsets, out)
        return out


def compare(
    contrast: np.ndarray,
    features: np.ndarray,
    which: np.ndarray,
    weights: np.ndarray,
    grey_ranges: np.ndarray,
) -> Compared:
    """Compare the local contrast of DRRs with that of the X-ray.

    ``contrast`` (N, 1 + 6 M, H, W) is that of the DRR and of its derivative by the twists of M
    bodies, ``features`` (B, F, H, W) that of each function in `TONE_BASIS`, in the windows of B
    trials, of which these are ``which`` (N,). ``weights`` (N, H, W) are 0 or more.
    """
    trials, first = contrast.shape[:2]
    rows = first + features.shape[1]
    counts = np.zeros((trials, contrast_kernel.CHUNKS), int)
    sums = np.zeros((trials, contrast_kernel.CHUNKS, 1 + rows))
    products = np.zeros((trials, contrast_kernel.CHUNKS, rows, rows))
    contrast_kernel.moments(contrast, features, which, weights, counts, sums, products)
    found = Compared.empty(trials, first - 1, features.shape[1])
    tone_kernel.reduce(
        counts,
        sums,
        products,
        grey_ranges,
        found.seen,
        found.cost,
        found.normal,
        found.right,
        found.parts,
        found.offsets,
    )
    return found


def robust_weights(
    contrast: np.ndarray,
    features: np.ndarray,
    which: np.ndarray,
    zone: np.ndarray,
    grey_ranges: np.ndarray,
) -> np.ndarray:
    """Return ``zone`` (N, H, W) with less weight for pixels with other structures (Cauchy).

    The other arguments are those of `compare`; ``contrast`` (N, H, W) is that of the DRR.
    """
    compared = compare(contrast[:, None], features, which, zone, grey_ranges)
    residual = compared.residuals(contrast, features, which, zone)
    weights = zone.copy()
    contrast_kernel.downweight(residual, weights, CAUCHY)
    return weights


def similarity_of(cost: float) -> float:
    """Return the similarity of DRR and X-ray: their multiple correlation, 0..1, from the cost."""
    return float(np.sqrt(max(0.0, 1 - cost))) if np.isfinite(cost) else 0.0
