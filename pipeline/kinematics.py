# PYTHON_ARGCOMPLETE_OK
"""State a joint over the frames of a movement: angles and translations with 95 % bands.

A knee has flexion, varus and internal rotation of the tibia (FE, VV, IE in degrees) and its
lateral, anterior and distal position (ML, AP, PD in mm) after Grood and Suntay 1983; positive are
flexion, varus, internal, lateral, anterior and distraction, on both sides. With --order, any two
bones have three Cardan angles in that order and the position of the distal bone's origin in the
proximal bone's frame; --femur is then the proximal bone and --tibia the distal one.

reads   --femur, --tibia: results folders of registration.py (step 7), one per frame, or the folder
        of a --sequence; the frames of both bones must be the same, in the order of their names
        --frames: the frames of anatomical_frame.py, femur first
        review_NAME.jsonl of review.py, if present: a pose that a person rejected counts as failed,
        one that was accepted as ok
writes  OUT/kinematics.csv    a row per frame: frame, time_s, each number with _low and _high, the
                              verdicts of both bones; empty where a pose failed. With --smooth,
                              each number also as _smooth, _smooth_low and _smooth_high
        OUT/kinematics.json   the systematic band of the anatomical frames, finite helical axes of
                              steps of 10 degrees and more, ranges, values at 0, 30, 60 and 90
                              degrees of flexion, settings
        OUT/kinematics.*      by --format: mot or sto for OpenSim (seconds, degrees, metres), a
                              figure as png, pdf or svg
bands   from the covariances of both poses, with their correlation when one solve found both. They
        do not include the anatomical frames, whose error is the same in all frames, nor a wrong
        SDD or a wrong bone
units   degrees, millimetres, seconds
next    your statistics

example
  python pipeline/kinematics.py --femur results/*/femur --tibia results/*/tibia \\
      --frames femur_frame.json tibia_frame.json --fps 30 -o knee
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from common.kinematics.joint_coordinates import Side
    from common.kinematics.movement import Coordinates, JointPose, Movement
    from common.kinematics.smoother import Smoothed

logger = logging.getLogger("common.script")


SHOWN = 8  # frames that a warning names
FORMATS = ("mot", "sto", "png", "pdf", "svg")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    for bone in ("femur", "tibia"):
        parser.add_argument(
            f"--{bone}",
            required=True,
            nargs="+",
            type=Path,
            metavar="FOLDER",
            help=f"results folders of the {bone}, or the folder of a sequence",
        )
    parser.add_argument(
        "--frames",
        required=True,
        nargs=2,
        type=Path,
        metavar=("FEMUR.json", "TIBIA.json"),
        help="anatomical frames of both bones",
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, type=Path, metavar="OUT", help="folder to write into"
    )
    parser.add_argument(
        "--order",
        metavar="AXES",
        help="Cardan order, such as ZXY or YXY, for another joint than a knee",
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--fps", type=float, metavar="N", help="frames per second")
    times.add_argument(
        "--time", type=Path, metavar="FILE", help="text file with the time of each frame, seconds"
    )
    parser.add_argument(
        "--smooth", action="store_true", help="add smoothed columns; needs --fps or --time"
    )
    parser.add_argument(
        "--cutoff_hz",
        type=float,
        metavar="HZ",
        help="frequency of which --smooth passes half (default: estimated from the movement)",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=[],
        metavar="NAME",
        help="further files: mot or sto for OpenSim, png, pdf or svg for a figure",
    )
    return parser


def coordinates_of(order: str | None, side: Side) -> tuple[tuple[str, ...], Coordinates]:
    """Return the columns and the function of the coordinates of a joint."""
    from functools import partial

    from common.kinematics import joint_coordinates as joint

    if order is None:
        return joint.KNEE_COLUMNS, partial(joint.knee_coordinates, side=side)
    return joint.cardan_columns(order), partial(joint.cardan_coordinates, side=side, order=order)


def times_of(args: argparse.Namespace, count: int) -> np.ndarray | None:
    """Return the times (N,) of the frames in seconds, None if they are unknown."""
    import numpy as np

    from common.kinematics.movement_inputs import read_times

    if args.time is not None:
        return read_times(args.time, count)
    if args.fps is None:
        return None
    if not args.fps > 0:
        raise InputError("--fps", f"found {args.fps:g}", "above 0", "correct it")
    return np.arange(count) / args.fps


def check_smoothing(args: argparse.Namespace, times: np.ndarray | None) -> None:
    """Raise InputError for flags of smoothing that do not fit."""
    if args.cutoff_hz is not None and not (args.smooth and args.cutoff_hz > 0):
        raise InputError(
            "--cutoff_hz", f"found {args.cutoff_hz:g}", "above 0, with --smooth", "correct it"
        )
    if args.smooth and times is None:
        raise InputError("--smooth", "no times of the frames", "--fps or --time", "add one of them")


def smoothed_of(
    args: argparse.Namespace, found: Movement, times: np.ndarray | None, coordinates: Coordinates
) -> Smoothed | None:
    """Return the smoothed movement, if it is asked for; frames that count little are named."""
    if not args.smooth or times is None:
        return None
    from common.kinematics.smoother import OUTLIER, smooth

    smoothed = smooth(found, times, coordinates, args.cutoff_hz)
    for name, weight in zip(found.names, smoothed.weights, strict=True):
        if weight < OUTLIER:
            logger.warning(f"frame {name} does not fit its neighbours and hardly counts")
    return smoothed


def warn_of_suspect(joints: Sequence[JointPose]) -> None:
    """Name the frames whose numbers rest on a suspect pose."""
    suspect = [each.name for each in joints if "suspect" in [b.verdict for b in each.bones]]
    if suspect:
        shown = ", ".join(suspect[:SHOWN]) + (", ..." if len(suspect) > SHOWN else "")
        logger.warning(
            f"{len(suspect)} of {len(joints)} frames rest on a suspect pose and may be wrong by any"
            f" amount: {shown}; see the columns of the verdicts"
        )


def check_formats(args: argparse.Namespace, times: np.ndarray | None) -> None:
    """Raise InputError if a format needs times that are unknown."""
    if times is None and {"mot", "sto"} & set(args.format):
        raise InputError("--format", "no times of the frames", "--fps or --time", "add one of them")


def write_further(
    paths: dict[str, Path],
    found: Movement,
    times: np.ndarray | None,
    quantities: Sequence[str],
    smoothed: Smoothed | None,
) -> None:
    """Write files of other formats, by format. OpenSim gets the smoothed numbers, if there are."""
    from common.kinematics.storage_file import as_storage
    from common.reports.kinematics_figure import write_figure

    values = found.values if smoothed is None else smoothed.values
    for each, path in paths.items():
        if each in ("mot", "sto"):
            if times is not None:
                files.write_text(path, as_storage(path.stem, times, values, quantities))
        else:
            write_figure(path, found, times, quantities, smoothed)


def run(args: argparse.Namespace) -> int | None:
    from common.kinematics import frame_file, movement_inputs, movement_table
    from common.kinematics.movement import movement

    frames = frame_file.load(args.frames[0]), frame_file.load(args.frames[1])
    movement_inputs.check_frames(args.frames, frames)
    quantities, coordinates = coordinates_of(args.order, frames[0].side)
    table, beside = (args.output_dir / name for name in (movement_table.CSV, movement_table.JSON))
    proximal = movement_inputs.find_frames(args.femur, frames[0])
    distal = movement_inputs.find_frames(args.tibia, frames[1])
    joints = movement_inputs.joints_of(proximal, distal)
    times = times_of(args, len(joints))
    check_smoothing(args, times)
    further = {each: table.with_suffix(f".{each}") for each in args.format}
    check_formats(args, times)
    files.check_outputs([table, beside, *further.values()], args.overwrite)
    found = movement(joints, frames, coordinates)
    warn_of_suspect(joints)
    smoothed = smoothed_of(args, found, times, coordinates)
    bones = [frame.bone for frame in frames]
    stated = [
        {"file": path.name, "bone": frame.bone, "side": frame.side, "method": frame.method}
        for path, frame in zip(args.frames, frames, strict=True)
    ]
    settings = {"order": args.order, "fps": args.fps, "cutoff_hz": args.cutoff_hz}
    if smoothed is not None:
        settings["smoothing_rad2_per_s3_mm2_per_s3"] = list(smoothed.strength)
    files.write_json(beside, movement_table.as_content(found, quantities, stated, settings))
    curves = (smoothed.values, smoothed.half) if smoothed is not None else None
    files.write_text(
        table, movement_table.as_table(joints, found, times, quantities, bones, curves)
    )
    write_further(further, found, times, quantities, smoothed)
    for line in summary(found, quantities):
        logger.info(line)
    print(table)
    return None


def summary(found: Movement, quantities: Sequence[str]) -> list[str]:
    """Return the range and the median band of each number, in lines."""
    import numpy as np

    known = found.known
    lines = [f"{len(known)} of {len(found.names)} frames have a pose of both bones"]
    if len(known):
        half = np.median(found.band()[known], axis=0)
        low, high = found.values[known].min(axis=0), found.values[known].max(axis=0)
        lines += [
            f"{name}: {a:.1f} to {b:.1f}, 95 % band ± {width:.2f}"
            for name, a, b, width in zip(quantities, low, high, half, strict=True)
        ]
    return lines


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
