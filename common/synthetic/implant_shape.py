"""Parametric components of a knee replacement: femoral component and tibial tray with its stem.

Implicit solids of round numbers, not those of any product, in the knee frame of `knee_shape`:
lateral, anterior, superior, mm. The femoral component is not symmetric; the tray is, but for a
notch beside its stem.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.synthetic.knee_shape import KneeShape

COMPONENTS = ("femoral_component", "tibial_tray")
GRID_MM = 0.8  # of the implicit solids; the surface lies between its points
THICKNESS_MM = 9.0  # of the femoral component
TRAY_GAP_MM = 9.0  # of the polyethylene between the components

Solid = Callable[[np.ndarray], np.ndarray]  # points (..., 3) to distances, negative inside


def components(shape: KneeShape) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return vertices (V, 3), mm in the knee frame, and triangles (T, 3) of each component."""
    condyles = [shape.ellipsoids[f"femur {side} condyle"] for side in ("medial", "lateral")]
    low = min(centre[2] - radii[2] for centre, radii in condyles)
    return {
        "femoral_component": _mesh(
            _femoral(condyles, shape.size), ((-46, -48, low - 4), (46, 44, low + 62))
        ),
        "tibial_tray": _mesh(
            _tray(low - TRAY_GAP_MM, shape.size), ((-46, -36, low - 60), (46, 36, low))
        ),
    }


def _femoral(condyles: list[tuple[np.ndarray, np.ndarray]], size: np.ndarray) -> Solid:
    """A shell over both condyles and the trochlea, cut flat on its inside, with two pegs."""

    def distance(points: np.ndarray) -> np.ndarray:
        trochlea = (np.array([3.0, 12, 34]) * size, np.array([24.0, 20, 34]) * size)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        low = min(centre[2] - radii[2] for centre, radii in condyles)
        bridge = (np.array([0.0, 12, 0]) * size + [0, 0, low + 11], np.array([33.0, 19, 11]) * size)
        solids = (*condyles, trochlea, bridge)
        outside = np.min([_ellipsoid(points, *each) for each in solids], axis=0)
        medial, lateral = (centre[1] - radii[1] for centre, radii in condyles)
        back = np.where(x < 0, medial, lateral)
        front = 32.0 * size[1]
        cuts = [low + THICKNESS_MM - z, back + THICKNESS_MM - y, y - front + THICKNESS_MM]
        chamfers = [
            (back + 2.4 * THICKNESS_MM - y + low - z) / 2**0.5,
            (y - front + 2.4 * THICKNESS_MM + low - z) / 2**0.5,
        ]
        bone = np.max([*cuts, *chamfers], axis=0)
        notch = np.maximum(np.abs(x) - 8.0, y - 8.0)
        top = np.where(y > 0, z - low - 54.0, z - low - 36.0)
        shell = np.max([outside, -bone, -notch, top], axis=0)
        pegs = [
            np.maximum(np.hypot(x - at, y - 2.0) - 3.5, np.maximum(low + 4 - z, z - low - length))
            for at, length in ((-22.0, 26.0), (22.0, 21.0))
        ]
        return np.min([shell, *pegs], axis=0)

    return distance


def _tray(top: float, size: np.ndarray) -> Solid:
    """A plate with a notch behind, a tapered stem and two keels."""

    def distance(points: np.ndarray) -> np.ndarray:
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        rim = (np.abs(x / (37 * size[0])) ** 2.6 + np.abs(y / (25 * size[1])) ** 2.6) ** (1 / 2.6)
        notch = 9.0 - np.hypot(x - 1.5, y + 27.0)
        plate = np.max([(rim - 1) * 25, notch, z - top, top - 4.0 - z], axis=0)
        depth = np.clip((top - z) / 42.0, 0, 1)
        stem = np.max([np.hypot(x, y) - (9.0 - 4.0 * depth), z - top, top - 42.0 - z], axis=0)
        keel = np.max([np.abs(y + 4) - 1.5, np.abs(x) - 26 + 22 * depth, z - top], axis=0)
        keel = np.maximum(keel, top - 26.0 - z)
        return np.min([plate, stem, keel], axis=0)

    return distance


def _ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Approximate distance from an ellipsoid."""
    scaled = (points - centre) / radii
    return (np.linalg.norm(scaled, axis=-1) - 1) * float(np.min(radii))


def _mesh(
    solid: Solid, box: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface of a solid inside a box, counterclockwise seen from outside."""
    from skimage.measure import marching_cubes

    low, high = np.array(box)
    axes = [np.arange(a, b, GRID_MM) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    vertices, triangles, _, _ = marching_cubes(-solid(points), 0.0, spacing=(GRID_MM,) * 3)
    # scikit-image orders vertices clockwise seen from outside
    return vertices + low, triangles[:, ::-1]
