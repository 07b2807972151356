"""The reference renderer: DiffDRR's exact integral over voxels (Siddon's method)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common import geometry
from common.geometry import Detector, one_per_camera
from common.volume.volume import Volume, voxel_edge_mm


class SiddonRenderer:
    """DRRs by DiffDRR's exact integral over voxels; slow, without a derivative."""

    def __init__(self, volume: Volume, centre_mm: np.ndarray, device: str = "cpu"):
        import torch
        import torchio
        from diffdrr.data import read

        image = torchio.ScalarImage(
            tensor=torch.as_tensor(np.ascontiguousarray(volume.data, np.float32))[None],
            affine=volume.affine,
        )
        # DiffDRR's conversion of HU to density fails without soft tissue and takes several times
        # the memory of the volume: it converts a placeholder, which is then replaced
        placeholder = torchio.ScalarImage(
            tensor=torch.linspace(-1000, 1000, 8).reshape(1, 2, 2, 2), affine=volume.affine
        )
        self._subject: Any = read(placeholder, orientation="AP", center_volume=False)
        self._subject.density = image
        self._device = device
        self.voxel_mm = voxel_edge_mm(volume)
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]) -> np.ndarray:
        """Return line integrals; see `common.drr.renderer.ImageRenderer`."""
        import torch
        from diffdrr.drr import DRR
        from diffdrr.pose import RigidTransform

        images = []
        with torch.no_grad():
            for camera, detector in zip(
                cameras, one_per_camera(detectors, len(cameras)), strict=True
            ):
                drr = DRR(
                    self._subject,
                    reverse_x_axis=True,
                    renderer="siddon",
                    **detector.diffdrr_arguments(),
                ).to(self._device)
                pose = torch.as_tensor(
                    geometry.pose_from_camera(camera), dtype=torch.float32, device=self._device
                )[None]
                images.append(drr(RigidTransform(pose))[0, 0].cpu().numpy())
        return np.stack(images)
