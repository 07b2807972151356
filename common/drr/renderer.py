"""Digitally reconstructed radiographs behind one interface: `Renderer`.

`FusedRenderer` runs on any CPU, `NanodrrRenderer` on CUDA and MPS, `SiddonRenderer` is DiffDRR's exact integral for
reference pictures. All take attenuation in 1/mm and return line integrals (no unit), for cameras in the volume's world.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from common.drr.joseph import FusedRenderer
from common.drr.nanodrr import NanodrrRenderer
from common.errors import InputError
from common.geometry import Detector
from common.volume.volume import Volume


class Renderer(Protocol):
    """Renders one attenuation volume."""

    centre_mm: np.ndarray  # isocentre of the volume's file, the point that pose twists turn about
    voxel_mm: float  # edge of a cube as large as a voxel

    def render(self, cameras: np.ndarray, detector: Detector) -> np.ndarray:
        """Line integrals (B, H, W), float32, of cameras (B, 4, 4) world_from_camera."""

    def render_with_jacobian(
        self, camera: np.ndarray, detector: Detector
    ) -> tuple[np.ndarray, np.ndarray]:
        """Line integrals (H, W) and their derivative (6, H, W) by a left twist of ``camera`` about ``centre_mm``.

        Three columns per radian of a rotation vector, three per millimetre, world axes; see `geometry.twist`.
        """

    def coarser(self, voxel_mm: float) -> Renderer:
        """A renderer of the same volume averaged down to voxels of about ``voxel_mm``, for small pictures."""


def make_renderer(volume: Volume, device: str, centre_mm: np.ndarray | None = None) -> Renderer:
    """The renderer of an attenuation volume for ``device`` (cpu, cuda or mps)."""
    centre = volume.isocentre_mm if centre_mm is None else np.asarray(centre_mm, float)
    return (
        FusedRenderer(volume, centre)
        if device == "cpu"
        else NanodrrRenderer(volume, centre, device)
    )


def choose_device(wanted: str) -> str:
    """auto, cpu, cuda or mps to the device that is there. Raises InputError for one that is not."""
    if wanted == "cpu":
        return "cpu"
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next((name for name, available in there.items() if available), "cpu")
    if not there[wanted]:
        raise InputError(
            f"`device` {wanted}",
            "no such device here",
            f"one of {['cpu', *[n for n, a in there.items() if a]]}",
            "use `device` auto",
        )
    return wanted
