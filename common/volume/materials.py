"""Materials of surfaces: what a voxel inside of one attenuates, and which one a volume was made of.

A surface becomes a CT in soft tissue, which a material displaces: its excess attenuation counts.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from common.volume.hounsfield import AIR_HU, BONE_SURFACE_HU, SOFT_TISSUE_HU
from common.volume.lineage import Lineage

Material: TypeAlias = Literal["metal", "plastic", "cortical-shell", "bone"]
MATERIALS: tuple[Material, ...] = get_args(Material)
VOXELISED_STEP = "voxelise_surface"  # in the history of a lineage; its settings name the material

# Metal hides what is behind it. Cobalt-chrome lets through half the beam at 0.5 mm, which voxels
# and the blur of an image intensifier do not resolve: with its true attenuation, the silhouette
# would be too large. With 0.2 per mm in voxels of half a millimetre, it is right
# (benchmarks/README.md, 'Implants')
METAL_HU = 10_400.0
PLASTIC_HU = 300.0  # bone cement, PEEK; polyethylene is not seen in an X-ray
CORTICAL_HU, TRABECULAR_HU = 1500.0, 250.0
BONE_HU = 700.0  # mean of a bone's end with its cortex
SHELL_MM = 2.0  # thickness of the cortex of a shell


def inside_hu(material: Material) -> float:
    """Return the Hounsfield units inside a surface; of a shell, those of its inside."""
    return {
        "metal": METAL_HU,
        "plastic": PLASTIC_HU,
        "cortical-shell": TRABECULAR_HU,
        "bone": BONE_HU,
    }[material]


def material_of(lineage: Lineage) -> Material | None:
    """Return the material of the surface that a volume was made from; None for a CT."""
    for entry in lineage.history:
        if entry["step"] == VOXELISED_STEP:
            return entry["settings"]["material"]
    return None


def is_metal(lineage: Lineage) -> bool:
    """Return whether a volume was made from the surface of a metal part."""
    return material_of(lineage) == "metal"


def surface_hu(lineage: Lineage) -> float:
    """Return the Hounsfield units of the iso-surface to draw: of bone, or half inside a surface."""
    material = material_of(lineage)
    return BONE_SURFACE_HU if material is None else (SOFT_TISSUE_HU + inside_hu(material)) / 2


def rendered_above_hu(lineage: Lineage) -> float:
    """Return the Hounsfield units above which a volume is rendered as a DRR.

    A CT is rendered as a whole, a surface without the tissue around it.
    """
    return AIR_HU if material_of(lineage) is None else SOFT_TISSUE_HU
