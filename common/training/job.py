"""The request of one training run, and the patients that it holds out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.drr.renderer import Device
from common.pose_network.checkpoint import Checkpoint
from common.training.outputs import Outputs
from common.training.settings import Settings
from common.training.sources import Source
from common.training.xvr_config import RunPaths, config_of

HELD_OUT_FROM = 3  # patients; fewer are all trained on, and validated at held-out poses
HELD_OUT_SHARE = 5  # one patient in so many is held out


@dataclass(frozen=True)
class Job:
    """One training run.

    ``wandb`` is a project of Weights & Biases, or None. The weights are those of the checkpoint
    ``start``, or of the run that ``resume`` continues, or random.
    """

    settings: Settings
    sources: tuple[Source, ...]
    outputs: Outputs
    paths: RunPaths
    cache_gb: float
    device: Device
    wandb: str | None = None
    start: Checkpoint | None = None
    resume: Checkpoint | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Config of the checkpoints: xvr's keys, and what else the run depends on."""
        labels = self.sources[0].labels
        return {
            **config_of(self.settings, self.paths),
            "labels": None if labels is None else list(labels),
            "cache_gb": self.cache_gb,
            "device": self.device,
        }


def split_patients(
    sources: Sequence[Source], seed: int
) -> tuple[Sequence[Source], Sequence[Source]]:
    """Patients to train on, and patients to validate on.

    A fifth is held out, at least one; with fewer than three patients, both are all patients.
    """
    if len(sources) < HELD_OUT_FROM:
        return sources, sources
    order = np.random.default_rng([seed, 11]).permutation(len(sources))
    held = set(order[: max(1, len(sources) // HELD_OUT_SHARE)].tolist())
    train_on = [source for k, source in enumerate(sources) if k not in held]
    return train_on, [source for k, source in enumerate(sources) if k in held]
