"""Where each structure is in the X-rays of one instant: start poses, competition, verdict, and what one bone that is found says about the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, reading
from common.geometry.pose_range import PoseRange
from common.pose_network.checkpoint import Checkpoint
from common.pose_network.prediction import predict_pose
from common.registration.pyramid import View
from common.registration.scene import Structure
from common.registration.search import search
from common.volume.volume import Volume
from common.xray.xray import Xray


@dataclass(frozen=True)
class Starter:
    """Finds start poses, volume_from_rig, best first."""

    method: str  # model, search, fixed or dicom
    ranges: PoseRange
    full: bool
    checkpoint: Checkpoint | None
    network: Any
    optimizer: str = "gauss-newton"  # or adam

    def __call__(
        self, views: Sequence[View], structure: Structure, method: str | None = None
    ) -> list[np.ndarray]:
        method = method or self.method
        if method == "search":
            return search.search(views, structure.body, self.ranges, self.full)
        if method == "fixed":
            camera = given_pose(
                structure.given, views[0].xray, structure.ct.lineage.scanner_from_volume
            )
        elif method == "dicom":
            camera = positioner_pose(views[0].xray, structure.ct)
        else:
            camera = geometry.translation(structure.ct.isocentre_mm) @ geometry.camera_from_pose(
                self._predicted(views[0].xray)
            )
        return [camera @ geometry.invert(views[0].rig_from_camera)]

    def _predicted(self, xray: Xray) -> np.ndarray:
        return predict_pose(self.network, self.checkpoint, xray)


def given_pose(path: Path, xray: Xray, scanner_from_volume: np.ndarray) -> np.ndarray:
    """volume_from_camera of an earlier parameters.pt, or of a JSON whose ``camera`` is scanner_from_camera of the picture on disk."""
    if path.suffix.lower() != ".json":
        from common.results.parameters_file import load

        camera = np.array(load(path).scanner_pose[0]["camera"].tolist())
    else:
        content = files.read_json(path, "a start pose with 'camera', 4x4")
        with reading(path, "camera, a 4x4 matrix of numbers", "correct the file"):
            camera = np.array(content.get("camera"), dtype=float)
    camera = camera.reshape(-1, 4, 4)[0] if camera.size and camera.size % 16 == 0 else camera
    if not geometry.is_rigid(camera):
        raise InputError(
            path,
            "its camera is no rigid 4x4 transform",
            "scanner_from_camera as in scanner_pose of parameters.pt",
            "correct the file",
        )
    turn = np.diag([-1.0, 1, 1, 1]) if xray.flipped else np.eye(4)
    start = geometry.invert(scanner_from_volume) @ camera @ turn
    if np.linalg.det(start[:3, :3]) < 0:
        raise InputError(
            path,
            "its camera is mirrored against the picture",
            "the pose of the same X-ray and side",
            "check `flip`",
        )
    return start


def positioner_pose(xray: Xray, ct: Volume) -> np.ndarray:
    """volume_from_camera of the C-arm's angles in the header: the patient is taken to lie as in the CT, the bone's middle in the isocentre."""
    from common.xray.positioner import positioner_camera

    scanner_from_volume = ct.lineage.scanner_from_volume
    camera, _ = positioner_camera(xray.path, xray.frame)
    turn = np.diag([-1.0, 1, 1, 1]) if ct.lineage.mirrored else np.eye(4)
    return (
        geometry.invert(scanner_from_volume)
        @ geometry.translation(geometry.apply(scanner_from_volume, ct.isocentre_mm))
        @ camera
        @ turn
    )
