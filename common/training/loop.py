"""The training loop: fits a pose network within a budget, in one or several processes.

A batch is a function of (seed, iteration, process) and a checkpoint holds weights, optimiser,
schedule and counters, so with a budget of iterations a resumed run equals an uninterrupted one bit
for bit. With a budget of minutes, the schedule follows the clock.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from common.drr.renderer import Device
from common.errors import InputError
from common.pose_network.checkpoint import Checkpoint
from common.progress import Track
from common.training import checkpoints, metrics, schedule
from common.training.batches import Batch, BatchMaker
from common.training.checkpoints import TrainingState
from common.training.interruption import Interrupted, stop_requests
from common.training.loss import LOSS_SCALE_MM, ImageLoss, pose_loss
from common.training.network import learners, mixed_precision
from common.training.outputs import Outputs
from common.training.pool import PatientPool
from common.training.processes import Processes
from common.training.settings import Settings
from common.training.validation import Validation

WEIGHT_DECAY = 1e-2


class Trainer:
    """Trains one network. ``config`` is stored in its checkpoints, see `xvr_config`."""

    def __init__(
        self,
        settings: Settings,
        network: torch.nn.Module,
        device: Device,
        outputs: Outputs,
        config: dict[str, Any],
        among: Processes,
    ):
        self.settings, self.device, self.outputs, self.among = settings, device, outputs, among
        self.config = config
        self.state = TrainingState()
        self.network = network.to(device).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.lr, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda _: schedule.rate_factor(self.settings, self.state)
        )
        weights = settings.weight_ncc, settings.weight_dice
        self._image_loss = ImageLoss(settings.view, *weights) if any(weights) else None
        self._learners = self._make_learners()
        self._each = ThreadPoolExecutor(len(self._learners)).map if len(self._learners) > 1 else map

    def _make_learners(self) -> list[torch.nn.Module]:
        """Modules with the same weights that each learn from a part of every batch.

        There are several only if one process trains on a CPU by the pose loss alone.
        """
        if self.device == "cpu" and self.among.count == 1 and not self._image_loss:
            pixels = self.settings.view.detector.width
            return learners(self.network, self.settings.batch_size, pixels)
        learner = mixed_precision(self.network, self.settings, self.device)
        if self.among.count > 1:
            return [torch.nn.parallel.DistributedDataParallel(learner)]
        return [learner]

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises InputError if it has no state of a run."""
        self.state = checkpoints.restore(checkpoint, self.optimizer, self.scheduler)

    def fit(
        self,
        pool: PatientPool,
        validation: Validation,
        record: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> TrainingState:
        """Train until the budget is used; ``record`` receives the row of each validation.

        Raises `Interrupted` after saving, and InputError if the loss is not finite or the disk is
        full.
        """
        settings = self.settings
        with (
            stop_requests() as stop,
            self._track() as track,
            contextlib.closing(self.batches(pool)) as batches,
        ):
            losses: list[float] = []
            began = time.monotonic() - self.state.seconds
            saved = schedule.saves_due(settings, self.state)
            while schedule.used(settings, self.state) < 1:
                losses.append(self.step(batches))
                self.state.iteration += 1
                self.state.seconds, stopping, failed = self.among.agree(
                    time.monotonic() - began, stop.made, not math.isfinite(losses[-1])
                )
                if failed:
                    raise self._not_finite()
                if stopping or schedule.saves_due(settings, self.state) > saved:
                    self._validate(validation, losses, record)
                    losses = []
                    saved = schedule.saves_due(settings, self.state)
                self._show(track, losses)
                if stopping:
                    raise Interrupted
        return self.state

    def _not_finite(self) -> InputError:
        return InputError(
            f"iteration {self.state.iteration}",
            "the loss is not a number",
            "a finite loss",
            f"lower `lr` and `resume` from {self.outputs.last}",
        )

    # ------------------------------------------------------------------------------- one step

    def batches(self, pool: PatientPool) -> Generator[Batch]:
        """The batches from this iteration on; the next is made while the network learns."""
        # the image loss renders too, and numba's workqueue layer supports one caller at a time
        ahead = self._image_loss is None
        return self.batch_maker(pool).batches(self.state.iteration, ahead)

    def batch_maker(self, pool: PatientPool) -> BatchMaker:
        """What makes the batches of this process."""
        keep_patients = self._image_loss is not None
        return BatchMaker(self.settings, pool, self.state, self.among.rank, keep_patients)

    def step(self, batches: Iterator[Batch]) -> float:
        """Learn from the next batch. Returns its loss in mm."""
        batch = next(batches)
        torch.manual_seed(batch.seed)
        self.optimizer.zero_grad(set_to_none=True)
        learn = functools.partial(self._learn, batch)
        value = sum(self._each(learn, range(len(self._learners))))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if math.isfinite(value):
            self.optimizer.step()
            self.scheduler.step()
        return value * LOSS_SCALE_MM

    def _learn(self, batch: Batch, number: int) -> float:
        """Add the gradient of one learner's part of the batch. Returns its part of the loss."""
        # interleaved, so that each part has images of every DRR's patient and ends
        part = slice(number, None, len(self._learners))
        images = batch.images[part].to(self.device, memory_format=torch.channels_last)
        poses = batch.poses[part].to(self.device)
        predicted = self._learners[number](images).matrix
        loss = pose_loss(predicted, poses, self.settings.view.depth_axis)
        if self._image_loss:
            loss = loss + self._image_loss(predicted, batch.scenes)
        loss = loss * (len(images) / len(batch.images))
        loss.backward()
        return loss.item()

    # ------------------------------------------------------------------ validation, checkpoints

    def _validate(
        self,
        validation: Validation,
        losses: list[float],
        record: Callable[[dict[str, float]], None],
    ) -> None:
        """Validate, add a row to the history, and write checkpoints and CSV (first process)."""
        if not self.among.first:
            return
        errors, state = validation.evaluate(self.network, self.device), self.state
        row = {
            "iteration": state.iteration,
            "pictures": state.iteration * self.settings.batch_size * self.among.count,
            "seconds": state.seconds,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss_mm": float(np.mean(losses)),
            **errors,
        }
        state.history.append(row)
        state.saves += 1
        better = row["mtre_mm_median"] < state.best_mtre_mm
        if better:
            state.best_mtre_mm = row["mtre_mm_median"]
        content = checkpoints.content_of(
            self.network, self.optimizer, self.scheduler, state, self.config
        )
        checkpoints.save(self.outputs.last, content)
        if better:
            checkpoints.save(self.outputs.best, content)
        metrics.write_csv(self.outputs.log, state.history)
        record(row)

    # -------------------------------------------------------------------------------- progress

    def _track(self) -> contextlib.AbstractContextManager[Track | None]:
        """Progress in iterations, or in percent of the minutes; None but for the first process."""
        if not self.among.first:
            return contextlib.nullcontext()
        total = self.settings.iterations
        return Track(total=total or 100, what="training", unit="it" if total else "%")

    def _show(self, track: Track | None, losses: list[float]) -> None:
        if track is None:
            return
        track.about = metrics.current(losses, self.state.history)
        done = self.state.iteration
        if not self.settings.iterations:
            done = min(100, int(100 * schedule.used(self.settings, self.state)))
        track.update(done - track.done)
