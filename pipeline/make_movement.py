# PYTHON_ARGCOMPLETE_OK
"""Simulate X-rays of a phantom knee that bends by a known amount, to try the kinematics.

The knee bends from the lower to the higher angle of --flexion and back, in front of a source and
detector at rest. The X-rays are rendered from a phantom in each posture, with the noise and tone of
a detector; the CT shows the same patient in a posture of its own. Only the leg of --side is in the
X-rays.

reads   nothing
writes  OUT/P01_ct.nii.gz, OUT/segmentations/P01_seg.nii.gz, OUT/truth.json: the patient, as
        make_phantom.py writes one
        OUT/xrays/frame_000.png, ... with its geometry in .json: X-rays, bone bright
        OUT/movement_truth.json: flexion and the cameras of both bones (4x4 scanner_from_camera) in
        each frame
frame   that of the CT
units   RAS mm, degrees
next    crop_cts.py (step 2), then registration.py --sequence (step 7) and kinematics.py

example
  python pipeline/make_movement.py -o bending --frames 12
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError
from common.files.pictures import write_png
from common.geometry import Detector
from common.progress import track
from common.synthetic import xray_simulation

PATIENT = "P01"
TRUTH = "movement_truth.json"
SDD_MM, DISTANCE_MM, FIELD_MM = 1020.0, 850.0, 210.0
LIMITS = {"frames": (2, 1000), "spacing": (0.6, 4.0), "size": (48, 2048), "seed": (0, 10**6)}


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o", "--output_dir", required=True, type=Path, metavar="OUT", help="folder to write into"
    )
    parser.add_argument(
        "--frames", type=int, default=12, help="number of X-rays (default: %(default)s)"
    )
    parser.add_argument(
        "--flexion",
        type=float,
        nargs=2,
        default=[5.0, 35.0],
        metavar=("LOW", "HIGH"),
        help="degrees at the ends and in the middle (default: 5 35)",
    )
    parser.add_argument(
        "--side", choices=("left", "right"), default="left", help="default: %(default)s"
    )
    parser.add_argument(
        "--angles",
        type=float,
        nargs=3,
        default=[75.0, 0.0, 0.0],
        metavar=("R1", "R2", "R3"),
        help="view, as of make_xray.py (default: 75 0 0, nearly lateral)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        default=1.0,
        help="voxel spacing of CT and scene in mm (default: %(default)g)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=256,
        help="pixels of the square X-rays per side (default: %(default)s)",
    )
    parser.add_argument(
        "--photons",
        type=float,
        default=xray_simulation.Effects().photons,
        help="photons per pixel in the open field (default: %(default)g)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of patient and noise (default: 0)"
    )
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError for a value outside its limits."""
    from common.synthetic.bending import MOST_DEG

    for name, (low, high) in LIMITS.items():
        value = getattr(args, name)
        if not low <= value <= high:
            raise InputError(
                f"--{name}", f"found {value:g}", f"{low:g} to {high:g}", "choose another value"
            )
    if not 0 <= args.flexion[0] < args.flexion[1] <= MOST_DEG:
        raise InputError(
            "--flexion",
            f"found {args.flexion[0]:g} {args.flexion[1]:g}",
            f"a lower and a higher angle, 0 to {MOST_DEG:g} degrees",
            "choose other angles",
        )
    if not args.photons > 0:
        raise InputError("--photons", f"found {args.photons:g}", "above 0", "choose another value")


def run(args: argparse.Namespace) -> int | None:
    check_flags(args)
    from common.synthetic import bending, phantom

    names = [f"frame_{number:03d}" for number in range(args.frames)]
    xrays = [args.output_dir / "xrays" / f"{name}.png" for name in names]
    truth = args.output_dir / TRUTH
    beside = [path.with_suffix(".json") for path in xrays]
    outputs = [truth, *xrays, *beside, *phantom.files_of(args.output_dir, PATIENT)]
    files.check_outputs(outputs, args.overwrite)
    rest = phantom.make(args.seed, args.spacing)
    phantom.write(rest, args.output_dir, PATIENT)
    detector = Detector.centred(args.size, args.size, SDD_MM, FIELD_MM / args.size)
    instants = bending.bend(
        rest,
        args.side,
        bending.course(*args.flexion, args.frames),
        (args.angles[0], args.angles[1], args.angles[2]),
        DISTANCE_MM,
        detector,
        xray_simulation.Effects(photons=args.photons),
        np.random.default_rng([args.seed, 41]),
    )
    stated = {"sdd_mm": detector.sdd_mm, "pixel_spacing_mm": list(detector.pixel_mm)}
    taken = []
    for path, instant in zip(track(xrays, what="X-rays", unit="frame"), instants, strict=True):
        files.write_json(path.with_suffix(".json"), stated)
        write_png(path, instant.image)
        taken.append(instant)
    files.write_json(truth, bending.truth_entries(taken, names, args.side))
    print(truth)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
