"""Slices of DICOM CTs: one per file, or frames of an enhanced (multi-frame) CT."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import reading
from common.files.dicom_marks import add_syntax, is_bare, is_marked
from common.files.functional_groups import PER_FRAME, SHARED, spread_frame
from common.files.pydicom_quiet import quiet

logger = logging.getLogger(__name__)

TAGS = (
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined",
    "ConvolutionKernel", "Modality", "ImageType", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SOPClassUID", "NumberOfFrames",
    "SliceThickness", "GantryDetectorTilt", "RescaleSlope", "RescaleIntercept", PER_FRAME, SHARED,
)  # fmt: skip
# groups of an enhanced CT that hold the tags of a slice
GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CTReconstructionSequence",
    "CTPositionSequence",
    "CTAcquisitionDetailsSequence",
    "FrameContentSequence",
    "FrameAnatomySequence",
)
WHAT = "slices with position, orientation and spacing"


@dataclass(frozen=True)
class Slice:
    """A slice without its pixels; ``header`` is a pydicom dataset of its tags."""

    path: Path
    frame: int | None  # of an enhanced CT
    header: Any

    @property
    def stack(self) -> str:
        """The stack of an enhanced CT that the slice belongs to, else empty."""
        return str(self.header.get("StackID") or "")


def slices_in(paths: Iterable[Path]) -> list[Slice]:
    """Return the slices of CTs among files, without localizers; other files are left out."""
    import pydicom

    found: list[Slice] = []
    with quiet():
        for path in sorted(each for each in paths if each.is_file()):
            if path.name.startswith(".") or not (is_marked(path) or is_bare(path)):
                continue
            with reading(path, "a DICOM slice", "copy it again, or move it away"):
                header = pydicom.dcmread(
                    path, stop_before_pixels=True, specific_tags=list(TAGS), force=True
                )
                for tag in TAGS:
                    header.get(tag)  # converted on access, which raises for what is no number
                if header.get("Modality") == "CT" and "LOCALIZER" not in (
                    header.get("ImageType") or ()
                ):
                    found += _slices_of(path, header)
    return found


def _slices_of(path: Path, header: Any) -> list[Slice]:
    """Return the slice of a file, or those of the frames of an enhanced CT."""
    import pydicom

    if PER_FRAME not in header:
        return [Slice(path, None, header)]
    groups = {name: header[name] for name in (PER_FRAME, SHARED) if name in header}
    frames = []
    for number in range(len(header[PER_FRAME].value)):
        about = pydicom.Dataset()
        about.update(header)
        about.update({each.tag: each for each in groups.values()})
        spread_frame(about, number, GROUPS)
        for name in groups:
            del about[name]
        frames.append(Slice(path, number, about))
    return frames


def hounsfield(slices: Sequence[Slice], what: str) -> np.ndarray:
    """Return the Hounsfield units of slices, (N, H, W) int16; ``what`` is the file expected.

    All slices have the size of the first. Raises InputError if pixels are missing or damaged.
    """
    import pydicom

    shape = int(slices[0].header.Rows), int(slices[0].header.Columns)
    found = np.empty((len(slices), *shape), np.int16)
    said = None
    order = sorted(range(len(slices)), key=lambda number: str(slices[number].path))
    with quiet():
        for path, numbers in itertools.groupby(order, key=lambda number: slices[number].path):
            members = list(numbers)
            files.check_claim(path, len(members) * shape[0] * shape[1], True, what)
            with reading(path, "a CT slice", "copy it again, or uncompress it"):
                dataset = pydicom.dcmread(path, force=True)
                said = add_syntax(dataset) or said
                pixels = dataset.pixel_array
                for number in members:
                    frame = slices[number].frame
                    values = pixels if frame is None or pixels.ndim == 2 else pixels[frame]
                    header = slices[number].header
                    slope = float(header.get("RescaleSlope", 1) or 1)
                    values = values * slope + float(header.get("RescaleIntercept", 0) or 0)
                    found[number] = np.clip(np.rint(values), -32768, 32767)
    if said:
        logger.warning(f"{slices[0].path.name} and other slices: {said}")
    return found
