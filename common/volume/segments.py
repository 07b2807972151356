"""Labelmaps as named segments: .seg.nrrd of 3D Slicer, DICOM SEG, and folders of one mask per bone.

Each is read as labels (I, J, K), their affine (4, 4) RAS mm, and the labels by name. The names are
read without the voxels where the format allows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from common import files
from common.errors import InputError, reading
from common.files.pydicom_quiet import quiet
from common.geometry import RAS_FROM_LPS
from common.volume.itk import from_sitk
from common.volume.lineage import Lineage

if TYPE_CHECKING:
    import nibabel
    import SimpleITK as sitk

NIFTI = (".nii", ".nii.gz")
SEGMENT = "Segment{}_{}"  # keys of a segmentation of 3D Slicer
OVERLAP = 0.05  # share of a segment that may belong to others, as at touching surfaces

Labelled = tuple[np.ndarray, np.ndarray, dict[str, int]]


def joined(
    path: Path, shape: tuple[int, ...], masks: Iterable[tuple[int, str, np.ndarray]]
) -> np.ndarray:
    """Return a labelmap of masks, each with its label and name, which come one at a time.

    Raises InputError if they overlap much.
    """
    data = np.zeros(shape, np.uint16)
    for number, name, mask in masks:
        shared = int((mask & (data > 0)).sum())
        if shared > OVERLAP * max(int(mask.sum()), 1):
            raise InputError(
                path,
                f"{name} shares {shared} voxels with another segment",
                "segments that do not overlap",
                "export the bones alone",
            )
        data[mask] = number
    return data


def said(kind: str, names: dict[str, int]) -> str:
    """Return what was read, in words."""
    listed = ", ".join(f"{number} {name}" for name, number in list(names.items())[:12])
    return f"{kind}, segments {listed}{' and others' if len(names) > 12 else ''}"


# ------------------------------------------------------------------------------------ 3D Slicer


def segments_of(image: sitk.Image | sitk.ImageFileReader) -> list[tuple[str, int, int]]:
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


def names_of_segments(segments: list[tuple[str, int, int]], layers: int) -> dict[str, int]:
    """Return the labels by name; the segments of several layers are numbered in their order."""
    if layers == 1:
        return {name: value for name, _, value in segments}
    return {name: number for number, (name, _, _) in enumerate(segments, start=1)}


def of_image(path: Path, image: sitk.Image, segments: list[tuple[str, int, int]]) -> Labelled:
    """Return the labelmap of a segmentation of 3D Slicer."""
    import SimpleITK as sitk

    count = image.GetNumberOfComponentsPerPixel()
    layers = [
        from_sitk(sitk.VectorIndexSelectionCast(image, n) if count > 1 else image, Lineage(), path)
        for n in range(count)
    ]
    names = names_of_segments(segments, count)
    data = layers[0].data
    if count > 1:
        masks = (
            (names[name], name, layers[layer].data == value) for name, layer, value in segments
        )
        data = joined(path, data.shape, masks)
    return data, layers[0].affine, names


# ----------------------------------------------------------------------------- folders of masks


def masks_in(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder, each of which may be the mask of a bone."""
    return sorted(
        each for each in folder.iterdir()
        if each.name.lower().endswith(NIFTI) and not each.name.startswith(".")
    )  # fmt: skip


def names_of_folder(folder: Path) -> dict[str, int]:
    """Return the labels by name: from 1, in the order of the file names."""
    return {files.stem(path): number for number, path in enumerate(masks_in(folder), start=1)}


def of_folder(folder: Path, what: str) -> Labelled:
    """Return a labelmap of a folder with one mask per bone, as TotalSegmentator writes it.

    Masks are read one at a time. Raises InputError if they are all empty, or on several grids.
    """
    import nibabel

    first = masks_in(folder)[0]
    with reading(first, "a mask (NIfTI)", "export it again"):
        grid = cast("nibabel.Nifti1Image", nibabel.load(first))
        shape, affine = grid.shape, np.array(grid.affine, float)

    def masks() -> Iterator[tuple[int, str, np.ndarray]]:
        for number, path in enumerate(masks_in(folder), start=1):
            with reading(path, "a mask (NIfTI)", "export it again"):
                image = cast("nibabel.Nifti1Image", nibabel.load(path))
                mask = np.asanyarray(image.dataobj) > 0.5
            if mask.shape != shape or not np.allclose(affine, image.affine, atol=1e-3):
                raise InputError(
                    path, "lies on another grid than the other masks", what, "export all again"
                )
            yield number, files.stem(path), mask

    data = joined(folder, shape, masks())
    if not data.any():
        raise InputError(folder, "holds empty masks only", what, "choose another folder")
    return data, affine, names_of_folder(folder)


# ------------------------------------------------------------------------------------ DICOM SEG


def of_dicom_seg(path: Path, what: str) -> Labelled:
    """Return the segments of a DICOM SEG as a labelmap, by their numbers."""
    import highdicom

    with reading(path, what, "export it again, or as NIfTI or NRRD"), quiet():
        seg: Any = highdicom.seg.segread(path)
        volume = seg.get_volume(combine_segments=True, skip_overlap_checks=False)
        described = [seg.get_segment_description(n) for n in seg.segment_numbers]
        names = {str(each.segment_label): int(each.segment_number) for each in described}
        data, affine = np.asarray(volume.array), np.array(volume.affine, float)
    return data, RAS_FROM_LPS @ affine, names
