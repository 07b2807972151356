"""Losses of training: distance between poses and, optionally, between images and silhouettes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common import geometry
from common.drr import autodiff
from common.pose_network import prediction
from common.training.correlation import similarity
from common.training.images import Scenes
from common.training.patient import Patient
from common.training.view import TrainingView

LEVER_MM = 150.0  # length that a rotation by one radian counts as
DEPTH_WEIGHT = 0.5  # depth is the least certain in one X-ray, and refinement recovers it best
LOSS_SCALE_MM = 100.0
# line integral, about 3 mm of bone, at which a pixel is 63 % inside the silhouette
SILHOUETTE = 0.1


def pose_loss(predicted: torch.Tensor, truth: torch.Tensor, depth_axis: int = 1) -> torch.Tensor:
    """Mean distance between extrinsics (B, 4, 4), in units of 100 mm.

    It is the sum of the chordal distance of the rotations times a lever, the distance in plane, and
    the weighted distance in depth. ``depth_axis`` is the entry of R^T t along the view.
    """
    rotation, true_rotation = predicted[:, :3, :3], truth[:, :3, :3]
    chord = ((rotation - true_rotation).square().sum((1, 2)) + 1e-8).sqrt()
    offset = (rotation.mT @ predicted[:, :3, 3:] - true_rotation.mT @ truth[:, :3, 3:])[:, :, 0]
    across = [axis for axis in range(3) if axis != depth_axis]
    in_plane = (offset[:, across].square().sum(1) + 1e-4).sqrt()
    depth = DEPTH_WEIGHT * offset[:, depth_axis].abs()
    return (LEVER_MM * chord + in_plane + depth).mean() / LOSS_SCALE_MM


class ImageLoss:
    """xvr's image and Dice terms, between DRRs of the bone at the predicted and at the true pose.

    The DRRs have half the detector's resolution. xvr's Dice compares binary masks, which pass no
    gradient; this one compares silhouettes with soft edges.
    """

    def __init__(self, view: TrainingView, image_weight: float, dice_weight: float):
        self.view, self.image_weight, self.dice_weight = view, image_weight, dice_weight

    def __call__(self, poses: torch.Tensor, scenes: Sequence[Scenes]) -> torch.Tensor:
        """Mean of the weighted terms over a batch.

        ``poses`` (B, 4, 4) are the predicted extrinsics of the batch made from ``scenes``, which
        must have kept their patients.
        """
        patients = [_patient(scene) for scene in scenes]
        with torch.no_grad():
            truths = [scene.poses.to(poses) for scene in scenes]
            wanted = torch.cat(list(map(self._render, truths, patients)))
        parts = poses.split([len(scene.poses) for scene in scenes])
        found = torch.cat(list(map(self._render, parts, patients)))
        loss = found.new_zeros(())
        if self.image_weight:
            images = prediction.standardise_input(wanted), prediction.standardise_input(found)
            loss = loss + self.image_weight * (1 - similarity(*images).mean())
        if self.dice_weight:
            overlap = dice(silhouette(wanted), silhouette(found)).mean()
            loss = loss + self.dice_weight * (1 - overlap)
        return loss

    def _render(self, poses: torch.Tensor, patient: Patient) -> torch.Tensor:
        """Line integrals (B, 1, H/2, W/2) of the bone at extrinsics (B, 4, 4)."""
        orientation = self.view.orientation
        carm_from_camera = geometry.camera_from_pose(
            np.eye(4), orientation, geometry.PROPER_REVERSE[orientation]
        )
        volume_from_canonical = geometry.translation(patient.isocentre_mm)
        cameras = (
            torch.as_tensor(volume_from_canonical).to(poses)
            @ poses
            @ torch.as_tensor(carm_from_camera).to(poses)
        )
        bone, detector = patient.ct_renderers.bone, self.view.detector.binned(2)
        return autodiff.render(bone, cameras, detector)[:, None]


def _patient(scenes: Scenes) -> Patient:
    if scenes.patient is None:
        raise ValueError("scenes without their patient cannot be rendered again")
    return scenes.patient


def silhouette(integrals: torch.Tensor) -> torch.Tensor:
    """Silhouette with soft edges: 0 outside, towards 1 inside."""
    return 1 - torch.exp(-integrals / SILHOUETTE)


def dice(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Dice coefficients (B,) of soft silhouettes (B, 1, H, W); 0 if both are empty.

    The denominator has squares, so that equal silhouettes reach 1.
    """
    total = (one.square() + other.square()).sum((1, 2, 3))
    return 2 * (one * other).sum((1, 2, 3)) / total.clamp_min(1e-6)
