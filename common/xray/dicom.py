"""X-rays in DICOM (XA, RF, DX, CR, enhanced XA and XRF): the pixels of one frame and its header.

Only geometry and grey-value tags are kept, none that identifies the patient.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading
from common.xray.header import Header, header_of
from common.xray.tags import spread_frame

MAX_PIXELS = 200_000_000
# DICOM's letters of directions in the patient: axis of RAS and sign
ANATOMY = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "H": (2, 1), "F": (2, -1)}
PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
SUFFIXES = (".dcm", ".dicom")
PREFIX_BYTES, MAGIC = 128, b"DICM"  # PS3.10 7.1


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its magic number or its suffix."""
    with open(path, "rb") as stream:
        start = stream.read(PREFIX_BYTES + len(MAGIC))
    return start[PREFIX_BYTES:] == MAGIC or path.suffix.lower() in SUFFIXES


def read(path: Path, frame: int | None) -> tuple[np.ndarray, Header]:
    """Return the grey values (H, W) float32 as stored, and the header, of one frame.

    Raises InputError if the file has no pixels, is a colour image, does not have that frame or has
    several and ``frame`` is None, or if a tag is not a number.
    """
    from pydicom.pixels import pixel_array

    dataset = open_dataset(path)
    rows, columns, frames = _check_pixels(path, dataset)
    if frames > 1 and frame is None:
        raise InputError(
            path,
            f"has {frames} frames",
            "the number of one of them",
            f"use `frame` 0 to {frames - 1}",
        )
    if frame is not None and not 0 <= frame < frames:
        raise InputError(path, f"has no frame {frame}", f"0 to {frames - 1}", "correct `frame`")
    with reading(path, "readable pixel data", "export it uncompressed"), quiet():
        pixels = pixel_array(
            dataset, index=frame if frames > 1 else None, decoding_plugin=_decoder(dataset)
        ).astype(np.float32)
    if pixels.shape != (rows, columns):
        raise InputError(
            path,
            f"pixel data has shape {pixels.shape}, the header states {rows} x {columns}",
            "one grey image",
            "export it again",
        )
    with (
        reading(path, "geometry tags that are numbers", "correct the header, or export it again"),
        quiet(),
    ):
        spread_frame(dataset, frame)
        return pixels, header_of(dataset)


def _check_pixels(path: Path, dataset: Any) -> tuple[int, int, int]:
    """Return rows, columns and number of frames. Raises InputError if they cannot be an X-ray's."""
    what = "an X-ray with pixels"
    with reading(path, what, "export it again"), quiet():
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames") or 1)
        syntax = dataset.file_meta.TransferSyntaxUID
        bits, samples = int(dataset.BitsAllocated), int(dataset.get("SamplesPerPixel", 1))
        colours = str(dataset.get("PhotometricInterpretation", GREY[1]))
        encapsulated = syntax.is_encapsulated
    if (
        min(rows, columns, frames) < 1
        or rows * columns * frames > MAX_PIXELS * 10
        or rows * columns > MAX_PIXELS
    ):
        raise InputError(
            path,
            f"header claims {frames} frames of {columns} x {rows} pixels",
            f"at most {MAX_PIXELS:.0e} pixels per frame",
            "export it again, the header is damaged",
        )
    if samples != 1:
        raise InputError(
            path,
            f"has {samples} samples per pixel",
            "a grey X-ray",
            "export the original instead of a screenshot",
        )
    if colours not in GREY:
        raise InputError(
            path,
            f"is stored as {colours}",
            " or ".join(GREY),
            "export the original instead of a screenshot",
        )
    if not encapsulated:
        files.check_claim(path, rows * columns * frames * bits // 8, syntax.is_deflated, what)
    return rows, columns, frames


def count_frames(path: Path) -> int:
    """Return the number of frames of a DICOM file. Raises InputError if the tag is not a number."""
    with reading(path, "a number of frames", "correct the header, or export it again"), quiet():
        return int(open_dataset(path).get("NumberOfFrames") or 1)


def open_dataset(path: Path) -> Any:
    """Return the elements of a DICOM file, as pydicom's dataset.

    Raises InputError if the file is not DICOM, has no pixels, or would unpack to more than the
    memory of this machine.
    """
    import pydicom

    what = "a DICOM image"
    with reading(path, what, "export it again, the file is damaged or not DICOM"), quiet():
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax is not None and syntax.is_deflated:
            files.check_claim(path, path.stat().st_size * files.DEFLATE_RATIO, True, what)
        dataset = pydicom.dcmread(path)
    if not any(keyword in dataset for keyword in PIXEL_ELEMENTS):
        raise InputError(
            path,
            "has no pixels",
            "a DICOM X-ray",
            "choose the image, this may be a report or a DICOMDIR",
        )
    return dataset


@contextlib.contextmanager
def quiet() -> Generator[None, None, None]:
    """Suppress pydicom's warnings: they quote values, which may identify the patient."""
    from pydicom.config import logger

    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before


def _decoder(dataset: Any) -> str:
    """Return the decoder for a file's pixels.

    By default pydicom tries all that are installed; some of them crash on damaged data.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return ""
    return "pydicom" if syntax.name == "RLE Lossless" else "gdcm"
