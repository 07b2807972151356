"""JPEG Extended with 12 bits, decoded by SimpleITK: pydicom's other decoders read 8 bits only.

SimpleITK would also rescale the values and pick no frame, so it gets a file with one frame and with
the tags of its pixels alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PIXEL_TAGS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip


def decoded(dataset: Any, frame: int | None) -> np.ndarray:
    """Return the stored values (H, W) of a frame of a pydicom dataset.

    Raises whatever a library raises for damaged pixels.
    """
    import pydicom
    import SimpleITK as sitk
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.uid import UID, generate_uid

    frames = int(dataset.get("NumberOfFrames") or 1)
    one = pydicom.Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = UID(JPEG_EXTENDED)
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = UID(SECONDARY_CAPTURE)
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.PhotometricInterpretation = "MONOCHROME2"
    for tag in PIXEL_TAGS:
        setattr(one, tag, dataset.get(tag))
    one.PixelData = encapsulate([get_frame(dataset.PixelData, frame or 0, number_of_frames=frames)])
    one["PixelData"].VR = "OB"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        one.save_as(path, enforce_file_format=True)
        with _silent():
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]


@contextlib.contextmanager
def _silent() -> Generator[None]:
    """Silence standard error: the decoder first tries 8 bits and writes of it, past Python."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
