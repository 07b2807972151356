"""The anatomical frame of a tibia from its plateau and its shaft.

Y is the axis of the shaft below the tuberosity. Z is the direction in which the plateau is widest,
made perpendicular to Y: either of the articular faces of both compartments (after Renault et al.,
J Biomech 79:213, 2018) or of the largest cross-section (Miranda et al., J Biomech 43:1623, 2010).
The two differ by several degrees about Y, which shifts the zero of internal rotation: compare
tibias by one method only. X = Y x Z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from common.errors import InputError
from common.kinematics.bone_surface import BoneSurface
from common.kinematics.shaft import SLAB_MM, Shaft, find_shaft

TibiaMethod: TypeAlias = Literal["plateau", "section"]

# sections of the shaft's axis, mm below the plateau: the same in short and long crops, since the
# centroids of a tibia lie on a curve
SHAFT_MM = (40.0, 75.0)
PLATEAU_MM = 16.0  # the articular faces are within this distance of the highest point
# n . Y from which a face begins to count and counts in full, 44 and 28 degrees: with the slope of a
# plateau, up to 15 degrees; steps here would move the axis with the sampling of the surface
FACING_UP = (0.72, 0.88)
# distance from the level of the faces up to which they count in full, and no longer count: the
# spines of the eminence are higher, the rim is lower
LEVEL_MM = (4.0, 8.0)
LEVELLING = 30  # rounds
SECTION_MM = 6.0  # thickness of the largest cross-section
LEAST_WIDER = 1.15  # width of the plateau by its depth; below it, neither is known
LEAST_BEHIND_MM = 2.0  # of the plateau behind the shaft's axis
LEAST_AREA_MM2 = 600.0  # of articular faces; adults have 1500 to 2500


@dataclass(frozen=True, eq=False)
class TibiaFit:
    """A fitted plateau with what it was fitted to, in the scanner frame."""

    frame: np.ndarray  # (4, 4) scanner_from_frame
    width_mm: float  # of the plateau, along Z
    wider: float  # width by depth
    faces: np.ndarray  # (K, 3) centres of the triangles, or points of the section


def tibia_frame(
    bone: BoneSurface, method: TibiaMethod = "plateau", name: str = "the tibia"
) -> TibiaFit:
    """Return the anatomical frame of a proximal tibia.

    Its origin is the centre of the largest cross-section, level with the articular faces. Raises
    InputError as `find_shaft`, and if the plateau does not determine the axes; ``name`` names the
    bone.
    """
    shaft = find_shaft(bone, *SHAFT_MM, name)
    section = _largest_section(bone, shaft)
    faces, level = _articular(bone, shaft)
    if faces.areas.sum() < LEAST_AREA_MM2:
        raise InputError(
            name,
            f"shows {faces.areas.sum():.0f} mm² of faces that look up",
            f"a whole plateau of at least {LEAST_AREA_MM2:g} mm²",
            "crop the CT with the whole joint, or state `landmarks`",
        )
    points, weights = (
        (faces.centres, faces.areas)
        if method == "plateau"
        else (section, np.full(len(section), bone.point_volume_mm3))
    )
    across, wider = _widest(points, weights, shaft)
    if wider < LEAST_WIDER:
        raise InputError(
            name,
            f"its plateau is {wider:.2f} times as wide as deep",
            f"at least {LEAST_WIDER}, to tell sideways from forward",
            "check the labelmap, or state `landmarks`",
        )
    proximal = -shaft.direction
    forward = np.cross(proximal, across)
    centre = section.mean(axis=0)
    distance = float((centre - shaft.point_mm) @ forward)
    if abs(distance) < LEAST_BEHIND_MM:
        raise InputError(
            name,
            f"its plateau lies {abs(distance):.1f} mm off the shaft's axis",
            f"at least {LEAST_BEHIND_MM:g} mm behind it, to tell forward from backward",
            "check the labelmap, or state `landmarks`",
        )
    forward *= -np.sign(distance)
    frame = np.eye(4)
    frame[:3, :3] = np.stack([forward, proximal, np.cross(forward, proximal)], axis=1)
    frame[:3, 3] = centre + (level - shaft.heights(centre)) * shaft.direction
    width = np.quantile(section @ frame[:3, 2], [0.001, 0.999])
    return TibiaFit(frame, float(width[1] - width[0]), wider, points[weights > 0])


def _largest_section(bone: BoneSurface, shaft: Shaft) -> np.ndarray:
    """Return the points (K, 3) of the bone around its largest section."""
    heights = shaft.heights(bone.solid)
    slabs = max(1, round(SECTION_MM / SLAB_MM))
    smoothed = np.convolve(shaft.areas_mm2, np.ones(slabs) / slabs, mode="same")
    level = shaft.heights_mm[smoothed.argmax()]
    return bone.solid[np.abs(heights - level) < SECTION_MM / 2]


def _articular(bone: BoneSurface, shaft: Shaft) -> tuple[BoneSurface, float]:
    """Return the faces of the plateau that look up, and their level, mm from the highest point.

    The areas of the returned triangles are weighted by how well they face up and keep the level.
    """
    heights = shaft.heights(bone.centres)
    up = _ramp(bone.normals @ -shaft.direction, *FACING_UP)
    near = (heights < PLATEAU_MM) & (up > 0)
    faces, depth = bone.part(near), heights[near]
    facing = faces.areas * up[near]
    weights = facing
    for _ in range(LEVELLING):
        level = float(np.average(depth, weights=weights))
        weights = facing * (1 - _ramp(np.abs(depth - level), *LEVEL_MM))
    return replace(faces, areas=weights), level


def _ramp(values: np.ndarray, zero: float, one: float) -> np.ndarray:
    """Return 0 up to ``zero``, 1 from ``one`` on, and a smooth step between."""
    share = np.clip((values - zero) / (one - zero), 0, 1)
    return share**2 * (3 - 2 * share)


def _widest(points: np.ndarray, weights: np.ndarray, shaft: Shaft) -> tuple[np.ndarray, float]:
    """Return the direction (3,) across the shaft in which points spread most, and the ratio."""
    offset = points - np.average(points, axis=0, weights=weights)
    flat = offset - (offset @ shaft.direction)[:, None] * shaft.direction
    spread, axes = np.linalg.eigh(np.cov(flat.T, aweights=weights))
    return axes[:, 2], float(np.sqrt(spread[2] / spread[1]))
