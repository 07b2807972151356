"""The only reader and writer of CTs and labelmaps, each with its lineage.

NIfTI is read and written; other formats are read by `common.volume.foreign`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.errors import InputError, reading
from common.volume import foreign
from common.volume.bone_only import fill_around_bone
from common.volume.hounsfield import DENSEST_HU
from common.volume.lineage import read, sidecar, write
from common.volume.materials import Material, material_of
from common.volume.mesh import is_surface
from common.volume.nifti_header import check_affine, check_header, on_disk
from common.volume.units import are_raw
from common.volume.volume import Volume, embedded, same_grid

if TYPE_CHECKING:
    import nibabel

logger = logging.getLogger(__name__)

CT = "a CT volume (NIfTI, NRRD, MHA, a DICOM folder or zip) or a surface (STL, PLY, ...)"
LABELMAP = "a labelmap (NIfTI, NRRD, MHA, DICOM SEG, RTSTRUCT, or a folder of masks)"
ROUNDING = 0.01  # deviation of a label from a whole number


def load_ct(
    path: str | Path,
    fill: bool = True,
    material: Material | None = None,
    series: Sequence[str] = (),
) -> Volume:
    """Read a CT in Hounsfield units, (I, J, K), in the data type of the file.

    Unsigned integers become signed, since air outside the field would wrap around. A CT that holds
    only a bone is filled with soft tissue around it, see `common.volume.bone_only`, unless ``fill``
    is False, as for a step that copies voxels. A surface becomes a CT of its ``material``, see
    `common.volume.voxelise`. ``series`` are words that choose one of several DICOM series.

    Raises InputError if the file is not a 3D NIfTI volume of finite numbers with bone, an
    orientation and a usable affine.
    """
    if is_surface(path):
        from common.volume.voxelise import load_surface

        return load_surface(path, material)
    volume = _load(path, CT, series=series)
    low, high = volume.data.min(), volume.data.max()  # NaN passes through both
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            path, "contains NaN or infinite voxels", "Hounsfield units", "convert the CT again"
        )
    least, most = DENSEST_HU
    if not least <= high <= most or low < -most:
        raise InputError(
            path,
            f"values range from {low:g} to {high:g}",
            f"a bone, above {least}, in Hounsfield units (air -1000, water 0)",
            "convert the CT again, integers have overflowed"
            if high > most
            else "rescale it, or choose the CT",
        )
    if material_of(volume.lineage):
        return volume
    if low >= 0 or are_raw(volume.data):
        logger.warning(
            f"{volume.name}: contains no value of air or fat; expected Hounsfield units (air -1000,"
            " fat -100); subtract 1024 if these are raw values of the scanner"
        )
    if volume.data.dtype.kind == "u":
        volume = replace(volume, data=volume.data.astype(np.int16 if high < 2**15 else np.int32))
    return fill_around_bone(volume) if fill else volume


def load_labelmap(path: str | Path, like: Volume | None = None) -> Volume:
    """Read a labelmap, (I, J, K) integers; whole numbers stored as floats become integers.

    Floats may deviate by `ROUNDING`, as of scaled integers. A fourth dimension of masks (one-hot)
    becomes labels in its order. A segmentation of another format may be stored in its own box: if
    its voxels are some of those of ``like``, it is returned on that grid. Raises InputError if the
    file is not a volume of whole numbers of 0 and above.
    """
    volume = _load(path, LABELMAP, channels=True)
    data = volume.data
    if data.ndim == 4:
        data = _labels_of_channels(Path(path), data)
    if data.dtype.kind == "f":
        if not _is_whole(data):
            raise InputError(
                path,
                "contains fractions, NaN or numbers beyond all labels",
                "whole-number labels",
                "choose a labelmap, not a CT or a probability map",
            )
        data = np.rint(data).astype(np.int32)
    if data.dtype.kind not in "ui" or data.min(initial=0) < 0:
        raise InputError(
            path,
            f"contains {data.dtype} values from {data.min()}",
            "labels of 0 and above",
            "choose a labelmap, not a CT",
        )
    found = Volume(data, volume.affine, volume.lineage, volume.path)
    if like is None or not foreign.is_foreign(Path(path)) or same_grid(found, like):
        return found
    return embedded(found, like) or found


def _is_whole(data: np.ndarray) -> bool:
    """Return whether all numbers are finite, whole and small enough for labels."""
    return bool(
        np.isfinite(data).all()
        and np.abs(data - np.rint(data)).max(initial=0) <= ROUNDING
        and abs(data).max() <= np.iinfo(np.int32).max
    )


def _labels_of_channels(path: Path, data: np.ndarray) -> np.ndarray:
    """Return the labels (I, J, K) of masks (I, J, K, N), from 1. Raises InputError if they overlap.

    A first mask that is the background of the others gets label 0.
    """
    masks = data > 0.5
    if not np.isin(data, (0, 1)).all():
        raise InputError(
            path,
            f"has shape {data.shape} and values beside 0 and 1",
            f"{LABELMAP} of three dimensions, or masks of 0 and 1 along a fourth",
            "export the labels",
        )
    first = 0 if np.array_equal(masks[..., 0], ~masks[..., 1:].any(axis=-1)) else 1
    if (masks.sum(axis=-1) > 1).any():
        raise InputError(
            path,
            f"{int((masks.sum(axis=-1) > 1).sum())} voxels belong to several of its masks",
            "one label per voxel",
            "export the bones alone",
        )
    numbers = np.arange(first, first + masks.shape[-1], dtype=np.uint16)
    logger.info(f"{path.name}: {masks.shape[-1]} masks became the labels {first} and above")
    return masks @ numbers


def _load(
    path: str | Path, what: str, channels: bool = False, series: Sequence[str] = ()
) -> Volume:
    """Read a volume and its lineage; ``what`` describes the file that is expected.

    With ``channels``, the volume may have a fourth dimension; ``series`` as in `load_ct`.
    """
    path = files.existing_input(path, what)
    if foreign.is_foreign(path):
        found = foreign.read(path, what, series)
        check_affine(path, found.affine)
        _log_reading(path, found.remark, found.data.shape, found.affine)
        for warning in found.warnings:
            logger.warning(f"{path.name}: {warning}")
        return Volume(found.data, found.affine, read(path, found.data.shape, found.affine), path)
    image = _open(path, what)
    shape = check_header(path, image, what, channels)
    affine = np.array(image.affine, float)
    voxels = on_disk(image)
    scaled = (voxels.slope, voxels.inter) != (1, 0)
    with reading(path, what, "copy it again, the file is truncated or damaged"):
        # nibabel would scale to float64
        data = np.asanyarray(voxels, dtype=np.float32 if scaled else None).reshape(shape)
    if not sidecar(path).exists():  # of a step, nothing is unknown
        known = "sform" if image.header["sform_code"] > 0 else "qform"
        _log_reading(path, f"NIfTI, {voxels.dtype}, by its {known}", shape, affine)
    return Volume(data, affine, read(path, shape, affine), path)


def _log_reading(path: Path, kind: str, shape: tuple[int, ...], affine: np.ndarray) -> None:
    """Log what was read: its kind, its voxels, and to where in the patient its axes run."""
    import nibabel

    spacing = " x ".join(f"{each:.4g}" for each in np.linalg.norm(affine[:3, :3], axis=0))
    axes = " ".join(map(str, nibabel.orientations.aff2axcodes(affine)))
    logger.info(
        f"{path.name}: {kind}; {' x '.join(map(str, shape))} voxels of {spacing} mm, axes run to"
        f" {axes}"
    )


def _open(path: Path, what: str) -> nibabel.Nifti1Image:
    """Open a NIfTI-1 or NIfTI-2 file without reading its voxels."""
    import nibabel

    with reading(path, what, "convert or copy the file again"), _without_remarks():
        image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputError(path, f"is a {type(image).__name__}", what, "convert it")
    return image


@contextlib.contextmanager
def _without_remarks() -> Generator[None]:
    """Silence nibabel's log of what it corrects in headers; `nifti_header` checks what matters."""
    from nibabel.imageglobals import logger as remarks

    before, remarks.disabled = remarks.disabled, True
    try:
        yield
    finally:
        remarks.disabled = before


def save(path: str | Path, volume: Volume) -> Path:
    """Write a volume and its lineage, and return the path.

    Raises InputError if the disk is full or not writable; then neither file is replaced.
    """
    import nibabel

    path = Path(path)
    image = nibabel.Nifti1Image(volume.data, volume.affine, dtype=volume.data.dtype)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(volume.affine, 1)
    image.set_sform(volume.affine, 1)
    with files.atomic(path) as partial:
        nibabel.save(image, partial)
        # the lineage first: without it, a mirrored bone would pass for an original
        write(path, volume.lineage, volume.data.shape, volume.affine, files.sha256(partial))
    return path


def stored_dtype(path: str | Path) -> np.dtype:
    """Return the data type of the voxels in a NIfTI file; of other formats, unsigned integers."""
    if foreign.is_foreign(Path(path)):
        return np.dtype(np.uint16)
    return _open(Path(path), "a NIfTI volume").get_data_dtype()
