"""The pose range that a pose network is trained on and that the search covers. numpy only.

Three angles in degrees (Euler ZXY) and the offset from source to isocentre in millimetres, as in
`geometry.pose_from_angles`: with orientation AP, ty is the distance from source to isocentre, and
tx and tz move the isocentre across the detector.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from common.errors import InputError
from common.geometry.diffdrr import (
    Orientation,
    angles_from_pose,
    pose_from_angles,
    pose_from_camera,
)

Interval: TypeAlias = tuple[float, float]
FULL_TURN_DEG = 360


@dataclass(frozen=True)
class PoseRange:
    """Lowest and highest value of each pose parameter.

    The defaults are those of an antero-posterior knee X-ray.
    """

    r1: Interval = (-30.0, 30.0)  # degrees about the patient's long axis
    r2: Interval = (-15.0, 15.0)  # degrees of tilt towards head or foot
    r3: Interval = (-25.0, 25.0)  # degrees in the image plane
    tx: Interval = (-50.0, 50.0)  # mm across the patient
    ty: Interval = (750.0, 950.0)  # mm from source to isocentre
    tz: Interval = (-50.0, 50.0)  # mm along the patient

    @property
    def limits(self) -> np.ndarray:
        """(2, 6): lowest and highest r1 r2 r3 tx ty tz."""
        return np.array([getattr(self, name) for name in NAMES], float).T

    @property
    def middle(self) -> np.ndarray:
        """(6,): centre of the range."""
        return self.limits.mean(axis=0)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return (count, 6) parameters, drawn uniformly and independently."""
        low, high = self.limits
        return rng.uniform(low, high, (count, 6))

    def poses(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return (count, 4, 4) DiffDRR extrinsics at random parameters."""
        return poses_from_parameters(self.sample(count, rng))

    def outside_deg(self, rotations: np.ndarray) -> np.ndarray:
        """Return how far (N,) rotations (N, 3, 3), volume_from_camera, are from the range.

        It is the angle in degrees to the rotation with each of r1, r2, r3 moved into its interval,
        of both triples of angles that stand for a rotation.
        """
        from scipy.spatial.transform import Rotation

        cameras = np.tile(np.eye(4), (len(rotations), 1, 1))
        cameras[:, :3, :3] = rotations
        poses = pose_from_camera(cameras)
        angles, _ = angles_from_pose(poses)
        low, high = self.limits[:, :3]
        middle, half = (low + high) / 2, (high - low) / 2
        nearest = []
        for each in (angles, angles * [1, -1, 1] + 180.0):
            off = (each - middle + 180) % 360 - 180
            moved = Rotation.from_euler("ZXY", middle + np.clip(off, -half, half), degrees=True)
            turn = np.einsum("nij,nij->n", moved.as_matrix(), poses[:, :3, :3])
            nearest.append(np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))))
        return np.min(nearest, axis=0)

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {low:g}..{high:g} {UNITS[name]}"
            for name, (low, high) in zip(NAMES, self.limits.T, strict=True)
        )


NAMES = tuple(field.name for field in fields(PoseRange))
UNITS = {name: "deg" if name.startswith("r") else "mm" for name in NAMES}
MEANING = {
    "r1": "rotation about the patient's long axis",
    "r2": "tilt towards head or foot",
    "r3": "rotation in the image plane",
    "tx": "offset across the patient",
    "ty": "distance from source to isocentre",
    "tz": "offset along the patient",
}


def any_side(sdd_mm: float) -> PoseRange:
    """Return the range of what a clinic takes: AP to lateral on either side, for this SDD."""
    return PoseRange(
        r1=(-110.0, 110.0),
        r2=(-20.0, 20.0),
        r3=(-30.0, 30.0),
        tx=(-80.0, 80.0),
        ty=(round(0.70 * sdd_mm), round(0.93 * sdd_mm)),
        tz=(-80.0, 80.0),
    )


def oriented(pose_range: PoseRange, orientation: Orientation) -> PoseRange:
    """Return a range of AP poses as one of the same cameras in one of DiffDRR's orientations.

    The source is at +y for AP, at -y for PA and at -z without an orientation.
    """
    near, far = pose_range.ty
    return {
        "AP": pose_range,
        "PA": turned_about(pose_range, -180),
        None: replace(pose_range, ty=pose_range.tz, tz=(-far, -near)),
    }[orientation]


def turned_about(pose_range: PoseRange, degrees: float = 180) -> PoseRange:
    """Return the same cameras as poses of the opposite orientation: AP to PA, or PA to AP.

    That is half a turn about z on the right of the extrinsics. With D = Rz(180),
    R D = Rz(r1 + 180) Rx(-r2) Ry(-r3), and the offset becomes (-tx, -ty, tz).
    """
    flipped = {
        name: (-getattr(pose_range, name)[1], -getattr(pose_range, name)[0])
        for name in ("r2", "r3", "tx", "ty")
    }
    return replace(
        pose_range, r1=(pose_range.r1[0] + degrees, pose_range.r1[1] + degrees), **flipped
    )


def poses_from_parameters(parameters: np.ndarray) -> np.ndarray:
    """Return (N, 4, 4) DiffDRR extrinsics of (N, 6) rows r1 r2 r3 (degrees) tx ty tz (mm)."""
    return np.array([pose_from_angles(row[:3], row[3:]) for row in parameters]).reshape(-1, 4, 4)


def check(pose_range: PoseRange, source: str | Path | None = None) -> None:
    """Raise InputError if an interval cannot be sampled: empty, not finite, above a full turn.

    The error names ``source``, the file that states the range, or else the setting.
    """
    for name in NAMES:
        low, high = getattr(pose_range, name)
        if not (np.isfinite(low) and np.isfinite(high)) or high <= low:
            expected, remedy = "a low and a higher end", "widen the range"
        elif name.startswith("r") and high - low > FULL_TURN_DEG:
            expected, remedy = "at most a full turn", "narrow the range"
        else:
            continue
        found = f"{low:g} to {high:g} {UNITS[name]}"
        if source is None:
            raise InputError(f"`{name}`", f"found {found}", expected, remedy)
        raise InputError(source, f"pose range {name} is {found}", expected, "train it again")
