"""Progress of slow work, carried by `logging`: records of level `PROGRESS` whose ``progress`` attribute says how far it is.

Standard library only. Whoever wants to see it adds a handler to the logger "common"; `common.command_line.log` has the one of the scripts.
Without a handler nothing is shown and nothing is stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

PROGRESS = 15  # between DEBUG and INFO
logging.addLevelName(PROGRESS, "PROGRESS")
logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far one piece of work is."""

    track: int  # the same for all records of one `Track`
    what: str
    unit: str
    done: int
    total: int | None
    seconds: float  # since the work began
    about: str  # figures of the moment, such as a loss
    finished: bool


class Track(Generic[T]):
    """Counts the steps of a piece of work and logs each: over ``items``, or by `update` up to ``total``."""

    def __init__(self, items: Iterable[T] = (), *, total: int | None = None, what: str, unit: str):
        self._items, self._what, self._unit = items, what, unit
        self._total = len(items) if total is None and hasattr(items, "__len__") else total
        self._began = time.monotonic()
        self.done = 0
        self.about = ""

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> Track[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, steps: int = 1) -> None:
        self.done += steps
        self._log(finished=False)

    def close(self) -> None:
        self._log(finished=True)

    def _log(self, finished: bool) -> None:
        if not logger.isEnabledFor(PROGRESS):
            return
        seconds = time.monotonic() - self._began
        state = Progress(
            id(self), self._what, self._unit, self.done, self._total, seconds, self.about, finished
        )
        logger.log(PROGRESS, "%s: %d", self._what, self.done, extra={"progress": state})


def track(items: Iterable[T], what: str, unit: str) -> Iterable[T]:
    """Iterate over ``items`` and log the progress."""
    return Track(items, what=what, unit=unit)
