# PYTHON_ARGCOMPLETE_OK
"""Find the anatomical frame of a bone: the axes in which kinematics.py states the joint.

The frame is right-handed: X anterior, Y proximal, Z to the subject's right, also of a left and of a
mirrored bone. By --method, a femur's Z is the axis of a cylinder through both posterior condyles
(cylinder) or the line through a sphere in each (spheres), and its Y the shaft's axis perpendicular
to Z; its origin is the middle of the epicondyles, the widest points along Z. A tibia's Y is the
axis of the shaft 40 to 75 mm below the plateau, and its Z the direction in which the articular
faces (plateau) or the largest cross-section (section) are widest. The methods for the tibia differ
by 4 to 10 degrees about Y, which shifts the zero of internal rotation: use one for all subjects.

reads   -v: the CT of one bone of step 2 or 4, with its lineage next to it
        --mask: its labelmap, for --bone femur or tibia; at least 65 mm of bone, half of it shaft
        --landmarks: points or planes in the frame of -v, instead of the shape, for any bone:
        markups of 3D Slicer (.mrk.json) or CSV (name,x,y,z in RAS mm). Points medial, lateral,
        proximal and distal, or planes sagittal and axial; a point origin is optional
        --axes: the axes of an implant's file as the frame, such as y,z,x
writes  FRAME.json      scanner_from_frame and volume_from_frame (4x4), their uncertainty (repeated
                        with a shorter shaft, other smoothing and other voxels), the frames of the
                        other methods
        FRAME.png       the bone with axes and fitted faces, from three sides (with --mask)
        FRAME.mrk.json  the axes for 3D Slicer, over -v
frame   RAS millimetres; scanner: of the original CT, volume: of -v
next    kinematics.py

example
  python pipeline/anatomical_frame.py -v femur.nii.gz --mask femur_mask.nii.gz --bone femur \\
      -o femur_frame.json
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import flags, script
from common.errors import InputError

if TYPE_CHECKING:
    from common.kinematics.frame_file import AnatomicalFrame
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

METHODS = ("cylinder", "spheres", "plateau", "section")
ORIGINS = ("epicondyles", "axis")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-v", "--volume", required=True, type=Path, metavar="CT", help="CT of the bone"
    )
    parser.add_argument("--mask", type=Path, metavar="LABELMAP", help="labelmap of the bone")
    flags.add_labels_flag(parser, "labels of the bone in the labelmap (default: all)")
    parser.add_argument(
        "--bone", required=True, metavar="NAME", help="femur, tibia or, with landmarks, any other"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FRAME.json", help="frame to write"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="cylinder or spheres for a femur, plateau or section for a tibia (default: the first)",
    )
    parser.add_argument(
        "--origin",
        choices=ORIGINS,
        help="origin of a femur's frame: the middle of the epicondyles, or of the flexion axis"
        f" within the bone (default: {ORIGINS[0]})",
    )
    parser.add_argument(
        "--side",
        choices=("left", "right"),
        help="side of the bone (default: that of the lineage)",
    )
    parser.add_argument(
        "--landmarks", type=Path, metavar="FILE", help="landmarks instead of the shape"
    )
    parser.add_argument(
        "--axes",
        metavar="X,Y,Z",
        help="axes of the file that are X, Y and Z of the frame, instead of the shape: y,z,x",
    )
    return parser


def outputs_of(path: Path, pictured: bool) -> list[Path]:
    """Return the files of a frame: JSON, markups and, if it has one, the picture."""
    beside = [path.with_suffix(".mrk.json")]
    return [path, *beside, *([path.with_suffix(".png")] if pictured else [])]


def run(args: argparse.Namespace) -> int | None:
    ways = [name for name in ("mask", "landmarks", "axes") if getattr(args, name) is not None]
    if len(ways) != 1:
        raise InputError(
            None,
            f"the frame is to come from {' and '.join(ways) or 'nothing'}",
            "one of --mask, --landmarks and --axes",
            "choose one",
        )
    if args.output.suffix.lower() != ".json":
        raise InputError(
            args.output, f"ends in {args.output.suffix or 'nothing'}", ".json", "change --output"
        )
    if args.origin and (args.mask is None or args.bone != "femur"):
        raise InputError(
            f"--origin {args.origin}",
            "is for a femur by its shape",
            "--bone femur and --mask",
            "leave --origin out",
        )
    inputs = [path for path in (args.volume, args.mask, args.landmarks) if path]
    outputs = outputs_of(args.output, args.mask is not None)
    files.check_outputs(outputs, args.overwrite, inputs)
    from common.kinematics import anatomical_frames, frame_file, frame_markups, landmarks
    from common.volume import label_names
    from common.volume.nifti import load_ct, load_labelmap

    labels = label_names.resolve(args.labels, args.mask) if args.labels and args.mask else None
    volume = load_ct(args.volume)
    side = anatomical_frames.side_of(volume, args.side)
    check_bone(volume.lineage.bone, args.bone, args.volume)
    if args.mask:
        labelmap = load_labelmap(args.mask)
        method = args.method or anatomical_frames.METHODS.get(args.bone, ("shape",))[0]
        shaped = anatomical_frames.frame_by_shape(
            labelmap_of(volume, labelmap),
            args.bone,
            side,
            method,
            labels,
            args.origin or ORIGINS[0],
        )
        frame = shaped.frame
        from common.reports.frame_figure import write_frame_figure

        write_frame_figure(outputs[2], shaped)
    elif args.landmarks:
        found = landmarks.read_landmarks(args.landmarks)
        frame = landmarks.frame_by_landmarks(args.landmarks, found, volume, args.bone, side)
    else:
        frame = anatomical_frames.frame_of_axes(volume, args.bone, side, args.axes)
    frame_markups.write_axes(outputs[1], frame)
    frame_file.save(args.output, frame)
    for line in summary(frame):
        logger.info(line)
    print(args.output)
    return None


def check_bone(recorded: str | None, bone: str, path: Path) -> None:
    """Raise InputError if the lineage of a volume names another bone."""
    if recorded is not None and recorded != bone:
        raise InputError(
            path, f"is a {recorded} by its lineage", f"a {bone}, as --bone states", "correct --bone"
        )


def labelmap_of(volume: Volume, labelmap: Volume) -> Volume:
    """Return the labelmap with the lineage of its CT.

    Raises InputError if its own lineage states another frame.
    """
    from dataclasses import replace

    import numpy as np

    placed = labelmap.lineage.scanner_from_volume
    if labelmap.lineage.history and not np.allclose(
        placed, volume.lineage.scanner_from_volume, atol=1e-3
    ):
        raise InputError(
            labelmap.path,
            f"is in another frame than {volume.name} by its lineage",
            "the labelmap of the same step",
            "choose that labelmap",
        )
    return replace(labelmap, lineage=volume.lineage)


def summary(frame: AnatomicalFrame) -> list[str]:
    """Return what was found, in lines."""
    import numpy as np

    fit = ", ".join(f"{name} {value}" for name, value in frame.fit.items())
    about, along = frame.rotation_sd_deg, frame.translation_sd_mm
    lines = [f"{frame.side} {frame.bone}, method {frame.method}" + (f": {fit}" if fit else "")]
    if frame.repeats:
        lines.append(
            f"{len(frame.repeats)} repeats: {about[0]:.2f}, {about[1]:.2f}, {about[2]:.2f} degrees"
            f" about X, Y, Z and {along[0]:.2f}, {along[1]:.2f}, {along[2]:.2f} mm (rms)"
        )
    lines += [
        f"method {other.change} is turned by {np.round(other.rotation_deg, 1).tolist()} degrees"
        " about X, Y, Z"
        for other in frame.other_methods
    ]
    return lines


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
