"""Flags of agnostic.py and finetuned.py, and the settings that they state."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command_line import flags
from common.errors import InputError
from common.files import check_outputs
from common.geometry import Detector
from common.geometry.pose_range import PoseRange, any_side, oriented
from common.pose_network import checkpoint
from common.training.outputs import Outputs
from common.training.settings import (
    CPU_BATCH,
    CPU_HEIGHT,
    DEFAULT_MINUTES,
    FIELD_MM,
    GPU_BATCH,
    GPU_HEIGHT,
    GPU_WEIGHT,
    SDD_MM,
    Settings,
    default_view,
)
from common.training.view import TrainingView

if TYPE_CHECKING:
    from common.drr.renderer import Device
    from common.xray.xray import Xray

# setting, lowest and highest value, unit
LIMITS = (
    ("minutes", 0.01, 100_000, "minutes"),
    ("iterations", 1, 1e9, ""),
    ("batch_size", 2, 4096, "images"),
    ("lr", 1e-8, 1, ""),
    ("seed", 0, 2**31, ""),
    ("p_augmentation", 0, 1, ""),
    ("weight_ncc", 0, 1000, ""),
    ("weight_dice", 0, 1000, ""),
    ("cache_gb", 0.01, 10_000, "GB"),
)
SDD_LIMITS_MM, SPACING_LIMITS_MM = (50, 10_000), (0.01, 50)


def add_training_flags(
    parser: argparse.ArgumentParser, inherited: bool, rates: tuple[float, float]
) -> None:
    """The flags of both training scripts.

    ``inherited``: detector and pose range default to those of a checkpoint. ``rates`` are the
    learning rates on a CPU and on a GPU.
    """
    source = "the checkpoint's" if inherited else ""
    _add_budget_flags(parser.add_argument_group("budget"), rates)
    _add_loss_flags(parser.add_argument_group("loss"))
    images = parser.add_argument_group("images")
    _add_image_flags(images)
    _add_detector_flags(images, source)
    flags.add_pose_range_flags(parser, source).add_argument(
        "--views",
        choices=("ap", "any"),
        help=(
            "ap: the default of a knee's AP view; any: AP to lateral on either side (r1 -110 110,"
            " r2 -20 20, r3 -30 30, tx and tz -80 80, ty 0.70 to 0.93 of the SDD); each flag of a"
            f" single parameter still counts (default: {source or 'ap'})"
        ),
    )


def _add_budget_flags(group: argparse._ArgumentGroup, rates: tuple[float, float]) -> None:
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"training time in minutes (default: {DEFAULT_MINUTES:g})",
    )
    length.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="number of training batches instead of minutes; a resumed run is then bit-identical",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue OUT/NAME_last.pth with its settings and budget",
    )
    group.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help=f"images per batch (default: {CPU_BATCH} on a CPU, {GPU_BATCH} on a GPU)",
    )
    group.add_argument(
        "--lr",
        type=float,
        help=f"highest learning rate (default: {rates[0]:g} on a CPU, {rates[1]:g} on a GPU)",
    )
    group.add_argument("--seed", type=int, help="random seed of weights and images (default: 0)")
    group.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="also report to this project of Weights & Biases (pip install wandb)",
    )


def _add_loss_flags(group: argparse._ArgumentGroup) -> None:
    for name, term in (("weight_ncc", "image"), ("weight_dice", "Dice")):
        group.add_argument(
            f"--{name}",
            type=float,
            metavar="W",
            help=(
                f"weight of the {term} term; the pose term is 1 per 100 mm (default:"
                f" {GPU_WEIGHT:g} on CUDA, else 0)"
            ),
        )


def _add_image_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mask",
        metavar="FILE|DIR",
        help=(
            "labelmap of the bone, or a folder of labelmaps with the file names of the CTs; other"
            " bones then move at random"
        ),
    )
    flags.add_labels_flag(group, "labels of the bone in --mask (default: all)")
    group.add_argument(
        "--p_augmentation",
        type=float,
        metavar="P",
        help="probability of each augmentation of each image (default: 0.4)",
    )
    group.add_argument(
        "--cache_gb",
        type=float,
        default=4.0,
        metavar="GB",
        help="memory for CTs in GB; larger cohorts are streamed (default: %(default)g)",
    )


def _add_detector_flags(group: argparse._ArgumentGroup, source: str) -> None:
    group.add_argument(
        "--like",
        metavar="XRAY",
        help="take SDD and field of view from the DICOM header of this X-ray",
    )
    group.add_argument(
        "--sdd",
        type=float,
        metavar="MM",
        help=f"source-to-detector distance (SDD), mm (default: {source or f'{SDD_MM:g}'})",
    )
    height = f"{CPU_HEIGHT} on a CPU, {GPU_HEIGHT} on a GPU"
    group.add_argument(
        "--height",
        type=int,
        metavar="PX",
        help=f"pixels per side of the square training detector (default: {source or height})",
    )
    field = f"a field of {FIELD_MM:g} mm"
    group.add_argument(
        "--delx",
        type=float,
        metavar="MM",
        help=f"pixel spacing of the training detector, mm (default: {source or field})",
    )


def outputs_of(args: argparse.Namespace, inputs: Iterable[str | Path]) -> Outputs:
    """The files of the run, checked and locked.

    Raises InputError if --name is not a file name, a file exists already, or there is no run to
    resume.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", args.name) or args.name.startswith((".", "-")):
        raise InputError(
            "--name",
            f"found {args.name!r}",
            "letters, digits, dots, dashes and underscores",
            "choose a name for NAME.pth",
        )
    outputs = Outputs(Path(args.output_dir), args.name)
    replaces = args.overwrite or args.resume
    check_outputs(outputs.all, replaces, inputs)
    if outputs.board.exists() and not replaces:
        raise InputError(
            outputs.board, "already exists", "a new name", "use --overwrite to replace it"
        )
    if args.resume and not outputs.last.exists():
        raise InputError(
            outputs.last,
            "not found",
            "the last checkpoint of the run to resume",
            "start it without --resume",
        )
    return outputs


def view_from(
    args: argparse.Namespace, device: Device, fallback: TrainingView | None = None
) -> TrainingView:
    """Detector and pose range of the flags.

    Where no flag states a value, it is that of the X-ray --like, else of ``fallback``, else the
    default of the device and of a knee. Raises InputError for invalid values.
    """
    base = fallback or default_view(device)
    height, sdd, delx = base.detector.height, base.detector.sdd_mm, base.detector.pixel_mm[0]
    if args.height is not None:
        height = args.height
        if height > 0:
            delx = delx * base.detector.height / height
    if args.like:
        detector = like_xray(args).detector
        sdd, delx = detector.sdd_mm, max(detector.size_mm) / max(height, 1)
    sdd = sdd if args.sdd is None else args.sdd
    delx = delx if args.delx is None else args.delx
    _check_detector(height, sdd, delx)
    default = base.pose_range
    if args.views:
        default = oriented(any_side(sdd) if args.views == "any" else PoseRange(), base.orientation)
    pose_range = flags.pose_range_from(args, default)
    detector = Detector.centred(height, height, sdd, delx)
    return TrainingView(detector, pose_range, base.orientation, base.reverse_x_axis)


def like_xray(args: argparse.Namespace) -> Xray:
    """The X-ray --like, with the SDD of --sdd if given. Raises InputError if it cannot be read."""
    from common.xray import reading
    from common.xray.stated_geometry import StatedGeometry

    return reading.read(args.like, StatedGeometry(args.sdd))


def _check_detector(height: int, sdd_mm: float, spacing_mm: float) -> None:
    low, high = checkpoint.HEIGHTS
    if not low <= height <= high or height % 2:
        raise InputError(
            "--height",
            f"found {height}",
            f"an even number of pixels, {low} to {high}",
            f"use {CPU_HEIGHT} on a CPU",
        )
    (near, far), (fine, coarse) = SDD_LIMITS_MM, SPACING_LIMITS_MM
    if not near <= sdd_mm <= far or not fine <= spacing_mm <= coarse:
        raise InputError(
            "--sdd, --delx",
            f"found {sdd_mm:g} and {spacing_mm:g}",
            f"{near} to {far} mm and {fine:g} to {coarse} mm",
            "correct them",
        )


def changes_from(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags state. Raises InputError if a value is out of range."""
    for name, low, high, unit in LIMITS:
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise InputError(
                f"--{name}",
                f"found {value:g}",
                f"{low:g} to {high:g} {unit}".rstrip(),
                "correct it",
            )
    same = ("batch_size", "lr", "seed", "p_augmentation", "weight_ncc", "weight_dice")
    changes = {name: getattr(args, name) for name in same if getattr(args, name) is not None}
    if args.iterations is not None:
        return {**changes, "iterations": args.iterations, "minutes": None}
    if args.minutes is not None:
        return {**changes, "iterations": None, "minutes": args.minutes}
    return changes


def overridden(settings: Settings, args: argparse.Namespace, device: Device) -> Settings:
    """The settings, except for those that flags state. Raises InputError for invalid values."""
    view = view_from(args, device, settings.view)
    return replace(settings, view=view, **changes_from(args))


def let_first_process_speak() -> None:
    """Of the processes that torchrun started, only the first logs notes and progress."""
    if int(os.environ.get("RANK", "0")):
        logging.getLogger("common").setLevel(logging.WARNING)
