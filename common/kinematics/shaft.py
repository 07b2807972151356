"""The shaft of a cropped long bone: which end is the joint's, and the axis of the shaft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from common.kinematics.bone_surface import BoneSurface

DIRECTIONS = 400  # tried for the end with the least bone, about 8 degrees apart
CAP_MM = 35.0  # a shaft has less bone within this distance of its end than any other end
SLAB_MM = 2.0
TRIM_MM = 4.0  # at the end of the shaft, where an oblique cut makes sections incomplete
LEAST_LENGTH_MM = 65.0  # of a bone, from the joint to the end of the shaft
LEAST_SECTIONS = 6
# a shaft is thinner than the end of the bone at the joint
THINNER = 0.65
# a cut end has a section of this fraction of the largest within the first slabs
CUT_JOINT = 0.55
STEPS = 60
CONVERGED = 1e-6


@dataclass(frozen=True, eq=False)
class Shaft:
    """The axis of a shaft, RAS mm of the scanner."""

    direction: np.ndarray  # (3,) unit vector from the joint to the shaft
    point_mm: np.ndarray  # (3,) of the axis, level with the end of the bone at the joint
    length_mm: float  # from the joint to the end of the shaft
    # sections across the axis from the joint on, one per `SLAB_MM`
    heights_mm: np.ndarray  # (S,) above the joint's end
    areas_mm2: np.ndarray  # (S,)

    def heights(self, points: np.ndarray) -> np.ndarray:
        """Return the heights (N,) of points (N, 3) above the end of the bone at the joint, mm."""
        return (points - self.point_mm) @ self.direction


def find_shaft(bone: BoneSurface, from_mm: float, to_mm: float, name: str = "the bone") -> Shaft:
    """Return the line through the centroids of the sections ``from_mm`` to ``to_mm`` above a joint.

    Centroids follow the shaft where principal axes follow the condyles. The end of the shaft is the
    one with the least bone in its last `CAP_MM`, whichever way the scan is turned. Raises
    InputError if the bone is a stump, has no thin end, or is cut at the joint; ``name`` names it.
    """
    direction = _thin_end(bone)
    for _ in range(STEPS):
        heights, centroids, areas, _ = _sections(bone, direction)
        length = heights[-1] + SLAB_MM / 2
        _check_length(name, length)
        last = min(to_mm, length - TRIM_MM)
        used = (heights >= min(from_mm, last - LEAST_SECTIONS * SLAB_MM)) & (heights <= last)
        middle = centroids[used].mean(axis=0)
        turned = np.linalg.svd(centroids[used] - middle)[2][0]
        turned *= np.sign(turned @ direction)
        change = np.linalg.norm(turned - direction)
        direction = turned
        if change < CONVERGED:
            break
    heights, _, areas, lowest = _sections(bone, direction)
    _check_shape(name, heights, areas)
    point = middle + (lowest - middle @ direction) * direction
    return Shaft(direction, point, float(heights[-1] + SLAB_MM / 2), heights, areas)


def _thin_end(bone: BoneSurface) -> np.ndarray:
    """Return the direction (3,) in which the last `CAP_MM` of the bone hold the least of it."""
    points = bone.solid[:: 1 + len(bone.solid) // 20_000]
    number = np.arange(DIRECTIONS) + 0.5
    z, turn = 1 - 2 * number / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * number  # Fibonacci's sphere
    flat = np.sqrt(1 - z**2)
    directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)
    along = points @ directions.T
    inside = (along > along.max(axis=0) - CAP_MM).mean(axis=0)
    return directions[inside.argmin()]


def _sections(
    bone: BoneSurface, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return heights (S,), centroids (S, 3) and areas (S,) of slabs, and where the bone begins."""
    along = bone.solid @ direction
    lowest = float(np.quantile(along, 1e-4))
    number = np.floor((along - lowest) / SLAB_MM).astype(int)
    number = np.clip(number, 0, None)
    count = np.bincount(number)
    sums = np.stack([np.bincount(number, bone.solid[:, axis]) for axis in range(3)], axis=1)
    filled = np.flatnonzero(count)
    heights = (filled + 0.5) * SLAB_MM
    areas = count[filled] * bone.point_volume_mm3 / SLAB_MM
    return heights, sums[filled] / count[filled, None], areas, lowest


def _check_length(name: str, length: float) -> None:
    if length < LEAST_LENGTH_MM:
        raise InputError(
            name,
            f"is a stump: {length:.0f} mm from the joint to its other end",
            f"at least {LEAST_LENGTH_MM:.0f} mm, of which half is shaft",
            "crop the CT with more of the shaft, or state `landmarks`",
        )


def _check_shape(name: str, heights: np.ndarray, areas: np.ndarray) -> None:
    shaft = float(np.median(areas[heights > heights[-1] - 20]))
    if shaft > THINNER * areas.max():
        raise InputError(
            name,
            f"has no shaft: its thin end has {shaft:.0f} mm², its thick end {areas.max():.0f}",
            "the end of a long bone at the joint, with part of its shaft",
            "check the labelmap, or state `landmarks`",
        )
    if areas[heights < 3].max() > CUT_JOINT * areas.max():
        raise InputError(
            name,
            "is cut at the joint: its outermost section is nearly as large as its largest",
            "the whole end of the bone at the joint",
            "crop the CT with the whole joint, or state `landmarks`",
        )
