"""A CT from a surface: each voxel holds the share of it that is inside, in Hounsfield units."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.lineage import Lineage
from common.volume.materials import (
    CORTICAL_HU,
    SHELL_MM,
    VOXELISED_STEP,
    Material,
    inside_hu,
)
from common.volume.mesh import Mesh, read_mesh
from common.volume.volume import Volume

logger = logging.getLogger(__name__)

VOXEL_MM, MOST_VOXELS = 0.5, 40e6  # larger parts have larger voxels
LINES = 21  # through each pillar of voxels, along which inside is found exactly
MARGIN = 2  # voxels around the surface
CLOSE = 0.01  # by which the volume of the voxels may differ from that of the surface
MOST_OVERLAP = 0.2  # of the volume of a surface that crosses itself or has parts that overlap


def load_surface(
    path: str | Path,
    material: Material | None = None,
    voxel_mm: float | None = None,
    unit: str | None = None,
) -> Volume:
    """Return a surface as a CT (I, J, K) int16 in soft tissue, in the frame of the surface.

    Without ``material``, bone is assumed and logged. ``voxel_mm`` defaults to `VOXEL_MM`, or more
    for a large part. Raises InputError as `read_mesh`, or if the surface crosses itself.
    """
    mesh = read_mesh(path, unit)
    for remark in mesh.remarks:
        logger.warning(f"{mesh.path.name}: {remark}")
    if material is None:
        logger.warning(
            f"{mesh.path.name}: assumed to be bone; state `material` (metal for an implant)"
        )
    made_of = material or "bone"
    size = voxel_mm or _voxel_mm(mesh)
    share, affine = occupancy(mesh, size)
    _check_volume(mesh, float(share.sum()) * size**3)
    source = {"name": mesh.path.name, "sha256": files.sha256(mesh.path)}
    lineage = Lineage(mesh.scanner_from_file, source).then(
        VOXELISED_STEP, _settings(mesh, made_of, size, unit)
    )
    hu = SOFT_TISSUE_HU + share * (inside_hu(made_of) - SOFT_TISSUE_HU)
    if made_of == "cortical-shell":
        hu += _shell(share, size) * (CORTICAL_HU - inside_hu(made_of))
    return Volume(np.rint(hu).astype(np.int16), affine, lineage, mesh.path)


def occupancy(mesh: Mesh, voxel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each voxel inside a mesh, (I, J, K) float32 in 0..1, and the affine.

    It is the integral of the winding number along lines through the voxel, clipped: parts that
    overlap count once, and a part turned inwards is a cavity.
    """
    from common.volume import voxelise_kernel

    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    shape = np.ceil((high - low) / voxel_mm).astype(int) + 2 * MARGIN
    corner = (low + high) / 2 - shape * voxel_mm / 2
    whole, part = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    voxelise_kernel.add_crossings(
        (mesh.vertices - corner) / voxel_mm, mesh.triangles, _lines(), whole, part
    )
    below = np.cumsum(whole[:, :, ::-1], axis=2)[:, :, ::-1] - whole
    share = np.clip((below + part) / LINES, 0, 1)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = corner + voxel_mm / 2
    return share, affine


def _lines() -> np.ndarray:
    """Return where `LINES` lines pass through a pillar, (S, 2) in 0..1: a Fibonacci lattice.

    No two share a coordinate, so that a face along an axis is found between lines, too.
    """
    number = np.arange(LINES) + 0.5
    return np.stack([number / LINES, number * (5**0.5 - 1) / 2 % 1], axis=1)


def _voxel_mm(mesh: Mesh) -> float:
    box = float(np.prod(np.ptp(mesh.vertices, axis=0) + 2 * MARGIN * VOXEL_MM))
    return max(VOXEL_MM, float(np.cbrt(box / MOST_VOXELS)))


def _check_volume(mesh: Mesh, voxels_mm3: float) -> None:
    """Raise InputError if voxels and surface enclose volumes that differ much."""
    surface_mm3 = mesh.volume_mm3
    if abs(voxels_mm3 - surface_mm3) <= CLOSE * surface_mm3:
        return
    found = f"its triangles enclose {surface_mm3:.0f} mm^3, its voxels {voxels_mm3:.0f} mm^3"
    if (1 - MOST_OVERLAP) * surface_mm3 < voxels_mm3 < surface_mm3:
        logger.warning(f"{mesh.path.name}: {found}: it overlaps itself, and counts once there")
        return
    raise InputError(
        mesh.path,
        found,
        "a surface that does not cross itself",
        "repair it (Blender: Remesh; MeshLab: Alpha wrap)",
    )


def _shell(share: np.ndarray, voxel_mm: float) -> np.ndarray:
    """Return the part of the share of each voxel within `SHELL_MM` of the outside."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(share > 0.5) * voxel_mm - voxel_mm / 2
    return share * np.clip((SHELL_MM - depth) / voxel_mm + 0.5, 0, 1)


def _settings(mesh: Mesh, material: Material, voxel_mm: float, unit: str | None) -> dict[str, Any]:
    return {
        "material": material,
        "voxel_mm": voxel_mm,
        "unit": unit or "mm",
        "triangles": len(mesh.triangles),
        "volume_mm3": round(mesh.volume_mm3, 1),
        "repaired": list(mesh.remarks),
    }
