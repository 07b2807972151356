"""Start poses: predicted by a network, searched, stated, or from the angles of the C-arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files, geometry
from common.errors import InputError, reading
from common.geometry.pose_range import PoseRange
from common.pose_network.checkpoint import Checkpoint
from common.pose_network.prediction import predict_pose
from common.registration.request import Optimizer, StartMethod
from common.registration.scene import Structure, View
from common.registration.search.anywhere import (
    EVERYTHING,
    STAGES,
    STATED,
    Banks,
    Stage,
    stage_starts,
)
from common.registration.search.limits import Limits, Near
from common.volume.volume import Volume
from common.xray.xray import Xray

if TYPE_CHECKING:
    import torch


ANY_ANGLE = (-180.0, 180.0)


@dataclass(frozen=True)
class Starter:
    """Finds start poses."""

    method: StartMethod
    ranges: PoseRange | None = None  # stated by the user; None: search everywhere
    full: bool = False  # search all orientations at once
    checkpoint: Checkpoint | None = None
    network: torch.nn.Module | None = None
    optimizer: Optimizer = "gauss-newton"
    mirrored: bool = True  # if nothing is found, also try the X-ray flipped left to right
    banks: Banks = field(default_factory=Banks)

    def anywhere(self) -> bool:
        """Return whether a search covers all positions, stage by stage: there is no pose range."""
        searches = self.method in ("model", "search") and self.optimizer != "adam"
        return searches and self.ranges is None

    def limits(self, near: Near | None = None) -> Limits:
        """Return what is known of a pose; ``full`` lifts the limits of its orientation."""
        ranges = self.ranges
        if ranges and self.full:
            ranges = replace(ranges, r1=ANY_ANGLE, r2=ANY_ANGLE, r3=ANY_ANGLE)
        return Limits(ranges, near)

    @property
    def first(self) -> Stage:
        """The stage with which a search begins."""
        if self.ranges is not None:
            return STATED
        return EVERYTHING if self.full else STAGES[0]

    def first_stage(self) -> tuple[str, ...]:
        """Return the first stage of the search in words, none if it does not go by stages."""
        if self.method != "search" or not self.anywhere():
            return ()
        return (self.first.words,)

    def __call__(
        self, views: Sequence[View], structure: Structure, method: StartMethod | None = None
    ) -> list[np.ndarray]:
        """Return start poses (volume_from_rig), best first, by ``method`` or the starter's own.

        Raises InputError if the method lacks its pose network, stated pose or header tags.
        """
        method = method or self.method
        if method == "search":
            return stage_starts(views, structure, self.first, self.banks, self.limits())
        xray, ct = views[0].xray, structure.ct
        if method == "fixed":
            camera = stated_pose(structure, xray)
        elif method == "dicom":
            camera = positioner_pose(xray, ct)
        else:
            camera = self._predicted_pose(xray, ct)
        return [camera @ geometry.invert(views[0].rig_from_camera)]

    def _predicted_pose(self, xray: Xray, ct: Volume) -> np.ndarray:
        """Return volume_from_camera (4, 4) as predicted by the pose network."""
        if self.network is None or self.checkpoint is None:
            raise InputError(
                "`init`", "model without a pose network", "a checkpoint", "give `checkpoint`"
            )
        extrinsics = predict_pose(self.network, self.checkpoint, xray)
        return geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(extrinsics)


def stated_pose(structure: Structure, xray: Xray) -> np.ndarray:
    """Return volume_from_camera (4, 4) of a stated start pose, for the X-ray as registered.

    Raises InputError if no start pose is stated, or if its camera is mirrored relative to the
    X-ray.
    """
    if structure.start_camera is None:
        raise InputError(
            "`init`", "fixed without a start pose", "one per structure", "give `init_pose`"
        )
    flip = geometry.MIRROR if xray.flipped else np.eye(4)
    volume_from_scanner = geometry.invert(structure.ct.lineage.scanner_from_volume)
    start = volume_from_scanner @ structure.start_camera @ flip
    if np.linalg.det(start[:3, :3]) < 0:
        raise InputError(
            "`init_pose`",
            "its camera is mirrored relative to the X-ray",
            "the pose of the same X-ray and side",
            "check `flip`",
        )
    return start


def read_start_camera(path: Path) -> np.ndarray:
    """Read a start pose: scanner_from_camera (4, 4) of the first X-ray as stored on disk.

    The file is an earlier parameters.pt, or JSON with ``camera``: 4x4, or one per view, first view
    first. Raises InputError if it is neither.
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
            "camera is not a rigid 4x4 transform",
            "scanner_from_camera as in scanner_pose of parameters.pt",
            "correct the file",
        )
    return camera


def positioner_pose(xray: Xray, ct: Volume) -> np.ndarray:
    """Return volume_from_camera (4, 4) of the C-arm's angles in the DICOM header.

    The patient is assumed to lie as in the CT, with the centre of the volume at the isocentre of
    the C-arm. Raises InputError if a tag is missing.
    """
    from common.xray.positioner import positioner_camera

    scanner_from_volume = ct.lineage.scanner_from_volume
    camera, _ = positioner_camera(xray.path, xray.frame)
    flip = geometry.MIRROR if ct.lineage.mirrored else np.eye(4)
    centre = geometry.apply(scanner_from_volume, ct.isocentre_mm)
    return geometry.invert(scanner_from_volume) @ geometry.translation(centre) @ camera @ flip
