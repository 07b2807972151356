"""Whether a file is DICOM, also without its preamble, and the transfer syntax that it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PREFIX_BYTES, MAGIC = 128, b"DICM"  # PS3.10 7.1
FIRST_TAG = ((0, 2), (2, 4), (4, 8))  # bytes of group, element and, if implicit, length


def is_marked(path: Path) -> bool:
    """Return whether a file has the mark of DICOM behind its preamble."""
    return _start_of(path)[PREFIX_BYTES:] == MAGIC


def is_bare(path: Path) -> bool:
    """Return whether a file begins as a data set without the preamble.

    Its first element is small, of group 2 or 8.
    """
    start = _start_of(path)
    if len(start) < 16 or start[PREFIX_BYTES:] == MAGIC:
        return False
    group, element, length = (int.from_bytes(start[a:b], "little") for a, b in FIRST_TAG)
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return group in (2, 8) and element <= 0x20 and (explicit or length < 256)


def _start_of(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(PREFIX_BYTES + len(MAGIC))


def add_syntax(dataset: Any) -> str | None:
    """Add the transfer syntax that a pydicom dataset lacks, in place, and return it in words.

    It is that by which pydicom has read the file. A bare data set is implicit little endian (PS3.10
    7.1). Only uncompressed pixels fit it. Returns None if the dataset states one.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if dataset.file_meta.get("TransferSyntaxUID"):
        return None
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return f"states no transfer syntax; read as {dataset.file_meta.TransferSyntaxUID.name}"
