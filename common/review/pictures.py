"""Pictures of a result as the page draws them: 16-bit grey values, and outlines."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.geometry.blocks import block_mean
from common.results import names
from common.review.reopening import Opened
from common.xray import image_files
from common.xray.outline import outline

TOP = 65535
# width, height, share of the X-ray's width and height that it covers, number of the request, view
HEADER = struct.Struct("<HHffIHH")
OUTLINE_PX = 512  # longest side of the DRR that a neighbour's outline is drawn around


@dataclass(frozen=True)
class Grey:
    """A picture of 16-bit grey values (H, W), over a share of an X-ray's width and height."""

    values: np.ndarray
    cover: tuple[float, float] = (1.0, 1.0)

    def packed(self, number: int = 0, view: int = 0) -> bytes:
        """Return it as `HEADER` and grey values, little endian; ``number`` names the request."""
        height, width = self.values.shape
        head = HEADER.pack(width, height, *self.cover, number, view, 0)
        return head + np.ascontiguousarray(self.values, "<u2").tobytes()


def as_grey(image: np.ndarray, top: float) -> np.ndarray:
    """Return an image (H, W) with 0 to ``top`` as 16-bit grey values."""
    return (np.clip(image / max(top, 1e-9), 0, 1) * TOP).round().astype(np.uint16)


def xray_picture(opened: Opened, view: int) -> Grey:
    """Return an X-ray at full resolution, bone bright, black outside its valid field."""
    xray = opened.views[view].xray
    return Grey(as_grey(np.where(xray.valid, xray.image, 0), float(xray.image[xray.valid].max())))


def window_of(grey: np.ndarray) -> tuple[float, float]:
    """Return the window of a picture, 0 to 1: between percentiles of the grey values above 0."""
    inside = grey[grey > 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside[:: max(1, inside.size // 100_000)], [0.5, 99.8]) / TOP
    return float(low), float(max(high, low + 0.01))


def detector_of(detector: Detector, longest_px: int) -> tuple[Detector, tuple[float, float]]:
    """Return a detector of at most ``longest_px`` pixels, and the share of the image it covers."""
    factor = max(1, -(-max(detector.height, detector.width) // longest_px))
    small = detector.binned(factor)
    cover = small.width * factor / detector.width, small.height * factor / detector.height
    return small, cover


def drr_pictures(opened: Opened, pose: np.ndarray, longest_px: int) -> list[Grey]:
    """Return the DRR of the structure in every view, at a pose (volume_from_rig)."""
    found = []
    for view in opened.views:
        detector, cover = detector_of(view.xray.detector, longest_px)
        camera = pose @ view.rig_from_camera
        drr = _render(opened, camera, detector)
        found.append(Grey(as_grey(drr, float(drr.max())), cover))
    return found


def _render(opened: Opened, camera: np.ndarray, detector: Detector) -> np.ndarray:
    """Return line integrals (H, W); none for a structure at the source or behind it."""
    body = opened.structure.body
    depth_mm = geometry.apply(geometry.invert(camera), body.centre_mm)[2]
    if depth_mm <= 0:
        return np.zeros((detector.height, detector.width), np.float32)
    pixel_mm = min(detector.pixel_mm) * depth_mm / detector.sdd_mm
    return body.alone.coarser(pixel_mm).render(camera[None], detector)[0]


def outlines(opened: Opened, pose: np.ndarray) -> list[list[list[float]]]:
    """Return the outline of the structure in every view, flat lists of x, y as shares of its size.

    ``pose`` is volume_from_rig.
    """
    found = []
    for view in opened.views:
        detector, cover = detector_of(view.xray.detector, OUTLINE_PX)
        drr = _render(opened, pose @ view.rig_from_camera, detector)
        scale = np.array(cover) / [detector.width, detector.height]
        found.append([((curve + 0.5) * scale).round(5).ravel().tolist() for curve in outline(drr)])
    return found


def saved_pictures(folder: Path, view: int) -> tuple[Grey, Grey]:
    """Return X-ray and DRR of a results folder as registration.py saved them, 8 bit.

    Raises InputError if one cannot be read, or if a link leads it out of the folder.
    """
    greys = []
    for name in (names.XRAY_IMAGE, names.FINAL_IMAGE):
        path = folder / names.of_view(name, view + 1)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                path, "leads out of the folder", "a picture of the result", "register again"
            )
        image = image_files.read(path).grey
        greys.append(Grey(as_grey(image.astype(float), 255.0)))
    return greys[0], greys[1]


def reduced(grey: Grey, longest_px: int) -> Grey:
    """Return a picture averaged to at most ``longest_px`` pixels."""
    factor = max(1, -(-max(grey.values.shape) // longest_px))
    if factor == 1:
        return grey
    small = block_mean(grey.values.astype(np.float32), (factor, factor))
    height, width = grey.values.shape
    cover = small.shape[1] * factor / width, small.shape[0] * factor / height
    return Grey(small.round().astype(np.uint16), cover)
