"""NIfTI files with any header, also those that nibabel would correct."""

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def nifti(path: Path, data: np.ndarray, affine: np.ndarray, **header) -> None:
    """A NIfTI file with any header fields, changed as bytes, since nibabel corrects them."""
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    raw = bytearray(image.to_bytes())
    fields = nibabel.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
    for key, value in header.items():
        fields[key] = value
    raw[:348] = fields.binaryblock
    path.write_bytes(gzip.compress(bytes(raw), 1) if path.name.endswith(".gz") else bytes(raw))
