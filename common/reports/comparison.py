"""The DRRs of a registration compared with its X-ray: similarity, and errors of a known pose."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files, geometry
from common.errors import InputError
from common.geometry import PoseError
from common.reports import drr_files, overlays
from common.reports.evaluation_file import DrrScores
from common.results import names
from common.results.result import Result
from common.results.truth import Truth
from common.volume.volume import Volume, points_of

logger = logging.getLogger(__name__)

# largest relative difference of the aspect ratios of a DRR and the X-ray
ASPECT_TOLERANCE = 0.01
# smallest fraction of the X-ray's pixels in the valid field
MIN_FIELD = 0.02


@dataclass(frozen=True)
class ImageFile:
    """An image of a results folder."""

    title: str
    path: Path


@dataclass(frozen=True)
class ComparedDrr:
    """A DRR, (H, W) grey values as stored, and its measures."""

    key: str  # initial, final or high_quality
    title: str
    file: str
    image: np.ndarray
    metrics: dict[str, float]
    pose_error: PoseError | None = None

    @property
    def scores(self) -> DrrScores:
        """The entry of ``evaluation.json``."""
        error = self.pose_error.as_dict() if self.pose_error else {}
        return DrrScores(self.file, self.metrics, error)


def find_images(
    folder: Path, xray_name: str, drr_name: str | None
) -> tuple[ImageFile, dict[str, ImageFile]]:
    """Return the X-ray and {key: DRR} of a results folder.

    Without ``drr_name``, the first DRR of create_drr.py is used, if there is one. Raises InputError
    if an image is missing.
    """
    xray = ImageFile("X-ray", folder / xray_name)
    found = {
        "initial": ImageFile("DRR at the start pose", folder / names.START_IMAGE),
        "final": ImageFile("DRR at the final pose", folder / names.FINAL_IMAGE),
    }
    drrs = [folder / drr_name] if drr_name else drr_files.high_quality_drrs(folder)
    if drrs:
        found["high_quality"] = ImageFile("high-quality DRR", drrs[0])
    if drrs[1:]:
        others = ", ".join(path.name for path in drrs[1:])
        logger.info(f"{folder}: compares {drrs[0].name}, not {others}; `drr_name` selects another")
    for image in (xray, *found.values()):
        files.existing_file(image.path, "an image of registration.py or create_drr.py")
    return xray, found


def valid_field(xray: np.ndarray, path: Path) -> np.ndarray:
    """Return the pixels (H, W) of the X-ray inside its border, True or False.

    Raises InputError if hardly any are left, or all have the same grey value.
    """
    from common.xray import grey_values

    field = ~grey_values.border_padding(xray)
    if field.mean() < MIN_FIELD or np.ptp(xray[field]) == 0:
        raise InputError(
            path,
            f"no image inside its border ({100 * field.mean():.1f} % of the pixels remain)",
            "an X-ray with contrast",
            "choose another with `gt_name`",
        )
    return field


def compare_images(
    xray: np.ndarray,
    drrs: Mapping[str, ImageFile],
    field: np.ndarray,
    errors: Mapping[str, PoseError],
) -> list[ComparedDrr]:
    """Read the DRRs and compare them with the X-ray (H, W) over the valid field (H, W).

    ``errors`` are the known pose errors by key. Raises InputError if a DRR has another shape.
    """
    from common.xray import image_files, similarity

    compared = []
    for key, file in drrs.items():
        image = resampled(image_files.read(file.path).grey, xray.shape, file.path)
        metrics = similarity.compare(image, xray, field)
        compared.append(
            ComparedDrr(key, file.title, file.path.name, image, metrics, errors.get(key))
        )
    return compared


def resampled(image: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """Return the image in another size (height, width).

    Raises InputError if the aspect ratios differ: stretching would look like a misalignment.
    """
    if image.shape == shape:
        return image
    size = f"{image.shape[1]} x {image.shape[0]}"
    if _aspects_differ(image.shape, shape):
        raise InputError(
            path,
            f"has {size} pixels",
            f"the shape of the X-ray, {shape[1]} x {shape[0]}",
            "create it from the same registration",
        )
    from skimage.transform import resize

    logger.info(f"{path.name}: resampled from {size} to {shape[1]} x {shape[0]} pixels")
    return resize(image, shape, order=1, anti_aliasing=True, preserve_range=True)


def _aspects_differ(a: Sequence[int], b: Sequence[int]) -> bool:
    return abs(a[0] / a[1] / (b[0] / b[1]) - 1) > ASPECT_TOLERANCE


def pixel_at_bone_mm(result: Result, shape: tuple[int, ...]) -> float | None:
    """Return the width of a pixel at the distance of the bone, mm, in an image (height, width).

    Returns None if the image has another aspect ratio than the detector.
    """
    detector = result.detector
    if _aspects_differ(shape, (detector.height, detector.width)):
        return None
    return overlays.mm_per_pixel(detector, result.bone_depth_mm) * detector.width / shape[1]


def pose_errors(
    result: Result, true_camera: np.ndarray, points_mm: np.ndarray
) -> dict[str, PoseError]:
    """Return the errors of the start pose and the final pose, by key.

    ``true_camera`` is scanner_from_camera (4, 4), ``points_mm`` (N, 3) in the scanner frame.
    """
    view = result.scanner_pose[0]
    cameras = {"initial": view.camera_init, "final": view.camera}
    return {
        key: geometry.pose_error(camera, true_camera, points_mm, view.detector)
        for key, camera in cameras.items()
    }


def choose_points(result: Result, truth: Truth, ct: Volume | None) -> tuple[np.ndarray, str]:
    """Return points of the bone, (N, 3) in the scanner frame, RAS mm, and their origin.

    The points are those of the prepared ``ct`` if given, else of the ground truth, else of the
    registered structure. Raises InputError if there are none.
    """
    if ct is not None:
        points = geometry.apply(ct.lineage.scanner_from_volume, points_of(ct))
        return points, f"bone of {ct.name}"
    if truth.points_mm is not None:
        return truth.points_mm, "fiducials of the truth"
    if "points_mm" not in result.drr:
        raise InputError(
            names.PARAMETERS,
            "no points of the bone",
            "points in this file, in the ground truth or in a CT",
            "set `volume`",
        )
    scanner_from_volume = np.array(result.drr["scanner_from_volume"])
    return geometry.apply(scanner_from_volume, result.points_mm), "registered structure"
