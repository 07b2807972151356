"""A registered view in 3D: surface of the bone, source, detector and its image.

Frame: the volume frame, RAS mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common import geometry
from common.geometry import Detector
from common.reports import palette

BONE, SOURCE, RAY, FRAME = palette.BONE, palette.VERMILLION, palette.BLUE, palette.FRAME


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn, in the volume frame, mm."""

    vertices: np.ndarray  # (V, 3) of the bone
    triangles: np.ndarray  # (T, 3) indices of vertices
    source: np.ndarray  # (3,)
    # (4, 3) outer corners of the detector: top left, top right, bottom right, bottom left
    corners: np.ndarray
    foot: np.ndarray  # (3,) principal point, where the principal ray meets the detector
    image: np.ndarray  # (H, W) in 0..1, shown on the detector
    image_name: str

    @classmethod
    def of(
        cls,
        surface: tuple[np.ndarray, np.ndarray],
        camera: np.ndarray,
        detector: Detector,
        image: np.ndarray,
        image_name: str,
    ) -> Scene:
        """Return the scene of a surface (vertices, triangles) and a camera, volume_from_camera."""
        corners, foot = place_detector(camera, detector)
        return cls(*surface, camera[:3, 3], corners, foot, image, image_name)


def place_detector(camera: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return the outer corners (4, 3) of the detector, as in `Scene`, and the principal point (3,).

    Both are in the frame of ``camera``, frame_from_camera (4, 4), mm.
    """
    left, top, right, bottom = -0.5, -0.5, detector.width - 0.5, detector.height - 0.5
    pixels = np.array(
        [(left, top), (right, top), (right, bottom), (left, bottom), detector.principal_px]
    )
    points = np.c_[
        (pixels - detector.principal_px) * detector.pixel_mm, np.full(5, detector.sdd_mm)
    ]
    placed = geometry.apply(camera, points)
    return placed[:4], placed[4]


def image_grid(scene: Scene, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image on the detector, (h, w) in 0..1, and the corners of its pixels.

    The image is reduced to at most ``longest`` pixels per side; the corners are (h + 1, w + 1, 3)
    in the volume frame, mm.
    """
    from skimage.transform import resize

    height, width = scene.image.shape
    scale = min(1.0, longest / max(height, width))
    if scale < 1:
        size = max(2, round(height * scale)), max(2, round(width * scale))
        small = np.clip(resize(scene.image, size, order=1, anti_aliasing=True), 0, 1)
    else:
        small = scene.image
    rows, columns = (np.linspace(0, 1, n + 1) for n in small.shape)
    top_left, top_right, _, bottom_left = scene.corners
    across = columns[None, :, None] * (top_right - top_left)
    down = rows[:, None, None] * (bottom_left - top_left)
    return small, top_left + across + down


def lines_of(scene: Scene) -> dict[str, tuple[np.ndarray, str]]:
    """Return {name: (polyline, colour)} of the frustum, the detector's edge and the principal ray.

    A polyline is (N, 3), with a row of NaN between its parts.
    """
    gap = np.full(3, np.nan)
    edges = [point for corner in scene.corners for point in (scene.source, corner, gap)]
    return {
        "frustum": (np.array(edges), FRAME),
        "detector": (scene.corners[[0, 1, 2, 3, 0]], FRAME),
        "principal ray": (np.stack([scene.source, scene.foot]), RAY),
    }


def limits(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest corner (3,) of everything drawn, with a margin of 3 %."""
    points = np.vstack([scene.vertices, scene.corners, scene.source])
    margin = 0.03 * np.ptp(points, axis=0).max()
    return points.min(axis=0) - margin, points.max(axis=0) + margin
