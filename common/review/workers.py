"""Worker processes of the review: one renders, so that it never waits, and one solves and saves."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from common.errors import InputError
from common.review import jobs

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """One process that does one job after the other, and is started again if it dies."""

    def __init__(self, what: str):
        self._what = what
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        # a forked copy of a process with threads may hang
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, context, initializer=jobs.begin)
        pool.submit(os.getpid)  # starts the process, which takes seconds
        return pool

    async def do(self, job: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a job. Raises what it raises, and InputError if the process died."""
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, job, *arguments)
        except BrokenProcessPool:
            if pool is self._pool:
                pool.shutdown(wait=False)
                self._pool = self._started()
            logger.warning(f"the process that {self._what} ended; a new one was started")
            raise InputError(
                "memory",
                f"the process that {self._what} ended unexpectedly",
                "enough memory for the CT",
                "try again, or close other programs; what was accepted is on the disk",
            ) from None

    def stop(self) -> None:
        """End the process; a job in it is finished first."""
        self._pool.shutdown(wait=True, cancel_futures=True)
