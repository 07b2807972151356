# PYTHON_ARGCOMPLETE_OK
"""Turn the per-bone CT volumes of an Autoscoper or XROMM trial into the suite's files.

Reads multi-page TIFFs (a page a slice, 8 or 16 bit, 0 outside the bone) and the voxel size, which the TIFFs do not hold. Writes OUT/BONE.nii.gz in Hounsfield units with
its lineage OUT/BONE.json. The frame is the volume's own, right handed: x along columns, y along rows, z along pages, in mm, the first voxel's centre at the origin.
Stored grey values become Hounsfield units as --slope times grey plus --intercept (scanners store HU + 1024); 0 outside the bone becomes the intercept, which is air.

The bones' names decide what registration.py does with them: a named bone is compared by what it adds to soft tissue. The X-rays and calibrations of the trial need no
import: registration.py reads TIFF and XMALab's text.

Before: the trial's own segmentation. Next: registration.py --views --calibration (pipeline/register_trial.sh does both, for all frames of a trial).

Example:
  python pipeline/import_autoscoper.py -i rad.tif uln.tif --bones radius ulna --side right --voxel_mm 0.390625 0.390625 0.625 -o volumes
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError

logger = logging.getLogger("common.script")


INTERCEPT_HU = -1024.0
BONE_HU = 150.0  # denser than muscle: a masked bone holds some of it


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        nargs="+",
        type=Path,
        metavar="TIFF",
        help="multi-page TIFF, one bone each",
    )
    parser.add_argument(
        "--bones",
        required=True,
        nargs="+",
        metavar="NAME",
        help="name of each bone, in the order of -i",
    )
    parser.add_argument(
        "--voxel_mm",
        required=True,
        nargs=3,
        type=float,
        metavar=("COLUMN", "ROW", "SLICE"),
        help="voxel size, mm",
    )
    parser.add_argument(
        "--side",
        choices=("left", "right"),
        help="the patient's side, for the record; nothing is mirrored",
    )
    parser.add_argument(
        "--slope", type=float, default=1.0, help="Hounsfield units per grey value (default: 1)"
    )
    parser.add_argument(
        "--intercept",
        type=float,
        default=INTERCEPT_HU,
        help=f"Hounsfield units of grey value 0 (default: {INTERCEPT_HU:g})",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="output folder"
    )
    return parser


def read_pages(path: Path) -> np.ndarray:
    """Grey values (columns, rows, pages) of a multi-page TIFF. Raises InputError for one page, colours, or no picture."""
    from PIL import Image, UnidentifiedImageError

    path = files.existing_file(path, "a volume as multi-page TIFF")
    try:
        with Image.open(path) as image:
            pages = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                pages.append(np.asarray(image))
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(
            path, f"cannot be read ({error})", "a multi-page TIFF of grey values", "export it again"
        ) from None
    if (
        len(pages) < 2
        or len({page.shape for page in pages}) > 1
        or pages[0].ndim != 2
        or pages[0].dtype.kind not in "ui"
    ):
        raise InputError(
            path,
            f"holds {len(pages)} page(s) of {pages[0].shape} {pages[0].dtype}",
            "two or more grey pages of one size",
            "export the volume again",
        )
    return np.stack(pages).transpose(2, 1, 0)


def hounsfield(grey: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Hounsfield units (int16) of stored grey values."""
    return np.clip(np.rint(grey * slope + intercept), -32768, 32767).astype(np.int16)


def run(args: argparse.Namespace) -> int | None:
    from common.volume import cut_ends, lineage, nifti, volume

    if len(args.bones) != len(args.input) or len(set(args.bones)) != len(args.bones):
        raise InputError(
            "--bones",
            f"{' '.join(args.bones)} for {len(args.input)} volumes",
            "a name of its own for each",
            "correct the flags",
        )
    if min(args.voxel_mm) < 0.01 or max(args.voxel_mm) > 20:
        raise InputError("--voxel_mm", args.voxel_mm, "0.01 to 20 mm", "correct the flag")
    outputs = [args.output / f"{bone}.nii.gz" for bone in args.bones]
    files.check_outputs([*outputs, *map(lineage.sidecar, outputs)], args.overwrite, args.input)
    for path, bone, output in zip(args.input, args.bones, outputs, strict=True):
        hu = hounsfield(read_pages(path), args.slope, args.intercept)
        if hu.max() < BONE_HU:
            raise InputError(
                path,
                f"its densest voxel is {hu.max()} HU",
                f"bone above {BONE_HU:g} HU",
                "correct --slope and --intercept",
            )
        original = volume.Volume(hu, np.diag([*args.voxel_mm, 1.0]), lineage.original(path))
        cuts = cut_ends.cuts_of(hu > args.intercept, None, original)
        settings = {
            "voxel_mm": args.voxel_mm,
            "slope": args.slope,
            "intercept": args.intercept,
            "cuts": [cut.as_setting() for cut in cuts],
        }
        record = original.lineage.then("import_autoscoper", settings, bone=bone, side=args.side)
        nifti.save(output, volume.Volume(hu, original.affine, record))
        logger.info(
            f"{bone}: {' x '.join(map(str, hu.shape))} voxels, {hu.min()} to {hu.max()} HU,"
            f" {100 * (hu > args.intercept).mean():.0f} % inside the bone"
        )
        print(output)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
