"""Parametric shape of a knee: femur, tibia, fibula and patella as signed distances.

Bones are smooth unions of ellipsoids and tapered capsules in the *knee frame*: lateral, anterior,
superior, mm, origin at the centre of the joint. Distances are approximate and negative inside. The
lengths follow an average adult knee (epicondylar width 80 mm, tibial plateau 75 x 50 mm); they are
round numbers, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BONES = ("femur", "tibia", "fibula", "patella")
# name: centre, radii
ELLIPSOIDS = {
    "femur medial condyle": ((-23, -9, 25), (14, 30, 24)),
    "femur lateral condyle": ((23, -5, 23.5), (13, 28, 22)),
    "femur epicondyles": ((0, 0, 38), (39, 22, 18)),
    "femur adductor tubercle": ((-32, -8, 46), (8, 9, 10)),
    "femur trochlea lateral": ((16, 20, 36), (13, 11, 18)),
    "femur trochlea medial": ((-14, 17, 33), (12, 10, 15)),
    "tibia medial plateau": ((-20, -5, -16), (23, 26, 13)),
    "tibia lateral plateau": ((20, -3, -14), (20, 21, 11)),
    "tibia medial spine": ((-5, -2, -5), (4, 7, 6)),
    "tibia lateral spine": ((5, 0, -5.5), (4, 5, 5)),
    "tibia tuberosity": ((5, 24, -42), (9, 9, 15)),
    "fibula head": ((39, -19, -27), (9, 10, 12)),
    "patella body": ((3, 43, 34), (21, 9, 20)),
    "patella apex": ((1, 42, 16), (8, 6, 9)),
}
# name: start, stop, radius at start, radius at stop
CAPSULES = {
    "femur metaphysis": ((0, -2, 48), (3, 4, 95), 25, 16),
    "femur shaft": ((3, 4, 95), (10, 8, 260), 16, 14),
    "tibia metaphysis": ((0, -3, -36), (1, -3, -75), 26, 16),
    "tibia shaft": ((1, -3, -75), (-2, -6, -260), 15, 11),
    "tibia crest": ((4, 16, -45), (1, 4, -240), 9, 6),
    "fibula shaft": ((39, -19, -32), (33, -16, -250), 5.5, 6.5),
}
BLEND_MM = 5.0  # fillet between the parts of a bone
NOTCH_BLEND_MM = 3.0


@dataclass(frozen=True)
class KneeShape:
    """Shape of one patient's knee, mm in the knee frame."""

    ellipsoids: dict[str, tuple[np.ndarray, np.ndarray]]  # name: centre, radii
    # name: start, stop, radius at start, radius at stop
    capsules: dict[str, tuple[np.ndarray, np.ndarray, float, float]]
    size: np.ndarray  # (3,), of the patient along the three axes, relative to the average


def sample_shape(rng: np.random.Generator, variation: float = 1.0) -> KneeShape:
    """Return the shape of one patient.

    Standard deviations, times ``variation``: 6 % of the overall size, 3 % of each direction, 4 % of
    the size of each part, and 0.8 mm of its position.
    """
    size = 1 + variation * (0.06 * rng.uniform(-1.7, 1.7) + 0.03 * rng.normal(size=3))
    ellipsoids, capsules = {}, {}
    for name, (centre, radii) in ELLIPSOIDS.items():
        ellipsoids[name] = (
            size * centre + variation * rng.normal(0, 0.8, 3),
            size * radii * (1 + variation * rng.normal(0, 0.04, 3)),
        )
    bow = variation * rng.normal(0, 4, 3) * [1, 1, 0]
    for name, (start, stop, r0, r1) in CAPSULES.items():
        girth = np.sqrt(size[0] * size[1])
        end = size * stop + (bow if "shaft" in name or "crest" in name else 0)
        capsules[name] = (size * start, end, girth * r0, girth * r1)
    return KneeShape(ellipsoids, capsules, size)


def landmarks(shape: KneeShape, bone: str) -> dict[str, np.ndarray]:
    """Return named points (3,) of a bone, mm in the knee frame.

    They are the centres of its ellipsoids and a point on the axis of its shaft.
    """
    points = {
        name.removeprefix(bone + " "): centre
        for name, (centre, _) in shape.ellipsoids.items()
        if name.startswith(bone)
    }
    shaft = shape.capsules.get(f"{bone} shaft")
    return points if shaft is None else {**points, "shaft": shaft[0]}


def bounds(shape: KneeShape, bone: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest coordinates (3,) of a bone, mm in the knee frame."""
    boxes = [
        (centre - radii, centre + radii)
        for name, (centre, radii) in shape.ellipsoids.items()
        if name.startswith(bone)
    ]
    boxes += [
        (np.minimum(a, b) - max(r0, r1), np.maximum(a, b) + max(r0, r1))
        for name, (a, b, r0, r1) in shape.capsules.items()
        if name.startswith(bone)
    ]
    return np.min([low for low, _ in boxes], 0), np.max([high for _, high in boxes], 0)


def bone_distance(shape: KneeShape, bone: str, points: np.ndarray) -> np.ndarray:
    """Return the approximate signed distance (...) of points to a bone's surface, mm.

    ``points`` are (..., 3), mm in the knee frame. The distance is negative inside.
    """
    parts = [
        _ellipsoid(points, *part)
        for name, part in shape.ellipsoids.items()
        if name.startswith(bone)
    ]
    parts += [
        _capsule(points, *part) for name, part in shape.capsules.items() if name.startswith(bone)
    ]
    distance = parts[0]
    for part in parts[1:]:
        distance = _smooth_union(distance, part, BLEND_MM)
    if bone == "femur":
        # the notch between the condyles, open to the back, and the groove of the patella in front
        notch = _ellipsoid(points, np.array([0.0, -22, 8]), np.array([9.0, 26, 22]))
        groove = _ellipsoid(points, np.array([2.0, 36, 28]), np.array([10.0, 10, 40]))
        hollow = _smooth_union(notch, groove, NOTCH_BLEND_MM)
        distance = -_smooth_union(-distance, hollow, NOTCH_BLEND_MM)
    return distance


def _ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the first-order distance to an ellipsoid: f (f - 1) / |grad|, with f = |p / r|."""
    scaled = (points - np.float32(centre)) / np.float32(radii)
    f = np.sqrt(np.einsum("...i,...i->...", scaled, scaled))
    scaled /= np.float32(radii)
    return f * (f - 1) / np.sqrt(np.einsum("...i,...i->...", scaled, scaled) + np.float32(1e-12))


def _capsule(
    points: np.ndarray, start: np.ndarray, stop: np.ndarray, r0: float, r1: float
) -> np.ndarray:
    """Return the distance to a segment minus a radius that changes from r0 to r1."""
    axis = np.float32(stop - start)
    offset = points - np.float32(start)
    along = np.clip(offset @ axis / np.dot(axis, axis), 0, 1)
    offset -= along[..., None] * axis
    distance = np.sqrt(np.einsum("...i,...i->...", offset, offset))
    return distance - np.float32(r0) - along * np.float32(r1 - r0)


def _smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the union of two distances with a fillet of about ``blend_mm``.

    It is a polynomial smooth minimum.
    """
    h = np.clip(0.5 + (b - a) / np.float32(2 * blend_mm), 0, 1)
    return b + (a - b) * h - np.float32(blend_mm) * h * (1 - h)
