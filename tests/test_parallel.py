"""Kernels called from several threads, also where numba has no threads that allow it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.drr import parallel

ROOT = Path(__file__).resolve().parents[1]
# many short calls from four threads: without waiting, numba ends the process within the first few
AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numba
import numpy as np
from common.registration import contrast_kernel
images = np.random.default_rng(0).random((8, 60, 50), np.float32)
weights = np.float32([0.25, 0.5, 0.25])
def blurred(_):
    out = np.empty_like(images)
    contrast_kernel.blur(images, weights, weights, out)
    return out
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(blurred, range(200)))
assert all((each == found[0]).all() for each in found)
assert np.allclose(found[0][:, 1:-1, 1:-1].mean(), images.mean(), atol=0.01)
print(numba.threading_layer())
"""


def test_threads_may_call_kernels_at_once_where_numba_has_only_its_own_threads():
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "workqueue\n"), done.stderr


def test_without_the_libraries_of_openmp_and_tbb_kernels_wait_for_each_other(monkeypatch):
    for layer in ("tbbpool", "omppool"):
        monkeypatch.setitem(sys.modules, f"numba.np.ufunc.{layer}", None)
    assert not parallel.callable_at_once()


@pytest.mark.parametrize("layer", ["tbbpool", "omppool"])
def test_with_one_of_the_two_they_do_not(monkeypatch, layer):
    for each in ("tbbpool", "omppool"):
        monkeypatch.setitem(sys.modules, f"numba.np.ufunc.{each}", None)
    monkeypatch.setitem(sys.modules, f"numba.np.ufunc.{layer}", parallel)
    assert parallel.callable_at_once()


def test_a_kernel_that_waits_runs_once_at_a_time_and_passes_errors_on():
    running, most = [], []

    def kernel(number):
        running.append(number)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        if number == 3:
            raise ValueError("three")

    call = parallel.waiting(kernel)
    threads = [threading.Thread(target=call, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError, match="three"):
        call(3)
    call(4)  # the error has released it
    assert most == [1, 1, 1, 1]
