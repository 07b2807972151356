"""The CPU renderer: Joseph's method, with its pose derivative in the same pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common import geometry
from common.drr.voxels import Voxels
from common.geometry import Detector, one_per_camera
from common.volume.volume import Volume, block_average, voxel_edge_mm

# larger volumes do not stay in the cache of a core: their voxels are prefetched
CACHED_BYTES = 8_000_000
NEAREST_MM = 1.0


class FusedRenderer:
    """DRRs and their pose derivative on the CPU, by the kernels of `common.drr.joseph_kernel`.

    Voxels have 16 bits: an image is within 2e-5 of its largest value from that of exact ones.
    """

    def __init__(self, volume: Volume, centre_mm: np.ndarray, unit: float = 1.0):
        """Take the voxels of a volume, times ``unit``, about ``centre_mm`` (3,)."""
        from common.drr import joseph_kernel

        self._kernel = joseph_kernel
        self._voxels = Voxels.of(volume, unit)
        self._grid = replace(volume, data=self._voxels.inside)
        self._coarser: dict[tuple[int, ...], FusedRenderer] = {}
        padded = self._voxels.padded
        self._sizes = np.array(padded.shape)
        self._strides = np.array(padded.strides) // padded.itemsize
        self._ahead = padded.nbytes > CACHED_BYTES
        self._voxel_from_world = geometry.translation(np.ones(3)) @ geometry.invert(volume.affine)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in padded.shape])).reshape(3, -1).T
        corners = geometry.apply(geometry.invert(self._voxel_from_world), corners)
        self._corners = np.c_[corners, np.ones(8)][:, :, None]  # (8, 4, 1) of the layer of zeros
        self.voxel_mm = voxel_edge_mm(volume)
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]) -> np.ndarray:
        """Return line integrals; see `common.drr.renderer.ImageRenderer`."""
        each = one_per_camera(detectors, len(cameras))
        rays = np.stack([_rays(*pair) for pair in zip(cameras, each, strict=True)])
        out = np.zeros((len(cameras), each[0].height, each[0].width), np.float32)
        boxes = self._boxes(cameras, each)
        self._kernel.integrate(*self._stored, boxes, self._to_voxels(rays), _table(each), out)
        return out

    def render_with_jacobian(
        self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return line integrals and their derivative; see `common.drr.renderer.Renderer`."""
        each = one_per_camera(detectors, len(cameras))
        rays = np.stack([_rays(*pair) for pair in zip(cameras, each, strict=True)])
        shape = each[0].height, each[0].width
        out = np.zeros((len(cameras), *shape), np.float32)
        jacobian = np.zeros((len(cameras), 6, *shape), np.float32)
        self._kernel.integrate_with_jacobian(
            *self._stored,
            self._boxes(cameras, each),
            self._to_voxels(rays),
            _table(each),
            rays,
            np.ascontiguousarray(self._voxel_from_world[:3, :3]),
            self.centre_mm,
            out,
            jacobian,
        )
        return out, jacobian

    def coarser(self, voxel_mm: float) -> FusedRenderer:
        """Return the volume averaged to voxels of about ``voxel_mm``, cached."""
        factors = tuple(max(1, int(voxel_mm / mm + 0.5)) for mm in self._grid.spacing_mm)
        if factors == (1, 1, 1):
            return self
        if factors not in self._coarser:
            coarse = block_average(self._grid, factors)
            self._coarser[factors] = FusedRenderer(coarse, self.centre_mm, self._voxels.scale)
        return self._coarser[factors]

    def about(self, centre_mm: np.ndarray) -> FusedRenderer:
        """Return a renderer of the same voxels; see `common.drr.renderer.Renderer`."""
        other = copy.copy(self)
        other.centre_mm, other._coarser = centre_mm, {}
        return other

    @property
    def _stored(self) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, bool]:
        """The first arguments of the kernels."""
        voxels = self._voxels
        return voxels.flat, voxels.scale, self._sizes, self._strides, self._ahead

    def _boxes(self, cameras: np.ndarray, detectors: Sequence[Detector]) -> np.ndarray:
        """Return which pixels can see the volume (B, 4), see `joseph_kernel.integrate`."""
        seen = np.linalg.inv(cameras)[:, None, :3, :] @ self._corners  # (B, 8, 3, 1)
        depths = seen[:, :, 2]
        # beside the source, the volume has no outline
        beside = depths.min(axis=1, keepdims=True) < NEAREST_MM
        table = _table(detectors)[:, None, :]
        at = table[..., :2] + table[..., 4:] / table[..., 2:4] * (
            seen[:, :, :2, 0] / np.where(beside, 1.0, depths)
        )
        size = np.array([[detector.width, detector.height] for detector in detectors])
        low = np.where(beside[:, 0], 0, np.clip(np.floor(at.min(1)), 0, size))
        high = np.where(beside[:, 0], size, np.clip(np.ceil(at.max(1)) + 1, low, size))
        return np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1).astype(np.int64)

    def _to_voxels(self, rays: np.ndarray) -> np.ndarray:
        """Return the rays (B, 4, 3) of `_rays` in indices of the padded volume."""
        voxels = rays @ self._voxel_from_world[:3, :3].T
        voxels[:, 0] += self._voxel_from_world[:3, 3]
        return voxels


def _rays(camera: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the rays of a camera (4, 3), mm in the volume frame.

    The rows are the source, the step from source to pixel (0, 0), and the steps to the next column
    and to the next row.
    """
    right, down, forward, source = camera[:3].T
    dx, dy = detector.pixel_mm
    first = (
        detector.sdd_mm * forward
        - detector.principal_px[0] * dx * right
        - detector.principal_px[1] * dy * down
    )
    return np.stack([source, first, dx * right, dy * down])


def _table(detectors: Sequence[Detector]) -> np.ndarray:
    """Return the detectors as rows (B, 5) of `joseph_kernel.integrate`."""
    return np.array([(*d.principal_px, *d.pixel_mm, d.sdd_mm) for d in detectors])
