# PYTHON_ARGCOMPLETE_OK
"""Step 2: cut each bone out of the CT, in a padded box, and mirror right bones to left ones.

A box smaller than the CT saves time and memory in every later step, and with right bones mirrored one model serves both sides. Nothing is
interpolated: the voxels are the CT's own. The mirror swaps the patient's left and right (x of the scanner's RAS frame), whatever the file's orientation.

reads   the CT in Hounsfield units and the cleaned labelmap; file names are relative to --base_dir
        the patient's name is the CT's, without a final _ct: P01_ct.nii.gz gives P01
writes  DIR/femur_cts_cropped/P01_femur.nii.gz             the left femur
        DIR/femur_cts_cropped/P01_femur_mirrored.nii.gz    the right femur, mirrored to a left one
        DIR/femur_masks_cropped/...                        the bone's labelmap, same grid and file name; the same for the tibia
        and beside every image its lineage NAME.json with scanner_from_volume (determinant -1 for a mirrored bone)
frame   left bones stay in the scanner's frame, right ones are reflected about its plane x = 0; millimetres, RAS
before  segmentation_preprocessing.py (step 1)
next    coregister_cts.py (step 3)

example
  python crop_cts.py --base_dir P01 --ct_filename P01_ct.nii.gz --seg_filename segmentations/P01_seg_cleaned.nii.gz
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import script
from common.errors import InputError, going_on, raise_all
from common.geometry import MIRROR, apply, invert
from common.progress import track

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")


LABELS = (3, 4, 1, 2)
BONES = ("femur", "tibia")
PADDING_MM = 5.0
FAT_HU = -150  # no bone is thinner than fat
NO_AIR_ABOVE_HU = -200  # a CT whose lowest voxel is above this holds neither air nor fat


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--base_dir", required=True, metavar="DIR", help="the patient's folder; outputs go there"
    )
    parser.add_argument(
        "--ct_filename", required=True, metavar="CT", help="the CT, relative to DIR"
    )
    parser.add_argument(
        "--seg_filename",
        required=True,
        metavar="SEG",
        help="the labelmap, relative to DIR; on another grid it is resampled (nearest neighbour)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        type=int,
        default=list(LABELS),
        metavar="N",
        help=(
            "right and left label of each bone: femur right, femur left, tibia right, tibia left"
            " (default: 3 4 1 2)"
        ),
    )
    parser.add_argument(
        "--bones",
        nargs="+",
        default=list(BONES),
        metavar="NAME",
        help="names of the bones (default: femur tibia)",
    )
    parser.add_argument(
        "--padding",
        type=float,
        default=PADDING_MM,
        metavar="MM",
        help="margin around the bone in mm, clipped at the CT's edge (default: %(default)s)",
    )
    return parser


def crop_bone(
    ct: Volume, labelmap: Volume, label: int, padding_mm: float
) -> tuple[Volume, Volume] | None:
    """The CT and the labelmap in the padded box of one label, the labelmap with that label alone; None where it is absent.

    Both volumes share one grid. The box grows by ``padding_mm``, rounded up to whole voxels, and is clipped at the edge.
    """
    from common.volume.volume import affine_of_box, index_box

    inside = labelmap.data == label
    if not inside.any():
        return None
    box = index_box(inside, np.ceil(padding_mm / ct.spacing_mm - 1e-6).astype(int))
    affine = affine_of_box(ct.affine, box)
    mask = inside[box] * labelmap.data.dtype.type(label)
    return replace(ct, data=ct.data[box], affine=affine), replace(
        labelmap, data=mask, affine=affine
    )


def mirror(volume: Volume) -> Volume:
    """The volume reflected about the world's plane x = 0: a right bone becomes a left one.

    The affine is reflected, and the array is flipped along the axis closest to x, so that the file keeps its handedness and orientation.
    The lineage is left to the caller.
    """
    axis = int(np.abs(volume.affine[0, :3]).argmax())
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, volume.shape[axis] - 1
    return replace(volume, data=np.flip(volume.data, axis), affine=MIRROR @ volume.affine @ flip)


def onto_grid(labelmap: Volume, ct: Volume, labels: list[int]) -> Volume:
    """The labelmap on the CT's grid; InputError where a voxel of ``labels`` lies outside the CT."""
    from common.volume import resampling
    from common.volume.volume import same_grid

    if not np.allclose(
        labelmap.lineage.scanner_from_volume, ct.lineage.scanner_from_volume, atol=1e-3
    ):
        raise InputError(
            labelmap.path,
            f"its lineage places it in another frame than {ct.name}",
            "both in one",
            "take CT and labelmap of the same step",
        )
    if same_grid(labelmap, ct):
        return replace(labelmap, affine=ct.affine)
    outside, total = _count_outside(labelmap, ct, labels)
    if outside:
        raise InputError(
            labelmap.path,
            f"{outside} of {total} labelled voxels lie outside {ct.name} (grids {labelmap.shape}"
            f" and {ct.shape})",
            "a labelmap of this very CT",
            "check that both files belong together",
        )
    logger.info(
        f"{labelmap.name}: grid {labelmap.shape} is not the CT's {ct.shape}; resampled onto it"
        " (nearest neighbour)"
    )
    return replace(resampling.resample_labels(labelmap, ct), lineage=labelmap.lineage)


def _count_outside(labelmap: Volume, ct: Volume, labels: list[int]) -> tuple[int, int]:
    """How many voxels of ``labels`` have their centre more than half a labelmap voxel outside the CT, and how many there are."""
    index_from_index = invert(ct.affine) @ labelmap.affine
    margin = 0.5 + 0.5 * labelmap.spacing_mm.max() / ct.spacing_mm
    outside = total = 0
    for k in range(labelmap.shape[2]):  # by slices, to keep memory small
        i, j = np.nonzero(np.isin(labelmap.data[:, :, k], labels))
        index = apply(index_from_index, np.stack([i, j, np.full_like(i, k)], 1))
        outside += int(((index < -margin) | (index > np.array(ct.shape) - 1 + margin)).any(1).sum())
        total += len(i)
    return outside, total


def run(args: argparse.Namespace) -> int | None:
    from common.volume import cut_ends, nifti

    _check_flags(args)
    base = Path(args.base_dir)
    if not base.is_dir():
        raise InputError(base, "is not a folder", "the patient's folder", "check --base_dir")
    ct_path = files.existing_file(base / args.ct_filename, "a CT volume (NIfTI, .nii or .nii.gz)")
    seg_path = files.existing_file(base / args.seg_filename, "a labelmap (NIfTI, .nii or .nii.gz)")
    patient = files.stem(ct_path).removesuffix("_ct")
    # (bone, side, label) -> the two files
    wanted = {}
    for bone, right, left in zip(args.bones, args.labels[::2], args.labels[1::2], strict=True):
        for side, label, ending in (("left", left, ""), ("right", right, "_mirrored")):
            wanted[bone, side, label] = [
                base / f"{bone}_{kind}_cropped" / f"{patient}_{bone}{ending}.nii.gz"
                for kind in ("cts", "masks")
            ]
    files.check_outputs(
        [path for pair in wanted.values() for path in pair], args.overwrite, [ct_path, seg_path]
    )

    labelmap = nifti.load_labelmap(seg_path)
    if not any((labelmap.data == label).any() for label in args.labels):
        found = [int(label) for label in np.unique(labelmap.data) if label]
        raise InputError(
            seg_path,
            f"holds none of the labels {args.labels}",
            "at least one",
            f"it holds {found}, name them with --labels",
        )
    ct = nifti.load_ct(ct_path)
    if ct.data.min() >= 0:
        raise InputError(
            ct_path,
            "holds no value below 0, so no air and no fat",
            "Hounsfield units (air -1000, water 0)",
            "rescale it, the scanner's raw values are 1024 higher",
        )
    if ct.data.min() > NO_AIR_ABOVE_HU:
        logger.warning(
            f"{ct.name}: its lowest voxel is {ct.data.min()}, so it holds no air; expected"
            " Hounsfield units (air -1000, water 0); rescale it if it is not in them"
        )
    _tell_of_islands(labelmap, seg_path)
    labelmap = onto_grid(labelmap, ct, args.labels)
    _warn_if_swapped(ct, labelmap, args)

    written, problems = [], []
    for (bone, side, label), paths in track(wanted.items(), what="bones", unit="bone"):
        cropped = crop_bone(ct, labelmap, label, args.padding)
        if cropped is None:
            logger.warning(
                f"{labelmap.name}: {side} {bone} (label {label}) is absent; nothing written for it"
            )
            continue
        with going_on(problems):
            _check_bone(f"{seg_path}: {side} {bone} (label {label})", *cropped)
            cuts = cut_ends.cuts_of(labelmap.data, [label], ct)
            if cuts:
                logger.info(
                    f"{side} {bone} (label {label}): reaches the end of {ct.name}; registration"
                    " leaves the cut end out of the comparison"
                )
            settings = {
                "label": label,
                "padding_mm": args.padding,
                "mirrored": side == "right",
                "cuts": [cut.as_setting() for cut in cuts],
            }
            for path, volume in zip(paths, cropped, strict=True):
                moved = mirror(volume) if side == "right" else volume
                lineage = volume.lineage.then(
                    "crop_cts",
                    settings,
                    MIRROR if side == "right" else None,
                    bone=bone,
                    side=side,
                    label=label,
                )
                written.append(nifti.save(path, replace(moved, lineage=lineage)))
            logger.info(
                f"{side} {bone} (label {label}): {' x '.join(map(str, cropped[0].shape))} voxels of"
                f" {' x '.join(f'{s:.3g}' for s in ct.spacing_mm)}"
                f" mm{', mirrored' if side == 'right' else ''}"
            )
    if written:
        print(*written, sep="\n")
    raise_all(problems)
    return None


def _check_bone(what: str, ct: Volume, mask: Volume) -> None:
    """InputError for a crop too thin to be a volume, or a label that lies where the CT has no bone."""
    if min(ct.shape) < 2:
        raise InputError(
            what,
            "is one voxel thin",
            "at least 2 slices in every direction",
            "give a larger --padding",
        )
    mean = float(ct.data[mask.data > 0].mean())
    if mean < FAT_HU:
        raise InputError(
            what,
            f"has {mean:.0f} HU on average, which is air",
            "bone",
            "check that labelmap and CT are of one patient and scan",
        )


def _tell_of_islands(labelmap: Volume, path: Path) -> None:
    """Where the labelmap has not been through step 1: a warning if the one that has lies beside it, else a note."""
    if any(entry["step"] == "segmentation_preprocessing" for entry in labelmap.lineage.history):
        return
    cleaned = path.with_name(f"{files.stem(path)}_cleaned.nii.gz")
    remedy = (
        f"give {cleaned.name}, which lies beside it"
        if cleaned.exists()
        else "run segmentation_preprocessing.py on it first if it has any"
    )
    logger.log(
        logging.WARNING if cleaned.exists() else logging.INFO,
        f"{path.name}: has not been through step 1; an island of a label widens the bone's box;"
        f" {remedy}",
    )


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
    if len(set(args.bones)) < len(args.bones) or not all(map(files.is_plain_name, args.bones)):
        raise InputError(
            "--bones",
            f"found {args.bones}",
            "different names that can stand in a file name",
            "rename them",
        )
    if not 0 <= args.padding < 1000:
        raise InputError(
            "--padding", f"found {args.padding} mm", "0 to 1000 mm", "give another margin"
        )


def _warn_if_swapped(ct: Volume, labelmap: Volume, args: argparse.Namespace) -> None:
    """Warn where a right bone lies to the left of its left partner: x of the scanner's frame grows to the patient's right."""
    scanner_from_index = ct.lineage.scanner_from_volume @ ct.affine
    for bone, right, left in zip(args.bones, args.labels[::2], args.labels[1::2], strict=True):
        x_right, x_left = (
            _x_of_label(labelmap.data, label, scanner_from_index) for label in (right, left)
        )
        if x_right <= x_left:  # not so where one is absent (NaN)
            logger.warning(
                f"{bone}: label {right} (right) lies at x = {x_right:.0f} mm and label {left}"
                f" (left) at {x_left:.0f} mm, but x grows to the patient's right; the two labels"
                " look swapped, or the CT's orientation is wrong"
            )


def _x_of_label(data: np.ndarray, label: int, affine: np.ndarray) -> float:
    """World x of a label's centre of mass; NaN where it is absent."""
    inside = data == label
    if not inside.any():
        return float("nan")
    index = [
        np.average(
            np.arange(n),
            weights=np.count_nonzero(inside, axis=tuple(a for a in range(3) if a != axis)),
        )
        for axis, n in enumerate(data.shape)
    ]
    return float(apply(affine, np.array(index))[0])


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
