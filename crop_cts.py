# PYTHON_ARGCOMPLETE_OK
"""Step 2: crop each bone from the CT in a padded box, and mirror right bones to left ones.

A box smaller than the CT saves time and memory in every later step, and since right bones are
mirrored, one pose network serves both sides. No voxel is interpolated. Mirroring swaps left and
right of the patient (x of the scanner frame, RAS) for every file orientation.

reads   the CT in Hounsfield units and the cleaned labelmap; file names are relative to --base_dir
        The patient's name is that of the CT without a final _ct: P01 for P01_ct.nii.gz.
        Any format of docs/formats.md is read, as a DICOM folder; labels are numbers or names.
writes  DIR/femur_cts_cropped/P01_femur.nii.gz             the left femur
        DIR/femur_cts_cropped/P01_femur_mirrored.nii.gz    the right femur, mirrored to a left one
        DIR/femur_masks_cropped/...                        the bone's labelmap: same grid and name,
                                                           with the labels of --attached
        the same for the tibia, and for every image its lineage NAME.json with scanner_from_volume
        (determinant -1 for a mirrored bone)
frame   left bones: the scanner frame; right bones: its reflection about x = 0
units   RAS mm
before  segmentation_preprocessing.py (step 1)
next    coregister_cts.py (step 3)

example
  python crop_cts.py --base_dir P01 --ct_filename P01_ct.nii.gz \\
    --seg_filename segmentations/P01_seg_cleaned.nii.gz
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import files
from common.command_line import flags, script
from common.errors import InputError, going_on, raise_all
from common.geometry import MIRROR
from common.progress import track
from common.volume import crop_checks
from common.volume.crop_targets import Target, attached_of, targets_of
from common.volume.cropping import crop_bone, mirror, onto_grid
from common.volume.label_names import number_or_name

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

LABELS = (3, 4, 1, 2)
BONES = ("femur", "tibia")
PADDING_MM = 5.0
MOST_PADDING_MM = 1000


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--base_dir", required=True, metavar="DIR", help="folder of the patient")
    parser.add_argument(
        "--output_dir", metavar="OUT", help="folder for the outputs (default: --base_dir)"
    )
    parser.add_argument("--ct_filename", required=True, metavar="CT", help="CT, relative to DIR")
    flags.add_series_flag(parser)
    parser.add_argument(
        "--seg_filename",
        required=True,
        metavar="SEG",
        help="labelmap, relative to DIR; on another grid it is resampled (nearest neighbour)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        type=number_or_name,
        default=list(LABELS),
        metavar="N",
        help="right and left label of each bone, numbers or names: femur right, femur left, tibia"
        " right, tibia left (default: 3 4 1 2)",
    )
    parser.add_argument(
        "--bones",
        nargs="+",
        default=list(BONES),
        metavar="NAME",
        help="names of the bones (default: femur tibia)",
    )
    parser.add_argument(
        "--attached",
        nargs="+",
        default=[],
        metavar="BONE=RIGHT,LEFT",
        help="labels that move with a bone and are registered with it, such as the fibula with the"
        " tibia: tibia=5,6",
    )
    parser.add_argument(
        "--padding",
        type=float,
        default=PADDING_MM,
        metavar="MM",
        help="margin around the bone in mm, clipped at the edge of the CT (default: %(default)s)",
    )
    return parser


def crop_and_save(
    ct: Volume,
    labelmap: Volume,
    target: Target,
    padding_mm: float,
    source: Path,
    names: Mapping[str, int],
) -> list[Path]:
    """Write CT and labelmap of one bone, and return their paths; none if its label is missing.

    Both volumes are on one grid; ``source`` is the labelmap's file, for messages. Of the ``names``
    of labels, those of the bone stay known, and so does the name of the bone. Raises InputError if
    the crop is too thin to be a volume, or the label is in air.
    """
    from common.volume import cut_ends, nifti

    cropped = crop_bone(ct, labelmap, target.label, padding_mm, target.attached)
    if cropped is None:
        logger.warning(f"{labelmap.name}: {target} is missing; it is skipped")
        return []
    crop_checks.check_bone(source, target, *cropped)
    cuts = cut_ends.cuts_of(labelmap.data, [target.label, *target.attached], ct)
    if cuts:
        logger.info(
            f"{target}: reaches the end of {ct.name}; registration excludes the surroundings of the"
            " cut end from the comparison"
        )
    settings = {
        "label": target.label,
        "padding_mm": padding_mm,
        "mirrored": target.mirrored,
        "attached": list(target.attached),
        "cuts": [cut.as_setting() for cut in cuts],
        "names": {
            **{name: label for name, label in names.items() if label == target.label},
            target.bone: target.label,
        },
    }
    about = {"bone": target.bone, "side": target.side, "label": target.label}
    for path, volume in zip((target.ct, target.mask), cropped, strict=True):
        moved = mirror(volume) if target.mirrored else volume
        old_from_new = MIRROR if target.mirrored else None
        lineage = volume.lineage.then("crop_cts", settings, old_from_new, **about)
        nifti.save(path, replace(moved, lineage=lineage))
    logger.info(
        f"{target}: {' x '.join(map(str, cropped[0].shape))} voxels of"
        f" {' x '.join(f'{s:.3g}' for s in ct.spacing_mm)} mm"
        f"{', mirrored' if target.mirrored else ''}"
    )
    return [target.ct, target.mask]


def run(args: argparse.Namespace) -> int | None:
    from common.volume import label_names, nifti

    base = Path(args.base_dir)
    if not base.is_dir():
        raise InputError(base, "not a folder", "the patient's folder", "check --base_dir")
    ct_path = files.existing_input(base / args.ct_filename, nifti.CT)
    seg_path = files.existing_input(base / args.seg_filename, nifti.LABELMAP)
    args.labels = label_names.resolve(args.labels, seg_path)
    _check_flags(args)
    patient = files.stem(ct_path).removesuffix("_ct")
    attached = attached_of(args.attached, args.bones, args.labels, seg_path)
    targets = targets_of(Path(args.output_dir or base), patient, args.bones, args.labels, attached)
    outputs = [path for target in targets for path in (target.ct, target.mask)]
    files.check_outputs(outputs, args.overwrite, [ct_path, seg_path])

    labelmap = nifti.load_labelmap(seg_path)
    crop_checks.check_labels(seg_path, labelmap.data, args.labels)
    ct = nifti.load_ct(ct_path, fill=False, series=args.series)  # voxels are copied
    crop_checks.check_units(ct_path, ct)
    crop_checks.log_islands(labelmap, seg_path)
    labelmap = onto_grid(labelmap, ct, args.labels)
    crop_checks.warn_if_swapped(ct, labelmap, targets)

    names = label_names.names_of(seg_path)
    written: list[Path] = []
    problems: list[InputError] = []
    for target in track(targets, what="bones", unit="bone"):
        with going_on(problems):
            written += crop_and_save(ct, labelmap, target, args.padding, seg_path, names)
    if written:
        print(*written, sep="\n")
    raise_all(problems)
    return None


def _check_flags(args: argparse.Namespace) -> None:
    if len(args.labels) != 2 * len(args.bones):
        raise InputError(
            "--labels",
            f"found {len(args.labels)} labels for {len(args.bones)} bones",
            "the right and the left label of every bone",
            f"name {2 * len(args.bones)}",
        )
    if min(args.labels) < 1 or len(set(args.labels)) < len(args.labels):
        raise InputError(
            "--labels",
            f"found {args.labels}",
            "different labels of 1 and above",
            "correct the list",
        )
    different = len({bone.casefold() for bone in args.bones}) == len(args.bones)
    if not different or not all(map(files.is_plain_name, args.bones)):
        raise InputError(
            "--bones",
            f"found {args.bones}",
            "different names that can be part of a file name",
            "rename them",
        )
    if not 0 <= args.padding < MOST_PADDING_MM:
        raise InputError(
            "--padding",
            f"found {args.padding} mm",
            f"0 to {MOST_PADDING_MM} mm",
            "choose another margin",
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
