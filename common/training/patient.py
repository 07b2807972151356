"""A patient as training renders them: layers of attenuation that can continue beyond the CT."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.drr.renderer import Device, Renderer, make_renderer
from common.volume.volume import Volume, affine_of_box


@dataclass(frozen=True)
class Layer:
    """Attenuation (1/mm) of one part of a CT; its outermost slices are repeated beyond the CT.

    Voxels have 16 bits, ``unit`` is the attenuation of a voxel of 1. ``ct_from_layer`` (4, 4) maps
    voxel indices, by scales and translations only. ``centre_mm`` (3,) is the point that a labelled
    neighbour rotates about, in the canonical frame; None for others.
    """

    volume: Volume
    unit: float
    ct_from_layer: np.ndarray
    centre_mm: np.ndarray | None = None

    def within(self, low: np.ndarray, high: np.ndarray) -> Volume:
        """The voxels between two corners (3,) in voxel indices of the CT; at least one voxel."""
        scale, shift = self.ct_from_layer[:3, :3].diagonal(), self.ct_from_layer[:3, 3]
        sizes = np.array(self.volume.shape)
        first = np.clip(np.ceil((low - shift) / scale), 0, sizes - 1).astype(int)
        last = np.clip(np.floor((high - shift) / scale), first, sizes - 1).astype(int)
        i, j, k = (slice(a, b + 1) for a, b in zip(first, last, strict=True))
        return Volume(
            self.volume.data[i, j, k],
            affine_of_box(self.volume.affine, (i, j, k)),
            self.volume.lineage,
            self.volume.path,
        )


@dataclass(frozen=True)
class Renderers:
    """Renderers of a patient's layers.

    ``tissue`` and ``others`` have half the resolution of ``bone``. Each of ``others`` comes with
    the centre of its layer, see `Layer`.
    """

    bone: Renderer
    tissue: Renderer
    others: tuple[tuple[Renderer, np.ndarray | None], ...]


@dataclass(frozen=True)
class Patient:
    """The layers of one CT, with the points and lengths that place and judge poses.

    ``points_mm`` (N, 3) are points of the bone in the canonical frame; ``shape`` and ``spacing_mm``
    (3,) are those of the CT. The layers continue for ``beyond_mm`` (3,) beyond either face of the
    CT, along its axes. ``others`` are the labelled neighbours and then all remaining bone; they are
    empty without a labelmap.
    """

    name: str
    isocentre_mm: np.ndarray
    points_mm: np.ndarray
    shape: tuple[int, int, int]
    spacing_mm: np.ndarray
    beyond_mm: np.ndarray
    bone: Layer
    tissue: Layer
    others: tuple[Layer, ...]
    device: Device

    @property
    def size_bytes(self) -> int:
        """Memory of the layers."""
        return sum(layer.volume.data.nbytes for layer in (self.bone, self.tissue, *self.others))

    def cameras(self, canonical_from_camera: np.ndarray) -> np.ndarray:
        """Cameras (B, 4, 4) of the canonical frame in the volume frame."""
        return geometry.translation(self.isocentre_mm) @ canonical_from_camera

    @functools.cached_property
    def ct_renderers(self) -> Renderers:
        """Renderers of the layers cut at the faces of the CT."""
        return self.renderers(np.zeros((2, 3)))

    def renderers(self, beyond_mm: np.ndarray) -> Renderers:
        """Renderers of the layers up to ``beyond_mm`` outside the CT.

        ``beyond_mm`` (2, 3) is measured from the first and the last face along each axis.
        """
        beyond = beyond_mm / self.spacing_mm
        low, high = -0.5 - beyond[0], np.array(self.shape) - 0.5 + beyond[1]

        def renderer(layer: Layer) -> Renderer:
            return make_renderer(
                layer.within(low, high), self.device, self.isocentre_mm, layer.unit
            )

        return Renderers(
            renderer(self.bone),
            renderer(self.tissue),
            tuple((renderer(other), other.centre_mm) for other in self.others),
        )
