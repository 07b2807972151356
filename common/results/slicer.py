"""A registered view for 3D Slicer: transforms, the X-ray on its detector, and the bone's outline. Needs only ``scanner_pose``.

Slicer's scene is the original CT's RAS millimetres; the files are in LPS, as ITK's are. A transform file holds what ITK resamples with, from
parent to child; Slicer inverts it on loading, so that a node under the transform is moved from child to parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import files, geometry
from common.errors import InputError, one_line
from common.geometry import RAS_FROM_LPS
from common.results.result import ScannerView
from common.volume import itk

FOLDER = "slicer"
COLOURS = ((1.0, 0.55, 0.1), (0.2, 0.75, 1.0), (0.5, 0.9, 0.3), (0.95, 0.4, 0.8))
MARKUPS_SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
MAX_POINTS = 400  # control points of a curve: Slicer draws a handle for each


def export(
    folder: Path,
    views: Sequence[ScannerView],
    pictures: Sequence[np.ndarray],
    outlines: Sequence[dict[str, list[np.ndarray]]],
) -> None:
    """Write everything into ``folder``; file names begin with view1_, view2_ where there are several views.

    ``views`` are entries of scanner_pose; ``pictures`` the X-rays as they lie on disk, uint8; ``outlines`` for each view the curves of each bone by name.
    """
    folder.mkdir(exist_ok=True)
    for number, (view, picture, curves) in enumerate(
        zip(views, pictures, outlines, strict=True), start=1
    ):
        prefix = f"view{number}_" if len(views) > 1 else ""
        write_transform(folder / f"{prefix}camera_LPS.tfm", view.camera)
        write_picture_volume(folder / f"{prefix}xray.nrrd", picture, view)
        write_outline_picture(folder / f"{prefix}outline.png", picture, curves)
        write_outline_markups(folder / f"{prefix}outline.mrk.json", curves, view)
    for bone in views[0].bones:
        write_transform(folder / f"{bone.name}_motion_LPS.tfm", bone.motion)
        write_transform(folder / f"{bone.name}_volume_LPS.tfm", bone.scanner_from_volume)


def write_transform(path: Path, parent_from_child: np.ndarray) -> None:
    """An ITK affine transform file that Slicer loads as ``parent_from_child`` (4x4, RAS mm)."""
    itk.write_transform(path, geometry.invert(parent_from_child))


def on_detector(view: ScannerView, pixels: np.ndarray) -> np.ndarray:
    """(N, 3) RAS millimetres of pixels (column, row) on the detector's plane."""
    offsets = (np.asarray(pixels, float) - view.principal_point_px) * view.pixel_spacing_mm
    return geometry.apply(view.camera, np.c_[offsets, np.full(len(offsets), view.sdd_mm)])


def write_picture_volume(path: Path, picture: np.ndarray, view: ScannerView) -> None:
    """The X-ray as a volume of one slice that lies where its detector stood."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(picture[None])
    axes = RAS_FROM_LPS[:3, :3] @ view.camera[:3, :3]
    image.SetSpacing([*map(float, view.pixel_spacing_mm), 1.0])
    image.SetDirection(axes.ravel().tolist())
    image.SetOrigin((RAS_FROM_LPS[:3, :3] @ on_detector(view, np.zeros((1, 2)))[0]).tolist())
    with files.atomic(path) as partial:
        try:
            sitk.WriteImage(image, str(partial), useCompression=True)
        except RuntimeError as error:
            raise InputError(
                path,
                f"cannot be written ({one_line(error)})",
                "room on the disk",
                "free some space",
            ) from error


def write_outline_picture(
    path: Path, picture: np.ndarray, curves: dict[str, list[np.ndarray]]
) -> None:
    """The X-ray (uint8) with each bone's outline in a colour of its own."""
    from PIL import Image, ImageDraw

    scale = max(
        1, round(1200 / max(picture.shape))
    )  # small pictures are enlarged, so that a thin line stays thin
    image = (
        Image.fromarray(picture)
        .convert("RGB")
        .resize((picture.shape[1] * scale, picture.shape[0] * scale), Image.Resampling.NEAREST)
    )
    draw = ImageDraw.Draw(image)
    for (_, lines), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        for line in lines:
            draw.line(
                [tuple(p) for p in (line + 0.5) * scale - 0.5],
                fill=tuple(round(255 * c) for c in colour),
                width=2,
            )
    with files.writing(path) as stream:
        image.save(stream, format="PNG")


def write_outline_markups(
    path: Path, curves: dict[str, list[np.ndarray]], view: ScannerView
) -> None:
    """The outlines as closed curves on the detector's plane, in Slicer's markups format, LPS millimetres."""
    markups = []
    for (name, lines), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        for number, line in enumerate(lines, start=1):
            kept = line[:: max(1, -(-len(line) // MAX_POINTS))]
            points = on_detector(view, kept) @ RAS_FROM_LPS[:3, :3]
            markups.append(
                {
                    "name": f"{name} outline {number}",
                    "type": "ClosedCurve",
                    "coordinateSystem": "LPS",
                    "coordinateUnits": "mm",
                    "locked": True,
                    "controlPoints": [{"id": str(i), "label": "", "position": p.tolist()} for i, p in enumerate(points, start=1)],
                    "display": {"visibility": True, "color": list(colour), "selectedColor": list(colour), "propertiesLabelVisibility": False, "pointLabelsVisibility": False, "glyphScale": 0.5, "lineThickness": 0.4},
                }
            )  # fmt: skip
    files.write_json(path, {"@schema": MARKUPS_SCHEMA, "markups": markups})


def _colours(count: int) -> list[tuple[float, float, float]]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
