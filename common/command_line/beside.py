"""Calls in another thread, one after the other, while a run goes on, to read and write files."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

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
