"""The processes that torchrun started, and how the threads of each share the cores of a CPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass

from common.drr.renderer import Device


@dataclass(frozen=True)
class Processes:
    """This process among those that train together (torchrun)."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, *values: float) -> list[float]:
        """The largest of each value over all processes."""
        if self.count == 1:
            return list(values)
        import torch

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return shared.tolist()


@contextlib.contextmanager
def join_processes(device: Device) -> Generator[Processes]:
    """Join the processes that torchrun started; without torchrun, this process is the only one."""
    import torch

    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda" and count > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(available_cores().threads_per_learner)
    try:
        yield Processes(torch.distributed.get_rank(), count) if count > 1 else Processes()
    finally:
        torch.set_num_threads(threads)
        if count > 1:
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Cores:
    """How the ``count`` cores of this process are shared.

    Half is for the network, half for the images of the next batch; on two cores, all three threads
    take what is free. The network learns from two halves of a batch in two threads, because two
    threads within each layer of a small network gain little
    (benchmarks/README.md, 'Speed and memory').
    """

    count: int

    @property
    def learners(self) -> int:
        return min(2, self.count)

    @property
    def threads_per_learner(self) -> int:
        return max(1, self.count // 4)

    @property
    def for_rendering(self) -> int:
        return self.count - self.count // 2


def available_cores() -> Cores:
    """The cores of this machine, divided among the processes on it."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cores(max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def take_rendering_cores(network_waits: bool) -> None:
    """Give renderings of the calling thread their part of the cores.

    They take all cores while the network waits for images, as it does with a whole chest CT.
    """
    import numba

    cores = available_cores()
    wanted = cores.count if network_waits else cores.for_rendering
    most = numba.config.NUMBA_NUM_THREADS  # ty: ignore[missing-attribute]  # set on import
    numba.set_num_threads(min(wanted, most))
