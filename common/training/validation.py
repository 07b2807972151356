"""Validation of a pose network: held-out images that stay the same over a run, and their errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common import geometry
from common.drr.renderer import Device
from common.training.images import make_batch
from common.training.pool import PatientPool
from common.training.view import TrainingView

COUNT = 96
BATCH = 32
SEED_OFFSET = 2**33  # keeps the seeds apart from those of training batches
# errors up to which refinement converged from every start pose
# (docs/training.md, 'Reading the curve')
REACH_DEG, REACH_IN_PLANE_MM, REACH_DEPTH_MM = 10.0, 20.0, 40.0
ERRORS = ("rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm")


@dataclass(frozen=True)
class Validation:
    """Fixed input images (N, 1, H, W) of the network, with their true extrinsics (N, 4, 4).

    ``points_mm`` has the points of each image's bone in the canonical frame.
    """

    images: torch.Tensor
    poses: np.ndarray
    points_mm: list[np.ndarray]
    view: TrainingView

    def evaluate(self, network: torch.nn.Module, device: Device) -> dict[str, float]:
        """Metrics of a network's predictions, see `summarise`."""
        was_training = network.training
        network.eval()
        with torch.no_grad():
            predicted = [
                network(batch.to(device)).matrix.float().cpu() for batch in self.images.split(BATCH)
            ]
        network.train(was_training)
        return summarise(self.errors(torch.cat(predicted).numpy().astype(float)))

    def errors(self, predicted: np.ndarray) -> np.ndarray:
        """Errors (N, 4), in the order of `ERRORS`, of predicted extrinsics (N, 4, 4)."""
        cameras, truths = self.view.cameras(predicted), self.view.cameras(self.poses)
        found = [
            geometry.pose_error(camera, truth, points, self.view.detector)
            for camera, truth, points in zip(cameras, truths, self.points_mm, strict=True)
        ]
        return np.array([[getattr(error, name) for name in ERRORS] for error in found])


def make_validation(
    pool: PatientPool, view: TrainingView, probability: float, seed: int, count: int = COUNT
) -> Validation:
    """``count`` images of the pool's patients, from a seed that no training batch uses."""
    images, poses, points = [], [], []
    for number in range(0, count, BATCH):
        rng = np.random.default_rng([seed + SEED_OFFSET, number])
        patient = pool.at(number, rng)
        batch, truth = make_batch(patient, view, min(BATCH, count - number), probability, rng)
        images.append(batch)
        poses.append(truth.numpy().astype(float))
        points += [patient.points_mm] * len(batch)
    return Validation(torch.cat(images), np.concatenate(poses), points, view)


def summarise(errors: np.ndarray) -> dict[str, float]:
    """Median and 90th percentile of errors (N, 4), and the fraction within reach of refinement.

    The keys are columns of the run's CSV file.
    """
    median, high = np.median(errors, axis=0), np.quantile(errors, 0.9, axis=0)
    figures = {
        f"{name}_{kind}": float(value)
        for kind, values in (("median", median), ("p90", high))
        for name, value in zip(ERRORS, values, strict=True)
    }
    within = (
        (errors[:, 0] <= REACH_DEG)
        & (errors[:, 1] <= REACH_IN_PLANE_MM)
        & (errors[:, 2] <= REACH_DEPTH_MM)
    )
    return {**figures, "share_within_reach": float(within.mean())}
