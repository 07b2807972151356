"""Start poses: predicted by a network, searched, given by the user, or taken from the C-arm's angles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files, geometry
from common.errors import InputError, reading
from common.geometry.pose_range import PoseRange
from common.pose_network.checkpoint import Checkpoint
from common.pose_network.prediction import predict_pose
from common.registration.pyramid import View
from common.registration.request import Optimizer, StartMethod
from common.registration.scene import Structure
from common.registration.search import search
from common.volume.volume import Volume
from common.xray.xray import Xray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Starter:
    """Finds start poses."""

    method: StartMethod
    ranges: PoseRange
    full: bool = False  # search all orientations instead of those of the pose range
    checkpoint: Checkpoint | None = None
    network: torch.nn.Module | None = None
    optimizer: Optimizer = "gauss-newton"

    def __call__(
        self, views: Sequence[View], structure: Structure, method: StartMethod | None = None
    ) -> list[np.ndarray]:
        """Start poses (volume_from_rig), best first, by ``method`` or else the starter's own."""
        method = method or self.method
        if method == "search":
            return search.search(views, structure.body, self.ranges, self.full)
        xray, ct = views[0].xray, structure.ct
        if method == "fixed":
            camera = stated_pose(structure, xray)
        elif method == "dicom":
            camera = positioner_pose(xray, ct)
        else:
            if self.network is None or self.checkpoint is None:
                raise InputError(
                    "`init`", "model without a pose network", "a checkpoint", "give `checkpoint`"
                )
            predicted = geometry.camera_from_pose(predict_pose(self.network, self.checkpoint, xray))
            camera = geometry.translation(ct.isocentre_mm) @ predicted
        return [camera @ geometry.invert(views[0].rig_from_camera)]


def stated_pose(structure: Structure, xray: Xray) -> np.ndarray:
    """volume_from_camera of the structure's stated start camera (scanner_from_camera of the X-ray as stored on disk).

    Raises InputError without one, and for a camera that is the mirror image of the X-ray's.
    """
    if structure.start_camera is None:
        raise InputError(
            "`init`", "fixed without a start pose", "one per structure", "give `init_pose`"
        )
    turn = geometry.MIRROR if xray.flipped else np.eye(4)
    start = (
        geometry.invert(structure.ct.lineage.scanner_from_volume) @ structure.start_camera @ turn
    )
    if np.linalg.det(start[:3, :3]) < 0:
        raise InputError(
            "`init_pose`",
            "its camera is mirrored against the X-ray",
            "the pose of the same X-ray and side",
            "check `flip`",
        )
    return start


def read_start_camera(path: Path) -> np.ndarray:
    """(4, 4) scanner_from_camera of an earlier parameters.pt, or of a JSON with ``camera``: 4x4, or one per view, first view first.

    Raises InputError for anything else.
    """
    if path.suffix.lower() != ".json":
        from common.results.parameters_file import load

        return load(path).scanner_pose[0].camera
    content = files.read_json(path, "a start pose with 'camera', 4x4")
    with reading(path, "camera, a 4x4 matrix of numbers", "correct the file"):
        camera = np.array(content.get("camera"), dtype=float)
    camera = camera.reshape(-1, 4, 4)[0] if camera.size and camera.size % 16 == 0 else camera
    if not geometry.is_rigid(camera):
        raise InputError(
            path,
            "its camera is not a rigid 4x4 transform",
            "scanner_from_camera as in scanner_pose of parameters.pt",
            "correct the file",
        )
    return camera


def positioner_pose(xray: Xray, ct: Volume) -> np.ndarray:
    """volume_from_camera of the C-arm's angles in the header: the patient lies as in the CT, the volume's centre in the C-arm's isocentre."""
    from common.xray.positioner import positioner_camera

    scanner_from_volume = ct.lineage.scanner_from_volume
    camera, _ = positioner_camera(xray.path, xray.frame)
    turn = geometry.MIRROR if ct.lineage.mirrored else np.eye(4)
    centre = geometry.apply(scanner_from_volume, ct.isocentre_mm)
    return geometry.invert(scanner_from_volume) @ geometry.translation(centre) @ camera @ turn
