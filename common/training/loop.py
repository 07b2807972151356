"""The loop that fits the pose regressor: budget, schedule, checkpoints, log, several processes.

A batch depends on (seed, iteration, process) alone and a checkpoint holds weights, optimiser, schedule and counters, so with a budget of
iterations a resumed run equals an uninterrupted one bit for bit. With a budget of minutes the schedule follows the clock.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError
from common.files import write_text, writing
from common.pose_network.checkpoint import Checkpoint
from common.progress import Track
from common.training.loss import LOSS_SCALE_MM, PictureLoss, pose_loss
from common.training.outputs import Outputs
from common.training.processes import Processes, learners, take_picture_cores
from common.training.sampling import GROUPS, PatientPool, Scenes, make_scenes, pictures_of
from common.training.settings import Settings

if TYPE_CHECKING:
    import torch

    from common.training.validation import Validation

WEIGHT_DECAY = 1e-2
APART = 50  # batches from one appearance of a rendering to the next: in four in a row it taught a knee less than new ones, so far apart as much
MOST_HELD_BYTES = 1e9  # of renderings to be shown again; large pictures come back sooner
VALIDATIONS = 10  # over a run
MOST_ITERATIONS_UNSAVED, MOST_MINUTES_UNSAVED = 1000, 5.0
FORMAT = "pose-training/1"


@dataclass
class Progress:
    """Where a run stands; all of it is in the checkpoint."""

    iteration: int = 0
    seconds: float = 0.0
    saves: int = 0
    best_mtre_mm: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Pictures (B, 1, H, W) as the network takes them, their extrinsics (B, 4, 4), the scenes they were made of, and the seed of drop-out layers."""

    scenes: list[Scenes]
    images: torch.Tensor
    poses: torch.Tensor
    seed: int


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM after the checkpoint was written."""


class Trainer:
    """Fits one network. ``files`` are the config's volpath, maskpath, outpath and ckptpath."""

    def __init__(
        self,
        settings: Settings,
        network: torch.nn.Module,
        device: str,
        outputs: Outputs,
        files: dict[str, Any],
        among: Processes,
    ):
        import torch

        self.settings, self.device, self.outputs, self.among = settings, device, outputs, among
        self.config = settings.config(**files)
        self.progress = Progress()
        self.network = network.to(device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.lr, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: self._rate())
        terms = settings.weight_ncc, settings.weight_dice
        self._picture_loss = PictureLoss(settings.view, *terms) if any(terms) else None
        self._learners = self._make_learners()
        self._each = ThreadPoolExecutor(len(self._learners)).map if len(self._learners) > 1 else map
        self._rendered: dict[int, list[Scenes]] = {}  # parts of batches to come, by number
        self._reuse = min(settings.reuse, settings.batch_size)
        picture_bytes = (
            6 * settings.view.detector.width**2
        )  # one layer in full, two in half the resolution
        held_bytes = (
            picture_bytes * settings.batch_size * (self._reuse - 1) / self._reuse
        )  # for each batch apart
        self._apart = int(np.clip(MOST_HELD_BYTES / max(1, held_bytes), 1, APART))
        self._stop = False

    def _make_learners(self) -> list[torch.nn.Module]:
        """Modules of the same weights, each to learn from a part of each batch: more than one only where one process trains on a CPU by the pose's loss alone."""
        import torch

        if self.among.count > 1:
            return [
                torch.nn.parallel.DistributedDataParallel(
                    _mixed_precision(self.network, self.device)
                )
            ]
        if self.device == "cpu" and not self._picture_loss:
            return learners(
                self.network, self.settings.batch_size, self.settings.view.detector.width
            )
        return [_mixed_precision(self.network, self.device)]

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue where the checkpoint was written. Raises InputError where it is not one of ours to resume."""
        state = checkpoint.content.get("training")
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise InputError(
                checkpoint.path,
                "holds no state of a run",
                "the NAME_last.pth of an interrupted run",
                "start anew without `resume`",
            )
        self.optimizer.load_state_dict(checkpoint.content["optimizer_state_dict"])
        self.scheduler.load_state_dict(checkpoint.content["scheduler_state_dict"])
        self.progress = Progress(**{key: state[key] for key in Progress.__dataclass_fields__})

    def fit(
        self,
        pool: PatientPool,
        validation: Validation,
        record: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> Progress:
        """Train until the budget is used; ``record`` takes each validation's row. Raises `Interrupted` after saving, InputError for a loss that is not a number or a disk that is full."""
        bar = (
            Track(
                total=self.settings.iterations or 100,
                what="training",
                unit="it" if self.settings.iterations else "%",
            )
            if self.among.first
            else None
        )
        with (
            self._signals(),
            contextlib.closing(bar) if bar is not None else contextlib.nullcontext(),
            contextlib.closing(self.batches(pool)) as batches,
        ):
            losses: list[float] = []
            started = time.monotonic() - self.progress.seconds
            saved = self._saves_due()
            while self._share() < 1:
                losses.append(self.step(batches))
                self.progress.iteration += 1
                now, stop, failed = self.among.agree(
                    time.monotonic() - started, self._stop, not math.isfinite(losses[-1])
                )
                self.progress.seconds = now
                if failed:
                    raise InputError(
                        f"iteration {self.progress.iteration}",
                        "the loss is not a number",
                        "a finite one",
                        f"lower `lr` and `resume` from {self.outputs.last}",
                    )
                if stop or self._saves_due() > saved:
                    self._report(validation, losses, record)
                    losses = []
                    saved = self._saves_due()
                self._show(bar, losses)
                if stop:
                    raise Interrupted
        return self.progress

    # ------------------------------------------------------------------------------------------ one step

    def batches(self, pool: PatientPool) -> Iterator[Batch]:
        """The batches from this iteration on, the next in the making while one is used."""
        if (
            self._picture_loss
        ):  # it renders too, and numba's plainest threading layer bears one caller at a time
            for number in itertools.count(self.progress.iteration):
                yield self._make(pool, number, late=True)
        with ThreadPoolExecutor(1) as maker:
            following = maker.submit(self._make, pool, self.progress.iteration)
            for number in itertools.count(self.progress.iteration + 1):
                late = not following.done()
                batch, following = following.result(), maker.submit(self._make, pool, number, late)
                yield batch

    def _make(self, pool: PatientPool, iteration: int, late: bool = False) -> Batch:
        """The batch of an iteration; its pictures may take all cores where the network had to wait for those before."""
        take_picture_cores(late)
        numbers = [iteration + self._apart * k for k in range(self._reuse)]
        self._rendered = {
            number: scenes for number, scenes in self._rendered.items() if number >= iteration
        }
        for number in numbers:
            if number not in self._rendered:
                self._rendered[number] = self._render(pool, number)
        rng = np.random.default_rng([self.settings.seed, iteration, self.among.rank, 0])
        scenes = [scene for number in numbers for scene in self._rendered[number]]
        images, poses = pictures_of(scenes, self.settings.view, self._effects(iteration), rng)
        return Batch(scenes, images, poses, int(rng.integers(2**31)))

    def _render(self, pool: PatientPool, number: int) -> list[Scenes]:
        """A part of the batches in which it appears; parts that are so far apart make a whole batch."""
        rng = np.random.default_rng([self.settings.seed, number, self.among.rank, 1])
        patient = pool.at(max(0, number - self._apart * (self._reuse - 1)), rng)
        count = len(
            range(number // self._apart % self._reuse, self.settings.batch_size, self._reuse)
        )
        scenes = make_scenes(
            patient,
            self.settings.view,
            count,
            max(1, GROUPS // self._reuse),
            self.settings.p_augmentation > 0,
            rng,
        )
        return (
            scenes if self._picture_loss else [replace(scene, patient=None) for scene in scenes]
        )  # what waits must not keep a CT that has left the window

    def step(self, batches: Iterator[Batch]) -> float:
        """Learn from the next batch; its loss in mm."""
        import torch

        batch = next(batches)
        torch.manual_seed(batch.seed)
        self.optimizer.zero_grad(set_to_none=True)
        value = sum(self._each(functools.partial(self._learn, batch), range(len(self._learners))))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if math.isfinite(value):
            self.optimizer.step()
            self.scheduler.step()
        return value * LOSS_SCALE_MM

    def _learn(self, batch: Batch, number: int) -> float:
        """Add one learner's part of the batch to the gradient; its share of the loss."""
        import torch

        part = slice(
            number, None, len(self._learners)
        )  # interleaved: each part has something of every rendering
        images, poses = (
            batch.images[part].to(self.device, memory_format=torch.channels_last),
            batch.poses[part].to(self.device),
        )
        predicted = self._learners[number](images)
        loss = pose_loss(predicted, poses, self.settings.view.depth_axis)
        if self._picture_loss:
            loss = loss + self._picture_loss(predicted.matrix, batch.scenes)
        loss = loss * (len(images) / len(batch.images))
        loss.backward()
        return loss.item()

    def _effects(self, iteration: int) -> float:
        """Chance of each effect: the bone alone is learnt first, and what hides it added by and by."""
        share = iteration / self.settings.iterations if self.settings.iterations else self._share()
        grown = (
            min(1.0, share / self.settings.effects_full_at)
            if self.settings.effects_full_at
            else 1.0
        )
        return self.settings.p_augmentation * grown

    def _share(self) -> float:
        """Used part of the budget."""
        if self.settings.iterations:
            return self.progress.iteration / self.settings.iterations
        return self.progress.seconds / (self.settings.minutes * 60)

    def _rate(self) -> float:
        """Factor of the learning rate: a linear rise, then half a cosine to zero."""
        done, warmup = min(self._share(), 1.0), self.settings.warmup
        if done < warmup:
            return max(done / warmup, 0.01)
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))

    # ---------------------------------------------------------------------------------- checkpoints, log

    def _saves_due(self) -> int:
        """How many validations and checkpoints the used part of the budget calls for."""
        most = (
            MOST_ITERATIONS_UNSAVED / self.settings.iterations
            if self.settings.iterations
            else MOST_MINUTES_UNSAVED / self.settings.minutes
        )
        every = min(1 / VALIDATIONS, most)
        share = self._share()
        return math.ceil(1 / every) + 1 if share >= 1 else math.floor(share / every + 1e-9)

    def _report(
        self,
        validation: Validation,
        losses: list[float],
        record: Callable[[dict[str, float]], None],
    ) -> None:
        if not self.among.first:
            return
        figures = validation.evaluate(self.network, self.device)
        progress = self.progress
        pictures = progress.iteration * self.settings.batch_size * self.among.count
        row = {
            "iteration": progress.iteration,
            "pictures": pictures,
            "seconds": progress.seconds,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss_mm": float(np.mean(losses)),
        }
        progress.history.append({**row, **figures})
        progress.saves += 1
        better = figures["mtre_mm_median"] < progress.best_mtre_mm
        if better:
            progress.best_mtre_mm = figures["mtre_mm_median"]
        content = self._content()
        for path in [self.outputs.last, self.outputs.best] if better else [self.outputs.last]:
            _save(path, content)
        write_log(self.outputs.log, progress.history)
        record(progress.history[-1])

    def _content(self) -> dict[str, Any]:
        from datetime import datetime

        return {
            "model_state_dict": {
                key: value.cpu() for key, value in self.network.state_dict().items()
            },
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.scheduler.state_dict(),
            "itr": self.progress.iteration,
            "model_number": self.progress.saves,
            "date": datetime.now(),
            "config": self.config,
            "training": {"format": FORMAT, **vars(self.progress)},
        }

    def _show(self, bar, losses: list[float]) -> None:
        if bar is None:
            return
        history = self.progress.history
        text = f"loss {np.mean(losses[-20:]):.1f} mm" if losses else ""
        if history:
            last = history[-1]
            text += (
                f"  held out: {last['mtre_mm_median']:.1f} mm, in plane"
                f" {last['in_plane_mm_median']:.1f}, depth {last['depth_mm_median']:.1f},"
                f" {last['rotation_deg_median']:.1f}°"
            )
        bar.about = text
        done = (
            self.progress.iteration
            if self.settings.iterations
            else min(100, int(100 * self._share()))
        )
        bar.update(done - bar.done)

    @contextlib.contextmanager
    def _signals(self):
        """The first Ctrl-C or SIGTERM ends the run after the current batch; the second acts at once."""
        previous = {}

        def ask_to_stop(number, frame):
            self._stop = True
            signal.signal(number, previous[number])

        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask_to_stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def centre_heads(network: torch.nn.Module, settings: Settings) -> None:
    """Start a fresh network at the middle of the pose range, with small weights in its two heads."""
    import torch
    from diffdrr.pose import RigidTransform

    from common.geometry import pose_range

    middle = pose_range.poses_from_parameters(settings.view.pose_range.middle[None])
    pose = RigidTransform(torch.as_tensor(middle, dtype=torch.float32))
    rotation, translation = pose.convert(settings.parameterization, settings.convention)
    with torch.no_grad():
        for head, bias in (
            (network.rot_regression, rotation[0]),
            (network.xyz_regression, translation[0] / settings.unit_conversion_factor),
        ):
            head.weight.mul_(0.1)
            head.bias.copy_(bias)


def _mixed_precision(network: torch.nn.Module, device: str) -> torch.nn.Module:
    """On CUDA the network with its backbone in bfloat16; the pose stays in single precision.

    Not on a CPU: with AVX-512's bf16 a step of a small backbone took 1.4 to 2.2 times as long (benchmarks/README.md).
    """
    import torch

    if device != "cuda":
        return network

    class HalfBackbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            from diffdrr.pose import convert

            with torch.autocast(device, torch.bfloat16):
                features = network.backbone(images)
            features = features.float()
            return convert(
                network.rot_regression(features),
                network.unit_conversion_factor * network.xyz_regression(features),
                parameterization=network.parameterization,
                convention=network.convention,
            )

    return HalfBackbone()


def write_log(path: Path, history: list[dict[str, float]]) -> None:
    """The history as CSV, one row a validation."""
    lines = [
        ",".join(history[0]),
        *(
            ",".join(
                f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values()
            )
            for row in history
        ),
    ]
    write_text(path, "\n".join(lines) + "\n")


def _save(path: Path, content: dict[str, Any]) -> None:
    import torch

    with writing(path) as stream:
        torch.save(content, stream)
