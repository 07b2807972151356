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

from common.registration import contrast_kernel

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
RIDGE_STEPS = 3
TONE_POINTS = 9  # of the grey range at which the curve has to rise
# residuals above this many robust standard deviations have less weight
# (benchmarks/README.md, 'What was tried for the refinement, and what it gave')
CAUCHY = 2.5
MIN_ZONE_PX = 20  # pixels; fewer are not compared
LEAST_ENERGY = 1e-9  # of a DRR's contrast; below, there is nothing to compare


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
    total = sums.sum(1)
    lower = products.sum(1)
    weight = np.maximum(total[:, :1], 1e-30)
    means = total[:, 1:] / weight
    squares = (lower + np.tril(lower, -1).transpose(0, 2, 1)) / weight[:, :, None]
    covariance = squares - means[:, :, None] * means[:, None]
    energy = np.sqrt(np.maximum(covariance[:, 0, 0], 0))
    seen = (counts.sum(1) >= MIN_ZONE_PX) & (energy > LEAST_ENERGY)
    scale = np.where(seen, energy, 1.0)[:, None]
    # z is the DRR's contrast of energy 1, s its derivatives, f the functions of the X-ray
    sz = covariance[:, 1:first, 0] / scale**2
    ss = covariance[:, 1:first, 1:first] / scale[:, :, None] ** 2 - sz[:, :, None] * sz[:, None]
    fz = covariance[:, first:, 0] / scale
    ff = covariance[:, first:, first:]
    fs = covariance[:, first:, 1:first] / scale[:, :, None] - fz[:, :, None] * sz[:, None]
    tone, gram, used = fit_tone(ff, fz, grey_ranges)
    solved = np.linalg.solve(gram, fs * used[:, :, None])  # (N, F, 6 M) tone of each derivative
    cross = solved.transpose(0, 2, 1) @ fs
    normal = ss - cross - cross.transpose(0, 2, 1) + solved.transpose(0, 2, 1) @ ff @ solved
    right = -np.einsum("nfk,nf->nk", fs, tone) + np.einsum(
        "nfk,nf->nk", solved, np.einsum("nfg,ng->nf", ff, tone) - fz
    )
    cost = 1 - np.einsum("nf,nf->n", tone, 2 * fz - np.einsum("nfg,ng->nf", ff, tone))
    parts = np.concatenate([1 / scale, -tone], axis=1)
    offsets = -(parts[:, :1] * means[:, :1]).sum(1) - (parts[:, 1:] * means[:, first:]).sum(1)
    for array in (cost, normal, right, parts, offsets):
        array[~seen] = 0
    return Compared(seen, cost, normal, right, parts, offsets)


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


def fit_tone(
    gram: np.ndarray, right: np.ndarray, grey_ranges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the tone curves of N trials by least squares.

    ``gram`` (N, F, F) and ``right`` (N, F) are the covariances of the functions with each other and
    with the DRR. Returns the coefficients (N, F), the matrices that they solve, and which functions
    are used (N, F). The ridge follows from the quality of the fit (empirical Bayes). If a curve
    falls within the grey range (N, 2) of the image, fewer functions are used, and none if even the
    straight line falls: bone dark in the X-ray but bright in the DRR is not explained.
    """
    trials, functions = right.shape
    tone = np.zeros((trials, functions))
    solved = np.tile(np.eye(functions), (trials, 1, 1))
    used = np.zeros((trials, functions), bool)
    rising = (gram[:, 0, 0] >= 1e-14) & (right[:, 0] > 0)
    straight = np.where(rising, gram[:, 0, 0], 1.0)
    tone[rising, 0] = (right[:, 0] / straight)[rising]
    solved[rising, 0, 0] = straight[rising]
    used[rising, 0] = True
    explained = right[:, 0] ** 2 / straight
    low, high = grey_ranges.T[:, :, None]
    at = low + (high - low) * np.linspace(0, 1, TONE_POINTS)  # (N, 9)
    slopes = np.stack([derivative(at) for _, derivative in TONE_BASIS], axis=1)
    left = np.flatnonzero(rising)
    for count in range(functions, 1, -1):
        if not len(left):
            break
        fitted, block, explained[left] = _stiff_fit(
            gram[left, :count, :count], right[left, :count], explained[left]
        )
        rises = (np.einsum("nf,nfp->np", fitted, slopes[left, :count]) > 0).all(1)
        done = left[rises]
        tone[done, :count] = fitted[rises]
        solved[done, :count, :count] = block[rises]
        used[done, :count] = True
        left = left[~rises]
    return tone, solved, used


def _stiff_fit(
    gram: np.ndarray, right: np.ndarray, explained: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve with a ridge that depends on the explained fraction: (coefficients, matrix, fraction).

    The fraction never falls below that of the straight line.
    """
    block = gram.copy()
    others = np.arange(1, right.shape[1])
    tone = right
    for _ in range(RIDGE_STEPS):
        ridge = 1 + TONE_STIFFNESS * ((1 - explained) / explained) ** 2 + 1e-6
        block[:, others, others] = gram[:, others, others] * ridge[:, None]
        tone = np.linalg.solve(block, right[:, :, None])[:, :, 0]
        bent = np.einsum("nfg,ng->nf", gram, tone)
        gain = np.einsum("nf,nf->n", tone, 2 * right - bent)
        explained = np.clip(gain, explained, 1 - 1e-6)
    return tone, block, explained
