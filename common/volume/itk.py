"""Volumes on other grids, and rigid transforms as ITK takes and stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files
from common.geometry import RAS_FROM_LPS
from common.volume.lineage import Lineage
from common.volume.volume import Volume


def to_sitk(volume: Volume):
    """The volume as a SimpleITK image (LPS). Left-handed grids are kept: ITK's direction may have determinant -1."""
    import SimpleITK as sitk

    data = volume.data.astype(np.float32) if volume.data.dtype == np.float16 else volume.data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    lps = RAS_FROM_LPS @ volume.affine
    spacing = volume.spacing_mm
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def from_sitk(image, lineage_: Lineage, path: Path | None = None) -> Volume:
    """A SimpleITK image (LPS) as a Volume (RAS)."""
    import SimpleITK as sitk

    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return Volume(
        sitk.GetArrayFromImage(image).transpose(2, 1, 0), RAS_FROM_LPS @ lps, lineage_, path
    )


def sitk_from_rigid(target_from_source: np.ndarray):
    """A rigid RAS transform as SimpleITK's Euler/affine transform, which maps points in LPS."""
    import SimpleITK as sitk

    lps = RAS_FROM_LPS @ target_from_source @ RAS_FROM_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def write_transform(path: str | Path, target_from_source: np.ndarray) -> None:
    """Write a rigid RAS transform as an ITK transform file, which maps points in LPS.

    As text of our own: ITK's writer says nothing when the disk is full and leaves an empty file.
    """
    transform = sitk_from_rigid(target_from_source)
    numbers = (
        " ".join(map(repr, values))
        for values in (transform.GetParameters(), transform.GetFixedParameters())
    )
    files.write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform:"
        " AffineTransform_double_3_3\nParameters: {}\nFixedParameters: {}\n".format(*numbers),
    )
