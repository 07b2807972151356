"""Batches of training images, made while the network learns from the batch before.

A batch is a function of (seed, iteration, process), so a resumed run sees the batches of an
uninterrupted one. A DRR appears in several batches, each time with other augmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.training import schedule
from common.training.checkpoints import TrainingState
from common.training.images import GROUPS, Scenes, images_of, make_scenes
from common.training.pool import PatientPool
from common.training.processes import take_rendering_cores
from common.training.settings import Settings

# batches between two appearances of a DRR; reuse in consecutive batches trains worse
# (benchmarks/README.md, 'Use of each DRR')
APART = 50
MOST_HELD_BYTES = 1e9  # of DRRs to be used again


@dataclass(frozen=True)
class Batch:
    """Input images (B, 1, H, W) of the network with their extrinsics (B, 4, 4).

    ``scenes`` are those of the images, in the same order; ``seed`` is for drop-out layers.
    """

    scenes: list[Scenes]
    images: torch.Tensor
    poses: torch.Tensor
    seed: int


def batches_apart(settings: Settings) -> int:
    """Batches between two appearances of a DRR: `APART`, or fewer if their memory is too large."""
    reuse = _reuse(settings)
    # float32: one layer in full, two at half the resolution
    image_bytes = 6 * settings.view.detector.width**2
    bytes_per_batch = image_bytes * settings.batch_size * (reuse - 1) / reuse
    return int(np.clip(MOST_HELD_BYTES / max(1, bytes_per_batch), 1, APART))


def _reuse(settings: Settings) -> int:
    return min(settings.reuse, settings.batch_size)


class BatchMaker:
    """Makes the batches of one process.

    ``state`` is that of the run, which goes on meanwhile. With ``keep_patients``, the scenes can be
    rendered again, by a loss that compares images.
    """

    def __init__(
        self,
        settings: Settings,
        pool: PatientPool,
        state: TrainingState,
        rank: int,
        keep_patients: bool,
    ):
        self._settings, self._pool, self._state, self._rank = settings, pool, state, rank
        self._keep_patients = keep_patients
        self._reuse = _reuse(settings)
        self._apart = batches_apart(settings)
        self._rendered: dict[int, list[Scenes]] = {}  # parts of this and later batches, by number

    def batches(self, first: int, ahead: bool) -> Generator[Batch]:
        """Endless batches from iteration ``first``; with ``ahead``, a thread makes the next."""
        if not ahead:
            for number in itertools.count(first):
                yield self.make(number, late=True)
        with ThreadPoolExecutor(1) as maker:
            following = maker.submit(self.make, first)
            for number in itertools.count(first + 1):
                late = not following.done()
                batch, following = following.result(), maker.submit(self.make, number, late)
                yield batch

    def make(self, iteration: int, late: bool = False) -> Batch:
        """The batch of an iteration; ``late`` if the network had to wait for the one before."""
        take_rendering_cores(late)
        numbers = [iteration + self._apart * k for k in range(self._reuse)]
        self._rendered = {
            number: self._rendered[number] for number in self._rendered if number >= iteration
        }
        for number in numbers:
            if number not in self._rendered:
                self._rendered[number] = self._render(number)
        rng = np.random.default_rng([self._settings.seed, iteration, self._rank, 0])
        scenes = [scene for number in numbers for scene in self._rendered[number]]
        probability = schedule.augmentation_probability(self._settings, self._state, iteration)
        images, poses = images_of(scenes, self._settings.view, probability, rng)
        return Batch(scenes, images, poses, int(rng.integers(2**31)))

    def _render(self, number: int) -> list[Scenes]:
        """Part ``number``, which appears in several batches; parts that are apart fill a batch."""
        settings = self._settings
        rng = np.random.default_rng([settings.seed, number, self._rank, 1])
        patient = self._pool.at(max(0, number - self._apart * (self._reuse - 1)), rng)
        place = number // self._apart % self._reuse
        scenes = make_scenes(
            patient,
            settings.view,
            len(range(place, settings.batch_size, self._reuse)),
            max(1, GROUPS // self._reuse),
            settings.p_augmentation > 0,
            rng,
        )
        if self._keep_patients:
            return scenes
        # scenes that wait must not keep a CT in memory that has left the window
        return [replace(scene, patient=None) for scene in scenes]
