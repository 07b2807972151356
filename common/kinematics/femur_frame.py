"""The anatomical frame of a femur from its posterior condyles and its shaft.

Z is the axis of a cylinder through both posterior condyles (Eckhoff et al., J Bone Joint Surg Am
87 Suppl 2:71, 2005; Miranda et al., J Biomech 43:1623, 2010), or the line through the centres of a
sphere in each (Kai et al., J Biomech 47:1229, 2014). Only articular faces are used, chosen by their
normals as Renault et al. do (J Biomech 79:213, 2018): a fit to everything behind the shaft is drawn
off by the walls of the notch. Y is the shaft's axis made perpendicular to Z, X = Y x Z. The origin
is the middle of the epicondyles, the widest points of the bone along Z, or of the axis itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from common.errors import InputError
from common.kinematics.bone_surface import BoneSurface
from common.kinematics.shaft import Shaft, find_shaft

FemurMethod: TypeAlias = Literal["cylinder", "spheres"]
FemurOrigin: TypeAlias = Literal["epicondyles", "axis"]

# sections of the shaft's axis, mm above the condyles: all that the crop has above the flare
SHAFT_MM = (60.0, 150.0)
CONDYLES_MM = 40.0  # height of the condyles above their most distal point
LEAST_WIDER = 1.08  # width of the condyles across by front to back; below it, neither is known
# the notch opens backward: below this height, between the condyles, the bone ends so much farther
# from its rearmost point than it does from its foremost one
NOTCH_HEIGHT_MM, LEAST_NOTCH_MM = 22.0, 4.0
RADIUS_MM = (12.0, 28.0)  # of posterior condyles, 17 to 25 in adults
# of the articular faces around the axis: from straight back, towards proximal (-) and distal (+)
SECTOR_DEG = (-20.0, 90.0)
ALONG_NORMAL = 0.35  # |n . Z| above it: walls of the notch and sides of the condyles
ALONG_SPHERE = 0.6  # the same for spheres, which need faces on both sides of their middle
RADIAL_NORMAL = 0.94  # n . radius, 20 degrees
WITHIN_MM = 3.0  # of the fitted face
NOTCH_MM = 6.0  # on both sides of the middle
ROBUST_MM = 0.4  # residuals beyond count less (soft L1)
ROUNDS = 30
# a fit is checked: its residual, and its axis against the tangent of both condyles
MOST_RESIDUAL_MM = 1.5
MOST_TILT_DEG = 10.0
LEAST_FACES_MM2 = 50.0  # of both condyles; adults have 300 to 800
TANGENT_SHARE = 0.002  # of a condyle's area that counts as its rearmost point
# faces so far inwards of the widest point count as the epicondyle, the outer ones more. With 1 to 2
# mm, the middle is 1.3 to 2.8 mm from that of five raters, and other smoothing or voxels move it by
# 0.25 mm at most (docs/kinematics.md, 'Measured')
EPICONDYLE_MM = 1.5
WIDEST = 0.9995  # quantile that stands for the widest point


@dataclass(frozen=True, eq=False)
class FemurFit:
    """A fitted flexion axis with what it was fitted to, in the scanner frame."""

    frame: np.ndarray  # (4, 4) scanner_from_frame
    radii_mm: tuple[float, ...]  # of the cylinder, or of the medial-to-left and right sphere
    residual_mm: float  # rms over the faces
    faces: np.ndarray  # (K, 3) centres of the triangles that were fitted
    to_tangent_deg: float  # between Z and the line through the rearmost points of both condyles
    origin: FemurOrigin


def femur_frame(
    bone: BoneSurface,
    method: FemurMethod = "cylinder",
    name: str = "the femur",
    origin: FemurOrigin = "epicondyles",
) -> FemurFit:
    """Return the anatomical frame of a distal femur.

    Its origin is the middle of the epicondyles, or (``axis``) of the points where the flexion axis
    leaves the bone. Raises InputError as `find_shaft`, and if the condyles do not determine the
    axis; ``name`` names the bone.
    """
    shaft = find_shaft(bone, *SHAFT_MM, name)
    local_from_scanner = _condylar_frame(bone, shaft, name)
    scanner_from_local = np.linalg.inv(local_from_scanner)
    height = shaft.heights(bone.centres)
    condyles = bone.part(height < CONDYLES_MM).moved(local_from_scanner)
    tangent = _tangent(condyles)
    if method == "cylinder":
        point, axis, radii, residual, used = _fit_cylinder(condyles, tangent, name)
    else:
        point, axis, radii, residual, used = _fit_spheres(condyles, tangent, name)
    tilt = float(np.degrees(np.arccos(min(abs(axis @ tangent), 1.0))))
    _check(name, radii, residual, tilt)
    local = np.eye(4)
    proximal = np.array([0.0, 1, 0])
    local[:3, 2] = axis
    local[:3, 1] = proximal - (proximal @ axis) * axis
    local[:3, 1] /= np.linalg.norm(local[:3, 1])
    local[:3, 0] = np.cross(local[:3, 1], axis)
    if origin == "axis":
        local[:3, 3] = _middle(condyles, point, axis)
    else:
        local[:3, 3] = _epicondyles(condyles, point, axis, float(np.mean(radii))).mean(axis=0)
    faces = condyles.centres[used] @ scanner_from_local[:3, :3].T + scanner_from_local[:3, 3]
    return FemurFit(scanner_from_local @ local, radii, residual, faces, tilt, origin)


def _condylar_frame(bone: BoneSurface, shaft: Shaft, name: str) -> np.ndarray:
    """Return local_from_scanner (4, 4): origin on the shaft's axis, Y along it, X forward.

    The condyles are wider than deep, and the notch between them opens backward.
    """
    solid = bone.solid[(shaft.heights(bone.solid) < CONDYLES_MM - 5)]
    offset = solid - shaft.point_mm
    flat = offset - (offset @ shaft.direction)[:, None] * shaft.direction
    spread, axes = np.linalg.eigh(np.cov(flat.T))
    wider = float(np.sqrt(spread[2] / spread[1]))
    if wider < LEAST_WIDER:
        raise InputError(
            name,
            f"its condyles are {wider:.2f} times as wide as deep",
            f"at least {LEAST_WIDER}, to tell sideways from forward",
            "check the labelmap, or state `landmarks`",
        )
    across = axes[:, 2]
    forward = np.cross(shaft.direction, across)
    low = flat[shaft.heights(solid) < NOTCH_HEIGHT_MM]
    width, depth = low @ across, low @ forward
    between = np.abs(width - (width.min() + width.max()) / 2) < NOTCH_MM
    front = np.quantile(depth, 0.999) - np.quantile(depth[between], 0.999)
    back = np.quantile(depth[between], 0.001) - np.quantile(depth, 0.001)
    if abs(back - front) < LEAST_NOTCH_MM:
        raise InputError(
            name,
            f"its notch is {abs(back - front):.1f} mm deeper on one side than on the other",
            f"at least {LEAST_NOTCH_MM:g} mm, to tell backward from forward",
            "check the labelmap, or state `landmarks`",
        )
    forward *= np.sign(back - front)
    turned = np.stack([forward, shaft.direction, np.cross(forward, shaft.direction)])
    local = np.eye(4)
    local[:3, :3] = turned
    local[:3, 3] = -turned @ shaft.point_mm
    return local


def _tangent(condyles: BoneSurface) -> np.ndarray:
    """Return the direction (3,), to the right, through the rearmost points of both condyles.

    It starts along Z of the local frame and turns until the points stay.
    """
    axis = np.array([0.0, 0, 1])
    for _ in range(ROUNDS):
        back = np.cross(axis, [0.0, 1, 0])
        back /= np.linalg.norm(back)
        across = condyles.centres @ axis
        middle = (across.max() + across.min()) / 2
        ends = []
        for side in (-1, 1):
            half = side * (across - middle) > NOTCH_MM
            depth = condyles.centres[half] @ back
            weights = condyles.areas[half]
            order = np.argsort(depth)[::-1]
            share = np.searchsorted(
                np.cumsum(weights[order]), TANGENT_SHARE * weights.sum(), side="right"
            )
            chosen = order[: share + 1]
            ends.append(np.average(condyles.centres[half][chosen], axis=0, weights=weights[chosen]))
        turned = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
        moved = np.linalg.norm(turned - axis)
        axis = turned
        if moved < 1e-5:
            break
    return axis


def _start(condyles: BoneSurface, axis: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a point (3,) of the axis and a radius to start from, by the rearmost faces."""
    back = np.cross(axis, [0.0, 1, 0])
    back /= np.linalg.norm(back)
    depth = condyles.centres @ back
    rearmost = condyles.centres[depth > np.quantile(depth, 0.99)].mean(axis=0)
    radius = float(np.mean(RADIUS_MM))
    return rearmost - radius * back, radius


def _articular(
    condyles: BoneSurface, point: np.ndarray, axis: np.ndarray, radius: float, within: float
) -> np.ndarray:
    """Return which triangles (T,) are articular faces around a cylinder."""
    offset = condyles.centres - point
    radial = offset - (offset @ axis)[:, None] * axis
    distance = np.linalg.norm(radial, axis=1)
    radial /= np.maximum(distance, 1e-9)[:, None]
    across = condyles.centres @ axis
    middle = (across.max() + across.min()) / 2
    return (
        _in_sector(condyles, point, axis)
        & (np.abs(condyles.normals @ axis) < ALONG_NORMAL)
        & (np.einsum("ij,ij->i", condyles.normals, radial) > RADIAL_NORMAL)
        & (np.abs(distance - radius) < within)
        & (np.abs(across - middle) > NOTCH_MM)
    )


def _in_sector(condyles: BoneSurface, point: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return which triangles (T,) are in the sector of articular faces around an axis."""
    back = np.cross(axis, [0.0, 1, 0])
    back /= np.linalg.norm(back)
    down = np.cross(axis, back)
    down *= -np.sign(down[1])
    offset = condyles.centres - point
    angle = np.degrees(np.arctan2(offset @ down, offset @ back))
    return (angle > SECTOR_DEG[0]) & (angle < SECTOR_DEG[1])


def _balanced(areas: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return weights (K,) by area with which both condyles count the same."""
    weights = areas.copy()
    for side in (right, ~right):
        weights[side] /= areas[side].sum()
    return weights * len(areas) / 2


def _fit_cylinder(
    condyles: BoneSurface, tangent: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], float, np.ndarray]:
    """Return point, axis, radius, residual and the faces used of the cylinder of both condyles."""
    from scipy.optimize import least_squares

    point, radius = _start(condyles, tangent)
    axis = tangent
    used = np.zeros(len(condyles.areas), bool)
    for number in range(ROUNDS):
        chosen = _articular(condyles, point, axis, radius, WITHIN_MM if number > 2 else 8.0)
        _check_faces(name, condyles.areas[chosen])
        if (chosen == used).all():
            break
        used = chosen
        centres = condyles.centres[used]
        u = np.cross(axis, [0.0, 1, 0])
        u /= np.linalg.norm(u)
        v = np.cross(axis, u)
        across = centres @ axis
        weights = np.sqrt(
            _balanced(condyles.areas[used], across > (condyles.centres @ axis).mean())
        )
        origin = point + (across.mean() - point @ axis) * axis

        def residuals(p: np.ndarray, at=(origin, axis, u, v, centres, weights)) -> np.ndarray:
            start, along, first, second, points, weight = at
            direction = along + p[2] * first + p[3] * second
            direction /= np.linalg.norm(direction)
            offset = points - start - p[0] * first - p[1] * second
            distance = np.linalg.norm(np.cross(offset, direction), axis=1)
            return weight * (distance - p[4])

        low, high = RADIUS_MM
        fit = least_squares(
            residuals,
            [0, 0, 0, 0, np.clip(radius, low + 1e-3, high - 1e-3)],
            bounds=([-20, -20, -0.5, -0.5, low], [20, 20, 0.5, 0.5, high]),
            x_scale=[1, 1, 0.03, 0.03, 1],
            loss="soft_l1",
            f_scale=ROBUST_MM,
        )
        point = origin + fit.x[0] * u + fit.x[1] * v
        axis = axis + fit.x[2] * u + fit.x[3] * v
        axis /= np.linalg.norm(axis)
        radius = float(fit.x[4])
    offset = condyles.centres[used] - point
    residual = np.linalg.norm(np.cross(offset, axis), axis=1) - radius
    return point, axis, (radius,), float(np.sqrt((residual**2).mean())), used


def _fit_spheres(
    condyles: BoneSurface, tangent: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], float, np.ndarray]:
    """Return point, axis, both radii, residual and the faces used of a sphere in each condyle.

    The search starts at the cylinder of both.
    """
    from scipy.optimize import least_squares

    point, axis, (radius,), _, first = _fit_cylinder(condyles, tangent, name)
    across = condyles.centres @ axis
    middle = (across.max() + across.min()) / 2
    centres, radii, residuals = [], [], []
    every = np.zeros(len(across), bool)
    for side in (-1, 1):
        half = side * (across - middle) > 0
        start = point + (across[first & half].mean() - point @ axis) * axis
        centre, size = start, radius
        for _ in range(ROUNDS):
            offset = condyles.centres - centre
            distance = np.linalg.norm(offset, axis=1)
            radial = offset / np.maximum(distance, 1e-9)[:, None]
            used = (
                half
                & _in_sector(condyles, centre, axis)
                & (np.abs(condyles.normals @ axis) < ALONG_SPHERE)
                & (np.einsum("ij,ij->i", condyles.normals, radial) > RADIAL_NORMAL)
                & (np.abs(distance - size) < WITHIN_MM)
            )
            _check_faces(name, condyles.areas[used])
            faces, weights = condyles.centres[used], np.sqrt(condyles.areas[used])
            weights /= weights.mean()

            def misses(p: np.ndarray, at=(faces, weights)) -> np.ndarray:
                return at[1] * (np.linalg.norm(at[0] - p[:3], axis=1) - p[3])

            low, high = RADIUS_MM
            fit = least_squares(
                misses,
                [*centre, np.clip(size, low + 1e-3, high - 1e-3)],
                bounds=([*(start - 15), low], [*(start + 15), high]),
                loss="soft_l1",
                f_scale=ROBUST_MM,
            )
            moved = np.linalg.norm(fit.x[:3] - centre)
            centre, size = fit.x[:3], float(fit.x[3])
            if moved < 1e-3:
                break
        every |= used
        centres.append(centre)
        radii.append(size)
        residuals.append(np.linalg.norm(faces - centre, axis=1) - size)
    line = (centres[1] - centres[0]) / np.linalg.norm(centres[1] - centres[0])
    residual = float(np.sqrt((np.concatenate(residuals) ** 2).mean()))
    return centres[0], line, tuple(radii), residual, every


def _check_faces(name: str, areas: np.ndarray) -> None:
    """Raise InputError if the areas (K,) of the chosen faces are too small to fit."""
    if areas.sum() < LEAST_FACES_MM2:
        raise InputError(
            name,
            f"shows {areas.sum():.0f} mm² of the faces of posterior condyles",
            f"at least {LEAST_FACES_MM2:g} mm²",
            "check the labelmap, or state `landmarks`",
        )


def _check(name: str, radii: tuple[float, ...], residual: float, tilt: float) -> None:
    """Raise InputError if a fit is not one of two condyles."""
    low, high = RADIUS_MM
    bounded = all(low + 0.05 < radius < high - 0.05 for radius in radii)
    if bounded and residual < MOST_RESIDUAL_MM and tilt < MOST_TILT_DEG:
        return
    shown = " and ".join(f"{radius:.1f}" for radius in radii)
    raise InputError(
        name,
        f"its posterior condyles fit no cylinder (radius {shown} mm, residual {residual:.1f} mm,"
        f" {tilt:.0f} degrees off the condyles' tangent)",
        f"a radius of {low:g} to {high:g} mm, a residual below {MOST_RESIDUAL_MM:g} mm and an axis"
        f" within {MOST_TILT_DEG:g} degrees of the tangent",
        "check the labelmap, choose another `method`, or state `landmarks`",
    )


def _middle(condyles: BoneSurface, point: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return the middle (3,) between the points where an axis leaves the bone."""
    offset = condyles.centres - point
    along = offset @ axis
    distance = np.linalg.norm(offset - along[:, None] * axis, axis=1)
    near = along[distance < 5.0]
    return point + (near.min() + near.max()) / 2 * axis


def _epicondyles(
    condyles: BoneSurface, point: np.ndarray, axis: np.ndarray, radius: float
) -> np.ndarray:
    """Return the widest points (2, 3) along an axis, of what is within a radius of it."""
    offset = condyles.centres - point
    along = offset @ axis
    near = np.linalg.norm(offset - along[:, None] * axis, axis=1) < radius
    ends = []
    for side in (-1, 1):
        outward = side * along
        inwards = np.quantile(outward[near], WIDEST) - outward
        weights = condyles.areas * near * np.maximum(EPICONDYLE_MM - inwards, 0)
        ends.append(np.average(condyles.centres, axis=0, weights=weights))
    return np.array(ends)
