"""Digitally reconstructed radiographs behind one interface: `Renderer`.

`FusedRenderer` runs on any CPU, `NanodrrRenderer` on CUDA and MPS, `SiddonRenderer` is DiffDRR's exact integral for
reference pictures. All take attenuation in 1/mm and return line integrals (no unit), for cameras in the volume's world.
"""

from __future__ import annotations

import numpy as np

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.volume.volume import Volume, block_average, voxel_edge_mm


class FusedRenderer:
    """Joseph's method on the CPU, value and pose derivative in one sweep (`common.raycast_cpu`)."""

    def __init__(self, volume: Volume, centre_mm: np.ndarray):
        from common.drr import joseph_kernel

        self._kernel = joseph_kernel
        self._volume = volume
        self.voxel_mm = voxel_edge_mm(volume)
        self._coarser: dict[tuple[int, int, int], FusedRenderer] = {}
        padded = joseph_kernel.pad(volume.data)
        if padded.size >= 2**31:
            raise InputError(
                volume.name,
                f"{padded.size:.1e} voxels",
                "fewer than 2^31",
                "crop the CT to the bone (crop_cts.py)",
            )
        self._voxels = padded.ravel(order="K")
        self._sizes = np.array(padded.shape)
        self._strides = np.array(padded.strides) // padded.itemsize
        self._voxel_from_world = geometry.translation(np.ones(3)) @ geometry.invert(volume.affine)
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detector: Detector) -> np.ndarray:
        rays = np.stack([_rays(camera, detector) for camera in cameras])
        out = np.empty((len(cameras), detector.height, detector.width), np.float32)
        self._kernel.integrate(
            self._voxels,
            self._sizes,
            self._strides,
            self._to_voxels(rays),
            _ray_lengths(detector),
            out,
        )
        return out

    def render_with_jacobian(
        self, camera: np.ndarray, detector: Detector
    ) -> tuple[np.ndarray, np.ndarray]:
        rays = _rays(camera, detector)
        out = np.empty((detector.height, detector.width), np.float32)
        jacobian = np.empty((6, detector.height, detector.width), np.float32)
        self._kernel.integrate_with_jacobian(
            self._voxels,
            self._sizes,
            self._strides,
            self._to_voxels(rays[None]),
            _ray_lengths(detector),
            rays,
            np.ascontiguousarray(self._voxel_from_world[:3, :3]),
            self.centre_mm,
            out,
            jacobian,
        )
        return out, jacobian

    def coarser(self, voxel_mm: float) -> FusedRenderer:
        factors = tuple(max(1, int(voxel_mm / mm + 0.5)) for mm in self._volume.spacing_mm)
        if factors == (1, 1, 1):
            return self
        if factors not in self._coarser:
            self._coarser[factors] = FusedRenderer(
                block_average(self._volume, factors), self.centre_mm
            )
        return self._coarser[factors]

    def _to_voxels(self, rays: np.ndarray) -> np.ndarray:
        voxels = rays @ self._voxel_from_world[:3, :3].T
        voxels[:, 0] += self._voxel_from_world[:3, 3]
        return voxels


def _rays(camera: np.ndarray, detector: Detector) -> np.ndarray:
    """(4, 3) mm, world: source, step from source to pixel (0, 0), step along a column, step along a row."""
    right, down, forward, source = camera[:3].T
    dx, dy = detector.pixel_mm
    first = (
        detector.sdd_mm * forward
        - detector.principal_px[0] * dx * right
        - detector.principal_px[1] * dy * down
    )
    return np.stack([source, first, dx * right, dy * down])


def _ray_lengths(detector: Detector) -> np.ndarray:
    """(H, W) mm from source to each pixel."""
    x = (np.arange(detector.width) - detector.principal_px[0]) * detector.pixel_mm[0]
    y = (np.arange(detector.height) - detector.principal_px[1]) * detector.pixel_mm[1]
    return np.sqrt(x[None] ** 2 + y[:, None] ** 2 + detector.sdd_mm**2)
