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


class FusedRenderer:
    """DRRs and their pose derivative on the CPU, by the kernels of `common.drr.joseph_kernel`.

    Voxels have 16 bits: an image is within 2e-5 of its largest value from that of exact ones.
    """

    def __init__(self, volume: Volume, centre_mm: np.ndarray, unit: float = 1.0):
        """Take the voxels of a volume, times ``unit``, about ``centre_mm`` (3,)."""
        from common.drr import bricks, joseph_kernel

        self._kernel, self._bricks = joseph_kernel, bricks
        self._surface: tuple[np.ndarray, int] | None = None
        self._voxels = Voxels.of(volume, unit)
        self._grid = replace(volume, data=self._voxels.inside)
        self._coarser: dict[tuple[int, ...], FusedRenderer] = {}
        padded = self._voxels.padded
        self._sizes = np.array(padded.shape)
        self._strides = np.array(padded.strides) // padded.itemsize
        self._ahead = padded.nbytes > CACHED_BYTES
        self._voxel_from_world = geometry.translation(np.ones(3)) @ geometry.invert(volume.affine)
        self._world_from_voxel = geometry.invert(self._voxel_from_world)
        self.voxel_mm = voxel_edge_mm(volume)
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detectors: Detector | Sequence[Detector]) -> np.ndarray:
        """Return line integrals; see `common.drr.renderer.ImageRenderer`."""
        each = one_per_camera(detectors, len(cameras))
        rays = np.stack([_rays(*pair) for pair in zip(cameras, each, strict=True)])
        out = np.zeros((len(cameras), each[0].height, each[0].width), np.float32)
        table = _table(each)
        tiles = self._tiles(cameras, table, out.shape[1:])
        self._kernel.integrate(*self._stored, tiles, self._to_voxels(rays), table, out)
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
        table = _table(each)
        self._kernel.integrate_with_jacobian(
            *self._stored,
            self._tiles(cameras, table, shape),
            self._to_voxels(rays),
            table,
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

    def _tiles(self, cameras: np.ndarray, table: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return where the rays of each tile may meet something, see `bricks.reached`."""
        if self._surface is None:
            self._surface = self._bricks.surface(self._voxels.padded)
        return self._bricks.reached(*self._surface, self._world_from_voxel, cameras, table, shape)

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
