"""CTs and labelmaps as they come: DICOM folders and zips, NRRD, MHA, DICOM SEG, folders of masks.

They are read with SimpleITK and pydicom, and everything is brought to RAS mm. What does not make
one rectangular grid is refused with its numbers.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from common import files
from common.errors import InputError, reading
from common.files.pydicom_quiet import quiet
from common.geometry import RAS_FROM_LPS
from common.volume import dicom_series
from common.volume.itk import from_sitk
from common.volume.lineage import Lineage

if TYPE_CHECKING:
    import nibabel
    import SimpleITK as sitk

ITK_FILES = (".nrrd", ".nhdr", ".mha", ".mhd")
NIFTI = (".nii", ".nii.gz")
SEGMENT = "Segment{}_{}"  # keys of a segmentation of 3D Slicer
MAGIC = slice(128, 132)
OVERLAP = 0.05  # share of a segment that may belong to others, as at touching surfaces


@dataclass(frozen=True)
class Foreign:
    """A volume of another format."""

    data: np.ndarray  # (I, J, K)
    affine: np.ndarray  # (4, 4) RAS mm
    remark: str
    names: dict[str, int] = field(default_factory=dict)  # labels of a labelmap by name


def is_foreign(path: Path) -> bool:
    """Return whether a path is a folder or a file of a format that is read here."""
    if path.is_dir() or path.suffix.lower() in (*ITK_FILES, ".zip", ".dcm"):
        return True
    if path.name.lower().endswith(NIFTI) or not path.is_file():
        return False
    with open(path, "rb") as stream:
        return stream.read(MAGIC.stop)[MAGIC] == b"DICM"


def read(path: Path, what: str) -> Foreign:
    """Read a volume of another format; ``what`` describes the file that is expected.

    Raises InputError if it is none, is ambiguous, or does not make one rectangular grid.
    """
    if path.is_dir() and _masks_in(path):
        return _folder_of_masks(path, what)
    if path.suffix.lower() in ITK_FILES:
        return _itk(path, what)
    if path.suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            _unpack(path, Path(folder), what)
            return _of_series(path, dicom_series.read(Path(folder), what, shown=path))
    if path.is_file() and dicom_series.is_segmentation(path):
        return _dicom_seg(path, what)
    return _of_series(path, dicom_series.read(path, what, shown=path))


def segment_names(path: Path) -> dict[str, int]:
    """Return the labels by name of a labelmap of another format; empty if it has none."""
    if path.suffix.lower() == ".zip" or (path.is_dir() and not _masks_in(path)):
        return {}
    return read(path, "a labelmap").names


def _of_series(path: Path, series: dicom_series.Series) -> Foreign:
    return Foreign(series.data, series.affine, series.remark)


def _unpack(path: Path, folder: Path, what: str) -> None:
    """Unpack a zip into a folder. Raises InputError if it is damaged or too large."""
    with reading(path, what, "copy it again, it is damaged"), zipfile.ZipFile(path) as packed:
        size = sum(info.file_size for info in packed.infolist())
        files.check_claim(path, size, True, what)
        for number, info in enumerate(packed.infolist()):
            if not info.is_dir():  # by number: a name in a zip may lead anywhere
                (folder / f"{number:06d}").write_bytes(packed.read(info))


# ------------------------------------------------------------------------------------- NRRD and MHA


def _itk(path: Path, what: str) -> Foreign:
    """Read NRRD, MHA or MHD, and the segments of a .seg.nrrd."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with reading(path, what, "export it again, or as NIfTI"):
        reader.ReadImageInformation()
        size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3:
        raise InputError(
            path, f"has {len(size)} dimensions", f"{what} of three", "choose one 3D volume"
        )
    files.check_claim(path, int(np.prod(size, dtype=object)) * channels, True, what)
    with reading(path, what, "export it again, or as NIfTI"):
        image = reader.Execute()
    kind = path.suffix[1:].upper()
    segments = _segments(image)
    if channels > 1 and not segments:
        raise InputError(
            path, f"has {channels} values per voxel", f"{what} of one", "export one of them"
        )
    if segments:
        return _of_segments(path, image, segments)
    volume = from_sitk(image, Lineage(), path)
    return Foreign(volume.data, volume.affine, f"{kind}, {image.GetPixelIDTypeAsString()}")


def _segments(image: sitk.Image) -> list[tuple[str, int, int]]:
    """Return (name, layer, value) of each segment of a segmentation of 3D Slicer."""
    found = []
    while image.HasMetaDataKey(SEGMENT.format(len(found), "LabelValue")):
        value, layer, name = (
            image.GetMetaData(key) if image.HasMetaDataKey(key) else default
            for key, default in (
                (SEGMENT.format(len(found), "LabelValue"), "1"),
                (SEGMENT.format(len(found), "Layer"), "0"),
                (SEGMENT.format(len(found), "Name"), f"Segment{len(found)}"),
            )
        )
        found.append((name, int(layer), int(value)))
    return found


def _of_segments(path: Path, image: sitk.Image, segments: list[tuple[str, int, int]]) -> Foreign:
    """Return a labelmap of the segments; those of several layers are numbered in their order."""
    import SimpleITK as sitk

    count = image.GetNumberOfComponentsPerPixel()
    layers = [
        from_sitk(sitk.VectorIndexSelectionCast(image, n) if count > 1 else image, Lineage(), path)
        for n in range(count)
    ]
    if count == 1:
        names = {name: value for name, _, value in segments}
        return Foreign(layers[0].data, layers[0].affine, _said("NRRD", names), names)
    masks = {name: layers[layer].data == value for name, layer, value in segments}
    data, names = _joined(path, masks)
    return Foreign(data, layers[0].affine, _said("NRRD, several layers", names), names)


def _joined(path: Path, masks: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Return a labelmap of masks, and their labels. Raises InputError if they overlap much."""
    data = np.zeros(next(iter(masks.values())).shape, np.uint16)
    names = {}
    for number, (name, mask) in enumerate(masks.items(), start=1):
        shared = int((mask & (data > 0)).sum())
        if shared > OVERLAP * max(int(mask.sum()), 1):
            raise InputError(
                path,
                f"{name} shares {shared} voxels with another segment",
                "segments that do not overlap",
                "export the bones alone",
            )
        data[mask] = number
        names[name] = number
    return data, names


def _said(kind: str, names: dict[str, int]) -> str:
    listed = ", ".join(f"{number} {name}" for name, number in list(names.items())[:12])
    return f"{kind}, segments {listed}{' and others' if len(names) > 12 else ''}"


# --------------------------------------------------------------------------------- folders of masks


def _masks_in(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder, each of which may be the mask of a bone."""
    return sorted(
        each for each in folder.iterdir()
        if each.name.lower().endswith(NIFTI) and not each.name.startswith(".")
    )  # fmt: skip


def _folder_of_masks(folder: Path, what: str) -> Foreign:
    """Return a labelmap of a folder with one mask per bone, as TotalSegmentator writes it.

    Empty masks are left out; labels count from 1 in the order of the file names.
    """
    import nibabel

    masks, affine, shape = {}, None, None
    for path in _masks_in(folder):
        with reading(path, "a mask (NIfTI)", "export it again"):
            image = cast("nibabel.Nifti1Image", nibabel.load(path))
            mask = np.asanyarray(image.dataobj) > 0.5
            here = np.array(image.affine, float)
        if shape not in (None, mask.shape) or (
            affine is not None and not np.allclose(affine, here, atol=1e-3)
        ):
            raise InputError(
                path, "lies on another grid than the other masks", what, "export all masks again"
            )
        affine, shape = here, mask.shape
        if mask.any():
            masks[files.stem(path)] = mask
    if not masks or affine is None:
        raise InputError(folder, "holds empty masks only", what, "choose another folder")
    data, names = _joined(folder, masks)
    return Foreign(data, affine, _said("a folder of masks", names), names)


# ---------------------------------------------------------------------------------------- DICOM SEG


def _dicom_seg(path: Path, what: str) -> Foreign:
    """Return the segments of a DICOM SEG as a labelmap, by their numbers."""
    import highdicom

    with reading(path, what, "export it again, or as NIfTI or NRRD"), quiet():
        seg: Any = highdicom.seg.segread(path)
        volume = seg.get_volume(combine_segments=True, skip_overlap_checks=False)
        described = [seg.get_segment_description(n) for n in seg.segment_numbers]
        names = {str(each.segment_label): int(each.segment_number) for each in described}
        data, affine = np.asarray(volume.array), np.array(volume.affine, float)
    return Foreign(data, RAS_FROM_LPS @ affine, _said("DICOM SEG", names), names)
