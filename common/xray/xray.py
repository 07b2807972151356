"""An X-ray with its detector: flipped, binned, rotated and inverted."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.geometry import Detector
from common.geometry.blocks import block_mean
from common.xray.grey_values import as_uint8, stretch
from common.xray.header import Reading

ALL_VALID = 0.99  # share of valid pixels above which a binned pixel is valid
# noise passes it, edges and gradients hardly; of gain 1 for independent pixels (Immerkaer, Computer
# Vision and Image Understanding 64:300, 1996)
NOISE_FILTER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
MEDIAN_OF_NORMAL = 0.6745  # of the absolute value of a normal variable, in standard deviations


@dataclass(frozen=True)
class Xray:
    """An X-ray as the solver sees it."""

    # (H, W) float32: attenuation up to scale and tone curve, bone bright, 0 in the open field
    image: np.ndarray
    valid: np.ndarray  # (H, W) bool: exposed, neither padded nor saturated
    detector: Detector  # of this image, after the flip
    path: Path
    flipped: bool = False  # left to right, after reading
    frame: int | None = None  # of a multi-frame DICOM
    reading: Reading = field(default_factory=Reading)
    _binned: dict[int, Xray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def flip(self) -> Xray:
        """Return the X-ray flipped left to right, with its detector."""
        return replace(
            self,
            image=self.image[:, ::-1].copy(),
            valid=self.valid[:, ::-1].copy(),
            detector=self.detector.flipped(),
            flipped=not self.flipped,
        )

    def binned(self, factor: int) -> Xray:
        """Return the X-ray with ``factor`` x ``factor`` pixels averaged, over the valid ones.

        A binned pixel is valid if all its parts are.
        """
        if factor == 1:
            return self
        weight = block_mean(self.valid.astype(np.float32), (factor, factor))
        total = block_mean(np.where(self.valid, self.image, 0), (factor, factor))
        image = np.where(weight > 0, total / np.maximum(weight, 1e-6), 0).astype(np.float32)
        return replace(
            self, image=image, valid=weight > ALL_VALID, detector=self.detector.binned(factor)
        )

    def coarser(self, pixel_mm: float) -> Xray:
        """Return the X-ray binned to a pixel spacing of about ``pixel_mm``, cached.

        Returns the X-ray itself if its pixels are that large.
        """
        factor = max(1, round(pixel_mm / max(self.detector.pixel_mm)))
        if factor not in self._binned:
            self._binned[factor] = self.binned(factor)
        return self._binned[factor]

    def noise_sd(self, inside: np.ndarray, factor: int) -> float:
        """Return the standard deviation of the noise of the X-ray binned by ``factor``.

        ``inside`` (h, w) bool are the binned pixels it is taken from. Noise is taken as independent
        between pixels: a blurred or compressed X-ray has more than is found.
        """
        from scipy.ndimage import convolve, find_objects

        boxes = find_objects(inside.astype(np.int8))
        if not boxes:
            return 0.0
        (box,) = boxes
        chosen = inside[box].repeat(factor, axis=0).repeat(factor, axis=1)
        window = tuple(slice(each.start * factor, each.stop * factor) for each in box)
        filtered = convolve(self.image[window], NOISE_FILTER, mode="nearest")
        return float(np.median(np.abs(filtered[chosen]))) / MEDIAN_OF_NORMAL / factor

    def as_uint8(self) -> np.ndarray:
        """Return the display image: bone bright, valid field in 0..255, other pixels 0."""
        return self._shown

    @functools.cached_property
    def _shown(self) -> np.ndarray:
        low, high = np.percentile(self.image[self.valid], [0.1, 99.9])
        return as_uint8(np.where(self.valid, stretch(self.image, low, high), 0))


def turned(xray: Xray, quarters: int) -> Xray:
    """Return the X-ray rotated anticlockwise by quarters of a turn, with its detector."""
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
    """Return the X-ray with bright and dark exchanged, on the same scale."""
    top = float(np.percentile(xray.image[xray.valid], 99.5))
    image = np.where(xray.valid, np.clip(top - xray.image, 0, None), 0).astype(np.float32)
    return replace(xray, image=image)
