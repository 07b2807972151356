"""Flags shared by several scripts: --device, --material and the pose range."""

from __future__ import annotations

import argparse
from dataclasses import replace

from common.errors import InputError
from common.geometry.pose_range import MEANING, NAMES, UNITS, PoseRange, check
from common.volume.label_names import number_or_name
from common.volume.materials import MATERIALS


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="device for rendering and training; auto: a GPU if available (default: %(default)s)",
    )


def add_material_flag(
    parser: argparse.ArgumentParser, nargs: str | None = None, default: str = "bone, with a warning"
) -> None:
    """Add --material; ``nargs`` "+" for several volumes, ``default`` is that in words."""
    several = ", one per surface or one for all" if nargs else ""
    parser.add_argument(
        "--material",
        choices=MATERIALS,
        nargs=nargs,
        help=(
            f"material of a surface{several}; metal hides what is behind it; cortical-shell: a bone"
            f" with a dense shell, as segmented from MRI (default: {default})"
        ),
    )


def add_labels_flag(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, help_text: str
) -> None:
    """Add --labels, of which each is a number or a name that the labelmap states."""
    parser.add_argument(
        "--labels",
        nargs="+",
        type=number_or_name,
        metavar="N",
        help=f"{help_text}; numbers, or names that the labelmap states (docs/formats.md)",
    )


def add_series_flag(parser: argparse.ArgumentParser) -> None:
    """Add --series, the words that choose one of several DICOM series."""
    parser.add_argument(
        "--series",
        nargs="+",
        default=[],
        metavar="WORD",
        help="of several CT series in a DICOM folder or zip, the one of this number, or with these"
        " words in body part, kernel or description",
    )


def add_pose_range_flags(
    parser: argparse.ArgumentParser, fallback: str = "", everywhere: bool = False
) -> argparse._ArgumentGroup:
    """Add --r1 ... --tz LOW HIGH and return their group; a flag that is not given is None.

    ``fallback`` names the default of these flags in the help, for scripts with another default;
    ``everywhere``: none of them needs to be given.
    """
    group = parser.add_argument_group(
        "pose range: Euler angles ZXY in degrees, offset from source to isocentre in millimetres"
    )
    default = PoseRange()
    for name in NAMES:
        low, high = getattr(default, name)
        shown = f"{fallback}, else {low:g} {high:g}" if fallback else f"{low:g} {high:g}"
        if everywhere:
            shown = f"everywhere; {shown} with another of these flags"
        group.add_argument(
            f"--{name}",
            nargs=2,
            type=float,
            metavar=("LOW", "HIGH"),
            help=f"{MEANING[name]}, {UNITS[name]} (default: {shown})",
        )
    return group


def pose_range_from(args: argparse.Namespace, fallback: PoseRange | None = None) -> PoseRange:
    """Return the pose range of the flags.

    A flag that is not given has the interval of ``fallback``, without one that of a knee. Raises
    InputError if an interval is empty, not finite or behind the source.
    """
    given = {name: tuple(getattr(args, name)) for name in NAMES if getattr(args, name) is not None}
    default = fallback or PoseRange()
    chosen = replace(default, **given)
    check(chosen)
    if default.ty[0] > 0 and chosen.ty[0] <= 0:
        raise InputError(
            "--ty",
            f"found {chosen.ty[0]:g} mm",
            "a distance above 0 from source to isocentre",
            "raise the low end",
        )
    return chosen
