"""Poses of both bones in one world over the frames of a movement: what the pose files hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.errors import InputError
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.movement import JointPose

# x right and y up in the image, z towards the source: from x right, y down, z to the detector
UPRIGHT_FROM_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])
EVEN = 0.01  # of the interval between frames: more is not a constant rate


@dataclass(frozen=True, eq=False)
class BonePoses:
    """Both bones over N frames, proximal first; frames without a pose are NaN.

    The world is the frame of the first view's camera (x along image columns, y along rows
    downwards, z from the source to the detector), or that of its calibration.
    """

    names: tuple[str, ...]  # of the frames
    bones: tuple[str, str]
    times: np.ndarray | None  # (N,) seconds
    world_from_scanner: np.ndarray  # (N, 2, 4, 4); scanner: the original CT, RAS mm
    scanner_from_frame: np.ndarray  # (2, 4, 4) anatomical frames
    world_from_camera: np.ndarray  # (4, 4)
    calibrated: bool  # whether the world is that of a calibration

    @property
    def known(self) -> np.ndarray:
        """Mask (N,) of the frames with a pose of both bones."""
        return np.asarray(np.isfinite(self.world_from_scanner[:, :, 0, 0]).all(axis=1))

    @property
    def world_from_frame(self) -> np.ndarray:
        """(N, 2, 4, 4) of the anatomical frames."""
        return self.world_from_scanner @ self.scanner_from_frame

    @property
    def camera_from_scanner(self) -> np.ndarray:
        """(N, 2, 4, 4) of the first view's camera."""
        return geometry.invert(self.world_from_camera) @ self.world_from_scanner

    @property
    def laboratory_from_frame(self) -> np.ndarray:
        """(N, 2, 4, 4) in a world whose y points up: the camera's turned, a calibration's as is."""
        turn = np.eye(4) if self.calibrated else UPRIGHT_FROM_CAMERA
        return turn @ self.world_from_frame


def rate_hz(times: np.ndarray | None, what: str) -> float:
    """Return the constant rate of frames at times (N,), seconds.

    Raises InputError if there is none; ``what`` names the format that needs it.
    """
    if times is None or len(times) < 2:
        raise InputError(
            "format", f"no times of two frames, for {what}", "`fps` or `time`", "add one of them"
        )
    steps = np.diff(times)
    if np.ptp(steps) > EVEN * steps.mean():
        raise InputError(
            "format",
            f"the frames are {steps.min():g} to {steps.max():g} s apart",
            f"a constant rate, which {what} needs",
            "choose another format, or resample the movement",
        )
    return float(1 / steps.mean())


def bone_poses(
    joints: Sequence[JointPose],
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
    times: np.ndarray | None,
    world_from_camera: np.ndarray | None = None,
) -> BonePoses:
    """Return the poses of a movement; ``world_from_camera`` is that of a calibration."""
    poses = np.full((len(joints), 2, 4, 4), np.nan)
    world = np.eye(4) if world_from_camera is None else world_from_camera
    for number, joint in enumerate(joints):
        if joint.known:
            cameras = np.stack([bone.scanner_from_camera for bone in joint.bones])
            poses[number] = world @ geometry.invert(cameras)
    return BonePoses(
        tuple(joint.name for joint in joints),
        (frames[0].bone, frames[1].bone),
        times,
        poses,
        np.stack([frame.scanner_from_frame for frame in frames]),
        world,
        world_from_camera is not None,
    )
