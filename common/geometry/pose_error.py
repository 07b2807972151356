"""Distance of a pose from the ground truth, split by direction, and poses near it. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.geometry.camera import Detector, project
from common.geometry.transforms import apply, invert, rotation_angle_deg, twist


@dataclass(frozen=True)
class PoseError:
    """Distance between two poses of a structure in one view, averaged over points of it."""

    # mean target registration error: 3D distance of the points in the camera frame
    mtre_mm: float
    in_plane_mm: float  # its part parallel to the detector
    depth_mm: float  # its part along the principal ray
    rotation_deg: float
    projection_mm: float  # distance of the projected points, at the detector

    def as_dict(self) -> dict[str, float]:
        """Return the errors by name, in plain numbers."""
        return {name: float(getattr(self, name)) for name in self.__dataclass_fields__}


def pose_error(
    camera: np.ndarray, truth: np.ndarray, points: np.ndarray, detector: Detector
) -> PoseError:
    """Return the error of ``camera`` relative to ``truth``, both frame_from_camera (4, 4).

    ``points`` (N, 3) are points of the structure, mm in that frame.
    """
    offset = apply(invert(camera), points) - apply(invert(truth), points)
    shift = (
        project(points, detector, camera) - project(points, detector, truth)
    ) * detector.pixel_mm
    return PoseError(
        mtre_mm=float(np.linalg.norm(offset, axis=1).mean()),
        in_plane_mm=float(np.linalg.norm(offset[:, :2], axis=1).mean()),
        depth_mm=float(np.abs(offset[:, 2]).mean()),
        rotation_deg=rotation_angle_deg(camera[:3, :3].T @ truth[:3, :3]),
        projection_mm=float(np.linalg.norm(shift, axis=1).mean()),
    )


def displaced(
    camera: np.ndarray,
    centre: np.ndarray,
    deg: float,
    mm: float,
    depth_mm: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return a camera (4, 4) near another one, at random.

    It is turned about ``centre`` (3,) by up to ``deg``, and shifted by up to ``mm`` parallel to the
    detector and ``depth_mm`` along the principal ray.
    """
    axis, plane = rng.normal(size=3), rng.normal(size=2)
    turn = np.radians(rng.uniform(0, deg)) * axis / np.linalg.norm(axis)
    across = rng.uniform(0, mm) * plane / np.linalg.norm(plane)
    shift = np.r_[across, rng.uniform(-depth_mm, depth_mm)]
    return twist(np.r_[turn, camera[:3, :3] @ shift], centre) @ camera
