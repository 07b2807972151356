"""Checks that the flags of registration.py do not contradict each other."""

from __future__ import annotations

import argparse
import re

from common.errors import InputError
from common.volume.mesh import is_surface

KEY_POSE = re.compile(r"(\d+)=(.+)")  # of --init_pose for some frames of a sequence


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError if flags are missing or contradict each other."""
    if args.repeat:
        if args.xray or args.volume:
            raise InputError(
                "--repeat",
                "given with X-rays or -v",
                "the inputs recorded in that file",
                "leave them out",
            )
        return
    missing = [
        name for name, given in (("xray", args.xray), ("-v/--volume", args.volume)) if not given
    ]
    if missing:
        raise InputError(
            None,
            f"the following arguments are required: {', '.join(missing)}",
            "the arguments that --help lists",
            "correct the command",
        )
    _check_structures(args)
    _check_cameras(args)
    _check_start(args)


def _check_structures(args: argparse.Namespace) -> None:
    count = len(args.volume)
    surfaces = sum(is_surface(path) for path in args.volume)
    cts = count - surfaces
    volumes = f"{count} volumes" + (f", {surfaces} of them surfaces" if surfaces else "")
    if args.mask and len(args.mask) != cts:
        raise InputError(
            "--mask",
            f"{len(args.mask)} labelmaps for {volumes}",
            "one per volume, in their order; a surface has none",
            "correct the flags",
        )
    if args.material and len(args.material) not in (1, surfaces, count):
        raise InputError(
            "--material",
            f"{len(args.material)} materials for {volumes}",
            "one per surface, in their order, or one for all",
            "correct the flags",
        )
    if args.labels and not args.mask:
        raise InputError("--labels", "given without --mask", "--mask with it", "add --mask FILE")
    if args.labels and cts > 1 and len(args.labels) != cts:
        raise InputError(
            "--labels",
            f"{len(args.labels)} labels for {volumes}",
            "one label per volume",
            "correct the flags",
        )


def _check_cameras(args: argparse.Namespace) -> None:
    cameras = len(args.calibration or [])
    if args.views and cameras < 2:
        raise InputError(
            "--views",
            f"{cameras} calibrations",
            "one per camera, two or more, in the order of the X-rays",
            "add --calibration FILE FILE",
        )
    if cameras and len(args.xray) % cameras:
        raise InputError(
            "--calibration",
            f"{cameras} files for {len(args.xray)} X-rays",
            "one per X-ray of an instant, in their order",
            "correct the flags",
        )
    if args.calibration and (args.sdd or args.principal_point):
        raise InputError(
            "--calibration",
            "given with --sdd or --principal_point",
            "the camera from one source",
            "leave the others out",
        )
    if args.pixel_spacing is not None and len(args.pixel_spacing) > 2:
        raise InputError(
            "--pixel_spacing",
            f"{len(args.pixel_spacing)} numbers",
            "one, or two (width, height), in mm",
            "correct the flag",
        )


def _check_start(args: argparse.Namespace) -> None:
    count = len(args.volume)
    if args.init == "model" and args.checkpoint is None:
        raise InputError(
            "--init model", "no checkpoint", "-c CHECKPOINT", "give one or use --init search"
        )
    both = "both --init fixed and --init_pose FILE, or neither"
    if args.init == "fixed" and not args.init_pose:
        raise InputError("--init fixed", "given without --init_pose", both, "add --init_pose FILE")
    if args.init_pose and args.init != "fixed":
        raise InputError("--init_pose", "given without --init fixed", both, "add --init fixed")
    keyed = any(KEY_POSE.fullmatch(str(path)) for path in args.init_pose or [])
    if args.init_pose and not keyed and len(args.init_pose) not in (1, count):
        raise InputError(
            "--init_pose",
            f"{len(args.init_pose)} files for {count} volumes",
            "one per volume, in their order, or one for all",
            "correct the flags",
        )
