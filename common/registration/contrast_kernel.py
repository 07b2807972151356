"""Local contrast, its weighted moments and its residuals on the CPU, many trials at once.

A trial is one set of poses in one view. Images of N trials are (N, H, W), in windows of one size;
``which`` (N,) are the trials among the B of a pyramid.
"""

from __future__ import annotations

import numba
import numpy as np

from common.drr.parallel import parallel

CHUNKS = 4  # of rows per image: sums do not depend on the number of threads
BLOCK = 64  # pixels summed at once


@numba.njit(inline="always")
def _blurred(image, factor, down, across):
    """Return the weighted average of image * factor (H, W) around each pixel; 0 beyond it."""
    height, width = image.shape
    reach = len(across) // 2
    rows = np.empty((height, width), np.float32)
    padded = np.zeros(width + 2 * reach, np.float32)
    for r in range(height):
        for c in range(width):
            padded[reach + c] = image[r, c] * factor[r, c]
        for c in range(width):
            rows[r, c] = across[0] * padded[c]
        for t in range(1, len(across)):
            weight = across[t]
            for c in range(width):
                rows[r, c] += weight * padded[c + t]
    reach = len(down) // 2
    out = np.zeros((height, width), np.float32)
    for r in range(height):
        for t in range(max(0, reach - r), min(len(down), height + reach - r)):
            weight = down[t]
            for c in range(width):
                out[r, c] += weight * rows[r + t - reach, c]
    return out


@parallel(fastmath=True)
def blur(images, down, across, out):
    """Average images (N, H, W) with the weights ``down`` and ``across``, zeros beyond the border.

    The weights are of odd length, (2 R + 1,) float32.
    """
    for n in numba.prange(len(images)):
        out[n] = _blurred(images[n], np.ones(images[n].shape, np.float32), down, across)


@parallel(fastmath=True)
def highpass(images, which, valid, norm, down, across, out):
    """Subtract from images (N, C, H, W) their average over the valid field; 0 outside of it.

    valid, norm: (B, H, W) the field, and 1 over its own average.
    """
    count, channels = images.shape[:2]
    for job in numba.prange(count * channels):
        n, channel = job // channels, job % channels
        field, scale = valid[which[n]], norm[which[n]]
        image = images[n, channel]
        average = _blurred(image, field, down, across)
        height, width = image.shape
        for r in range(height):
            for c in range(width):
                out[n, channel, r, c] = field[r, c] * (image[r, c] - average[r, c] * scale[r, c])


@parallel(fastmath=True)
def moments(contrast, features, which, weights, counts, sums, products):
    """Sum the rows of a trial, and their products, over the pixels with weight.

    contrast: (N, 1 + K, H, W) of the DRR and its K derivatives; features: (B, F, H, W).
    counts: (N, CHUNKS), sums: (N, CHUNKS, 1 + n) with the weights themselves first, and products:
    (N, CHUNKS, n, n), lower triangle, of the n = 1 + K + F rows.
    """
    trials, first, height, width = contrast.shape
    rows = first + features.shape[1]
    for job in numba.prange(trials * CHUNKS):
        t, chunk = job // CHUNKS, job % CHUNKS
        block = np.empty((rows, BLOCK))
        w = np.empty(BLOCK)
        weighted = np.empty(BLOCK)
        held = 0
        begin, end = chunk * height // CHUNKS * width, (chunk + 1) * height // CHUNKS * width
        for at in range(begin, end):
            r, c = at // width, at % width
            weight = weights[t, r, c]
            if weight > 0:
                w[held] = weight
                for q in range(first):
                    block[q, held] = contrast[t, q, r, c]
                for q in range(first, rows):
                    block[q, held] = features[which[t], q - first, r, c]
                held += 1
            if held == BLOCK or (at == end - 1 and held > 0):
                counts[t, chunk] += held
                for k in range(held):
                    sums[t, chunk, 0] += w[k]
                for i in range(rows):
                    total = 0.0
                    for k in range(held):
                        weighted[k] = w[k] * block[i, k]
                        total += weighted[k]
                    sums[t, chunk, 1 + i] += total
                    for j in range(i + 1):
                        total = 0.0
                        for k in range(held):
                            total += weighted[k] * block[j, k]
                        products[t, chunk, i, j] += total
                held = 0


@parallel(fastmath=True)
def residuals(contrast, features, which, weights, parts, offsets, out):
    """Write the residuals (N, H, W), 0 without weight.

    contrast: (N, H, W) of the DRR. parts: (N, 1 + F) factors of it and of the features;
    offsets: (N,) are added.
    """
    trials, height, width = contrast.shape
    for job in numba.prange(trials * height):
        t, r = job // height, job % height
        for c in range(width):
            value = 0.0
            if weights[t, r, c] > 0:
                value = parts[t, 0] * contrast[t, r, c] + offsets[t]
                for f in range(features.shape[1]):
                    value += parts[t, 1 + f] * features[which[t], f, r, c]
            out[t, r, c] = value


@numba.njit(inline="always")
def _with_weight(image, weights):
    """Return the pixels of an image (H, W) that have weight, in one row."""
    row = np.empty(image.size, np.float32)
    count = 0
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            if weights[r, c] > 0:
                row[count] = image[r, c]
                count += 1
    return row[:count]


@parallel()
def downweight(residual, weights, cauchy):
    """Lower weights (N, H, W), in place, where a residual is above ``cauchy`` deviations.

    The deviation is robust: the median of the absolute residuals (Cauchy's weights).
    """
    for t in numba.prange(len(weights)):
        inside = np.abs(_with_weight(residual[t], weights[t]))
        if inside.size:
            limit = np.float32(cauchy) * (np.float32(1.4826) * np.median(inside) + 1e-6)
            for r in range(weights.shape[1]):
                for c in range(weights.shape[2]):
                    weights[t, r, c] /= 1 + (residual[t, r, c] / limit) ** 2


@parallel()
def grey_ranges(images, which, weights, out):
    """Write the 1st and 99th percentile (N, 2) of images (B, H, W) where trials have weight."""
    for t in numba.prange(len(weights)):
        inside = _with_weight(images[which[t]], weights[t])
        if inside.size:
            out[t] = np.percentile(inside, np.array([1.0, 99.0]))
