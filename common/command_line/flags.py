"""Flags that several scripts share."""

from __future__ import annotations

import argparse
from dataclasses import replace

from common.errors import InputError
from common.geometry.pose_range import MEANING, NAMES, UNITS, PoseRange, check


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where to render and train; auto takes a GPU when there is one (default: auto)",
    )


def add_pose_range_flags(parser: argparse.ArgumentParser, fallback: str = "") -> None:
    """--r1 ... --tz LOW HIGH. Unset flags are None; ``fallback`` says in the help what they default to."""
    group = parser.add_argument_group(
        "range of poses, Euler ZXY in degrees and millimetres from source to isocentre"
    )
    default = PoseRange()
    for name in NAMES:
        low, high = getattr(default, name)
        shown = f"{fallback}, else {low:g} {high:g}" if fallback else f"{low:g} {high:g}"
        group.add_argument(
            f"--{name}",
            nargs=2,
            type=float,
            metavar=("LOW", "HIGH"),
            help=f"{MEANING[name]}, {UNITS[name]} (default: {shown})",
        )


def pose_range_from(args: argparse.Namespace, fallback: PoseRange | None = None) -> PoseRange:
    """The range of the flags; each flag left out takes ``fallback``'s interval (the knee defaults without one).

    Raises InputError for an interval that is empty, not finite or behind the source.
    """
    given = {name: tuple(getattr(args, name)) for name in NAMES if getattr(args, name) is not None}
    chosen = replace(fallback or PoseRange(), **given)
    check(chosen, "--")
    if fallback is None and chosen.ty[0] <= 0:
        raise InputError(
            "--ty",
            f"found {chosen.ty[0]:g} mm",
            "a distance above 0 from source to isocentre",
            "raise the low end",
        )
    return chosen
