"""Cameras from points of a known object: linear start, then least squares of the pixel distances.

The start is the direct linear transform (Hartley and Zisserman, Multiple View Geometry, 7.1), with
both coordinates normalised. Pixels are square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.geometry import rotation_matrix
from common.xray.pinhole import Pinhole, camera_of_matrix

LEAST_POINTS = 6
# third singular value of the points over the first; less is a plane, which leaves the distance open
LEAST_DEPTH = 0.02


@dataclass(frozen=True)
class CameraFit:
    """A fitted camera and its residuals."""

    camera: Pinhole
    residuals_px: np.ndarray  # (N,) distances of the points in the image

    @property
    def rms_px(self) -> float:
        """Root mean square of the residuals."""
        return float(np.sqrt((self.residuals_px**2).mean()))


def fit_camera(
    path: Path, points_mm: np.ndarray, pixels: np.ndarray, size: tuple[int, int]
) -> CameraFit:
    """Return the camera that sees points (N, 3), mm, at pixels (N, 2), (column, row).

    ``size`` is (width, height) of the image, ``path`` the file of the pixels, for messages. Raises
    InputError for too few points, or points in one plane.
    """
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    spread = np.linalg.svd(points_mm - points_mm.mean(axis=0), compute_uv=False)
    if len(points_mm) < LEAST_POINTS or spread[2] < LEAST_DEPTH * spread[0]:
        found = "lie in one plane" if len(points_mm) >= LEAST_POINTS else f"are {len(points_mm)}"
        raise InputError(
            path,
            f"its points {found}",
            f"{LEAST_POINTS} points or more that fill a space",
            "add points of the object",
        )
    start = camera_of_matrix(path, _linear(points_mm, pixels))
    focal = (start.matrix[0, 0] + start.matrix[1, 1]) / 2
    turn = Rotation.from_matrix(start.rotation).as_rotvec()
    scale = np.r_[1.0, 1.0, 1.0, np.full(3, np.linalg.norm(start.shift)), np.full(3, focal)]
    first = np.r_[turn, start.shift, focal, start.matrix[:2, 2]] / scale

    def camera_of(x: np.ndarray) -> Pinhole:
        x = x * scale
        matrix = np.array([[x[6], 0, x[7]], [0, x[6], x[8]], [0, 0, 1.0]])
        return Pinhole(*size, matrix, rotation_matrix(x[:3]), x[3:6])

    def distances(x: np.ndarray) -> np.ndarray:
        return (project(camera_of(x), points_mm) - pixels).ravel()

    camera = camera_of(least_squares(distances, first, method="lm", xtol=1e-14, ftol=1e-14).x)
    return CameraFit(camera, np.linalg.norm(project(camera, points_mm) - pixels, axis=1))


def project(camera: Pinhole, points_mm: np.ndarray) -> np.ndarray:
    """Return pixels (N, 2), (column, row), of points (N, 3), mm."""
    seen = (points_mm @ camera.rotation.T + camera.shift) @ camera.matrix.T
    return seen[:, :2] / seen[:, 2:]


def triangulate(cameras: Sequence[Pinhole], pixels: np.ndarray) -> np.ndarray:
    """Return points (N, 3), mm, nearest to the rays through pixels (V, N, 2) of V cameras."""
    found = []
    for number in range(pixels.shape[1]):
        rows = []
        for camera, (column, row) in zip(cameras, pixels[:, number], strict=True):
            matrix = camera.matrix @ np.c_[camera.rotation, camera.shift]
            rows += [column * matrix[2] - matrix[0], row * matrix[2] - matrix[1]]
        rows = [each / np.linalg.norm(each[:3]) for each in rows]
        system = np.array(rows)
        found.append(np.linalg.lstsq(system[:, :3], -system[:, 3], rcond=None)[0])
    return np.array(found)


def _linear(points_mm: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the projection matrix (3, 4) of the direct linear transform."""
    in_space, in_image = _normalising(points_mm), _normalising(pixels)
    x = np.c_[points_mm, np.ones(len(points_mm))] @ in_space.T
    u = np.c_[pixels, np.ones(len(pixels))] @ in_image.T
    zeros = np.zeros_like(x)
    system = np.concatenate([np.c_[x, zeros, -u[:, :1] * x], np.c_[zeros, x, -u[:, 1:2] * x]])
    matrix = np.linalg.svd(system)[2][-1].reshape(3, 4)
    return np.linalg.inv(in_image) @ matrix @ in_space


def _normalising(points: np.ndarray) -> np.ndarray:
    """Return the transform that moves points (N, D) to the origin, at a mean distance of sqrt D."""
    count = points.shape[1]
    middle = points.mean(axis=0)
    scale = np.sqrt(count) / np.linalg.norm(points - middle, axis=1).mean()
    transform = np.diag([*[scale] * count, 1.0])
    transform[:count, count] = -scale * middle
    return transform
