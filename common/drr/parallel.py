"""Kernels that numba runs in parallel, called from several threads of a process.

numba has three kinds of threads. Two may be used from several threads of Python at once: OpenMP
(`libgomp` on Linux, `libomp` on macOS) and TBB. The third comes with numba; it ends the process if
it is used so. Where it is the only one, as on macOS without `libomp` and in small container images,
kernels wait for each other.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

import numba

_one_at_a_time = threading.Lock()


def parallel(fastmath: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator: compile a kernel with parallel loops, which any thread may call."""

    def compiled(kernel: Callable[..., None]) -> Callable[..., None]:
        fast = numba.njit(parallel=True, fastmath=fastmath, cache=True, nogil=True)(kernel)
        return fast if callable_at_once() else waiting(fast)

    return compiled


def callable_at_once() -> bool:
    """Return whether numba's threads here may be used from several threads of Python at once."""
    if numba.config.THREADING_LAYER == "workqueue":  # ty: ignore[missing-attribute]
        return False
    for layer in ("tbbpool", "omppool"):
        try:
            importlib.import_module(f"numba.np.ufunc.{layer}")
        except ImportError:  # its library is not installed
            continue
        return True
    return False


def waiting(kernel: Callable[..., None]) -> Callable[..., None]:
    """Return the kernel with calls that wait for those of other threads, and of other kernels."""

    @functools.wraps(kernel)
    def call(*values: Any) -> None:
        with _one_at_a_time:
            kernel(*values)

    return call
