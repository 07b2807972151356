"""Functional alignment: constant corrections of both frames that lower varus and rotation.

After REFRAME (Ortigas-Vásquez et al., Sci Rep 13:9632, 2023): the frames of both bones are turned
so that the root mean square of varus and internal rotation over a movement is least. What remains
no longer depends on how the axes were placed; but a varus or a rotation that the knee really has
throughout is removed too. Origins stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common import geometry
from common.errors import InputError
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.joint_coordinates import Side, knee_coordinates

# below it, a turn of the femur and one of the tibia change the angles alike
LEAST_FLEXION_DEG = 30.0
LEAST_FRAMES = 5
MOST_DEG = 15.0  # of a correction; the axes of two methods differ by up to 10 degrees


@dataclass(frozen=True, eq=False)
class Alignment:
    """Constant turns of both frames about their own axes, and what they lower."""

    femur_deg: np.ndarray  # (3,) rotation vector along X, Y, Z of the femur's frame; Z is 0
    tibia_deg: np.ndarray  # (3,) of the tibia's
    before_deg: np.ndarray  # (2,) root mean square of varus and internal rotation
    after_deg: np.ndarray  # (2,)
    frames: int  # that they were found from

    @property
    def most_deg(self) -> float:
        """The larger of both corrections."""
        return float(max(np.linalg.norm(self.femur_deg), np.linalg.norm(self.tibia_deg)))

    def aligned(
        self, frames: tuple[AnatomicalFrame, AnatomicalFrame]
    ) -> tuple[AnatomicalFrame, AnatomicalFrame]:
        """Return both frames with their corrections."""
        femur, tibia = (
            replace(frame, scanner_from_frame=frame.scanner_from_frame @ _turn(np.radians(turn)))
            for frame, turn in zip(frames, (self.femur_deg, self.tibia_deg), strict=True)
        )
        return femur, tibia

    def entries(self) -> dict[str, Any]:
        """Return the corrections as stored in ``kinematics.json``."""
        return {
            "method": "REFRAME: least root mean square of varus and internal rotation",
            "meaning": "rotation vectors along the axes of each anatomical frame, degrees",
            "femur_deg": self.femur_deg.round(4).tolist(),
            "tibia_deg": self.tibia_deg.round(4).tolist(),
            "rms_before_deg": dict(zip(("VV", "IE"), self.before_deg.round(4), strict=True)),
            "rms_after_deg": dict(zip(("VV", "IE"), self.after_deg.round(4), strict=True)),
            "frames": self.frames,
        }


def align(femur_from_tibia: np.ndarray, side: Side) -> Alignment:
    """Return the corrections from poses (N, 4, 4) of a knee; rows of NaN are left out.

    Turns about the flexion axis itself are left at 0, so that the zero of flexion stays. Raises
    InputError for too few frames, or less than `LEAST_FLEXION_DEG` of flexion in them.
    """
    from scipy.optimize import least_squares

    known = femur_from_tibia[np.isfinite(femur_from_tibia).all(axis=(1, 2))]
    if len(known) < LEAST_FRAMES:
        raise InputError(
            "align",
            f"has {len(known)} frames with a pose that is ok",
            f"at least {LEAST_FRAMES}",
            "leave `align` out",
        )
    flexion = knee_coordinates(np.eye(4), known, side)[:, 0]
    if np.ptp(flexion) < LEAST_FLEXION_DEG:
        raise InputError(
            "align",
            f"flexion ranges over {np.ptp(flexion):.1f} degrees",
            f"at least {LEAST_FLEXION_DEG:g}, below which both corrections cannot be told apart",
            "leave `align` out",
        )

    def angles(turns: np.ndarray) -> np.ndarray:
        """Return varus and internal rotation (N, 2), degrees."""
        femur, tibia = (_turn(np.r_[part, 0.0]) for part in (turns[:2], turns[2:]))
        moved = geometry.invert(femur) @ known @ tibia
        return knee_coordinates(np.eye(4), moved, side)[:, 1:3]

    found = least_squares(lambda turns: angles(turns).ravel(), np.zeros(4), xtol=1e-12, ftol=1e-12)
    before, after = (np.sqrt((angles(turns) ** 2).mean(axis=0)) for turns in (np.zeros(4), found.x))
    femur, tibia = np.degrees(found.x[:2]), np.degrees(found.x[2:])
    return Alignment(np.r_[femur, 0.0], np.r_[tibia, 0.0], before, after, len(known))


def _turn(rotation: np.ndarray) -> np.ndarray:
    """Return the transform (4, 4) of a rotation vector, radians."""
    return geometry.twist(np.r_[rotation, np.zeros(3)], np.zeros(3))
