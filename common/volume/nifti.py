"""CT and labelmap files (NIfTI) with their lineage, their grid, and Hounsfield units as attenuation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError, reading
from common.geometry import apply
from common.volume.lineage import read, write
from common.volume.volume import Volume

logger = logging.getLogger(__name__)

MAX_VOXELS = (
    4_000_000_000  # a header that claims more is taken as damaged, before any memory is asked for
)
VOXEL_MM = (0.005, 100.0)  # edges of voxels that are believed
DENSE_HU = (
    100,
    40_000,
)  # the densest voxel: some bone; metal at most, 30,710 in scanners' extended range
FORMS_MM = 1.0  # sform and qform that place a corner further apart contradict each other


def load_ct(path: str | Path) -> Volume:
    """Read a CT in Hounsfield units, as stored (integers stay integers and become signed, NaN is refused).

    Raises InputError for what is not a 3-D NIfTI volume with finite numbers, bone and a usable affine.
    """
    volume = _load(path, "a CT volume (NIfTI, .nii or .nii.gz)")
    low, high = volume.data.min(), volume.data.max()  # NaN passes through both
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            path, "holds NaN or infinite voxels", "Hounsfield units", "convert the CT again"
        )
    if not DENSE_HU[0] <= high <= DENSE_HU[1] or low < -DENSE_HU[1]:
        raise InputError(
            path,
            f"its values run from {low:g} to {high:g}",
            f"a bone, above {DENSE_HU[0]}, in Hounsfield units (air -1000, water 0)",
            (
                "integers have overflowed, convert the CT again"
                if high > DENSE_HU[1]
                else "rescale it, or choose the CT"
            ),
        )
    if low >= 0:
        logger.warning(
            f"{volume.name}: holds no value below 0; expected Hounsfield units (air -1000, fat"
            " -100); if it holds the scanner's raw values, subtract 1024"
        )
    if (
        volume.data.dtype.kind == "u"
    ):  # what lies outside is air, and unsigned numbers would wrap it round
        volume = replace(volume, data=volume.data.astype(np.int16 if high < 2**15 else np.int32))
    return volume


def load_labelmap(path: str | Path) -> Volume:
    """Read a labelmap. Whole numbers stored as floats are accepted and become integers.

    Raises InputError for fractions, negative labels or what is not a 3-D NIfTI volume.
    """
    volume = _load(path, "a labelmap (NIfTI, .nii or .nii.gz)")
    data = volume.data
    if data.dtype.kind == "f":
        if (
            not np.isfinite(data).all()
            or not np.array_equal(data, np.rint(data))
            or abs(data).max() > np.iinfo(np.int32).max
        ):
            raise InputError(
                path,
                "holds fractions, NaN or numbers beyond all labels",
                "whole-number labels",
                "is this a CT or a probability map?",
            )
        data = data.astype(np.int32)
    if data.dtype.kind not in "ui" or data.min(initial=0) < 0:
        raise InputError(
            path,
            f"holds {data.dtype} values from {data.min()}",
            "labels of 0 and above",
            "is this a CT?",
        )
    return Volume(data, volume.affine, volume.lineage, volume.path)


def _load(path: str | Path, what: str) -> Volume:
    import nibabel

    path = files.existing_file(path, what)
    with reading(path, what, "convert or copy the file again"), _no_remarks():
        image = nibabel.load(path)
        shape, stored, offset = image.shape, image.get_data_dtype(), int(image.dataobj.offset)
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputError(path, f"is a {type(image).__name__}", what, "convert it")
    with (
        reading(path, what, "convert or copy the file again"),
        nibabel.openers.ImageOpener(path) as stream,
    ):
        sizes = np.array(
            type(image.header).from_fileobj(stream, check=False)["pixdim"][1:4], float
        )  # as they lie on disk: nibabel replaces those of 0 and below
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(
            path,
            f"has shape {image.shape}",
            f"{what} of three dimensions with at least 2 slices each",
            "choose one 3-D volume",
        )
    if stored.kind not in "uif":
        raise InputError(path, f"holds {stored} voxels", f"{what} of numbers", "convert it")
    if offset < image.header.single_vox_offset:
        raise InputError(
            path,
            f"its voxels begin at byte {offset} by its header, inside of it",
            what,
            "the header is damaged, convert the file again",
        )
    count = int(np.prod(shape, dtype=object))
    if count > MAX_VOXELS:
        raise InputError(
            path,
            f"its header claims {shape} voxels",
            f"at most {MAX_VOXELS:.0e}",
            "the header is damaged",
        )
    files.check_claim(
        path, offset + count * stored.itemsize, path.name.lower().endswith(".gz"), what
    )
    if image.header["qform_code"] > 0 and not (np.isfinite(sizes).all() and min(sizes) > 0):
        raise InputError(
            path,
            f"states voxel sizes (pixdim) of {sizes.tolist()} mm",
            "sizes above 0",
            "repair the header, or convert it again",
        )
    affine = np.array(image.affine, float)
    check_affine(path, affine)
    _check_placing(path, image.header, shape)
    scaling = (image.dataobj.slope, image.dataobj.inter)  # nibabel would scale to 64 bits
    with reading(path, what, "the file is truncated or damaged, copy it again"):
        data = (
            np.asanyarray(image.dataobj)
            if scaling == (1, 0)
            else np.asanyarray(image.dataobj, dtype=np.float32)
        ).reshape(shape)
    return Volume(data, affine, read(path, shape, affine), path)


@contextlib.contextmanager
def _no_remarks() -> Iterator[None]:
    """nibabel logs what it corrects in headers; what matters of it is checked here."""
    import nibabel

    remarks = nibabel.imageglobals.logger
    before, remarks.disabled = remarks.disabled, True
    try:
        yield
    finally:
        remarks.disabled = before


def _check_placing(path: Path, header, shape: tuple[int, int, int]) -> None:
    """InputError where the header does not say where the voxels lie, says it twice and differently, or in another unit."""
    with reading(
        path, "a header that says how the voxels lie", "it is damaged, convert the file again"
    ):
        unit = header.get_xyzt_units()[0]
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if unit in ("meter", "micron"):
        raise InputError(path, f"states its lengths in {unit}s", "millimetres", "convert it")
    if qform is None and sform is None:
        raise InputError(
            path,
            "does not say how it lies in the patient (sform and qform codes are 0)",
            "left and right to be known",
            "convert it from DICOM again",
        )
    if qform is not None and sform is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
        apart = np.linalg.norm(apply(qform, corners) - apply(sform, corners), axis=1).max()
        if not apart <= FORMS_MM:
            raise InputError(
                path,
                f"its sform and qform lie {apart:.3g} mm apart",
                "one place",
                "set the code of the wrong one to 0",
            )


def check_affine(path: str | Path, affine: np.ndarray) -> None:
    """InputError unless the affine is finite, invertible and free of shear."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not (
        VOXEL_MM[0] <= lengths.min() and lengths.max() <= VOXEL_MM[1]
    ):
        raise InputError(
            path,
            "its affine is singular or not finite (voxel sizes"
            f" {np.round(lengths, 4).tolist()} mm)",
            f"voxel sizes of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm",
            "repair the header",
        )
    directions = axes / lengths
    if abs(np.linalg.det(directions)) < 1e-3:
        raise InputError(
            path,
            "its affine is singular (two axes are parallel)",
            "three axes",
            "repair the header",
        )
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3):
        raise InputError(
            path,
            "its axes are not perpendicular (sheared or gantry-tilted)",
            "a rectangular grid",
            "resample the CT first",
        )


def save(path: str | Path, volume: Volume) -> Path:
    """Write the volume and its lineage, each under a temporary name first; where the image is, its lineage is. Returns the path."""
    import nibabel

    path = Path(path)
    image = nibabel.Nifti1Image(volume.data, volume.affine, dtype=volume.data.dtype)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(volume.affine, 1)
    image.set_sform(volume.affine, 1)
    with files.atomic(path) as partial:
        nibabel.save(image, partial)
        # before the image has its name: without its lineage a mirrored bone would pass for an original
        write(path, volume.lineage, volume.data.shape, volume.affine, files.sha256(partial))
    return path


def stored_dtype(path: str | Path) -> np.dtype:
    """Data type of the voxels on disk."""
    import nibabel

    return nibabel.load(path).get_data_dtype()
