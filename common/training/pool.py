"""Patients in memory: all of them, or a window that slides over a larger cohort."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from common.drr.renderer import Device
from common.progress import track
from common.training.loading import load_patient
from common.training.patient import Patient
from common.training.sources import Source
from common.training.view import TrainingView

PATIENT_SPAN = 100  # iterations before one patient of the window is replaced


class PatientPool:
    """All patients if ``cache_gb`` allows, else a window over a shuffled, endless list of them.

    The window is a function of the iteration and the seed. The next patient is read in the
    background while those of the window are in use.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        view: TrainingView,
        device: Device,
        cache_gb: float,
        seed: int,
    ):
        self.sources = sources
        self._view, self._device, self._seed = view, device, seed
        self._reader = ThreadPoolExecutor(1)
        self._held: dict[int, Future[Patient]] = {}
        first = self._get(0)
        self.window = int(np.clip(cache_gb * 1e9 / max(1, first.size_bytes) - 1, 1, len(sources)))

    def at(self, iteration: int, rng: np.random.Generator) -> Patient:
        """A patient of the window at this iteration, drawn by ``rng``."""
        if self.window == len(self.sources):
            return self._get(int(rng.integers(len(self.sources))))
        start = iteration // PATIENT_SPAN
        listed = [self._listed(start + k) for k in range(self.window + 1)]
        for gone in set(self._held) - set(listed):
            del self._held[gone]
        self._request(listed[-1])
        return self._get(listed[int(rng.integers(self.window))])

    def check(self) -> None:
        """Read every patient once, so that an invalid file stops the run before it starts.

        Raises InputError as `load_patient` does.
        """
        for number in track(range(len(self.sources)), what="reading CTs", unit="CT"):
            self._get(number)
            if self.window < len(self.sources):
                del self._held[number]

    def _listed(self, position: int) -> int:
        """Number of the patient at a position of the endless list, shuffled again every round."""
        round_, place = divmod(position, len(self.sources))
        rng = np.random.default_rng([self._seed, 7, round_])
        return int(rng.permutation(len(self.sources))[place])

    def _request(self, number: int) -> Future[Patient]:
        if number not in self._held:
            self._held[number] = self._reader.submit(
                load_patient, self.sources[number], self._view, self._device
            )
        return self._held[number]

    def _get(self, number: int) -> Patient:
        return self._request(number).result()
