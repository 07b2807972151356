"""Analytic bones: labelmaps of a femur and a tibia whose anatomical frame is known."""

import numpy as np

from common import geometry
from common.volume.lineage import Lineage
from common.volume.volume import Volume

RADIUS_MM = 20.0
# left and right of the subject: condyles, mm along Z
CONDYLES_MM = ((-32.0, -14.0), (13.0, 33.0))
EPICONDYLES_MM = ((10.0, 8.0, -39.0), (13.0, 3.0, 40.0))  # tips


def femur_labelmap(
    scanner_from_frame: np.ndarray,
    spacing: float = 1.0,
    shaft_mm: float = 110.0,
    spheres: bool = False,
    mirrored: bool = False,
) -> Volume:
    """Return a femur: two condyles on Z (pieces of a cylinder, or spheres), a block, a shaft.

    The epicondyles are cones on the sides of the block.
    """

    def inside(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        if spheres:
            radii = (np.hypot(np.hypot(x, y), z - middle) for middle in (-23.0, 23.0))
            condyles = np.any([radius < RADIUS_MM for radius in radii], axis=0)
        else:
            along = [(low < z) & (z < high) for low, high in CONDYLES_MM]
            condyles = np.any(along, axis=0) & (np.hypot(x, y) < RADIUS_MM)
        block = (
            (np.abs(z) < 33) & (x > 6) & (x < 30) & (y > -RADIUS_MM + 4) & (y < 30 + (x - 18) / 4)
        )
        cones = [
            (z * tip_z > 0) & (np.hypot(x - tip_x, y - tip_y) < 2 * (abs(tip_z) - np.abs(z)))
            for tip_x, tip_y, tip_z in EPICONDYLES_MM
        ]
        shaft = (np.hypot(x - 14, z) < 14) & (y > 0) & (y < shaft_mm)
        return condyles | block | shaft | (np.any(cones, axis=0) & (np.abs(z) > 32))

    return labelmap(inside, scanner_from_frame, (-25, -25, -45), (40, shaft_mm, 45), spacing,
                    mirrored)  # fmt: skip


def tibia_labelmap(
    scanner_from_frame: np.ndarray,
    spacing: float = 1.0,
    shaft_mm: float = 110.0,
    mirrored: bool = False,
) -> Volume:
    """Return a tibia: a domed ellipse as plateau, a cone below it, a shaft that lies ahead."""

    def inside(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        share = np.clip((-y - 14) / 20, 0, 1)  # of the way from plateau to shaft
        long, deep = 36 + share * (13 - 36), 23 + share * (13 - 23)
        across = (z / long) ** 2 + ((x - 6 * share) / deep) ** 2
        return (across < 1) & (y < 8 * (0.5 - across)) & (y > -shaft_mm)

    return labelmap(inside, scanner_from_frame, (-30, -shaft_mm, -45), (35, 5, 45), spacing,
                    mirrored)  # fmt: skip


def labelmap(inside, scanner_from_frame, low, high, spacing, mirrored) -> Volume:
    """Return a mask on a grid along the axes of the scanner; a mirrored one lies in its volume."""
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    world = geometry.apply(scanner_from_frame, corners)
    scanner_from_volume = geometry.MIRROR if mirrored else np.eye(4)
    placed = geometry.apply(geometry.invert(scanner_from_volume), world)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = placed.min(axis=0) - 2 * spacing + 0.31
    size = tuple(int(n) for n in np.ceil(np.ptp(placed, axis=0) / spacing) + 5)
    frame_from_index = geometry.invert(scanner_from_frame) @ scanner_from_volume @ affine
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 3)
    data = inside(geometry.apply(frame_from_index, index)).reshape(size)
    side = "right" if mirrored else "left"
    lineage = Lineage(scanner_from_volume, {"name": "bone", "sha256": "1"}, side=side)
    return Volume(data.astype(np.uint8), affine, lineage)
