"""What agnostic.py and finetuned.py do alike once they know their CTs and settings: check, train, write, report."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from common.command_line import flags
from common.errors import InputError
from common.files import check_outputs
from common.geometry import Detector
from common.geometry.pose_range import PoseRange
from common.pose_network import checkpoint
from common.training.outputs import Outputs
from common.training.sampling import View
from common.training.settings import (
    CPU_BATCH,
    CPU_HEIGHT,
    DEFAULT_MINUTES,
    FIELD_MM,
    GPU_BATCH,
    GPU_HEIGHT,
    GPU_WEIGHT,
)


def outputs_of(args: argparse.Namespace, inputs: list[str]) -> Outputs:
    """The run's files, checked. Raises InputError for a name that is no file name, or files that are in the way."""
    if not re.fullmatch(r"[\w.-]{1,100}", args.name) or args.name.startswith((".", "-")):
        raise InputError(
            "--name",
            f"found {args.name!r}",
            "letters, digits, dots, dashes and underscores",
            "it becomes NAME.pth",
        )
    outputs = Outputs(Path(args.output_dir), args.name)
    check_outputs(outputs.all, args.overwrite or args.resume, inputs)
    if outputs.board.exists() and not (args.overwrite or args.resume):
        raise InputError(
            outputs.board, "exists already", "a new name", "give --overwrite to replace it"
        )
    if args.resume and not outputs.last.exists():
        raise InputError(
            outputs.last,
            "not found",
            "the last checkpoint of the run to resume",
            "start it without --resume",
        )
    return outputs


def add_training_flags(
    parser: argparse.ArgumentParser, inherited: bool, rates: tuple[float, float]
) -> None:
    """The flags of both training scripts; ``inherited`` says that detector and poses default to the checkpoint's; ``rates`` are the learning rates on a CPU and on a GPU."""
    source = "the checkpoint's" if inherited else ""
    budget = parser.add_argument_group("budget")
    length = budget.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"train for so long (default: {DEFAULT_MINUTES:g})",
    )
    length.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="train for so many batches instead; with it, --resume continues bit for bit",
    )
    budget.add_argument(
        "--resume",
        action="store_true",
        help="continue OUT/NAME_last.pth with its settings and budget",
    )
    budget.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help=f"pictures a batch (default: {CPU_BATCH} on a CPU, {GPU_BATCH} on a GPU)",
    )
    budget.add_argument(
        "--lr",
        type=float,
        help=f"highest learning rate (default: {rates[0]:g} on a CPU, {rates[1]:g} on a GPU)",
    )
    budget.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="report to this project of Weights & Biases too (pip install wandb)",
    )
    budget.add_argument(
        "--seed",
        type=int,
        default=None,
        help="another seed draws other weights and pictures (default: 0)",
    )
    for name, term in (("weight_ncc", "pictures"), ("weight_dice", "silhouettes")):
        budget.add_argument(
            f"--{name}",
            type=float,
            metavar="W",
            help=(
                f"weight of the difference of {term} at predicted and true pose, beside 1 a 100 mm"
                f" (default: {GPU_WEIGHT:g} on CUDA, else 0)"
            ),
        )
    data = parser.add_argument_group("pictures")
    data.add_argument(
        "--mask",
        metavar="FILE|DIR",
        help=(
            "labelmap of the bone, or a folder with one of each CT's file name: other bones then"
            " move at random"
        ),
    )
    data.add_argument(
        "--labels",
        nargs="+",
        type=int,
        metavar="N",
        help="labels of --mask that are the bone (default: all)",
    )
    data.add_argument(
        "--like", metavar="XRAY", help="take SDD and field of view from this X-ray's DICOM header"
    )
    for name, kind, default, what in (
        ("sdd", float, "1020", "source-to-detector distance, mm"),
        (
            "height",
            int,
            f"{CPU_HEIGHT} on a CPU, {GPU_HEIGHT} on a GPU",
            "pixels of the square training detector",
        ),
        ("delx", float, f"a field of {FIELD_MM:g} mm", "its pixel size, mm"),
    ):
        data.add_argument(
            f"--{name}",
            type=kind,
            metavar="PX" if kind is int else "MM",
            help=f"{what} (default: {source or default})",
        )
    data.add_argument(
        "--p_augmentation",
        type=float,
        metavar="P",
        help="chance of each effect on each picture (default: 0.4)",
    )
    data.add_argument(
        "--cache_gb",
        type=float,
        default=4.0,
        metavar="GB",
        help="memory for CTs; a larger cohort passes through it (default: %(default)g)",
    )
    flags.add_pose_range_flags(parser, source)


def view_from(args: argparse.Namespace, device: str, fallback: View | None = None) -> View:
    """Detector and poses of the flags over --like over ``fallback`` over the device's and the knee's defaults. Raises InputError for what cannot be."""
    pixels = CPU_HEIGHT if device == "cpu" else GPU_HEIGHT
    base = fallback or View(
        Detector.centred(pixels, pixels, 1020.0, FIELD_MM / pixels), PoseRange()
    )
    height, sdd, delx = base.detector.height, base.detector.sdd_mm, base.detector.pixel_mm[0]
    height = height if args.height is None else args.height
    if args.height is not None and height > 0:
        delx = delx * base.detector.height / height
    if args.like:
        from common.xray import reading

        detector = reading.read(args.like, reading.GeometryFlags(args.sdd)).detector
        sdd, delx = detector.sdd_mm, max(detector.size_mm) / max(height, 1)
    sdd, delx = (
        given if given is not None else found
        for given, found in ((args.sdd, sdd), (args.delx, delx))
    )
    low, high = checkpoint.HEIGHTS
    if not low <= height <= high or height % 2:
        raise InputError(
            "--height",
            f"found {height}",
            f"an even number of pixels, {low} to {high}",
            f"{CPU_HEIGHT} suits a CPU",
        )
    if not 50 <= sdd <= 10_000 or not 0.01 <= delx <= 50:
        raise InputError(
            "--sdd, --delx",
            f"found {sdd:g} and {delx:g}",
            "50 to 10000 mm and 0.01 to 50 mm",
            "correct them",
        )
    pose_range = flags.pose_range_from(args, fallback and fallback.pose_range)
    return View(
        Detector.centred(height, height, sdd, delx),
        pose_range,
        base.orientation,
        base.reverse_x_axis,
    )


def changes_from(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags state, checked. Raises InputError."""
    for name, low, high, unit in (("minutes", 0.01, 100_000, "minutes"), ("iterations", 1, 1e9, ""), ("batch_size", 2, 4096, "pictures"), ("lr", 1e-8, 1, ""), ("seed", 0, 2**31, ""), ("p_augmentation", 0, 1, ""), ("weight_ncc", 0, 1000, ""), ("weight_dice", 0, 1000, ""), ("cache_gb", 0.01, 10_000, "GB")):  # fmt: skip
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise InputError(
                f"--{name}",
                f"found {value:g}",
                f"{low:g} to {high:g} {unit}".rstrip(),
                "correct it",
            )
    changes = {
        name: getattr(args, name)
        for name in ("batch_size", "lr", "seed", "p_augmentation", "weight_ncc", "weight_dice")
        if getattr(args, name) is not None
    }
    if args.iterations is not None:
        return {**changes, "iterations": args.iterations, "minutes": None}
    if args.minutes is not None:
        return {**changes, "iterations": None, "minutes": args.minutes}
    return changes
