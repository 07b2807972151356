"""Files for 3D Slicer: transforms, the X-ray on its detector, and the outline of the bone.

The scene of Slicer is in RAS millimetres of the original CT; the files are in LPS, like those of
ITK. A transform file contains the transform with which ITK resamples, from parent to child. Slicer
inverts it on loading, so that a node under the transform is moved from child to parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import files, geometry
from common.errors import InputError, one_line
from common.files.pictures import write_png
from common.geometry import RAS_FROM_LPS
from common.results.scanner_view import ScannerView
from common.volume import itk

FOLDER = "slicer"
COLOURS = ((1.0, 0.55, 0.1), (0.2, 0.75, 1.0), (0.5, 0.9, 0.3), (0.95, 0.4, 0.8))
MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources"
    "/Schema/markups-schema-v1.0.3.json#"
)
MAX_POINTS = 400  # control points of a curve; Slicer draws a handle for each
OUTLINE_PX = 1200  # longer side of an outline image, at least: thin lines stay thin

Curves = dict[str, list[np.ndarray]]  # closed curves (N, 2), pixels (column, row), of each bone


def export(
    folder: Path,
    views: Sequence[ScannerView],
    images: Sequence[np.ndarray],
    outlines: Sequence[Curves],
) -> None:
    """Write the files of all views into ``folder``.

    ``images`` (uint8) are the X-rays as stored on disk, ``outlines`` the curves of each view. File
    names begin with view1_, view2_ if there are several views.
    """
    folder.mkdir(exist_ok=True)
    for number, (view, image, curves) in enumerate(
        zip(views, images, outlines, strict=True), start=1
    ):
        prefix = f"view{number}_" if len(views) > 1 else ""
        write_transform(folder / f"{prefix}camera_LPS.tfm", view.camera)
        write_image_volume(folder / f"{prefix}xray.nrrd", image, view)
        write_outline_image(folder / f"{prefix}outline.png", image, curves)
        write_outline_markups(folder / f"{prefix}outline.mrk.json", curves, view)
    for bone in views[0].bones:
        write_transform(folder / f"{bone.name}_motion_LPS.tfm", bone.motion)
        write_transform(folder / f"{bone.name}_volume_LPS.tfm", bone.scanner_from_volume)


def write_transform(path: Path, parent_from_child: np.ndarray) -> None:
    """Write an ITK affine transform that Slicer loads as ``parent_from_child`` (4x4, RAS mm)."""
    itk.write_transform(path, geometry.invert(parent_from_child))


def on_detector(view: ScannerView, pixels: np.ndarray) -> np.ndarray:
    """Return the points (N, 3), RAS mm, of pixels (column, row) on the plane of the detector."""
    offsets = (np.asarray(pixels, float) - view.principal_point_px) * view.pixel_spacing_mm
    return geometry.apply(view.camera, np.c_[offsets, np.full(len(offsets), view.sdd_mm)])


def write_image_volume(path: Path, image: np.ndarray, view: ScannerView) -> None:
    """Write an X-ray (H, W) as a volume of one slice at the position of its detector.

    Raises InputError if the disk is full.
    """
    import SimpleITK as sitk

    volume = sitk.GetImageFromArray(image[None])
    axes = RAS_FROM_LPS[:3, :3] @ view.camera[:3, :3]
    volume.SetSpacing([*map(float, view.pixel_spacing_mm), 1.0])
    volume.SetDirection(axes.ravel().tolist())
    volume.SetOrigin((RAS_FROM_LPS[:3, :3] @ on_detector(view, np.zeros((1, 2)))[0]).tolist())
    with files.atomic(path) as partial:
        try:
            sitk.WriteImage(volume, str(partial), useCompression=True)
        except RuntimeError as error:
            raise InputError(
                path,
                f"cannot be written ({one_line(error)})",
                "free space on the disk",
                "free some space",
            ) from error


def write_outline_image(path: Path, image: np.ndarray, curves: Curves) -> None:
    """Write an X-ray (H, W) uint8 with the outline of each bone in another colour, as PNG."""
    from PIL import Image, ImageDraw

    scale = max(1, round(OUTLINE_PX / max(image.shape)))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    drawn = Image.fromarray(image).convert("RGB").resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(drawn)
    for lines, colour in zip(curves.values(), _colours(len(curves)), strict=True):
        for line in lines:
            draw.line(
                [tuple(p) for p in (line + 0.5) * scale - 0.5],
                fill=tuple(round(255 * c) for c in colour),
                width=2,
            )
    write_png(path, np.asarray(drawn))


def write_outline_markups(path: Path, curves: Curves, view: ScannerView) -> None:
    """Write the outlines as closed curves on the plane of the detector, LPS millimetres.

    The format is that of Slicer's markups.
    """
    markups = []
    for (name, lines), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        for number, line in enumerate(lines, start=1):
            kept = line[:: max(1, -(-len(line) // MAX_POINTS))]
            points = on_detector(view, kept) @ RAS_FROM_LPS[:3, :3]
            markups.append(_closed_curve(f"{name} outline {number}", points, colour))
    files.write_json(path, {"@schema": MARKUPS_SCHEMA, "markups": markups}, one_line=True)


def _closed_curve(name: str, points: np.ndarray, colour: tuple[float, float, float]) -> dict:
    """Return the markup of points (N, 3), LPS mm."""
    return {
        "name": name,
        "type": "ClosedCurve",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "controlPoints": [
            {"id": str(i), "label": "", "position": point.tolist()}
            for i, point in enumerate(points, start=1)
        ],
        "display": line_display(colour, 0.5, 0.4),
    }


def line_display(colour: Sequence[float], glyph: float, thickness: float) -> dict:
    """Return how 3D Slicer draws a line or curve without labels; sizes are Slicer's scales."""
    return {
        "visibility": True,
        "color": list(colour),
        "selectedColor": list(colour),
        "propertiesLabelVisibility": False,
        "pointLabelsVisibility": False,
        "glyphScale": glyph,
        "lineThickness": thickness,
    }


def _colours(count: int) -> list[tuple[float, float, float]]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
