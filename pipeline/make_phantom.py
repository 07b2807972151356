# PYTHON_ARGCOMPLETE_OK
"""Create CTs and labelmaps of phantom knees with ground truth, for use without patient data.

Each CT shows both knees. Every patient has a different shape, pose, voxel spacing and file
orientation; the same seed gives the same patients.

reads   nothing
writes  OUT/P01/P01_ct.nii.gz                        CT in Hounsfield units
        OUT/P01/segmentations/P01_seg.nii.gz         labelmap: 1 tibia right, 2 tibia left, 3 femur
                                                     right, 4 femur left (the defaults of
                                                     crop_cts.py), 5 and 6 fibula, 7 and 8 patella;
                                                     every label has three small islands, which
                                                     segmentation_preprocessing.py removes
        OUT/P01/truth.json                           landmarks, pose of every bone, islands, seed
        OUT/P01/implant/femoral_component.stl        with --implant: components of a knee
        OUT/P01/implant/tibial_tray.stl              replacement that fits the right knee
        the same for P02, P03, ...
frame   that of the CT
units   RAS mm
next    segmentation_preprocessing.py (step 1)

example
  python pipeline/make_phantom.py -o phantoms --patients 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError
from common.progress import track

MOST_PATIENTS = 999
SPACING_RANGE_MM = (0.4, 5)


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder for the patients' folders"
    )
    parser.add_argument(
        "--patients", type=int, default=3, help="number of patients (default: %(default)s)"
    )
    parser.add_argument(
        "--spacing",
        type=float,
        default=1.5,
        help="voxel spacing in mm; every second patient has slices 1.4 times as thick"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the patients (default: %(default)s)"
    )
    parser.add_argument(
        "--implant",
        action="store_true",
        help="also write surfaces of a knee replacement, for make_xray.py --metal",
    )
    return parser


def run(args: argparse.Namespace) -> int | None:
    _check_flags(args)
    from common.synthetic import phantom

    names = [f"P{number:02d}" for number in range(1, args.patients + 1)]
    folders = [Path(args.output_dir) / name for name in names]
    outputs = [
        path
        for folder, name in zip(folders, names, strict=True)
        for path in phantom.files_of(folder, name, args.implant)
    ]
    files.check_outputs(outputs, args.overwrite)
    patients = list(zip(folders, names, strict=True))
    for number, (folder, name) in enumerate(track(patients, what="phantoms", unit="patient")):
        patient = phantom.cohort_member(number, args.seed, args.spacing, args.implant)
        phantom.write(patient, folder, name)
    print(*folders, sep="\n")
    return None


def _check_flags(args: argparse.Namespace) -> None:
    low, high = SPACING_RANGE_MM
    if not 1 <= args.patients <= MOST_PATIENTS:
        raise InputError(
            "--patients", f"found {args.patients}", f"1 to {MOST_PATIENTS}", "choose another number"
        )
    if not low <= args.spacing <= high:
        raise InputError(
            "--spacing",
            f"found {args.spacing} mm",
            f"{low:g} to {high:g} mm",
            "choose another spacing",
        )
    if args.seed < 0:
        raise InputError("--seed", f"found {args.seed}", "0 or above", "choose another number")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
