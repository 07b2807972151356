"""The only conversion to and from SimpleITK, whose images and transforms are in LPS mm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.geometry import RAS_FROM_LPS
from common.volume.lineage import Lineage
from common.volume.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk


def to_sitk(volume: Volume) -> sitk.Image:
    """Return the volume as a SimpleITK image (LPS).

    Left-handed grids stay left-handed: ITK's direction may have determinant -1.
    """
    import SimpleITK as sitk

    data = volume.data.astype(np.float32) if volume.data.dtype == np.float16 else volume.data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    lps = RAS_FROM_LPS @ volume.affine
    spacing = volume.spacing_mm
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def from_sitk(image: sitk.Image, lineage: Lineage, path: Path | None = None) -> Volume:
    """Return a SimpleITK image (LPS) as a volume (RAS)."""
    import SimpleITK as sitk

    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    data = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return Volume(data, RAS_FROM_LPS @ lps, lineage, path)


def sitk_from_rigid(target_from_source: np.ndarray) -> sitk.AffineTransform:
    """Return a rigid transform (4x4, RAS mm) as SimpleITK's transform of points in LPS mm."""
    import SimpleITK as sitk

    lps = RAS_FROM_LPS @ target_from_source @ RAS_FROM_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def write_transform(path: str | Path, target_from_source: np.ndarray) -> None:
    """Write a rigid transform (4x4, RAS mm) as an ITK transform file (.tfm), in LPS mm.

    The text is written here, since ITK's writer does not report a full disk.
    """
    transform = sitk_from_rigid(target_from_source)
    parameters = " ".join(map(repr, transform.GetParameters()))
    fixed = " ".join(map(repr, transform.GetFixedParameters()))
    files.write_text(
        path,
        "#Insight Transform File V1.0\n"
        "#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {parameters}\n"
        f"FixedParameters: {fixed}\n",
    )
