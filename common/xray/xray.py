"""X-ray pictures: read, turned into attenuation (bone bright), with the detector that took them.

PNG, JPEG, TIFF (8 or 16 bit) and DICOM. The geometry comes from flags, else from the DICOM header or from ``NAME.json`` beside a picture,
else from the caller's fallback; which one it was is part of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.geometry import Detector


@dataclass(frozen=True)
class Xray:
    """An X-ray as the solver sees it."""

    image: (
        np.ndarray
    )  # (H, W) float32, attenuation up to scale and tone: 0 where nothing absorbs, bone bright
    valid: np.ndarray  # (H, W) bool: inside the collimated field, neither padding nor saturated
    detector: Detector  # of this picture, after the flip
    path: Path
    flipped: bool = False  # mirrored left to right after reading
    frame: int | None = None  # of a multi-frame DICOM
    reading: dict[str, Any] = field(
        default_factory=dict
    )  # how it was read: bone, tone, where the geometry came from and what of it is the checkpoint's
    _binned: dict[int, Xray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def flip(self) -> Xray:
        return replace(
            self,
            image=self.image[:, ::-1].copy(),
            valid=self.valid[:, ::-1].copy(),
            detector=self.detector.flipped(),
            flipped=not self.flipped,
        )

    def binned(self, factor: int) -> Xray:
        """The picture with ``factor`` x ``factor`` pixels averaged; a pixel is valid where all of its parts are."""
        if factor == 1:
            return self
        height, width = (n // factor * factor for n in self.image.shape)
        weight = _blocks(self.valid[:height, :width].astype(np.float32), factor)
        total = _blocks(np.where(self.valid, self.image, 0)[:height, :width], factor)
        image = np.where(weight > 0, total / np.maximum(weight, 1e-6), 0).astype(np.float32)
        return replace(
            self, image=image, valid=weight > 0.99, detector=self.detector.binned(factor)
        )

    def coarser(self, pixel_mm: float) -> Xray:
        """The picture binned to pixels of about ``pixel_mm``, itself where it is coarser; kept for the next who asks."""
        factor = max(1, round(pixel_mm / max(self.detector.pixel_mm)))
        if factor not in self._binned:
            self._binned[factor] = self.binned(factor)
        return self._binned[factor]

    def as_uint8(self) -> np.ndarray:
        """The picture for the eye: bone bright, the valid field stretched to 0..255, the rest black."""
        low, high = np.percentile(self.image[self.valid], [0.1, 99.9])
        return (
            np.where(self.valid, np.clip((self.image - low) / max(high - low, 1e-6), 0, 1) * 255, 0)
            .round()
            .astype(np.uint8)
        )


def _blocks(array: np.ndarray, factor: int) -> np.ndarray:
    height, width = array.shape
    return array.reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))


def turned(xray: Xray, quarters: int) -> Xray:
    """The picture turned anticlockwise by quarters of a turn, with its detector."""
    for _ in range(quarters % 4):
        detector = xray.detector
        column, row = detector.principal_px
        moved = Detector(
            detector.width,
            detector.height,
            detector.sdd_mm,
            detector.pixel_mm[::-1],
            (row, detector.width - 1 - column),
        )
        xray = replace(
            xray,
            image=np.rot90(xray.image).copy(),
            valid=np.rot90(xray.valid).copy(),
            detector=moved,
        )
    return xray


def inverted(xray: Xray) -> Xray:
    """The picture with bright and dark exchanged, on the same scale."""
    top = float(np.percentile(xray.image[xray.valid], 99.5))
    return replace(
        xray, image=np.where(xray.valid, np.clip(top - xray.image, 0, None), 0).astype(np.float32)
    )
