"""What old or anonymised DICOM files lack, added where their data leave no doubt, and said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from common.errors import reading

logger = logging.getLogger(__name__)

FEW_BYTES = 8  # that the pixel data may lack


def add_plain_tags(path: Path, dataset: Any) -> None:
    """Add plain tags that a file lacks where its data leave no doubt, in place, and warn.

    One sample, MONOCHROME2, unsigned values, and bits that fill what is allocated; pixel data that
    is at most `FEW_BYTES` short gets its last value.
    """
    added = {}
    samples = dataset.get("SamplesPerPixel")
    if samples is None:
        added["SamplesPerPixel"] = samples = 1
    if samples == 1 and not dataset.get("PhotometricInterpretation"):
        added["PhotometricInterpretation"] = "MONOCHROME2"
    if dataset.get("PixelRepresentation") is None and "PixelData" in dataset:
        added["PixelRepresentation"] = 0
    if "BitsAllocated" in dataset and "PixelData" in dataset:
        if dataset.get("BitsStored") is None:
            added["BitsStored"] = dataset.BitsAllocated
        if dataset.get("HighBit") is None:
            added["HighBit"] = int(added.get("BitsStored", dataset.get("BitsStored"))) - 1
    for tag, value in added.items():
        setattr(dataset, tag, value)
    if added:
        said = ", ".join(f"{tag} {value}" for tag, value in added.items())
        logger.warning(f"{path.name}: the header lacks tags; assumed {said}")
    _fill_up(path, dataset)


def _fill_up(path: Path, dataset: Any) -> None:
    """Add the last value to uncompressed pixel data that is a few bytes short, in place."""
    tags = ("Rows", "Columns", "BitsAllocated")
    if "PixelData" not in dataset or not all(tag in dataset for tag in tags):
        return
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    with reading(path, "numbers of rows and columns", "export it again"):
        pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
        size = int(dataset.BitsAllocated) // 8
        missing = pixels * int(dataset.get("NumberOfFrames") or 1) * size
    missing -= len(dataset.PixelData)
    if 0 < missing <= FEW_BYTES and len(dataset.PixelData) > FEW_BYTES:
        whole = len(dataset.PixelData) // size * size
        last = dataset.PixelData[whole - size : whole]
        dataset.PixelData = dataset.PixelData[:whole] + last * (missing // size + 1)
        logger.warning(
            f"{path.name}: its pixel data is {missing} bytes short; the end is filled up"
        )
