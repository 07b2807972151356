"""State of a training run in its checkpoints: xvr's dictionary, and the counters for resuming."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.files import writing
from common.pose_network.checkpoint import Checkpoint

FORMAT = "pose-training/1"


@dataclass
class TrainingState:
    """Counters and metrics of a run, as stored in its checkpoints.

    ``history`` has one row per validation, see `Trainer`.
    """

    iteration: int = 0
    seconds: float = 0.0
    saves: int = 0
    best_mtre_mm: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)


def content_of(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    state: TrainingState,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Content of a checkpoint: xvr's keys, and the state of the run under ``training``."""
    return {
        "model_state_dict": {key: value.cpu() for key, value in network.state_dict().items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
        "itr": state.iteration,
        "model_number": state.saves,
        "date": datetime.now(),
        "config": config,
        "training": {"format": FORMAT, **vars(state)},
    }


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint. Raises InputError if the disk is full."""
    with writing(path) as stream:
        torch.save(content, stream)


def restore(
    checkpoint: Checkpoint,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> TrainingState:
    """State of an interrupted run; optimiser and schedule are set to theirs.

    Raises InputError if the checkpoint has no such state.
    """
    state = checkpoint.content.get("training")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(
            checkpoint.path,
            "no state of a training run",
            "the NAME_last.pth of an interrupted run",
            "start again without `resume`",
        )
    optimizer.load_state_dict(checkpoint.content["optimizer_state_dict"])
    scheduler.load_state_dict(checkpoint.content["scheduler_state_dict"])
    return TrainingState(**{key: state[key] for key in TrainingState.__dataclass_fields__})
