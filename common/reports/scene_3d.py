"""A registered view in space: the bone's surface, the source, the detector and its picture, in the volume's world. numpy and scikit-image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import geometry
from common.geometry import Detector

BONE, SOURCE, RAY, FRAME = (
    "#e8dcc0",
    "#d55e00",
    "#0072b2",
    "#555555",
)  # Okabe and Ito's palette, for all eyes


@dataclass(frozen=True)
class Scene:
    """What is drawn, all in the volume's world, millimetres."""

    vertices: np.ndarray  # (V, 3) of the bone
    triangles: np.ndarray  # (T, 3) indices
    source: np.ndarray  # (3,)
    corners: np.ndarray  # (4, 3) outer corners of the detector: top left, top right, bottom right, bottom left of the picture
    foot: np.ndarray  # (3,) where the principal ray meets the detector
    picture: np.ndarray  # (H, W) in 0..1, shown on the detector
    picture_is: str


def place_detector(camera: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Outer corners (4, 3) of the detector, in the order of `Scene.corners`, and the foot of the principal ray, world millimetres."""
    left, top, right, bottom = -0.5, -0.5, detector.width - 0.5, detector.height - 0.5
    pixels = np.array(
        [(left, top), (right, top), (right, bottom), (left, bottom), detector.principal_px]
    )
    points = np.c_[
        (pixels - detector.principal_px) * detector.pixel_mm, np.full(5, detector.sdd_mm)
    ]
    world = geometry.apply(camera, points)
    return world[:4], world[4]


def picture_grid(scene: Scene, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The detector's picture with at most ``longest`` pixels a side, (h, w), and the world corners of its pixels, (h + 1, w + 1, 3)."""
    from skimage.transform import resize

    height, width = scene.picture.shape
    scale = min(1.0, longest / max(height, width))
    size = max(2, round(height * scale)), max(2, round(width * scale))
    small = (
        np.clip(resize(scene.picture, size, order=1, anti_aliasing=True), 0, 1)
        if scale < 1
        else scene.picture
    )
    rows, columns = (np.linspace(0, 1, n + 1) for n in small.shape)
    top_left, top_right, _, bottom_left = scene.corners
    return small, top_left + columns[None, :, None] * (top_right - top_left) + rows[
        :, None, None
    ] * (bottom_left - top_left)


def lines_of(scene: Scene) -> dict[str, tuple[np.ndarray, str]]:
    """{name: ((N, 3) polyline with NaN between its parts, colour)}: frustum, detector's edge and principal ray."""
    gap = np.full(3, np.nan)
    edges = [point for corner in scene.corners for point in (scene.source, corner, gap)]
    return {
        "frustum": (np.array(edges), FRAME),
        "detector": (scene.corners[[0, 1, 2, 3, 0]], FRAME),
        "principal ray": (np.stack([scene.source, scene.foot]), RAY),
    }


def limits(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) of everything drawn, with 3 % to spare."""
    points = np.vstack([scene.vertices, scene.corners, scene.source])
    spare = 0.03 * np.ptp(points, axis=0).max()
    return points.min(axis=0) - spare, points.max(axis=0) + spare
