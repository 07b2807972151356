"""What training lowers: the distance between poses and, where asked for, between the pictures and silhouettes that they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from common import geometry
from common.drr import autodiff
from common.pose_network import prediction
from common.pose_network.xvr_parts import xvr_module

if TYPE_CHECKING:
    from common.training.sampling import Patient, Scenes, View

LEVER_MM = 150.0  # what a rotation by one radian costs, as a length
DEPTH_WEIGHT = 0.5  # an X-ray shows depth worst, and refinement recovers it best
LOSS_SCALE_MM = 100.0
SILHOUETTE = (
    0.1  # line integral, about 3 mm of bone, at which a pixel is 63 % inside the silhouette
)


def pose_loss(predicted, truth: torch.Tensor, depth_axis: int = 1) -> torch.Tensor:
    """Mean distance between extrinsics, in units of 100 mm: rotation as chordal distance times a lever, in-plane offset, weighted depth.

    ``predicted`` is DiffDRR's RigidTransform (B), ``truth`` (B, 4, 4). ``depth_axis`` is the entry of R^T t along the view.
    """
    rotation, true_rotation = predicted.matrix[:, :3, :3], truth[:, :3, :3]
    chord = ((rotation - true_rotation).square().sum((1, 2)) + 1e-8).sqrt()
    offset = (rotation.mT @ predicted.matrix[:, :3, 3:] - true_rotation.mT @ truth[:, :3, 3:])[
        :, :, 0
    ]
    across = [axis for axis in range(3) if axis != depth_axis]
    in_plane = (offset[:, across].square().sum(1) + 1e-4).sqrt()
    return (
        LEVER_MM * chord + in_plane + DEPTH_WEIGHT * offset[:, depth_axis].abs()
    ).mean() / LOSS_SCALE_MM


class PictureLoss:
    """xvr's image and Dice terms: the bone is rendered at the predicted and at the true pose, at half the detector's resolution, and compared.

    xvr's Dice compares masks of truth values, which pass no gradient; this one compares silhouettes with soft edges.
    """

    def __init__(self, view: View, image_weight: float, dice_weight: float):
        self.view, self.image_weight, self.dice_weight = view, image_weight, dice_weight
        self._similarity = (
            xvr_module("register/losses/gmncc.py").GradientMultiscaleNormalizedCrossCorrelation2d()
            if image_weight
            else None
        )

    def __call__(self, poses: torch.Tensor, scenes: Sequence[Scenes]) -> torch.Tensor:
        """The weighted terms' mean over a batch: predicted extrinsics ``poses`` (B, 4, 4), and the scenes it was made of."""
        with torch.no_grad():
            wanted = torch.cat(
                [self._render(scene.poses.to(poses), scene.patient) for scene in scenes]
            )
        parts = poses.split([len(scene.poses) for scene in scenes])
        found = torch.cat(
            [self._render(part, scene.patient) for part, scene in zip(parts, scenes, strict=True)]
        )
        loss = found.new_zeros(())
        if self.image_weight:
            loss = loss + self.image_weight * (
                1
                - self._similarity.to(found.device)(
                    prediction.normalise(wanted), prediction.normalise(found)
                ).mean()
            )
        if self.dice_weight:
            loss = loss + self.dice_weight * (
                1 - dice(silhouette(wanted), silhouette(found)).mean()
            )
        return loss

    def _render(self, poses: torch.Tensor, patient: Patient) -> torch.Tensor:
        """Line integrals (B, 1, H/2, W/2) of the bone at extrinsics (B, 4, 4)."""
        orientation = self.view.orientation
        turn = geometry.camera_from_pose(
            geometry.translation([0.0, 0, 0]), orientation, geometry.PROPER_REVERSE[orientation]
        )
        place = geometry.translation(patient.isocentre_mm)
        cameras = torch.as_tensor(place).to(poses) @ poses @ torch.as_tensor(turn).to(poses)
        return autodiff.render(patient.as_it_is.bone, cameras, self.view.detector.binned(2))[
            :, None
        ]


def silhouette(integrals: torch.Tensor) -> torch.Tensor:
    """0 outside, towards 1 inside."""
    return 1 - torch.exp(-integrals / SILHOUETTE)


def dice(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B,) Dice coefficients of soft silhouettes (B, 1, H, W), with squares below so that equal ones reach 1; 0 where both are empty."""
    total = (one.square() + other.square()).sum((1, 2, 3))
    return 2 * (one * other).sum((1, 2, 3)) / total.clamp_min(1e-6)
