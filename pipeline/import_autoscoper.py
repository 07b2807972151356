# PYTHON_ARGCOMPLETE_OK
"""Convert the CT volumes of single bones of an Autoscoper or XROMM trial to files of the suite.

The name of a bone determines how registration.py compares it: a named bone by its excess
attenuation. X-rays and calibrations of the trial need no conversion, since registration.py reads
TIFF and XMALab's text files.

reads   multi-page TIFFs: one page per slice, 8 or 16 bit, 0 outside the bone
        The voxel spacing, which the TIFFs lack, is --voxel_mm.
writes  OUT/BONE.nii.gz in Hounsfield units, and its lineage OUT/BONE.json
        Hounsfield units are --slope times the grey value plus --intercept (scanners store HU +
        1024); 0 outside the bone becomes the intercept, which is air.
frame   right-handed, its own: x along columns, y along rows, z along pages; the centre of the first
        voxel is the origin
units   mm
before  the trial's own segmentation
next    registration.py --views --calibration (step 7); pipeline/register_trial.sh runs both for all
        frames of a trial

example
  python pipeline/import_autoscoper.py -i rad.tif uln.tif --bones radius ulna --side right \\
    --voxel_mm 0.390625 0.390625 0.625 -o volumes
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError
from common.volume.hounsfield import ABOVE_MUSCLE_HU, LOWEST_AIR_HU

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

VOXEL_RANGE_MM = (0.01, 20)


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        nargs="+",
        type=Path,
        metavar="TIFF",
        help="multi-page TIFFs, one per bone",
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
        help="voxel spacing in mm",
    )
    parser.add_argument(
        "--side",
        choices=("left", "right"),
        help="side of the patient, for the lineage; nothing is mirrored",
    )
    parser.add_argument(
        "--slope", type=float, default=1.0, help="Hounsfield units per grey value (default: 1)"
    )
    parser.add_argument(
        "--intercept",
        type=float,
        default=LOWEST_AIR_HU,
        help="Hounsfield units of grey value 0 (default: %(default)g)",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="output folder"
    )
    return parser


def read_pages(path: Path) -> np.ndarray:
    """Return the grey values (columns, rows, pages) of a multi-page TIFF.

    Raises InputError if it has a single page, colours or pages of different sizes, or is damaged.
    """
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
    first = pages[0]
    same_size = len({page.shape for page in pages}) == 1
    if len(pages) < 2 or not same_size or first.ndim != 2 or first.dtype.kind not in "ui":
        raise InputError(
            path,
            f"number of pages: {len(pages)}, of {first.shape} {first.dtype}",
            "two or more grey pages of the same size",
            "export the volume again",
        )
    return np.stack(pages).transpose(2, 1, 0)


def hounsfield(grey: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return the Hounsfield units (int16) of stored grey values."""
    return np.clip(np.rint(grey * slope + intercept), -32768, 32767).astype(np.int16)


def read_bone(
    path: Path, bone: str, side: str | None, voxel_mm: list[float], slope: float, intercept: float
) -> Volume:
    """Return the CT of one bone with its lineage. Raises InputError if it has no bone."""
    from common.volume import cut_ends, lineage, volume

    hu = hounsfield(read_pages(path), slope, intercept)
    if hu.max() < ABOVE_MUSCLE_HU:
        raise InputError(
            path,
            f"densest voxel has {hu.max()} HU",
            f"bone above {ABOVE_MUSCLE_HU:g} HU",
            "correct --slope and --intercept",
        )
    original = volume.Volume(hu, np.diag([*voxel_mm, 1.0]), lineage.original(path))
    cuts = cut_ends.cuts_of(hu > intercept, None, original)
    settings = {
        "voxel_mm": voxel_mm,
        "slope": slope,
        "intercept": intercept,
        "cuts": [cut.as_setting() for cut in cuts],
    }
    record = original.lineage.then("import_autoscoper", settings, bone=bone, side=side)
    return volume.Volume(hu, original.affine, record)


def run(args: argparse.Namespace) -> int | None:
    from common.volume import nifti

    _check_flags(args)
    outputs = [args.output / f"{bone}.nii.gz" for bone in args.bones]
    files.check_outputs(outputs, args.overwrite, args.input)
    for path, bone, output in zip(args.input, args.bones, outputs, strict=True):
        ct = read_bone(path, bone, args.side, args.voxel_mm, args.slope, args.intercept)
        nifti.save(output, ct)
        logger.info(
            f"{bone}: {' x '.join(map(str, ct.shape))} voxels, {ct.data.min()} to {ct.data.max()}"
            f" HU, {100 * (ct.data > args.intercept).mean():.0f} % inside the bone"
        )
        print(output)
    return None


def _check_flags(args: argparse.Namespace) -> None:
    if len(args.bones) != len(args.input) or len(set(args.bones)) != len(args.bones):
        raise InputError(
            "--bones",
            f"{' '.join(args.bones)} for {len(args.input)} volumes",
            "a different name for each volume",
            "correct --bones or --input",
        )
    low, high = VOXEL_RANGE_MM
    if min(args.voxel_mm) < low or max(args.voxel_mm) > high:
        raise InputError(
            "--voxel_mm",
            f"found {' '.join(f'{mm:g}' for mm in args.voxel_mm)}",
            f"{low:g} to {high:g} mm",
            "correct --voxel_mm",
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
