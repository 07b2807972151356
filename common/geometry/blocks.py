"""Averages over blocks of an array: binned X-rays, coarser volumes, supersampled DRRs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def block_mean(
    array: np.ndarray, factors: Sequence[int], dtype: npt.DTypeLike = np.float32
) -> np.ndarray:
    """Return the mean of blocks of ``factors`` elements along each axis.

    Leftover elements at the end of an axis are dropped. ``dtype`` is that of the sums and the
    result.
    """
    trimmed = array[tuple(slice(n // f * f) for n, f in zip(array.shape, factors, strict=True))]
    split = [m for n, f in zip(trimmed.shape, factors, strict=True) for m in (n // f, f)]
    axes = tuple(range(1, 2 * array.ndim, 2))
    return trimmed.reshape(split).mean(axis=axes, dtype=dtype)
