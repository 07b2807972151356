"""How good a pose network is: held-out pictures that stay the same over a run, and the errors on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common import geometry
from common.training.sampling import PatientPool, View, make_batch

if TYPE_CHECKING:
    import torch

COUNT = 96
BATCH = 32
SEED_OFFSET = 2**33  # apart from every seed of a training batch
# refinement came back from every one of 40 starts off by up to this much (chest CT at 2 mm, noise, tone curve): design figures of the solver
REACH_DEG, REACH_IN_PLANE_MM, REACH_DEPTH_MM = 10.0, 20.0, 40.0
ERRORS = ("rotation_deg", "in_plane_mm", "depth_mm", "mtre_mm")


@dataclass(frozen=True)
class Validation:
    """Fixed pictures as the network takes them, and their truth."""

    images: torch.Tensor  # (N, 1, H, W)
    poses: np.ndarray  # (N, 4, 4) extrinsics
    points_mm: list[np.ndarray]  # of each picture's bone, canonical frame
    view: View

    def evaluate(self, network: torch.nn.Module, device: str) -> dict[str, float]:
        """Median and 90th percentile of each error, and the share of starts that refinement reaches from."""
        import torch

        was_training = network.training
        network.eval()
        with torch.no_grad():
            predicted = (
                torch.cat(
                    [
                        network(batch.to(device)).matrix.float().cpu()
                        for batch in self.images.split(BATCH)
                    ]
                )
                .numpy()
                .astype(float)
            )
        network.train(was_training)
        return summarise(self.errors(predicted))

    def errors(self, predicted: np.ndarray) -> np.ndarray:
        """(N, 4) rotation, in-plane, depth, mTRE of predicted extrinsics (N, 4, 4)."""
        cameras, truths = self.view.cameras(predicted), self.view.cameras(self.poses)
        found = [
            geometry.pose_error(camera, truth, points, self.view.detector)
            for camera, truth, points in zip(cameras, truths, self.points_mm, strict=True)
        ]
        return np.array([[getattr(error, name) for name in ERRORS] for error in found])


def make_validation(
    pool: PatientPool, view: View, probability: float, seed: int, count: int = COUNT
) -> Validation:
    """``count`` pictures over the pool's patients, drawn from a seed that no training batch uses."""
    import torch

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
    """Figures of (N, 4) errors, keyed as the log's columns."""
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
