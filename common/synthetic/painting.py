"""Bones and soft tissue of a phantom painted into a CT and a labelmap."""

from __future__ import annotations

import numpy as np

from common.geometry import apply, invert
from common.synthetic.knee_shape import KneeShape, bone_distance, bounds
from common.volume.hounsfield import AIR_HU, FAT_HU, MUSCLE_HU
from common.volume.volume import Box

LEG_BOX_MM = 100.0, 100.0, 300.0  # half the box of the knee frame that is painted
FAT_MM = 9  # thickness of the layer of fat
BONE_MARGIN_MM = 4


def paint_leg(
    hu: np.ndarray,
    affine: np.ndarray,
    scanner_from_knee: np.ndarray,
    size: np.ndarray,
    heights_mm: tuple[float, float] = (-np.inf, np.inf),
) -> None:
    """Paint muscle in a layer of fat into a CT, in place.

    The leg is an elliptic column, narrow at the joint and wider at the thigh. ``hu`` is
    (I, J, K) float32, ``affine`` and ``scanner_from_knee`` are 4x4, ``size`` is that of
    `KneeShape`. Only the column between ``heights_mm`` of the knee's frame is painted.
    """
    blur = _blur_mm(affine)
    corner = np.array(LEG_BOX_MM)
    box, points = _local_box(affine, hu.shape, scanner_from_knee, -corner, corner)
    height = points[..., 2]
    girth = 1 + 0.12 * np.tanh((height - 40) / 50) - 0.04 * np.tanh((height + 60) / 40)
    radius = np.hypot(
        points[..., 0] / np.float32(62 * size[0]), (points[..., 1] + 2) / np.float32(66 * size[1])
    )
    skin = (radius - girth) * 60
    low, high = heights_mm
    if np.isfinite([low, high]).any():
        skin = np.maximum(skin, np.maximum(np.float32(low) - height, height - np.float32(high)))
    muscle = skin + FAT_MM
    tissue = FAT_HU + (MUSCLE_HU - FAT_HU) * np.clip(0.5 - muscle / blur, 0, 1)
    part = hu[box]
    np.maximum(part, AIR_HU + (tissue - AIR_HU) * np.clip(0.5 - skin / blur, 0, 1), out=part)


def paint_bone(
    hu: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    scanner_from_knee: np.ndarray,
    shape: KneeShape,
    bone: str,
    label: int,
) -> None:
    """Paint a bone into a CT and its labelmap, in place; its surface is blurred over one voxel."""
    low, high = bounds(shape, bone)
    box, points = _local_box(
        affine, hu.shape, scanner_from_knee, low - BONE_MARGIN_MM, high + BONE_MARGIN_MM
    )
    distance = bone_distance(shape, bone, points)
    part = hu[box]
    part += (_bone_hu(distance, points) - part) * np.clip(0.5 - distance / _blur_mm(affine), 0, 1)
    labels[box][distance < 0] = label


def _bone_hu(distance: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the Hounsfield units (...) inside a bone.

    A cortical shell, thin at the joint and thick at the shaft, surrounds trabecular bone, which
    becomes fatty marrow towards the shaft. ``distance`` (...) is that of `bone_distance` at
    ``points`` (..., 3).
    """
    # 0 at the joint, 1 in the shaft
    away = np.clip((np.abs(points[..., 2] - np.float32(5)) - 40) / 60, 0, 1)
    depth = -distance
    core = np.clip(depth - (1.2 + 3.3 * away) + 0.5, 0, 1)
    texture = (
        np.sin(points[..., 0] / 5) * np.sin(points[..., 1] / 6 + 1) * np.sin(points[..., 2] / 7 + 2)
    )
    trabecular = (320 + 90 * texture) * (1 - away) - 40 * away
    cortical = 800 + 700 * away
    return cortical + (trabecular - cortical) * core


def _blur_mm(affine: np.ndarray) -> np.float32:
    """Return the mean voxel spacing, over which surfaces are blurred."""
    return np.float32(np.linalg.norm(affine[:3, :3], axis=0).mean())


def _local_box(
    affine: np.ndarray,
    grid: tuple[int, ...],
    scanner_from_knee: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[Box, np.ndarray]:
    """Return the part of the grid that covers a box of the knee frame.

    With it come the positions of its voxels in the knee frame, (..., 3) float32.
    """
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    index = apply(invert(affine) @ scanner_from_knee, corners)
    start = np.clip(np.floor(index.min(0)).astype(int), 0, grid)
    stop = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, grid)
    knee_from_index = (invert(scanner_from_knee) @ affine).astype(np.float32)
    i, j, k = (
        np.arange(a, b, dtype=np.float32)[:, None] * knee_from_index[:3, axis]
        for axis, (a, b) in enumerate(zip(start, stop, strict=True))
    )
    points = i[:, None, None] + j[None, :, None] + k[None, None, :] + knee_from_index[:3, 3]
    box = slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])
    return box, points
