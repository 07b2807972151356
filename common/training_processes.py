"""Who trains: the processes that torchrun started, and how each shares a CPU's cores."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass


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
def processes(device: str):
    """Join the processes that torchrun started; alone without it. Yields `Processes`."""
    import torch

    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda" and count > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(_cores().for_network)
    try:
        yield Processes(torch.distributed.get_rank(), count) if count > 1 else Processes()
    finally:
        torch.set_num_threads(threads)
        if count > 1:
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Cores:
    """How a CPU's cores are shared: half for the network, half for the next batch's pictures.

    Both in turn on all cores took longer: a small network's layers are done sooner than two threads have met (two cores, mobilenetv3_small_050, 32 pictures: 128 ms
    a step on two threads, 85 ms on one).
    """

    for_network: int
    for_pictures: int


def _cores() -> Cores:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return Cores(max(1, share // 2), max(1, share - share // 2))


def take_picture_cores(network_waits: bool) -> None:
    """Give the calling thread's renderings the pictures' share of the cores, or the network's too while that waits for pictures (a whole chest's take four times as long as a step)."""
    import numba

    cores = _cores()
    numba.set_num_threads(min(cores.for_pictures + network_waits * cores.for_network, numba.config.NUMBA_NUM_THREADS))
