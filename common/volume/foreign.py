"""CTs and labelmaps as they come: DICOM folders and zips, NRRD, MHA, DICOM SEG, folders of masks.

They are read with SimpleITK and pydicom, and everything is brought to RAS mm. What does not make
one rectangular grid is refused with its numbers.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.errors import InputError, reading
from common.files.dicom_marks import is_bare, is_marked
from common.volume import dicom_series, rtstruct, segments
from common.volume.itk import from_sitk
from common.volume.itk_header import check_header
from common.volume.lineage import Lineage

if TYPE_CHECKING:
    import SimpleITK as sitk

ITK_FILES = (".nrrd", ".nhdr", ".mha", ".mhd")
SEGMENTATION, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True)
class Foreign:
    """A volume of another format."""

    data: np.ndarray  # (I, J, K)
    affine: np.ndarray  # (4, 4) RAS mm
    remark: str
    names: dict[str, int] = field(default_factory=dict)  # labels of a labelmap by name
    warnings: tuple[str, ...] = ()


def is_foreign(path: Path) -> bool:
    """Return whether a path is a folder or a file of a format that is read here."""
    if path.is_dir() or path.suffix.lower() in (*ITK_FILES, ".zip", ".dcm"):
        return True
    if path.name.lower().endswith(segments.NIFTI) or not path.is_file():
        return False
    return is_marked(path) or is_bare(path)


def read(path: Path, what: str, series: Sequence[str] = ()) -> Foreign:
    """Read a volume of another format; ``what`` describes the file that is expected.

    ``series`` are words that choose one of several DICOM series. Raises InputError if it is none,
    is ambiguous, or does not make one rectangular grid.
    """
    if path.is_dir() and segments.masks_in(path):
        return _labelled("a folder of masks", segments.of_folder(path, what))
    if path.suffix.lower() in ITK_FILES:
        return _itk(path, what)
    if path.suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            _unpack(path, Path(folder), what)
            return _of_series(dicom_series.read(Path(folder), what, path, series))
    kind = dicom_series.sop_class(path) if path.is_file() else ""
    if kind == SEGMENTATION:
        return _labelled("DICOM SEG", segments.of_dicom_seg(path, what))
    if kind == RTSTRUCT:
        found, left_out = rtstruct.read(path, what)
        return _labelled("RTSTRUCT", found, tuple(left_out))
    return _of_series(dicom_series.read(path, what, path, series))


def segment_names(path: Path) -> dict[str, int]:
    """Return the labels by name of a labelmap of another format; empty if it has none."""
    if path.is_dir():
        return segments.names_of_folder(path)
    if path.suffix.lower() in ITK_FILES:
        reader = _itk_reader(path, "a labelmap")
        found = _segments_of(path, reader)
        return segments.names_of_segments(found, reader.GetNumberOfComponents())
    if path.suffix.lower() == ".zip":
        return {}
    kind = dicom_series.sop_class(path)
    if kind == RTSTRUCT:
        return rtstruct.names(path)
    return segments.of_dicom_seg(path, "a labelmap")[2] if kind == SEGMENTATION else {}


def _of_series(series: dicom_series.Series) -> Foreign:
    return Foreign(series.data, series.affine, series.remark, warnings=series.warnings)


def _labelled(kind: str, found: segments.Labelled, warnings: tuple[str, ...] = ()) -> Foreign:
    data, affine, names = found
    return Foreign(data, affine, segments.said(kind, names), names, warnings)


def _unpack(path: Path, folder: Path, what: str) -> None:
    """Unpack a zip into a folder. Raises InputError if it is damaged or too large."""
    with reading(path, what, "copy it again, it is damaged"), zipfile.ZipFile(path) as packed:
        size = sum(info.file_size for info in packed.infolist())
        files.check_claim(path, size, True, what)
        for number, info in enumerate(packed.infolist()):
            if not info.is_dir():  # by number: a name in a zip may lead anywhere
                (folder / f"{number:06d}").write_bytes(packed.read(info))


def _segments_of(
    path: Path, image: sitk.Image | sitk.ImageFileReader
) -> list[tuple[str, int, int]]:
    with reading(path, "labels and layers of segments that are numbers", "export it again"):
        return segments.segments_of(image)


def _itk_reader(path: Path, what: str) -> sitk.ImageFileReader:
    """Return a reader that has read the header of NRRD, MHA or MHD."""
    import SimpleITK as sitk

    check_header(path, what)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with reading(path, what, "export it again, or as NIfTI"):
        reader.ReadImageInformation()
    return reader


def _itk(path: Path, what: str) -> Foreign:
    """Read NRRD, MHA or MHD, and the segments of a .seg.nrrd."""
    reader = _itk_reader(path, what)
    size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3:
        raise InputError(
            path, f"has {len(size)} dimensions", f"{what} of three", "choose one 3D volume"
        )
    files.check_claim(path, int(np.prod(size, dtype=object)) * channels, True, what)
    with reading(path, what, "export it again, or as NIfTI"):
        image = reader.Execute()
    kind = path.suffix[1:].upper()
    if stated := _segments_of(path, image):
        layers = f"{kind}, {channels} layers" if channels > 1 else kind
        return _labelled(layers, segments.of_image(path, image, stated))
    if channels > 1:
        raise InputError(
            path, f"has {channels} values per voxel", f"{what} of one", "export one of them"
        )
    volume = from_sitk(image, Lineage(), path)
    return Foreign(volume.data, volume.affine, f"{kind}, {image.GetPixelIDTypeAsString()}")
