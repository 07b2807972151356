"""A joint over the frames of a movement: poses of both bones, joint coordinates and their bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.errors import InputError
from common.kinematics.frame_file import AnatomicalFrame
from common.results.pose_uncertainty import PoseUncertainty
from common.results.result import Result, VerdictCode

BAND = 1.959964  # standard deviations of a two-sided 95 % band
STEP_RAD, STEP_MM = 1e-5, 1e-3  # of the central differences

Coordinates = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of two poses (..., 4, 4): (..., 6)


@dataclass(frozen=True, eq=False)
class BonePose:
    """One bone in one frame."""

    scanner_from_camera: np.ndarray  # (4, 4), as if the bone had stayed and the camera had moved
    centre_mm: np.ndarray  # (3,) about which its covariance turns, in the scanner frame
    verdict: VerdictCode

    @property
    def known(self) -> bool:
        """Whether the registration did not fail."""
        return self.verdict != "failed"


@dataclass(frozen=True, eq=False)
class JointPose:
    """Both bones in one frame, proximal first."""

    name: str
    bones: tuple[BonePose, BonePose]
    covariance: np.ndarray  # (12, 12) of the left twists of both, radians and mm

    @property
    def known(self) -> bool:
        """Whether both poses are known."""
        return all(bone.known for bone in self.bones)


def joint_pose(name: str, proximal: Result, distal: Result) -> JointPose:
    """Return the pose of a joint from two results.

    Bones from one solve keep their correlation; others are independent. Raises InputError if a
    result of an earlier version has no covariance.
    """
    first, second = proximal.pose_uncertainty, distal.pose_uncertainty
    if first is None or second is None:
        raise InputError(
            name, "has a pose without covariance", "results of this version", "register again"
        )
    covariance = np.zeros((12, 12))
    covariance[:6, :6], covariance[6:, 6:] = first.own, second.own
    if (number := _together(first, second)) is not None:
        covariance[:6, 6:] = first.covariance[:6, 6 * number : 6 * number + 6]
        covariance[6:, :6] = covariance[:6, 6:].T
    bones = [
        BonePose(each.scanner_pose[0].camera, stated.centres_mm[0], each.verdict.code)
        for each, stated in ((proximal, first), (distal, second))
    ]
    return JointPose(name, (bones[0], bones[1]), covariance)


def _together(first: PoseUncertainty, second: PoseUncertainty) -> int | None:
    """Return where the first solve has the second bone, or None if they were solved apart."""
    for number in range(1, len(first.bones)):
        block = slice(6 * number, 6 * number + 6)
        if first.bones[number] == second.bones[0] and np.allclose(
            first.covariance[block, block], second.own, rtol=1e-6, atol=0
        ):
            return number
    return None


@dataclass(frozen=True, eq=False)
class Movement:
    """Joint coordinates of N frames; rows of frames without a pose are NaN."""

    names: tuple[str, ...]
    values: np.ndarray  # (N, 6)
    covariances: np.ndarray  # (N, 6, 6) of the values, from the poses
    frame_covariances: np.ndarray  # (N, 6, 6) from both anatomical frames: the same error in all
    proximal_from_distal: np.ndarray  # (N, 4, 4)
    # (N, 6, 6) of the left twist of proximal_from_distal about the proximal origin, along its axes
    relative_covariances: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Numbers (K,) of the frames with a pose of both bones."""
        return np.flatnonzero(np.isfinite(self.values[:, 0]))

    def band(self) -> np.ndarray:
        """Return half the width (N, 6) of the 95 % band from the poses."""
        return BAND * np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))

    def frame_band(self) -> np.ndarray:
        """Return half the width (N, 6) of the systematic 95 % band from the anatomical frames."""
        return BAND * np.sqrt(np.diagonal(self.frame_covariances, axis1=1, axis2=2))


def movement(
    joints: Sequence[JointPose],
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
    coordinates: Coordinates,
) -> Movement:
    """Return the coordinates of a joint in every frame, with first-order bands.

    The covariance of the coordinates is J S J^T with the derivatives J by central differences.
    """
    count = len(joints)
    values = np.full((count, 6), np.nan)
    spreads, systematic, relative = (np.full((count, 6, 6), np.nan) for _ in range(3))
    poses = np.full((count, 4, 4), np.nan)
    of_frames = np.zeros((12, 12))
    of_frames[:6, :6], of_frames[6:, 6:] = (frame.covariance for frame in frames)
    for number, joint in enumerate(joints):
        if not joint.known:
            continue
        values[number] = coordinates(*placed(joint, frames))
        by_pose = _jacobian(lambda t, at=joint: coordinates(*placed(at, frames, t)))
        spreads[number] = by_pose @ joint.covariance @ by_pose.T
        by_frame = _jacobian(lambda t, at=joint: coordinates(*placed(at, frames, in_frames=t)))
        systematic[number] = by_frame @ of_frames @ by_frame.T
        first, second = placed(joint, frames)
        poses[number] = geometry.invert(first) @ second
        turn = _jacobian(lambda t, at=joint, mean=poses[number]: _relative(at, frames, t, mean))
        relative[number] = turn @ joint.covariance @ turn.T
    return Movement(
        tuple(joint.name for joint in joints), values, spreads, systematic, poses, relative
    )


def placed(
    joint: JointPose,
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
    in_scanner: np.ndarray | None = None,
    in_frames: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return camera_from_frame (4, 4) of both bones.

    ``in_scanner`` (12,) are left twists of scanner_from_camera, ``in_frames`` (12,) twists of the
    anatomical frames along their own axes; by default none.
    """
    found = []
    for number, (bone, frame) in enumerate(zip(joint.bones, frames, strict=True)):
        part = slice(6 * number, 6 * number + 6)
        camera, place = bone.scanner_from_camera, frame.scanner_from_frame
        if in_scanner is not None:
            camera = geometry.twist(in_scanner[part], bone.centre_mm) @ camera
        if in_frames is not None:
            place = place @ geometry.twist(in_frames[part], np.zeros(3))
        found.append(geometry.invert(camera) @ place)
    return found[0], found[1]


def _relative(
    joint: JointPose,
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
    twists: np.ndarray,
    mean: np.ndarray,
) -> np.ndarray:
    """Return the left twist (6,) of proximal_from_distal that twists of both poses cause."""
    from scipy.spatial.transform import Rotation

    first, second = placed(joint, frames, twists)
    moved = geometry.invert(first) @ second @ geometry.invert(mean)
    return np.r_[Rotation.from_matrix(moved[:3, :3]).as_rotvec(), moved[:3, 3]]


def _jacobian(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the derivatives (6, 12) at zero."""
    columns = []
    for number in range(12):
        step = STEP_RAD if number % 6 < 3 else STEP_MM
        twist = np.eye(12)[number] * step
        columns.append((function(twist) - function(-twist)) / (2 * step))
    return np.stack(columns, axis=1)
