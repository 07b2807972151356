# PYTHON_ARGCOMPLETE_OK
"""Make CTs and labelmaps of phantom knees, with known truth, to try the suite without patient data.

Both knees in one CT, every patient with his own shape, pose, voxel size and file orientation; the same seed gives the same patients.

writes  OUT/P01/P01_ct.nii.gz (Hounsfield units), OUT/P01/segmentations/P01_seg.nii.gz, OUT/P01/truth.json, and so on for P02, P03, ...
        labels: 1 tibia right, 2 tibia left, 3 femur right, 4 femur left (what crop_cts.py takes by default), 5 and 6 fibula, 7 and 8 patella;
        every label also has three small islands for segmentation_preprocessing.py to remove
        truth.json: landmarks in RAS millimetres of the CT, the pose of every bone, islands, seed
next    segmentation_preprocessing.py (step 1)

example
  python pipeline/make_phantom.py -o phantoms --patients 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import files
from common.command_line import script
from common.errors import InputError
from common.progress import track


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder for the patients' folders"
    )
    parser.add_argument("--patients", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument(
        "--spacing",
        type=float,
        default=1.5,
        help=(
            "voxel size in mm; every second patient has slices 1.4 times as thick (default:"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another seed makes other patients (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> int | None:
    if not 1 <= args.patients <= 999:
        raise InputError("--patients", f"found {args.patients}", "1 to 999", "give another number")
    if not 0.4 <= args.spacing <= 5:
        raise InputError(
            "--spacing", f"found {args.spacing} mm", "0.4 to 5 mm", "give another size"
        )
    if args.seed < 0:
        raise InputError("--seed", f"found {args.seed}", "0 or above", "give another number")
    from common.synthetic import phantom

    names = [f"P{number:02d}" for number in range(1, args.patients + 1)]
    folders = [Path(args.output_dir) / name for name in names]
    files.check_outputs(
        [
            path
            for folder, name in zip(folders, names, strict=True)
            for path in phantom.files_of(folder, name)
        ],
        args.overwrite,
    )
    for number, (folder, name) in enumerate(
        track(list(zip(folders, names, strict=True)), what="phantoms", unit="patient")
    ):
        phantom.write(phantom.cohort_member(number, args.seed, args.spacing), folder, name)
    for folder in folders:
        print(folder)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
