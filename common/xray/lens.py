"""Lens terms of a calibration: X-rays undistorted by OpenCV's model before they are compared.

A point at x, y = X/Z, Y/Z is seen at x', y' = x r + 2 p1 x y + p2 (s + 2 x^2), y r + p1 (s + 2 y^2)
+ 2 p2 x y, with s = x^2 + y^2 and r = (1 + k1 s + k2 s^2 + k3 s^3) / (1 + k4 s + k5 s^2 + k6 s^3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COUNTS = (4, 5, 8)  # of terms: k1 k2 p1 p2, then k3, then k4 k5 k6


@dataclass(frozen=True)
class Lens:
    """Lens terms k1 k2 p1 p2 k3 k4 k5 k6 of a camera with the matrix K (3, 3)."""

    terms: tuple[float, ...]  # 8
    matrix: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, terms: np.ndarray, matrix: np.ndarray) -> Lens | None:
        """Return the lens of 4, 5 or 8 terms, None if all are zero.

        Raises ValueError for any other number of terms, or if one is not finite.
        """
        flat = np.asarray(terms, float).ravel()
        if not np.isfinite(flat).all() or (len(flat) not in COUNTS and flat.any()):
            raise ValueError(f"{len(flat)} lens terms")
        if not flat.any():
            return None
        padded = np.zeros(8)
        padded[: len(flat)] = flat
        return cls(tuple(padded.tolist()), tuple(map(tuple, np.asarray(matrix).tolist())))

    def distorted(self, pixels: np.ndarray) -> np.ndarray:
        """Return where undistorted pixels (..., 2), (column, row), are in the distorted image."""
        (fx, _, cx), (_, fy, cy), _ = self.matrix
        k1, k2, p1, p2, k3, k4, k5, k6 = self.terms
        x, y = (pixels[..., 0] - cx) / fx, (pixels[..., 1] - cy) / fy
        s = x * x + y * y
        r = (1 + s * (k1 + s * (k2 + s * k3))) / (1 + s * (k4 + s * (k5 + s * k6)))
        seen_x = x * r + 2 * p1 * x * y + p2 * (s + 2 * x * x)
        seen_y = y * r + p1 * (s + 2 * y * y) + 2 * p2 * x * y
        return np.stack([seen_x * fx + cx, seen_y * fy + cy], -1)

    def undistort(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return an image (H, W) undistorted, and a mask (H, W) of the pixels that it shows."""
        from scipy.ndimage import map_coordinates

        height, width = image.shape
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        seen = self.distorted(np.stack([columns, rows], -1).astype(float))
        inside = np.all((seen >= 0) & (seen <= [width - 1, height - 1]), axis=-1)
        where = [seen[..., 1], seen[..., 0]]
        return map_coordinates(image, where, order=1, mode="nearest").astype(np.float32), inside
