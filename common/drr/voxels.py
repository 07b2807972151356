"""Voxels in 16 bits: the attenuation of a volume over one scale, in a layer of zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.errors import InputError
from common.volume.volume import Volume

LARGEST = 32767
SLICES = 16  # that are converted at once


@dataclass(frozen=True)
class Voxels:
    """The voxels of a volume (I, J, K), rounded to `scale`: within 1.6e-5 of the largest."""

    padded: np.ndarray  # (I + 2, J + 2, K + 2) int16, first index fastest
    scale: float  # attenuation of a voxel of 1
    flat: np.ndarray  # the same memory, and one voxel more, which the kernels may read

    @property
    def inside(self) -> np.ndarray:
        """The voxels (I, J, K) without the layer of zeros, the same memory."""
        return self.padded[1:-1, 1:-1, 1:-1]

    @classmethod
    def of(cls, volume: Volume, unit: float = 1.0) -> Voxels:
        """Return the voxels of a volume, times ``unit``; those of 16 bits as they are.

        Raises InputError if they are too many for 32-bit indices.
        """
        data = volume.data
        shape = tuple(n + 2 for n in data.shape)
        count = int(np.prod(shape, dtype=np.int64))
        if count >= 2**31 - 1:
            raise InputError(
                volume.name,
                f"{count:.1e} voxels",
                "fewer than 2^31",
                "crop the CT to the bone (crop_cts.py)",
            )
        flat = np.zeros(count + 1, np.int16)
        padded = flat[:count].reshape(shape, order="F")
        step = _round(data, padded[1:-1, 1:-1, 1:-1])
        return cls(padded, step * unit, flat)


def rounded(volume: Volume) -> tuple[Volume, float]:
    """Return a volume in 16 bits, first index fastest, and what a voxel of 1 stands for."""
    data = np.empty(volume.shape, np.int16, order="F")
    step = _round(volume.data, data)
    return replace(volume, data=data), step


def _round(data: np.ndarray, target: np.ndarray) -> float:
    """Write voxels to ``target``, which has 16 bits. Returns what a voxel of 1 stands for."""
    if data.dtype == np.int16:
        np.copyto(target, data)
        return 1.0
    largest = max(float(data.max()), -float(data.min()))
    step = largest / LARGEST if largest > 0 else 1.0
    for first in range(0, data.shape[2], SLICES):
        part = data[:, :, first : first + SLICES] * np.float32(1 / step)
        np.copyto(target[:, :, first : first + SLICES], np.rint(part, out=part), casting="unsafe")
    return step
