"""Progress of slow work, carried by `logging`.

Records have level `PROGRESS` and an attribute ``progress`` of type `Progress`. To show them, add a
handler to the logger "common"; `common.command_line.log` has the handler of the scripts. Without a
handler, nothing is shown or stored. Standard library only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

PROGRESS = 15  # between DEBUG and INFO
logging.addLevelName(PROGRESS, "PROGRESS")
logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """State of one piece of work."""

    track: int  # identifies the `Track`
    what: str
    unit: str
    done: int
    total: int | None
    seconds: float  # since the work began
    about: str  # current figures, such as a loss
    finished: bool


class Track(Generic[T]):
    """Counter of the steps of one piece of work, which logs each step.

    Iterate over it to count ``items``, or use it as a context and call `update` up to ``total``.
    """

    def __init__(self, items: Iterable[T] = (), *, total: int | None = None, what: str, unit: str):
        self._items, self._what, self._unit = items, what, unit
        self._total = len(items) if total is None and isinstance(items, Sized) else total
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
        """Count ``steps`` more and log the state."""
        self.done += steps
        self._log(finished=False)

    def close(self) -> None:
        """Log the end of the work."""
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
