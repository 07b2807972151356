"""Threads beside a run: calls one after the other to read and write files, and their memory."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import sys
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

M_ARENA_MAX, HEAPS = -8, 2  # parameter of mallopt in glibc's malloc.h, and its value

Submit: TypeAlias = Callable[..., "Future[Any]"]


@contextlib.contextmanager
def beside() -> Generator[Submit]:
    """Context of a thread; the function that it yields calls another one there.

    The call sees the locks of this run. Leaving the context waits for all calls.
    """
    with ThreadPoolExecutor(1) as pool:
        yield lambda function, *values: pool.submit(
            contextvars.copy_context().run, function, *values
        )


def share_heaps() -> None:
    """Let the threads of this process share two heaps, where the C library is glibc.

    It gives each thread a heap of its own, which keeps what is freed: a search from nothing in two
    views then took 1.64 GB at most instead of 1.37.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(M_ARENA_MAX, HEAPS)
