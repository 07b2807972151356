"""Whether CT and labelmap are what `crop_cts.py` needs: labels, units, bone, sides."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.errors import InputError
from common.volume.crop_targets import Target
from common.volume.cropping import x_of_body, x_of_label
from common.volume.hounsfield import BELOW_FAT_HU, NO_AIR_ABOVE_HU
from common.volume.units import are_raw

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

# from the middle of the body, on the wrong side: a single knee lies closer to it
WRONG_SIDE_MM = 30.0


def check_labels(path: Path, data: np.ndarray, labels: Sequence[int]) -> None:
    """Raise InputError if the labelmap has none of the labels."""
    if not any((data == label).any() for label in labels):
        found = [int(label) for label in np.unique(data) if label]
        raise InputError(
            path,
            f"contains none of the labels {labels}",
            "at least one",
            f"set `labels` to labels in the file, {found}",
        )


def check_units(path: Path, ct: Volume) -> None:
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


def check_bone(source: Path, target: Target, ct: Volume, mask: Volume) -> None:
    """Raise InputError if the crop is too thin to be a volume, or the label is in air."""
    if min(ct.shape) < 2:
        raise InputError(
            source,
            f"{target} is one voxel thin",
            "at least 2 slices in every direction",
            "increase `padding`",
        )
    mean = float(ct.data[mask.data > 0].mean())
    if mean < BELOW_FAT_HU:
        raise InputError(
            source,
            f"{target} has {mean:.0f} HU on average, which is air",
            "bone",
            "check that labelmap and CT belong to one patient and one CT",
        )


def log_islands(labelmap: Volume, path: Path) -> None:
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


def warn_if_swapped(ct: Volume, labelmap: Volume, targets: Sequence[Target]) -> None:
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
