"""The tone curve of each trial and what it leaves, from the weighted moments of the images.

The algebra of a few numbers per trial, which as calls of numpy took longer than the pixels of a
small image.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# ridge on all functions but the straight line, times (unexplained / explained contrast)^2: at a
# poor fit, a tone curve cannot be told from missing structures
TONE_STIFFNESS = 16.0
RIDGE_STEPS = 3
TONE_POINTS = 9  # of the grey range at which the curve has to rise
ROOT_OFFSET = 0.05  # keeps the root's slope finite
MIN_ZONE_PX = 20  # pixels; fewer are not compared
LEAST_ENERGY = 1e-9  # of a DRR's contrast; below, there is nothing to compare
LEAST_SPREAD = 1e-14  # of the X-ray


@numba.njit(cache=True)
def _slope(function, grey):
    """Return the derivative of one of the functions of `contrast.TONE_BASIS`."""
    if function == 0:
        return 1.0
    if function == 1:
        return 0.5 / math.sqrt(max(grey, 0.0) + ROOT_OFFSET)
    return 2 * grey if function == 2 else 3 * grey * grey


@numba.njit(cache=True)
def _solve(matrix, right):
    """Return the solution (n, k) of a linear system, by elimination with partial pivoting."""
    a, x = matrix.copy(), right.copy()
    size = len(a)
    for i in range(size):
        pivot = i
        for row in range(i + 1, size):
            if abs(a[row, i]) > abs(a[pivot, i]):
                pivot = row
        if pivot != i:
            for column in range(size):
                a[i, column], a[pivot, column] = a[pivot, column], a[i, column]
            for column in range(x.shape[1]):
                x[i, column], x[pivot, column] = x[pivot, column], x[i, column]
        for row in range(i + 1, size):
            factor = a[row, i] / a[i, i]
            for column in range(i, size):
                a[row, column] -= factor * a[i, column]
            for column in range(x.shape[1]):
                x[row, column] -= factor * x[i, column]
    for i in range(size - 1, -1, -1):
        for column in range(x.shape[1]):
            total = x[i, column]
            for k in range(i + 1, size):
                total -= a[i, k] * x[k, column]
            x[i, column] = total / a[i, i]
    return x


@numba.njit(cache=True)
def fit_tone(gram, right, low, high):
    """Fit a tone curve by least squares.

    gram: (F, F) and right: (F,) covariances of the functions with each other and with the DRR;
    low, high: the grey range of the image.
    Returns the coefficients (F,), the matrix (F, F) that they solve, and the number of functions
    used. The ridge follows from the quality of the fit (empirical Bayes). If a curve falls within
    the grey range, fewer functions are used, and none if even the straight line falls: bone dark in
    the X-ray but bright in the DRR is not explained.
    """
    functions = len(right)
    tone, solved = np.zeros(functions), np.eye(functions)
    if gram[0, 0] < LEAST_SPREAD or right[0] <= 0:
        return tone, solved, 0
    explained = right[0] ** 2 / gram[0, 0]
    for count in range(functions, 1, -1):
        block = gram[:count, :count].copy()
        column = right[:count].copy().reshape(count, 1)
        fitted = column
        for _ in range(RIDGE_STEPS):
            ridge = 1 + TONE_STIFFNESS * ((1 - explained) / explained) ** 2 + 1e-6
            for f in range(1, count):
                block[f, f] = gram[f, f] * ridge
            fitted = _solve(block, column)
            gain = 0.0
            for f in range(count):
                bent = 0.0
                for g in range(count):
                    bent += gram[f, g] * fitted[g, 0]
                gain += fitted[f, 0] * (2 * right[f] - bent)
            explained = min(max(gain, explained), 1 - 1e-6)
        if _rises(fitted, low, high):
            tone[:count] = fitted[:, 0]
            solved[:count, :count] = block
            return tone, solved, count
    tone[0] = right[0] / gram[0, 0]
    solved[0, 0] = gram[0, 0]
    return tone, solved, 1


@numba.njit(cache=True)
def _rises(fitted, low, high):
    """Return whether a curve rises all over the grey range."""
    for point in range(TONE_POINTS):
        grey = low + (high - low) * point / (TONE_POINTS - 1)
        slope = 0.0
        for f in range(len(fitted)):
            slope += fitted[f, 0] * _slope(f, grey)
        if slope <= 0:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def reduce(counts, sums, products, grey_ranges, seen, cost, normal, right, parts, offsets):
    """Write what `contrast.Compared` holds of N trials.

    counts, sums, products: those of `contrast_kernel.moments`; grey_ranges: (N, 2); seen: (N,);
    cost: (N,); normal: (N, K, K); right: (N, K); parts: (N, 1 + F); offsets: (N,), all zeros.
    """
    unknowns, functions = right.shape[1], parts.shape[1] - 1
    first = 1 + unknowns
    rows = first + functions
    for n in range(len(counts)):
        weight = max(sums[n, :, 0].sum(), 1e-30)
        means = np.empty(rows)
        for i in range(rows):
            means[i] = sums[n, :, 1 + i].sum() / weight
        covariance = np.empty((rows, rows))
        for i in range(rows):
            for j in range(i + 1):
                covariance[i, j] = products[n, :, i, j].sum() / weight - means[i] * means[j]
                covariance[j, i] = covariance[i, j]
        energy = math.sqrt(max(covariance[0, 0], 0.0))
        if counts[n].sum() < MIN_ZONE_PX or energy <= LEAST_ENERGY:
            continue
        seen[n] = True
        # z is the DRR's contrast of energy 1, s its derivatives, f the functions of the X-ray
        fz = covariance[first:, 0] / energy
        ff = covariance[first:, first:].copy()
        sz = covariance[1:first, 0] / energy**2
        fs = np.empty((functions, unknowns))
        for f in range(functions):
            for k in range(unknowns):
                fs[f, k] = covariance[first + f, 1 + k] / energy - fz[f] * sz[k]
        tone, gram, used = fit_tone(ff, fz, grey_ranges[n, 0], grey_ranges[n, 1])
        wanted = fs.copy()
        wanted[used:] = 0
        solved = _solve(gram, wanted)  # (F, K) tone of each derivative
        left = np.empty(functions)  # of the functions' contrast, by the tone curve
        cost[n] = 1.0
        for f in range(functions):
            bent = 0.0
            for g in range(functions):
                bent += ff[f, g] * tone[g]
            left[f] = bent - fz[f]
            cost[n] -= tone[f] * (2 * fz[f] - bent)
        for k in range(unknowns):
            for f in range(functions):
                right[n, k] += solved[f, k] * left[f] - fs[f, k] * tone[f]
        curved = np.empty((functions, unknowns))  # ff @ solved
        for f in range(functions):
            for k in range(unknowns):
                total = 0.0
                for g in range(functions):
                    total += ff[f, g] * solved[g, k]
                curved[f, k] = total
        for k in range(unknowns):
            for m in range(unknowns):
                total = covariance[1 + k, 1 + m] / energy**2 - sz[k] * sz[m]
                for f in range(functions):
                    total -= solved[f, k] * fs[f, m] + fs[f, k] * solved[f, m]
                    total += solved[f, k] * curved[f, m]
                normal[n, k, m] = total
        parts[n, 0] = 1 / energy
        offsets[n] = -means[0] / energy
        for f in range(functions):
            parts[n, 1 + f] = -tone[f]
            offsets[n] += tone[f] * means[first + f]
