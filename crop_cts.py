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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import flags, script
from common.errors import InputError, going_on, raise_all
from common.geometry import MIRROR
from common.progress import track
from common.volume.cropping import crop_bone, mirror, onto_grid, x_of_body, x_of_label
from common.volume.hounsfield import BELOW_FAT_HU, NO_AIR_ABOVE_HU
from common.volume.label_names import number_or_name
from common.volume.units import are_raw

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

LABELS = (3, 4, 1, 2)
BONES = ("femur", "tibia")
PADDING_MM = 5.0
MOST_PADDING_MM = 1000
# from the middle of the body, on the wrong side: a single knee lies closer to it
WRONG_SIDE_MM = 30.0


@dataclass(frozen=True)
class Target:
    """A bone to crop, with its label and output files."""

    bone: str
    side: str  # "left" or "right"; right bones are mirrored
    label: int
    ct: Path
    mask: Path
    attached: tuple[int, ...] = ()  # labels that move with the bone

    @property
    def mirrored(self) -> bool:
        return self.side == "right"

    def __str__(self) -> str:
        return f"{self.side} {self.bone} (label {self.label})"


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
    _check_bone(source, target, *cropped)
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
    _check_labels(seg_path, labelmap.data, args.labels)
    ct = nifti.load_ct(ct_path, fill=False, series=args.series)  # voxels are copied
    _check_units(ct_path, ct)
    _log_islands(labelmap, seg_path)
    labelmap = onto_grid(labelmap, ct, args.labels)
    _warn_if_swapped(ct, labelmap, targets)

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


def attached_of(
    words: Sequence[str], bones: Sequence[str], labels: Sequence[int], source: Path
) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return the labels that move with each bone and side, of words BONE=RIGHT,LEFT.

    Raises InputError for words of another form, or a label that a bone has already.
    """
    from common.volume import label_names

    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for word in words:
        bone, _, stated = word.partition("=")
        pair = stated.split(",")
        if bone not in bones or len(pair) != 2:
            raise InputError(
                "--attached",
                f"found {word}",
                f"BONE=RIGHT,LEFT with one of {', '.join(bones)}",
                "correct it",
            )
        resolved = label_names.resolve([number_or_name(each) for each in pair], source)
        for side, label in zip(("right", "left"), resolved, strict=True):
            if label < 1 or label in labels:
                raise InputError(
                    "--attached", f"found label {label}", "a label of no other bone", "correct it"
                )
            found[bone, side] = (*found.get((bone, side), ()), label)
    return found


def targets_of(
    base: Path,
    patient: str,
    bones: Sequence[str],
    labels: Sequence[int],
    attached: Mapping[tuple[str, str], tuple[int, ...]] | None = None,
) -> list[Target]:
    """Return the left and the right target of each bone; ``labels`` are right and left of each."""
    targets = []
    for bone, right, left in zip(bones, labels[::2], labels[1::2], strict=True):
        for side, label, ending in (("left", left, ""), ("right", right, "_mirrored")):
            ct, mask = (
                base / f"{bone}_{kind}_cropped" / f"{patient}_{bone}{ending}.nii.gz"
                for kind in ("cts", "masks")
            )
            others = (attached or {}).get((bone, side), ())
            targets.append(Target(bone, side, label, ct, mask, others))
    return targets


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


def _check_labels(path: Path, data: np.ndarray, labels: Sequence[int]) -> None:
    """Raise InputError if the labelmap has none of the labels."""
    if not any((data == label).any() for label in labels):
        found = [int(label) for label in np.unique(data) if label]
        raise InputError(
            path,
            f"contains none of the labels {labels}",
            "at least one",
            f"set --labels to labels in the file, {found}",
        )


def _check_units(path: Path, ct: Volume) -> None:
    """Raise InputError if the CT has neither air nor fat; warn if it has no air."""
    lowest = ct.data.min()
    if lowest >= 0 or are_raw(ct.data):
        raise InputError(
            path,
            "contains neither air nor fat, and no value below 0 but padding",
            "Hounsfield units (air -1000, water 0)",
            "rescale it, raw values of the scanner are 1024 higher",
        )
    if lowest > NO_AIR_ABOVE_HU:
        logger.warning(
            f"{ct.name}: lowest voxel is {lowest}, so it contains no air; expected Hounsfield units"
            " (air -1000, water 0); rescale it if it has other units"
        )


def _check_bone(source: Path, target: Target, ct: Volume, mask: Volume) -> None:
    """Raise InputError if the crop is too thin to be a volume, or the label is in air."""
    if min(ct.shape) < 2:
        raise InputError(
            source,
            f"{target} is one voxel thin",
            "at least 2 slices in every direction",
            "increase --padding",
        )
    mean = float(ct.data[mask.data > 0].mean())
    if mean < BELOW_FAT_HU:
        raise InputError(
            source,
            f"{target} has {mean:.0f} HU on average, which is air",
            "bone",
            "check that labelmap and CT belong to one patient and one CT",
        )


def _log_islands(labelmap: Volume, path: Path) -> None:
    """Log that the labelmap has not been cleaned; warn if the cleaned one is next to it."""
    if any(entry["step"] == "segmentation_preprocessing" for entry in labelmap.lineage.history):
        return
    cleaned = path.with_name(f"{files.stem(path)}_cleaned.nii.gz")
    level, remedy = logging.INFO, "run segmentation_preprocessing.py first if it has islands"
    if cleaned.exists():
        level, remedy = logging.WARNING, f"use {cleaned.name} next to it"
    logger.log(
        level,
        f"{path.name}: not cleaned by step 1; an island of a label enlarges the box of the bone;"
        f" {remedy}",
    )


def _warn_if_swapped(ct: Volume, labelmap: Volume, targets: Sequence[Target]) -> None:
    """Warn if a right bone is to the left of its left partner in the scanner frame.

    A bone whose partner is missing is compared with the middle of the body.
    """
    scanner_from_index = ct.lineage.scanner_from_volume @ ct.affine
    for left, right in zip(targets[::2], targets[1::2], strict=True):
        x_left, x_right = (
            x_of_label(labelmap.data, target.label, scanner_from_index) for target in (left, right)
        )
        if x_right <= x_left:  # false if one is missing (NaN)
            logger.warning(
                f"{left.bone}: label {right.label} (right) is at x = {x_right:.0f} mm and label"
                f" {left.label} (left) at {x_left:.0f} mm, but x increases towards the patient's"
                " right; the labels look swapped, or the orientation of the CT is wrong"
            )
        for target, x in ((left, x_left), (right, x_right)):
            if np.isnan([x_left, x_right]).sum() != 1 or np.isnan(x):
                continue
            off_mm = (x - x_of_body(ct, labelmap.data == target.label)) * (
                1 if target.side == "left" else -1
            )
            if off_mm > WRONG_SIDE_MM:
                other = "right" if target.side == "left" else "left"
                logger.warning(
                    f"{target}: lies {off_mm:.0f} mm on the {other} of the middle of the body, and"
                    f" its {other} partner is missing; the labels look swapped, one label may stand"
                    " for both sides, or the orientation of the CT is wrong"
                )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
