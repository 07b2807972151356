# PYTHON_ARGCOMPLETE_OK
"""Convert the CT volumes of single bones of an Autoscoper or XROMM trial to files of the suite.

The name of a bone determines how registration.py compares it: a named bone by its excess
attenuation. X-rays and calibrations of the trial need no conversion, since registration.py reads
TIFF and XMALab's text files.

reads   multi-page TIFFs: one page per slice, one value outside the bone
        The voxel spacing, which the TIFFs lack, is --voxel_mm.
writes  OUT/BONE.nii.gz in Hounsfield units, and its lineage OUT/BONE.json
        Hounsfield units are --slope times the grey value plus --intercept (scanners store HU +
        1024); what lies outside the bone becomes air. Values that do not suit a bone are refused
        unless --intercept is stated.
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
from common.volume.units import INTERCEPTS, fits_bone

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
        help="Hounsfield units of grey value 0 (default: -1024, if that suits a bone)",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="output folder"
    )
    return parser


def read_pages(path: Path) -> np.ndarray:
    """Return the grey values (columns, rows, pages) of a multi-page TIFF, as a viewer shows them.

    Raises InputError if it has a single page, colours or pages of different sizes, or is damaged.
    """
    from common.xray import image_files

    path = files.existing_file(path, "a volume as multi-page TIFF")
    pages = [image_files.read(path, n).grey for n in range(image_files.count_frames(path))]
    if len(pages) < 2 or len({page.shape for page in pages}) > 1:
        raise InputError(
            path,
            f"number of pages: {len(pages)}, of {pages[0].shape}",
            "two or more grey pages of the same size",
            "export the volume again",
        )
    return np.stack(pages).transpose(2, 1, 0)


def inside_bone(grey: np.ndarray) -> np.ndarray:
    """Return the mask of the bone: what the value of the volume's faces does not reach."""
    from scipy.ndimage import binary_fill_holes

    faces = [grey.take(index, axis=axis).ravel() for axis in range(3) for index in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return binary_fill_holes(grey != values[counts.argmax()])


def check_units(
    path: Path, grey: np.ndarray, inside: np.ndarray, slope: float, intercept: float | None
) -> float:
    """Return the intercept: the stated one, else that of HU + 1024 if it suits a bone.

    Raises InputError, with the one that suits, if none is stated and it does not.
    """
    if intercept is not None:
        return intercept
    bone = grey[inside]
    if not bone.size:
        raise InputError(path, "holds one grey value", "a bone", "export the volume again")
    if fits_bone(bone, slope, INTERCEPTS[0]):
        return INTERCEPTS[0]
    low, high = np.percentile(bone, [5, 95])
    suiting = [f"{each:g}" for each in INTERCEPTS[1:] if fits_bone(bone, slope, each)]
    lowest = "some exporters store HU minus the lowest of each bone, which the file cannot tell"
    raise InputError(
        path,
        f"as HU + 1024, its bone would have {low * slope - 1024:.0f} to"
        f" {high * slope - 1024:.0f} HU (5th to 95th percentile)",
        "marrow above -300 and bone above 150 HU",
        (f"--intercept {' or '.join(suiting)} suits a bone; " if suiting else "")
        + f"state --intercept, the HU of grey value 0 ({lowest})",
    )


def hounsfield(grey: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return the Hounsfield units (int16) of stored grey values."""
    return np.clip(np.rint(grey * slope + intercept), -32768, 32767).astype(np.int16)


def read_bone(
    path: Path,
    bone: str,
    side: str | None,
    voxel_mm: list[float],
    slope: float,
    intercept: float | None,
) -> Volume:
    """Return the CT of one bone with its lineage. Raises InputError if it has no bone."""
    from common.volume import cut_ends, lineage, volume

    grey = read_pages(path)
    inside = inside_bone(grey)
    intercept = check_units(path, grey, inside, slope, intercept)
    hu = np.where(inside, hounsfield(grey, slope, intercept), np.int16(LOWEST_AIR_HU))
    if hu.max() < ABOVE_MUSCLE_HU:
        raise InputError(
            path,
            f"densest voxel has {hu.max()} HU",
            f"bone above {ABOVE_MUSCLE_HU:g} HU",
            "correct --slope and --intercept",
        )
    original = volume.Volume(hu, np.diag([*voxel_mm, 1.0]), lineage.original(path))
    cuts = cut_ends.cuts_of(inside, None, original)
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
            f" HU, {100 * (ct.data > LOWEST_AIR_HU).mean():.0f} % inside the bone"
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
