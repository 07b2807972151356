"""Voxels in 16 bits: the attenuation of a volume over one scale, in a layer of zeros."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Return the voxels of a volume, times ``unit``.

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
        largest = max(float(data.max()), -float(data.min()))
        step = largest / LARGEST if largest > 0 else 1.0
        flat = np.zeros(count + 1, np.int16)
        padded = flat[:count].reshape(shape, order="F")
        for first in range(0, data.shape[2], SLICES):
            part = data[:, :, first : first + SLICES] * np.float32(1 / step)
            target = padded[1:-1, 1:-1, first + 1 : first + 1 + part.shape[2]]
            np.copyto(target, np.rint(part, out=part), casting="unsafe")
        return cls(padded, step * unit, flat)
