"""What a search has found so far."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.registration.competition import Solution, better, exceeds


@dataclass(frozen=True)
class Found:
    """A solution and its start pose; one that was given need not be the one that won."""

    start: np.ndarray  # (4, 4) volume_from_rig
    solution: Solution
    searched: tuple[str, ...] = ()  # stages of the search so far, in words

    def after(self, words: str, other: Solution | None) -> Found:
        """Return the better of this and ``other``, found by one more stage of the search."""
        searched = (*self.searched, words)
        if other is None:
            return replace(self, searched=searched)
        start = other.start if exceeds(other, self.solution) else self.start
        return Found(start, better(self.solution, other) or other, searched)
