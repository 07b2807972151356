"""The scene of a registration: views, and structures as bodies that the solver renders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common import geometry
from common.drr.joseph import FusedRenderer
from common.drr.renderer import Renderer, make_renderer
from common.registration.request import XrayRequest
from common.volume.attenuation import WATER_PER_MM
from common.volume.materials import rendered_above_hu, surface_hu
from common.volume.mesh import is_surface, read_mesh
from common.volume.surface import extract_surface
from common.volume.symmetry import mirror_planes
from common.volume.volume import Volume
from common.xray.xray import Xray

SURFACE_VOXELS = 150  # along the longest side of a CT, for its iso-surface


@dataclass(frozen=True)
class View:
    """One X-ray of an instant, with its camera in the rig."""

    xray: Xray
    # (4, 4); the identity for a single view
    rig_from_camera: np.ndarray = field(default_factory=lambda: np.eye(4))
    request: XrayRequest | None = None  # what it was read by, to read it with another polarity
    # (H, W) bool: not valid, but only because metal hides there what is behind it
    hidden: np.ndarray | None = None

    def flip(self) -> View:
        """Return the view flipped left to right, with its place in the rig.

        Bodies then appear as mirror images of themselves.
        """
        mirror = geometry.MIRROR
        rig_from_camera = mirror @ self.rig_from_camera @ mirror
        hidden = None if self.hidden is None else self.hidden[:, ::-1]
        return replace(self, xray=self.xray.flip(), rig_from_camera=rig_from_camera, hidden=hidden)

    def behind(self, hidden: np.ndarray) -> View:
        """Return the view where metal hides pixels (H, W) bool: nothing is compared there."""
        xray = self.xray
        hidden = hidden & xray.valid
        if self.hidden is not None:
            hidden = hidden | self.hidden
        return replace(self, xray=replace(xray, valid=xray.valid & ~hidden), hidden=hidden)

    def share_in_view(self, body: Body, pose: np.ndarray) -> float:
        """Return the fraction of a body's points in the valid field at a pose (volume_from_rig).

        What metal hides is in it.
        """
        camera, valid = pose @ self.rig_from_camera, self.xray.valid
        if self.hidden is not None:
            valid = valid | self.hidden
        return geometry.share_in_view(body.points, self.xray.detector, camera, valid)


@dataclass(frozen=True)
class Body:
    """A structure as the solver renders it."""

    renderer: Renderer
    points: np.ndarray  # (N, 3) of the structure, mm in the volume frame
    # the structure alone, if ``renderer`` shows its surroundings too
    outline: Renderer | None = None
    complete: bool = False  # a whole CT: the X-ray shows nothing else
    # (K, 3) points where the CT ends inside the bone: the X-ray has no edges there
    ends: np.ndarray | None = None
    # standard deviation of the place of its surface: that of a masked CT is partly estimated
    surface_sd_mm: float = 0.0
    metal: bool = False  # it hides what is behind it: its silhouette and edges are compared

    @property
    def centre_mm(self) -> np.ndarray:
        """Point (3,) about which the body rotates, in the volume frame."""
        return self.renderer.centre_mm

    @property
    def alone(self) -> Renderer:
        """Renderer of the structure without its surroundings."""
        return self.outline or self.renderer

    @property
    def radius_mm(self) -> float:
        """Largest distance of its points from its centre."""
        return float(np.linalg.norm(self.points - self.centre_mm, axis=1).max())

    @property
    def half_width_mm(self) -> float:
        """Half its extent along its second principal axis, as of a uniform density."""
        return self._half_extents_mm()[1]

    @property
    def half_thickness_mm(self) -> float:
        """Half its extent along its thinnest principal axis, as of a uniform density."""
        return self._half_extents_mm()[0]

    def _half_extents_mm(self) -> list[float]:
        return np.sqrt(3 * np.maximum(np.linalg.eigvalsh(np.cov(self.points.T)), 0)).tolist()


@dataclass(frozen=True)
class Structure:
    """One bone, several labels or a whole CT to register."""

    ct: Volume  # as on disk, Hounsfield units
    whole: Volume  # whole attenuation of the rendered structures, 1/mm, for the DRRs
    body: Body
    excess: bool  # the solver renders the excess attenuation over soft tissue
    mask: Path | None
    labels: tuple[int, ...] | None
    # (4, 4) scanner_from_camera of the X-ray as stored on disk, for a stated start pose
    start_camera: np.ndarray | None = None
    context: Structure | None = None  # the whole CT around it, which is searched for instead

    def starting_at(self, camera: np.ndarray | None) -> Structure:
        """Return the structure with a start pose; if it has that, itself, with all it has made."""
        mine = self.start_camera
        same = camera is mine is None or (
            camera is not None and mine is not None and np.array_equal(camera, mine)
        )
        return self if same else replace(self, start_camera=camera)

    @cached_property
    def drr(self) -> Renderer:
        """Renderer of `whole` on the CPU, for the DRRs of a result: the body's own if it is one."""
        alone = self.body.alone
        if not self.excess and isinstance(alone, FusedRenderer):
            return alone
        return make_renderer(self.whole, "cpu")

    @cached_property
    def mirror_planes(self) -> list[np.ndarray]:
        """Reflections (4, 4), in the volume frame, that map the structure onto itself nearly."""
        return mirror_planes(self.whole)

    @cached_property
    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3), mm in the volume frame, and triangles (T, 3).

        They are those of the file, or the iso-surface of the rendered structures of a CT.
        """
        if self.ct.path and is_surface(self.ct.path):
            mesh = read_mesh(self.ct.path)
            return mesh.vertices, mesh.triangles
        hu = self.whole.data * (1000 / WATER_PER_MM) + rendered_above_hu(self.ct.lineage)
        rendered = Volume(hu, self.whole.affine, self.ct.lineage, self.ct.path)
        return extract_surface(rendered, surface_hu(self.ct.lineage), SURFACE_VOXELS)
