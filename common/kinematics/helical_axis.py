"""Finite helical axes: each step of a movement as a rotation about a line and a shift along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import geometry

# below it, the position of the axis is mostly noise: its error is that of a translation divided by
# 2 sin(angle / 2) (Woltring et al., J Biomech 18:379, 1985)
LEAST_STEP_DEG = 10.0


@dataclass(frozen=True)
class HelicalAxis:
    """The axis of the motion of a distal bone between two frames, in the proximal bone's frame."""

    first: int
    last: int
    direction: np.ndarray  # (3,) unit vector
    point_mm: np.ndarray  # (3,) of the axis, closest to the origin of the proximal frame
    angle_deg: float
    shift_mm: float  # along the direction


def helical_axis(motion: np.ndarray, first: int = 0, last: int = 1) -> HelicalAxis:
    """Return the axis of a motion (4, 4), between 0 and 180 degrees exclusive.

    ``motion`` moves points of the bone from their position in frame ``first`` to that in ``last``.
    With x' = R x + t = R (x - p) + p + s n, the shift s is n . t, and the point p of the axis
    nearest to the origin is (t - s n + cot(angle / 2) n x t) / 2.
    """
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(motion[:3, :3]).as_rotvec()
    angle = float(np.linalg.norm(turn))
    direction, moved = turn / angle, motion[:3, 3]
    shift = float(direction @ moved)
    across = moved - shift * direction
    point = (across + np.cross(direction, moved) / np.tan(angle / 2)) / 2
    return HelicalAxis(first, last, direction, point, float(np.degrees(angle)), shift)


def helical_axes(
    proximal_from_distal: np.ndarray, least_deg: float = LEAST_STEP_DEG
) -> list[HelicalAxis]:
    """Return the axes of consecutive steps of a movement (N, 4, 4), each of ``least_deg`` or more.

    Each step begins where the previous one ends. Frames of NaN (without a pose) are skipped.
    """
    poses = np.asarray(proximal_from_distal, float)
    known = [int(i) for i in np.flatnonzero(np.isfinite(poses).all(axis=(1, 2)))]
    found: list[HelicalAxis] = []
    first = known[0] if known else 0
    for last in known[1:]:
        motion = poses[last] @ geometry.invert(poses[first])
        if geometry.rotation_angle_deg(motion[:3, :3]) >= least_deg:
            found.append(helical_axis(motion, first, last))
            first = last
    return found
