"""Checks of a NIfTI header before its voxels are read: size, voxel spacing, orientation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from common import files
from common.errors import InputError, reading
from common.geometry import apply

if TYPE_CHECKING:
    import nibabel
    from nibabel.arrayproxy import ArrayProxy

MAX_VOXELS = 4_000_000_000  # a header that claims more is damaged
VOXEL_MM = (0.005, 100.0)  # plausible voxel spacing
FORMS_MM = 1.0  # sform and qform whose corners are further apart contradict each other
MOST_CHANNELS = 200  # masks of a labelmap along a fourth dimension
DAMAGED = "convert the file again, its header is damaged"

Shape = tuple[int, int, int]


def check_header(
    path: Path, image: nibabel.Nifti1Image, what: str, channels: bool = False
) -> tuple[int, ...]:
    """Return the shape (I, J, K) of a NIfTI image whose voxels have not been read.

    ``what`` describes the file that is expected. With ``channels``, the shape may be (I, J, K, N)
    with at most `MOST_CHANNELS`. Raises InputError if the image is not a 3D volume
    of numbers, claims more data than the file or this machine can hold, or has no usable affine.
    """
    with reading(path, what, "convert or copy the file again"):
        shape, stored, offset = image.shape, image.get_data_dtype(), int(on_disk(image).offset)
        spacing = _stored_spacing(path, image)
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    whole = shape
    if channels and len(shape) == 4 and 1 < shape[3] <= MOST_CHANNELS:
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(
            path,
            f"has shape {image.shape}",
            f"{what} of three dimensions with at least 2 slices each",
            "choose one 3D volume",
        )
    if stored.kind not in "uif":
        raise InputError(path, f"contains {stored} voxels", f"{what} of numbers", "convert it")
    if offset < image.header.single_vox_offset:
        raise InputError(
            path, f"voxels begin at byte {offset}, which is inside the header", what, DAMAGED
        )
    count = int(np.prod(whole, dtype=object))
    if count > MAX_VOXELS:
        raise InputError(
            path, f"header claims {shape} voxels", f"at most {MAX_VOXELS:.0e}", DAMAGED
        )
    packed = path.name.lower().endswith(".gz")
    files.check_claim(path, offset + count * stored.itemsize, packed, what)
    if image.header["qform_code"] > 0 and not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise InputError(
            path,
            f"voxel spacing (pixdim) is {spacing.tolist()} mm",
            "spacing above 0",
            "repair the header, or convert it again",
        )
    check_affine(path, np.array(image.affine, float))
    _check_orientation(path, image.header, shape)
    return whole


def on_disk(image: nibabel.Nifti1Image) -> ArrayProxy:
    """Return the voxels of an image that was opened from a file, with offset and scaling."""
    return cast("ArrayProxy", image.dataobj)


def _stored_spacing(path: Path, image: nibabel.Nifti1Image) -> np.ndarray:
    """Return the voxel spacing (3,) on disk, mm; nibabel replaces values of 0 and below."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as stream:
        header = type(image.header).from_fileobj(stream, check=False)
    return np.array(header["pixdim"][1:4], float)


def check_affine(path: Path, affine: np.ndarray) -> None:
    """Raise InputError unless the affine is finite, invertible and free of shear."""
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    low, high = VOXEL_MM
    if not np.isfinite(affine).all() or not (low <= spacing.min() and spacing.max() <= high):
        raise InputError(
            path,
            f"affine is singular or not finite (voxel spacing {np.round(spacing, 4).tolist()} mm)",
            f"voxel spacing of {low:g} to {high:g} mm",
            "repair the header",
        )
    directions = axes / spacing
    if abs(np.linalg.det(directions)) < 1e-3:
        raise InputError(
            path,
            "affine is singular (two axes are parallel)",
            "three independent axes",
            "repair the header",
        )
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3):
        raise InputError(
            path,
            "axes are not perpendicular (sheared or gantry-tilted)",
            "a rectangular grid",
            "resample the CT first",
        )


def _check_orientation(path: Path, header: nibabel.Nifti1Header, shape: Shape) -> None:
    """Raise InputError unless the header has one orientation, in millimetres."""
    with reading(
        path, "a header with the position of the voxels", "convert the file again, it is damaged"
    ):
        unit = header.get_xyzt_units()[0]
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if unit in ("meter", "micron"):
        raise InputError(path, f"lengths in {unit}s", "millimetres", "convert it")
    if qform is None and sform is None:
        raise InputError(
            path,
            "orientation in the patient is unknown (sform and qform codes are 0)",
            "a header that defines left and right",
            "convert it from DICOM again",
        )
    if qform is not None and sform is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
        apart = np.linalg.norm(apply(qform, corners) - apply(sform, corners), axis=1).max()
        if not apart <= FORMS_MM:
            raise InputError(
                path,
                f"sform and qform are {apart:.3g} mm apart",
                "one orientation",
                "set the code of the wrong one to 0",
            )
