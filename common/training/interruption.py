"""Stopping a run by Ctrl-C or SIGTERM without losing its state."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from dataclasses import dataclass
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the checkpoint was written."""


@dataclass
class StopRequest:
    """Whether the run is to end after the current batch."""

    made: bool = False


@contextlib.contextmanager
def stop_requests() -> Generator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second one acts immediately."""
    request, previous = StopRequest(), {}

    def ask(number: int, frame: FrameType | None) -> None:
        request.made = True
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
