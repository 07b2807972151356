"""Worker processes of the review: one renders, so that it never waits, and one solves and saves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from common.errors import InputError
from common.review import jobs

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """One process that does one job after the other, and is started again if it dies.

    It starts with its first job, or by `start`: two that start at once take longer.
    """

    def __init__(self, what: str, leave_cores: int = 0):
        self._what, self._leave_cores = what, leave_cores
        self._pool: ProcessPoolExecutor | None = None
        self._process: Future[int] | None = None

    def start(self) -> ProcessPoolExecutor:
        """Start the process, unless it runs."""
        if self._pool is None:
            self._pool, self._process = self._started()
        return self._pool

    def _started(self) -> tuple[ProcessPoolExecutor, Future[int]]:
        # a forked copy of a process with threads may hang
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            1, context, initializer=jobs.begin, initargs=(self._leave_cores,)
        )
        return pool, pool.submit(os.getpid)  # starts the process, which takes seconds

    async def do(self, job: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a job. Raises what it raises, and InputError if the process died."""
        pool = self.start()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, job, *arguments)
        except BrokenProcessPool:
            if pool is self._pool:
                pool.shutdown(wait=False)
                self._pool, self._process = self._started()
            logger.warning(f"the process that {self._what} ended; a new one was started")
            raise InputError(
                "memory",
                f"the process that {self._what} ended unexpectedly",
                "enough memory for the CT",
                "try again, or close other programs; what was accepted is on the disk",
            ) from None

    def stop(self) -> None:
        """End the process, also in the middle of a job."""
        if self._pool is None or self._process is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(CancelledError, BrokenProcessPool):
            number = self._process.result()
            for process in multiprocessing.active_children():
                if process.pid == number:
                    process.terminate()
        self._pool.shutdown(wait=True)  # its thread must not write to a pipe that is closed
