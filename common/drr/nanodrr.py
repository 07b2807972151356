"""The GPU renderer: nanodrr, with central differences for the pose derivative."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from common import geometry
from common.geometry import Detector, one_per_camera
from common.volume.volume import Volume, voxel_edge_mm

if TYPE_CHECKING:
    import torch


class NanodrrRenderer:
    """DRRs by nanodrr's fused kernels: Triton on CUDA, Metal on MPS, torch on the CPU."""

    # steps of the central differences
    STEP_DEG, STEP_MM = 0.05, 0.05

    def __init__(self, volume: Volume, centre_mm: np.ndarray, device: str, unit: float = 1.0):
        """Take the voxels of a volume, times ``unit``, about ``centre_mm`` (3,)."""
        import torch
        from nanodrr.data import Subject

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)

        sizes = np.array(volume.shape)
        grid_from_voxel = geometry.translation(1 / sizes - 1) @ np.diag([*(2 / sizes), 1])
        image = tensor(volume.data.transpose(2, 1, 0))[None, None] * unit
        inverse = geometry.invert(volume.affine)
        self._subject = Subject(
            image,
            torch.zeros_like(image),
            tensor(volume.affine),
            tensor(inverse),
            tensor(grid_from_voxel),
            tensor(volume.isocentre_mm),
            max_label=0,
            convert_to_mu=False,
        ).to(device)
        self._device = device
        self.voxel_mm = voxel_edge_mm(volume)
        self._samples = int(np.ceil(np.linalg.norm(sizes)))
        self.centre_mm = centre_mm

    def about(self, centre_mm: np.ndarray) -> NanodrrRenderer:
        """Return a renderer of the same voxels; see `common.drr.renderer.Renderer`."""
        other = copy.copy(self)
        other.centre_mm = centre_mm
        return other

    def render(self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]) -> np.ndarray:
        """Return line integrals; see `common.drr.renderer.ImageRenderer`."""
        import torch
        from nanodrr.drr import render

        each = one_per_camera(detectors, len(cameras))
        intrinsics = np.stack([detector.intrinsics for detector in each])
        intrinsics[:, :2, 2] += 0.5  # nanodrr counts pixel centres from 0.5

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=self._device)

        with torch.no_grad():
            images = render(
                self._subject,
                tensor(np.linalg.inv(intrinsics)),
                tensor(np.asarray(cameras)),
                tensor(np.array([detector.sdd_mm for detector in each])),
                each[0].height,
                each[0].width,
                n_samples=self._samples,
            )
        return images[:, 0].cpu().numpy()

    def render_with_jacobian(
        self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return line integrals and their derivative; see `common.drr.renderer.Renderer`."""
        steps = np.array([np.radians(self.STEP_DEG)] * 3 + [self.STEP_MM] * 3)
        moves = [
            geometry.twist(sign * step * np.eye(6)[axis], self.centre_mm)
            for axis, step in enumerate(steps)
            for sign in (1, -1)
        ]
        moved = np.stack([np.eye(4), *moves]) @ np.asarray(cameras)[:, None]  # (B, 13, 4, 4)
        each = [d for d in one_per_camera(detectors, len(cameras)) for _ in range(moved.shape[1])]
        images = self.render(moved.reshape(-1, 4, 4), each)
        images = images.reshape(*moved.shape[:2], *images.shape[1:])
        doubled = (2 * steps[:, None, None]).astype(np.float32)
        return images[:, 0], (images[:, 1::2] - images[:, 2::2]) / doubled

    def coarser(self, voxel_mm: float) -> NanodrrRenderer:
        """Return the renderer itself: a GPU is not faster with larger voxels."""
        return self
