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
STEP_RAD, STEP_MM = 1e-5, 1e-3  # of the central differences of the coordinates

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
        return _half(self.covariances)

    def frame_band(self) -> np.ndarray:
        """Return half the width (N, 6) of the systematic 95 % band from the anatomical frames."""
        return _half(self.frame_covariances)


def _half(covariances: np.ndarray) -> np.ndarray:
    """Return half the width (N, 6) of 95 % bands; a variance that rounding makes negative is 0."""
    return BAND * np.sqrt(np.maximum(np.diagonal(covariances, axis1=1, axis2=2), 0))


def movement(
    joints: Sequence[JointPose],
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
    coordinates: Coordinates,
) -> Movement:
    """Return the coordinates of a joint in every frame, with first-order bands.

    The covariance of the coordinates is J S J^T: S is that of the relative twist of both bones,
    which is linear in the twists of both poses and of both anatomical frames, J the derivatives of
    the coordinates by it.
    """
    count = len(joints)
    known = np.array([number for number, joint in enumerate(joints) if joint.known], int)
    values = np.full((count, 6), np.nan)
    spreads, systematic, relative = (np.full((count, 6, 6), np.nan) for _ in range(3))
    poses = np.full((count, 4, 4), np.nan)
    names = tuple(joint.name for joint in joints)
    if len(known):
        first, second = _camera_from_frames([joints[number] for number in known], frames)
        values[known] = coordinates(first, second)
        poses[known] = geometry.invert(first) @ second
        by_pose = _relative_by_poses([joints[number] for number in known], first)
        slopes = slopes_of(coordinates, poses[known])
        stated = np.stack([joints[number].covariance for number in known])
        relative[known] = _carried(by_pose, stated)
        spreads[known] = _carried(slopes @ by_pose, stated)
        # frames turn along their own axes: the proximal one against the distal bone
        by_frame = np.concatenate(
            [np.tile(-np.eye(6), (len(known), 1, 1)), geometry.adjoint(poses[known])], axis=2
        )
        of_frames = np.zeros((12, 12))
        of_frames[:6, :6], of_frames[6:, 6:] = (frame.covariance for frame in frames)
        systematic[known] = _carried(slopes @ by_frame, of_frames)
    return Movement(names, values, spreads, systematic, poses, relative)


def slopes_of(coordinates: Coordinates, poses: np.ndarray) -> np.ndarray:
    """Return the derivatives (K, 6, 6) of coordinates by small left twists of poses (K, 4, 4).

    ``poses`` are proximal_from_distal, the twists are about the proximal origin along its axes.
    By central differences, of angles across their seam too.
    """
    steps = np.repeat([STEP_RAD, STEP_MM], 3)
    around = np.zeros(3)
    ends = [
        coordinates(
            np.eye(4),
            np.stack([geometry.twist(sign * row, around) for row in np.diag(steps)])[:, None]
            @ poses,
        )
        for sign in (1, -1)
    ]
    change = ends[0] - ends[1]  # (6 twists, K, 6 coordinates)
    change[..., :3] = (change[..., :3] + 180) % 360 - 180
    return np.moveaxis(change / (2 * steps[:, None, None]), 0, -1)


def _carried(linear: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the covariances (K, 6, 6) of linear functions (K, 6, M)."""
    return linear @ covariance @ np.swapaxes(linear, -1, -2)


def _camera_from_frames(
    joints: Sequence[JointPose], frames: tuple[AnatomicalFrame, AnatomicalFrame]
) -> tuple[np.ndarray, np.ndarray]:
    """Return camera_from_frame (K, 4, 4) of the proximal and the distal bone."""
    cameras = np.stack([[bone.scanner_from_camera for bone in joint.bones] for joint in joints])
    inverse = geometry.invert(cameras)
    first, second = (
        inverse[:, number] @ frame.scanner_from_frame for number, frame in enumerate(frames)
    )
    return first, second


def _relative_by_poses(joints: Sequence[JointPose], camera_from_first: np.ndarray) -> np.ndarray:
    """Return the derivatives (K, 6, 12) of the left twists of proximal_from_distal.

    They are by the left twists of scanner_from_camera of both bones about their centres, radians
    and mm: the camera of a bone moves against the bone.
    """
    first_from_camera = geometry.invert(camera_from_first)
    parts = []
    for number, sign in ((0, 1.0), (1, -1.0)):
        bones = [joint.bones[number] for joint in joints]
        cameras = geometry.invert(np.stack([bone.scanner_from_camera for bone in bones]))
        about_origin = np.tile(np.eye(6), (len(bones), 1, 1))
        about_origin[:, 3:, :3] = geometry.cross_matrix(np.stack([b.centre_mm for b in bones]))
        parts.append(sign * geometry.adjoint(first_from_camera @ cameras) @ about_origin)
    return np.concatenate(parts, axis=2)


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
