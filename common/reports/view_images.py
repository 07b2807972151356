"""The views of a registration as images in 0..1, for a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import geometry
from common.files import existing_file
from common.reports import drr_files, overlays
from common.reports.registered import Registered
from common.results import names
from common.results.result import Result
from common.results.scanner_view import ScannerView


@dataclass(frozen=True)
class ViewImages:
    """One view of a registration."""

    xray: np.ndarray  # (H, W) in 0..1, as registered
    drr: np.ndarray  # (H, W) in 0..1, with the grey values of the X-ray
    outline: list[np.ndarray]  # closed curves (N, 2) around the bone, pixels (column, row)
    pixel_mm: float  # width of a pixel at the bone


def view_images(registered: Registered) -> list[ViewImages]:
    """Return the images of every view. Raises InputError if an image is missing."""
    return [
        _images_of(registered, number, view)
        for number, view in enumerate(registered.result.scanner_pose, 1)
    ]


def _images_of(registered: Registered, number: int, view: ScannerView) -> ViewImages:
    from skimage.transform import resize

    from common.xray import image_files, similarity
    from common.xray.outline import outline

    folder, result = registered.folder, registered.result
    silhouette = image_files.read(_file(folder, names.FINAL_IMAGE, number)).grey.astype(float)
    xray_path = _file(folder, names.XRAY_IMAGE, number)
    # create_drr.py renders the first view
    better = drr_files.high_quality_drrs(folder) if number == 1 else []
    xray = (result.image if number == 1 else image_files.read(xray_path).grey) / 255
    drr = similarity.normalise(image_files.read(better[0]).grey if better else silhouette)
    if drr.shape != xray.shape:
        drr = resize(drr, xray.shape, order=1, anti_aliasing=True)
    if drr.any():
        drr = np.clip(overlays.match_tone(drr, xray)(drr), 0, 1)
    pixel_mm = overlays.mm_per_pixel(view.detector, bone_depth_mm(result, view))
    return ViewImages(xray, drr, outline(silhouette), pixel_mm)


def _file(folder: Path, name: str, number: int) -> Path:
    return existing_file(folder / names.of_view(name, number), "an image of registration.py")


def bone_depth_mm(result: Result, view: ScannerView) -> float:
    """Return the distance from the source of a view to the centre of the bone.

    The distance is measured along the principal ray.
    """
    in_scanner = geometry.apply(np.array(result.drr["scanner_from_volume"]), result.points_mm)
    return float(geometry.apply(geometry.invert(view.camera), in_scanner)[:, 2].mean())
