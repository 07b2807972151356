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
        --time: seconds, one number per line, or the DICOM run with its frame times
        --contact: labelmaps of both bones, or surfaces of both implants, femur first
        --normal_band: normal bounds over a cycle; columns percent (0 to 100) and, for any number,
        its name with _low and _high, such as FE_deg_low, FE_deg_high. What the bounds mean is
        yours to say; figure and page draw them
        review_NAME.jsonl of review.py, if present: a pose that a person rejected counts as failed,
        one that was accepted as ok
writes  OUT/kinematics.csv    a row per frame: frame, time_s, each number with _low and _high, the
                              verdicts of both bones; empty where a pose failed. With --smooth,
                              each number also as _smooth, _smooth_low and _smooth_high
        OUT/kinematics.json   the systematic band of the anatomical frames, finite helical axes of
                              steps of 10 degrees and more, ranges, values at 0, 30, 60 and 90
                              degrees of flexion, frames outside --normal_band, settings
        OUT/contact.csv, .png with --contact: least distance of femur and tibia in both
                              compartments, its place on the plateau, area nearer than 6 mm. Bone to
                              bone: a CT does not show cartilage
        OUT/kinematics_aligned.csv  with --align: the same table in frames that were turned to lower
                              varus and internal rotation; kinematics.json states both turns
        by --format           kinematics.mot, .sto: OpenSim (seconds, degrees, metres)
                              bones.trc, bones.c3d: both frames as markers (mm)
                              poses.csv, poses.json: 4x4 matrices of both frames (mm)
                              rigid_bodies.csv: XMALab; BONE.tra: Autoscoper; BONE.jts: JointTrack
                              TIBIA_motion.seq.mha: transform sequence for 3D Slicer (RAS mm)
                              bids/: data set in BIDS (Motion)
                              kinematics.png, .pdf, .svg: figure; kinematics.html: page with
                              curves, X-rays and a 3D scene with a slider, without network
                              docs/motion_files.md has their layouts
bands   from the covariances of both poses, with their correlation when one solve found both. They
        do not include the anatomical frames, whose error is the same in all frames, nor a wrong
        SDD or a wrong bone
frame   of the poses: the first view's camera (x along image columns, y along rows downwards, z from
        the source to the detector) or, with --calibration, the world of that file
units   degrees, millimetres, seconds
next    compare_movements.py, your statistics

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
from common.command_line import movement_flags, script
from common.errors import InputError
from common.kinematics.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np

    from common.kinematics.contact import Mesh, Plateau
    from common.kinematics.frame_file import AnatomicalFrame
    from common.kinematics.joint_coordinates import Side
    from common.kinematics.movement import Coordinates, Movement
    from common.kinematics.normal_band import Placed
    from common.kinematics.study import Inputs

logger = logging.getLogger("common.script")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    movement_flags.add_inputs(parser)
    movement_flags.add_joint(parser)
    movement_flags.add_formats(parser)
    movement_flags.add_studies(parser)
    return parser


def coordinates_of(order: str | None, side: Side) -> tuple[tuple[str, ...], Coordinates]:
    """Return the columns and the function of the coordinates of a joint."""
    from functools import partial

    from common.kinematics import joint_coordinates as joint

    if order is None:
        return joint.KNEE_COLUMNS, partial(joint.knee_coordinates, side=side)
    return joint.cardan_columns(order), partial(joint.cardan_coordinates, side=side, order=order)


def times_of(args: argparse.Namespace, names: Sequence[str]) -> np.ndarray | None:
    """Return the times (N,) of the frames in seconds, None if they are unknown."""
    import numpy as np

    from common.kinematics.movement_inputs import read_times, times_of_frames

    if args.time is not None:
        from common.xray.dicom import is_dicom
        from common.xray.frame_times import read_frame_times

        path = files.existing_file(args.time, "times of the frames")
        if not is_dicom(path):
            return read_times(path, len(names))
        times, tag = read_frame_times(path)
        logger.info(f"{path.name}: {len(times)} frames over {times[-1]:g} s, from {tag}")
        return times_of_frames(path, times, names)
    if args.fps is None:
        return None
    if not args.fps > 0:
        raise InputError("--fps", f"found {args.fps:g}", "above 0", "correct it")
    return np.arange(len(names)) / args.fps


def check_smoothing(args: argparse.Namespace, times: np.ndarray | None) -> None:
    """Raise InputError for flags of smoothing that do not fit."""
    if args.cutoff_hz is not None and not (args.smooth and args.cutoff_hz > 0):
        raise InputError(
            "--cutoff_hz", f"found {args.cutoff_hz:g}", "above 0, with --smooth", "correct it"
        )
    if args.smooth and times is None:
        raise InputError("--smooth", "no times of the frames", "--fps or --time", "add one of them")


def check_knee(args: argparse.Namespace) -> None:
    """Raise InputError for flags of a knee if the joint is another one."""
    for name in ("contact", "align"):
        if getattr(args, name) is not None and args.order is not None:
            raise InputError(f"--{name}", "given with --order", "a knee", "leave one of them out")


def meshes_of(
    args: argparse.Namespace, frames: tuple[AnatomicalFrame, AnatomicalFrame]
) -> tuple[Mesh, Plateau] | None:
    """Return the femur's surface and the tibia's plateau in their frames, for --contact."""
    if args.contact is None:
        return None
    from common.kinematics.contact import load_mesh, plateau_of

    femur, tibia = (
        load_mesh(path, frame) for path, frame in zip(args.contact, frames, strict=True)
    )
    return femur, plateau_of(tibia, frames[1].side, str(args.contact[1]))


def normal_of(
    args: argparse.Namespace,
    quantities: Sequence[str],
    names: Sequence[str],
    times: np.ndarray | None,
) -> Placed | None:
    """Return the band of --normal_band over the frames, if it is given."""
    if args.normal_band is None:
        if args.cycle is not None:
            raise InputError("--cycle", "given alone", "--normal_band with it", "add it")
        return None
    from common.kinematics import normal_band

    band = normal_band.read(args.normal_band, quantities)
    return normal_band.place(band, names, times, args.cycle)


def rig_from_camera(path: Path | None) -> np.ndarray | None:
    """Return the camera (4, 4) of a calibration, if one is stated."""
    if path is None:
        return None
    from common.xray import calibration

    return calibration.read(path).rig_from_camera


def load(args: argparse.Namespace) -> Inputs:
    """Return what the flags name. Raises InputError for what does not fit."""
    from common.kinematics import frame_file, movement_inputs, movement_table
    from common.kinematics.study import Inputs

    frames = frame_file.load(args.frames[0]), frame_file.load(args.frames[1])
    movement_inputs.check_frames(args.frames, frames)
    quantities, coordinates = coordinates_of(args.order, frames[0].side)
    proximal = movement_inputs.find_frames(args.femur, frames[0])
    distal = movement_inputs.find_frames(args.tibia, frames[1])
    joints = movement_inputs.joints_of(proximal, distal)
    names = [joint.name for joint in joints]
    times = times_of(args, names)
    check_smoothing(args, times)
    check_knee(args)
    if args.contact is not None and not any(joint.known for joint in joints):
        raise InputError("--contact", "no frame has a pose", "one frame or more", "register again")
    return Inputs(
        args.name or args.output_dir.resolve().name,
        frames,
        [
            movement_table.frame_entries(path, frame)
            for path, frame in zip(args.frames, frames, strict=True)
        ],
        (proximal, distal),
        joints,
        times,
        quantities,
        coordinates,
        {"order": args.order, "fps": args.fps, "cutoff_hz": args.cutoff_hz},
        meshes_of(args, frames),
        normal_of(args, quantities, names, times),
    )


def run(args: argparse.Namespace) -> int | None:
    inputs = load(args)
    from common.kinematics import exports, movement_inputs
    from common.kinematics.bone_poses import bone_poses
    from common.kinematics.study import study_movement
    from common.reports import movement_files

    forms = [each for each in dict.fromkeys(args.format) if each in FORMATS]
    for each in forms:
        exports.check(each, args.subject, args.task, inputs.times)
    volumes = movement_inputs.model_volumes(inputs.results) if "tra" in forms else None
    world = rig_from_camera(args.calibration)
    bones = [frame.bone for frame in inputs.frames]
    names = movement_files.file_names(
        args.format, bones, args.subject, args.task, inputs.meshes is not None, bool(args.align)
    )
    outputs = [args.output_dir / name for name in names]
    files.check_outputs(outputs, args.overwrite)
    study = study_movement(inputs, args.smooth, args.cutoff_hz, args.align is not None)
    poses = bone_poses(inputs.joints, inputs.frames, inputs.times, world)
    exported = exports.Exported(
        poses, study.best, inputs.quantities, args.subject, args.task, volumes
    )
    movement_files.write(args.output_dir, args.format, study, exported)
    for line in summary(study.found, inputs.quantities):
        logger.info(line)
    print(outputs[0])
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
