"""The 3D scene of a registration as JSON entries that the script of a page draws.

Frame: the volume frame, RAS mm, rounded to 0.1 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.reports.registered import Registered
from common.reports.scene_3d import place_detector

# along the longest axis: about 10,000 triangles, 150 kB of a page
SURFACE_VOXELS = 56


@dataclass(frozen=True)
class SceneEntries:
    """Source and detector around the surface of a volume, which several scenes may share."""

    surface: str  # name of the volume
    source: list[float]  # (3,)
    corners: list[list[float]]  # (4, 3), as in `scene_3d.Scene`
    foot: list[float]  # (3,)


@dataclass(frozen=True)
class SurfaceEntries:
    """A surface, flattened."""

    vertices: list[float]  # (3 V,)
    triangles: list[int]  # (3 T,)


def scene_entries(registered: Registered) -> SceneEntries:
    """Return source and detector at the final pose."""
    result = registered.result
    camera = result.volume_from_camera()
    corners, foot = place_detector(camera, result.detector)
    return SceneEntries(
        registered.volume_path.name,
        camera[:3, 3].round(1).tolist(),
        corners.round(1).tolist(),
        foot.round(1).tolist(),
    )


def surface_entries(registered: Registered) -> SurfaceEntries | None:
    """Return the surface of the registered structure, or None if its CT is missing."""
    from common.volume import hounsfield, nifti, surface, volume
    from common.volume.materials import surface_hu

    if not registered.volume_path.exists():
        return None
    ct = nifti.load_ct(registered.volume_path, material=registered.result.material)
    mask = registered.result.drr.get("mask")
    if mask and Path(mask).exists():
        labelmap = nifti.load_labelmap(mask, ct).data
        labels = registered.result.drr.get("labels")
        kept = np.isin(labelmap, labels) if labels else labelmap > 0
        ct = volume.Volume(
            np.where(kept, ct.data, int(hounsfield.AIR_HU)), ct.affine, ct.lineage, ct.path
        )
    vertices, triangles = surface.extract_surface(ct, surface_hu(ct.lineage), SURFACE_VOXELS)
    return SurfaceEntries(vertices.round(1).ravel().tolist(), triangles.ravel().tolist())
