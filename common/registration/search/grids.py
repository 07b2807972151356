"""Grids of the search: rotations, depths, and the point at which the cameras are aimed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.geometry.pose_range import PoseRange

# between neighbouring templates (benchmarks/README.md, 'Starts from nothing')
TEMPLATE_STEP_DEG = 8.0
TEMPLATE_STEP_DEPTH = 0.09  # relative; neighbours differ by half of it in size


def template_grid(ranges: PoseRange) -> np.ndarray:
    """Return angles r1 r2 r3 (N, 3) in degrees that cover the range."""

    def steps(low: float, high: float) -> np.ndarray:
        if high <= low:
            return np.array([low])
        return np.linspace(low, high, max(1, int(np.ceil((high - low) / TEMPLATE_STEP_DEG)) + 1))

    axes = np.meshgrid(steps(*ranges.r1), steps(*ranges.r2), steps(*ranges.r3), indexing="ij")
    return np.stack(axes, -1).reshape(-1, 3)


def depth_grid(ranges: PoseRange) -> np.ndarray:
    """Return source-to-isocentre distances (D,) in mm that cover the range at equal ratios."""
    low, high = ranges.ty
    count = max(1, int(np.ceil(np.log(high / low) / TEMPLATE_STEP_DEPTH)))
    return low * (high / low) ** ((np.arange(count) + 0.5) / count)


def all_rotations(step_deg: float) -> np.ndarray:
    """Return rotations (N, 3, 3) spread evenly over all, neighbours about ``step_deg`` apart.

    They are super-Fibonacci spirals (M. Alexa, CVPR 2022).
    """
    from scipy.spatial.transform import Rotation

    count = int(np.ceil(8 * np.pi**2 / np.radians(step_deg) ** 3))
    s = np.arange(count) + 0.5
    inner, outer = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    quaternions = [
        inner * np.sin(alpha),
        inner * np.cos(alpha),
        outer * np.sin(beta),
        outer * np.cos(beta),
    ]
    return Rotation.from_quat(np.stack(quaternions, 1)).as_matrix()


def meeting_point(cameras: Sequence[np.ndarray]) -> np.ndarray:
    """Return the point (3,) nearest to all principal rays of cameras (frame_from_camera, 4x4).

    It is the least-squares solution; parallel rays meet at the mean of their sources.
    """
    across = [np.eye(3) - np.outer(camera[:3, 2], camera[:3, 2]) for camera in cameras]
    sources = sum(a @ camera[:3, 3] for a, camera in zip(across, cameras, strict=True))
    return np.linalg.lstsq(sum(across), sources, rcond=1e-6)[0]
