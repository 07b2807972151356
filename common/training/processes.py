"""Who trains: the processes that torchrun started, and the threads of each, which share a CPU's cores."""

from __future__ import annotations

import contextlib
import copy
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEAST_LEARNT_FROM = 16  # pictures a thread: batch norm takes its means over them


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
        torch.set_num_threads(available_cores().a_learner)
    try:
        yield Processes(torch.distributed.get_rank(), count) if count > 1 else Processes()
    finally:
        torch.set_num_threads(threads)
        if count > 1:
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Cores:
    """How a CPU's cores are shared: half for the network, half for the next batch's pictures; on two cores all three threads take what is free.

    The network learns from two halves of a batch at once: a small network's layers are done sooner than two threads have met in each (two cores, test_resnet, 32 pictures of
    96 pixels: 123 ms a step on one thread, 65 ms as two halves).
    """

    count: int  # of this process

    @property
    def learners(self) -> int:
        return min(2, self.count)

    @property
    def a_learner(self) -> int:
        return max(1, self.count // 4)

    @property
    def for_pictures(self) -> int:
        return self.count - self.count // 2


def available_cores() -> Cores:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cores(max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def learners(network: torch.nn.Module, batch_size: int, pixels: int) -> list[torch.nn.Module]:
    """The network, and on a CPU where it pays a second one of the same weights, to learn from the other half of each batch.

    The second's means of batch norm are its own and are not kept. A network that draws random numbers (drop-out) has no second: two threads would draw them in any order.
    """
    if (
        batch_size < 2 * LEAST_LEARNT_FROM
        or available_cores().learners == 1
        or _draws_numbers(network, pixels)
    ):
        return [network]
    return [
        network,
        copy.deepcopy(network, {id(weight): weight for weight in network.parameters()}),
    ]


def _draws_numbers(network: torch.nn.Module, pixels: int) -> bool:
    import torch

    before = torch.get_rng_state()
    with torch.no_grad():
        copy.deepcopy(network)(torch.zeros(2, 1, pixels, pixels))
    return not torch.equal(before, torch.get_rng_state())


def take_picture_cores(network_waits: bool) -> None:
    """Give the calling thread's renderings the pictures' share of the cores, or all while the network waits for pictures (a whole chest's take four times as long as a step)."""
    import numba

    cores = available_cores()
    numba.set_num_threads(
        min(cores.count if network_waits else cores.for_pictures, numba.config.NUMBA_NUM_THREADS)
    )
