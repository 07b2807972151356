"""X-rays in DICOM (XA, RF, DX, CR, enhanced XA and XRF): the pixels of one frame and its header.

Only geometry and grey-value tags are kept, none that identifies the patient.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading
from common.files.dicom_marks import add_syntax, is_bare, is_marked
from common.files.functional_groups import spread_frame
from common.files.pydicom_quiet import quiet
from common.xray import jpeg12
from common.xray.header import Header, header_of
from common.xray.image_files import MAX_PIXELS, as_grey, check_frame
from common.xray.lacking_tags import add_plain_tags
from common.xray.tags import FRAME_GROUPS

logger = logging.getLogger(__name__)

# DICOM's letters of directions in the patient: axis of RAS and sign
ANATOMY = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "H": (2, 1), "F": (2, -1)}
PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
SUFFIXES = (".dcm", ".dicom")


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by its mark, its suffix, or as a bare data set."""
    return path.suffix.lower() in SUFFIXES or is_marked(path) or is_bare(path)


def read(path: Path, frame: int | None) -> tuple[np.ndarray, Header]:
    """Return the grey values (H, W) float32 as stored, and the header, of one frame.

    Raises InputError if the file has no pixels, has colours, does not have that frame or has
    several and ``frame`` is None, or if a tag is not a number.
    """
    import pydicom

    dataset = _held(path)
    with reading(path, "tags that pydicom can read", "export it again"):
        add_plain_tags(path, dataset)
    rows, columns, frames = _check_pixels(path, dataset)
    check_frame(path, frame, frames)
    stored = f"{dataset.BitsStored} bit" if "BitsStored" in dataset else "floating point"
    remarks = [f"DICOM, {stored}{_shift_of(dataset)[1]}"]
    pixels = _pixels(path, dataset, frame if frames > 1 else None)
    if pixels.ndim == 3:
        pixels = as_grey(path, pixels)
        remarks.append("grey in three channels")
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
        about = pydicom.Dataset()  # the tags of one frame are not those of the next
        about.update(dataset)
        about.file_meta = dataset.file_meta
        spread_frame(about, frame, FRAME_GROUPS)
        header = header_of(about)
    return pixels.astype(np.float32), replace(header, remarks=(*remarks, *header.remarks))


def _shift_of(dataset: Any) -> tuple[int, str]:
    """Return the bits below the stored ones, and words for them; 0 and none usually."""
    if not all(tag in dataset for tag in ("HighBit", "BitsStored", "BitsAllocated")):
        return 0, ""
    shift = int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    return shift, f" at the top of {dataset.BitsAllocated} (HighBit {dataset.HighBit})" * bool(
        shift
    )


def _pixels(path: Path, dataset: Any, index: int | None) -> np.ndarray:
    """Return the stored values of a frame, (H, W) or (H, W, 3).

    Bits that stand above others are shifted down. Raises InputError if they cannot be decoded.
    """
    from pydicom.pixels import pixel_array

    shift, _ = _shift_of(dataset)
    if shift < 0 or (shift and dataset.file_meta.TransferSyntaxUID.is_encapsulated):
        raise InputError(
            path,
            f"states HighBit {dataset.HighBit} for {dataset.BitsStored} bits stored, and is"
            " compressed" * (shift > 0),
            f"HighBit {int(dataset.BitsStored) - 1}",
            "correct HighBit, or export it uncompressed",
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == jpeg12.JPEG_EXTENDED and int(dataset.BitsAllocated) > 8:
        with reading(path, "readable pixel data", "uncompress it (dcmdjpeg of DCMTK)"), quiet():
            return jpeg12.decoded(dataset, index)
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    if shift:  # all allocated bits are read, then those that are stored are kept
        dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, int(dataset.BitsAllocated) - 1
    with reading(path, "readable pixel data", "export it uncompressed"), quiet():
        pixels = pixel_array(dataset, index=index, decoding_plugin=_decoder(dataset))
    if shift:
        dataset.BitsStored, dataset.HighBit = stored, high
        pixels = (pixels >> shift) & ((1 << int(stored)) - 1)
        if dataset.PixelRepresentation == 1:
            negative = pixels >= 1 << (int(stored) - 1)
            pixels = pixels.astype(np.int32) - (negative.astype(np.int32) << int(stored))
    return pixels


def _check_pixels(path: Path, dataset: Any) -> tuple[int, int, int]:
    """Return rows, columns and number of frames. Raises InputError if they cannot be an X-ray's."""
    what = "an X-ray with pixels"
    missing = [tag for tag in ("Rows", "Columns", "BitsAllocated") if tag not in dataset]
    if missing:
        raise InputError(
            path, f"lacks {', '.join(missing)}", what, "add the tag, for example with dcmodify"
        )
    with reading(path, what, "export it again"), quiet():
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames") or 1)
        syntax = dataset.file_meta.TransferSyntaxUID
        bits, samples = int(dataset.BitsAllocated), int(dataset.SamplesPerPixel)
        colours = str(dataset.PhotometricInterpretation)
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
    if colours not in GREY and (samples, colours) != (3, "RGB"):
        raise InputError(
            path,
            f"is stored as {colours}",
            " or ".join(GREY),
            "export the original instead of a screenshot",
        )
    if not encapsulated:
        claimed = rows * columns * frames * samples * bits // 8
        files.check_claim(path, claimed, syntax.is_deflated, what)
    return rows, columns, frames


def count_frames(path: Path) -> int:
    """Return the number of frames of a DICOM file. Raises InputError if the tag is not a number."""
    with reading(path, "a number of frames", "correct the header, or export it again"), quiet():
        return int(_held(path).get("NumberOfFrames") or 1)


def _held(path: Path) -> Any:
    """Return the dataset of `open_dataset`, read once for all frames of a run. Raises as that."""
    about = path.stat()
    return _held_as(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=2)  # two cameras
def _held_as(path: Path, mtime_ns: int, size: int) -> Any:
    return open_dataset(path)


def open_dataset(path: Path) -> Any:
    """Return the elements of a DICOM file, as pydicom's dataset.

    Raises InputError if the file is not DICOM, has no pixels, or would unpack to more than the
    memory of this machine.
    """
    import pydicom

    what = "a DICOM image"
    with reading(path, what, "export it again, the file is damaged or not DICOM"), quiet():
        bare = is_bare(path)
        if not bare:
            syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
            if syntax is not None and syntax.is_deflated:
                files.check_claim(path, path.stat().st_size * files.DEFLATE_RATIO, True, what)
        dataset = pydicom.dcmread(path, force=bare)
    if said := add_syntax(dataset):
        logger.warning(f"{path.name}: {said}")
    if not any(keyword in dataset for keyword in PIXEL_ELEMENTS):
        raise InputError(
            path,
            "has no pixels",
            "a DICOM X-ray",
            "choose the image, this may be a report or a DICOMDIR",
        )
    return dataset


def _decoder(dataset: Any) -> str:
    """Return the decoder for a file's pixels.

    By default pydicom tries all that are installed; some of them crash on damaged data.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return ""
    return "pydicom" if syntax.name == "RLE Lossless" else "gdcm"
