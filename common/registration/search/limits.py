"""What is known of a pose before the search: a stated pose range, or a bone next to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.geometry.pose_range import PoseRange

SLACK_DEG = 8.0  # of a stated range: the templates are as far apart
SLACK_MM = 4.0
SLACK_DEPTH = 1.06  # depths of a bank are 9 % apart


@dataclass(frozen=True)
class Near:
    """Where the body's centre may lie: at a distance from a point."""

    point: np.ndarray  # (3,) mm, in the rig or the camera's frame
    least_mm: float
    most_mm: float


@dataclass(frozen=True)
class Limits:
    """Poses that count; without ``ranges`` and ``near`` all of them."""

    ranges: PoseRange | None = None  # of the first view
    near: Near | None = None

    def seen_by(self, camera_from_rig: np.ndarray, first: bool) -> Limits:
        """The limits in the frame of one view's camera."""
        near = self.near and replace(
            self.near, point=geometry.apply(camera_from_rig, self.near.point)
        )
        return Limits(self.ranges if first else None, near)

    def orientations(self, rotations: np.ndarray) -> np.ndarray:
        """(V,) bool: orientations (V, 3, 3), volume_from_camera, that count."""
        if self.ranges is None:
            return np.ones(len(rotations), bool)
        return self.ranges.outside_deg(rotations) <= SLACK_DEG

    def depths(self, depths_mm: np.ndarray) -> np.ndarray:
        """(D,) bool: distances of the body's centre from the source that count."""
        if self.ranges is None:
            return np.ones(len(depths_mm), bool)
        low, high = self.ranges.ty
        return (depths_mm > low / SLACK_DEPTH) & (depths_mm < high * SLACK_DEPTH)

    def centres(self, centres: np.ndarray) -> np.ndarray:
        """(...) bool: places (..., 3) of the body's centre in the camera's frame that count."""
        allowed = np.ones(centres.shape[:-1], bool)
        if self.near is not None:
            distance = np.linalg.norm(centres - self.near.point, axis=-1)
            allowed &= (distance >= self.near.least_mm) & (distance <= self.near.most_mm)
        if self.ranges is not None:
            for axis, (low, high) in enumerate((self.ranges.tx, self.ranges.tz)):
                values = centres[..., axis]
                allowed &= (values >= low - SLACK_MM) & (values <= high + SLACK_MM)
        return allowed


NO_LIMITS = Limits()
