"""The renderers behind one interface, and the choice between them.

`FusedRenderer` runs on any CPU, `NanodrrRenderer` on CUDA and MPS; `SiddonRenderer` is the exact
reference. All take attenuation in 1/mm and return line integrals (no unit). Cameras are in the
frame of the volume's affine.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np

from common.drr.joseph import FusedRenderer
from common.drr.nanodrr import NanodrrRenderer
from common.errors import InputError
from common.geometry import Detector
from common.volume.materials import is_metal
from common.volume.volume import Volume

Device: TypeAlias = Literal["cpu", "cuda", "mps"]


class ImageRenderer(Protocol):
    """Renders one attenuation volume."""

    centre_mm: np.ndarray  # (3,) point about which pose twists rotate
    voxel_mm: float  # edge of a cube as large as a voxel

    def render(self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]) -> np.ndarray:
        """Return line integrals (B, H, W) float32 of cameras (B, 4, 4), ``volume_from_camera``.

        All share a detector, or each has its own, of one size in pixels.
        """
        ...


class Renderer(ImageRenderer, Protocol):
    """Renders one attenuation volume, with its derivative by the pose."""

    def render_with_jacobian(
        self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return line integrals (B, H, W) and their derivative (B, 6, H, W) by a left twist.

        The twist moves a camera about ``centre_mm``, along the axes of the volume frame: three
        images per radian of the rotation vector, three per millimetre; see `geometry.twist`.
        """
        ...

    def coarser(self, voxel_mm: float) -> Renderer:
        """Return a renderer for small images: of the volume in voxels of about ``voxel_mm``."""
        ...

    def about(self, centre_mm: np.ndarray) -> Renderer:
        """Return a renderer of the same voxels, whose pose twists are about another point (3,)."""
        ...


class SaturatingImages:
    """Renders 1 - exp(-L) of the line integrals L of another renderer, which is 1 in thick metal.

    That is the share of the beam that metal takes (Beer-Lambert law).
    """

    def __init__(self, linear: ImageRenderer):
        self._images = linear
        self.centre_mm = linear.centre_mm
        self.voxel_mm = linear.voxel_mm

    def render(self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]) -> np.ndarray:
        """Return images in 0..1; see `ImageRenderer`."""
        return -np.expm1(-self._images.render(cameras, detectors))


class SaturatingRenderer(SaturatingImages):
    """The same, with the derivative by the pose."""

    def __init__(self, linear: Renderer):
        super().__init__(linear)
        self._linear = linear

    def render_with_jacobian(
        self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return images and their derivative; see `Renderer`."""
        integrals, jacobian = self._linear.render_with_jacobian(cameras, detectors)
        passed = np.exp(-integrals)
        jacobian *= passed[:, None]
        return 1 - passed, jacobian

    def coarser(self, voxel_mm: float) -> SaturatingRenderer:
        """Return a renderer of coarser voxels; see `Renderer`."""
        return SaturatingRenderer(self._linear.coarser(voxel_mm))

    def about(self, centre_mm: np.ndarray) -> SaturatingRenderer:
        """Return a renderer about another point; see `Renderer`."""
        return SaturatingRenderer(self._linear.about(centre_mm))


def make_renderer(
    volume: Volume, device: str, centre_mm: np.ndarray | None = None, unit: float = 1.0
) -> Renderer:
    """Return the renderer of a volume in units of attenuation, for ``device`` (cpu, cuda or mps).

    ``unit`` is the attenuation (1/mm) of a voxel of 1. ``centre_mm`` (3,) is the point about which
    pose twists rotate, by default the isocentre. The renderer of a metal part saturates, see
    `SaturatingImages`.
    """
    centre = volume.isocentre_mm if centre_mm is None else np.asarray(centre_mm, float)
    linear: Renderer = (
        FusedRenderer(volume, centre, unit)
        if device == "cpu"
        else NanodrrRenderer(volume, centre, device, unit)
    )
    return SaturatingRenderer(linear) if is_metal(volume.lineage) else linear


def choose_device(wanted: str) -> Device:
    """Return the device (cpu, cuda or mps) for a setting, which may also be auto.

    Raises InputError if this machine does not have it.
    """
    if wanted == "cpu" or (wanted == "auto" and not _has_driver()):
        return "cpu"
    import torch

    available: list[Device] = ["cuda"] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    available += ["cpu"]
    if wanted == "auto":
        return available[0]
    for device in available:
        if device == wanted:
            return device
    raise InputError(
        f"`device` {wanted}",
        "not available on this machine",
        f"one of {', '.join(available)}",
        "use `device` auto",
    )


def _has_driver() -> bool:
    """Return whether a GPU's driver is installed. Without one, torch need not be imported."""
    if sys.platform == "darwin" or os.path.exists("/dev/kfd"):  # Metal, ROCm
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
