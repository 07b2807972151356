"""Numba kernels of the template bank, each for one thread: best places and exact scores."""

from __future__ import annotations

import math

import numba
import numpy as np

MIN_OVERLAP = 0.35  # share of a template inside the valid field
LEAST_CONTRAST = 0.2  # of the template's own: likeness counts less where the image shows less


@numba.njit(fastmath=True, cache=True, nogil=True)
def best_places(likeness, energy, overlap, own, area, allowed, depth_of, values, places):
    """Find the best place of each template.

    ``likeness``, ``energy`` and ``overlap`` (N, P) are over places, ``own`` energy and ``area``
    (N,) are the template's. ``allowed`` (D, P) are the places that count at
    its depth, ``depth_of`` (N,).
    Writes the normalised correlation (-1 without a place) and the place.
    """
    count, size = likeness.shape
    for i in range(count):
        best, at = np.float32(-1.0), 0
        least = np.float32(MIN_OVERLAP) * area[i]
        row = allowed[depth_of[i]]
        for k in range(size):
            if row[k] and overlap[i, k] >= least:
                seen = max(energy[i, k] / own[i], np.float32(LEAST_CONTRAST))
                share = min(overlap[i, k] / area[i], np.float32(1.0))
                value = likeness[i, k] * math.sqrt(share / seen)
                if value > best:
                    best, at = value, k
        values[i], places[i] = best, at


@numba.njit(fastmath=True, cache=True, nogil=True)
def exact_scores(pictures, units, which, places, picture, valid, out):
    """Masked normalised correlation of templates ``which``, the best of 3 x 3 places each.

    ``pictures`` and ``units`` are those of a `bank.Bank`.
    """
    height, width = picture.shape
    side = pictures.shape[2]
    c = side // 2
    for n in range(len(which)):
        template, mask = pictures[0, which[n]], pictures[1, which[n]]
        row, column = places[n, 0], places[n, 1]
        area = np.float32(0.0)
        own = np.float32(0.0)
        sums = np.zeros((9, 4), np.float32)  # overlap, mean, square, product
        for r in range(side):
            for q in range(side):
                if mask[r, q] <= 0:
                    continue
                m, t = mask[r, q] * units[1], template[r, q] * units[0]
                area += m
                own += t * t
                for shift in range(9):
                    pr, pc = row + shift // 3 - 1 + r - c, column + shift % 3 - 1 + q - c
                    if pr >= 0 and pc >= 0 and pr < height and pc < width:
                        p = picture[pr, pc]
                        sums[shift, 0] += m * valid[pr, pc]
                        sums[shift, 1] += m * p
                        sums[shift, 2] += m * p * p
                        sums[shift, 3] += t * p
        best = np.float32(-1.0)
        for shift in range(9):
            overlap = sums[shift, 0]
            if overlap >= MIN_OVERLAP * area and own > 0:
                spread = sums[shift, 2] - sums[shift, 1] * sums[shift, 1] / overlap
                energy = max(spread, LEAST_CONTRAST * own) * own
                value = sums[shift, 3] / math.sqrt(energy) * math.sqrt(min(overlap / area, 1.0))
                best = max(best, value)
        out[n] = best
