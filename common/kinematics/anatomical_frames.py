"""The anatomical frame of a bone with its uncertainty, by its shape or by the axes of its file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common import geometry
from common.errors import InputError
from common.kinematics.bone_surface import SMOOTHING_MM, BoneSurface, bone_mask, bone_surface
from common.kinematics.femur_frame import SHAFT_MM as FEMUR_SHAFT_MM
from common.kinematics.femur_frame import FemurFit, FemurOrigin, femur_frame
from common.kinematics.frame_file import AnatomicalFrame, Repeat, covariance_of_repeats
from common.kinematics.joint_coordinates import Side
from common.kinematics.shaft import LEAST_LENGTH_MM, Shaft, find_shaft
from common.kinematics.tibia_frame import SHAFT_MM as TIBIA_SHAFT_MM
from common.kinematics.tibia_frame import TibiaFit, tibia_frame
from common.volume.volume import Volume

logger = logging.getLogger(__name__)

# of each bone that has a shape of its own here, the default first
METHODS = {"femur": ("cylinder", "spheres"), "tibia": ("plateau", "section")}
# repeats behind the uncertainty of a frame
SMOOTHINGS_MM = (0.7, 1.5)
SHORTER_MM = (15.0, 30.0)
SHORTEST_MM = 80.0
# rotation vector of another voxel grid, degrees
OTHER_GRID_DEG = (14.0, -22.0, 9.0)
# a frame whose Z points away from the scanner's right by more than this is probably wrong, unless
# the scan was turned
MOST_TURNED_DEG = 90.0


@dataclass(frozen=True, eq=False)
class ShapedFrame:
    """A frame found in the shape of a bone, with what a picture of it shows."""

    frame: AnatomicalFrame
    bone: BoneSurface
    faces: np.ndarray  # (K, 3) points that were fitted, in the scanner frame


def side_of(volume: Volume, side: Side | None) -> Side:
    """Return the side of a bone: its lineage's, else the stated one.

    Raises InputError if neither is known, or if they differ.
    """
    recorded = volume.lineage.side
    if recorded is not None and side not in (None, recorded):
        raise InputError(
            volume.name,
            f"is a {recorded} bone by its lineage, but `side` is {side}",
            "one side",
            "leave `side` out",
        )
    known = recorded or side
    if known == "left":
        return "left"
    if known == "right":
        return "right"
    raise InputError(
        volume.name,
        "its lineage does not state the side of the bone",
        "left or right",
        "state `side`, or use a bone of crop_cts.py",
    )


def frame_by_shape(
    labelmap: Volume,
    bone: str,
    side: Side,
    method: str,
    labels: Sequence[int] | None = None,
    origin: FemurOrigin = "epicondyles",
) -> ShapedFrame:
    """Return the frame of a femur or tibia with its uncertainty, in the scanner frame.

    ``origin`` is that of a femur.
    The uncertainty is how the frame changes if the shaft is cropped shorter, the surface smoothed
    less or more, merged to coarser voxels, or sampled on an oblique grid. It says nothing of the
    difference between methods, which `AnatomicalFrame.other_methods` has, nor of an error of the
    labelmap.
    Raises InputError if the shape does not determine the frame.
    """
    mask = bone_mask(labelmap, labels)
    name = str(labelmap.path or labelmap.name)
    solid = bone_surface(mask)
    find = _finder(bone, method, name, origin)
    fit = find(solid)
    repeats = [Repeat.between(*each) for each in _repeats(mask, solid, fit.frame, bone, find)]
    others = [
        Repeat.between(other, fit.frame, _finder(bone, other, name, origin)(solid).frame)
        for other in METHODS[bone]
        if other != method
    ]
    frame = AnatomicalFrame(
        bone,
        side,
        method,
        fit.frame,
        labelmap.lineage.scanner_from_volume,
        covariance_of_repeats(tuple(repeats)),
        tuple(repeats),
        tuple(others),
        _numbers(fit),
        labelmap.name,
        labelmap.lineage.source,
    )
    _warn_if_turned(name, frame)
    return ShapedFrame(frame, solid, fit.faces)


def _finder(
    bone: str, method: str, name: str, origin: FemurOrigin
) -> Callable[[BoneSurface], FemurFit | TibiaFit]:
    """Return what finds the frame of a bone by a method. Raises InputError for an unknown one."""
    match bone, method:
        case "femur", "cylinder" | "spheres":
            return lambda solid: femur_frame(solid, method, name, origin)
        case "tibia", "plateau" | "section":
            return lambda solid: tibia_frame(solid, method, name)
    known = ", ".join(METHODS.get(bone, ()))
    raise InputError(
        "method",
        f"{method} is no method of a {bone}",
        f"one of {known}" if known else "a femur or a tibia",
        "choose another `method`, or state `landmarks`",
    )


def _repeats(
    mask: Volume,
    solid: BoneSurface,
    frame: np.ndarray,
    bone: str,
    find: Callable[[BoneSurface], FemurFit | TibiaFit],
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (change, frame, frame found again) of every repeat."""
    changed = {
        f"smoothing {smoothing:g} mm, not {SMOOTHING_MM:g}": bone_surface(mask, smoothing)
        for smoothing in SMOOTHINGS_MM
    }
    changed["voxels of twice the size"] = bone_surface(mask, coarsening=2)
    window = FEMUR_SHAFT_MM if bone == "femur" else TIBIA_SHAFT_MM
    shaft = find_shaft(solid, *window)
    for less in SHORTER_MM:
        length = shaft.length_mm - less
        if length >= max(SHORTEST_MM, LEAST_LENGTH_MM):
            changed[f"shaft {less:g} mm shorter"] = cropped(solid, shaft, length)
    changed["voxels of an oblique grid"] = bone_surface(on_oblique_grid(mask, OTHER_GRID_DEG))
    return [(change, frame, find(again).frame) for change, again in changed.items()]


def on_oblique_grid(mask: Volume, rotation_deg: Sequence[float]) -> Volume:
    """Return a mask (I, J, K) sampled on a grid turned about its centre, with the same spacing."""
    from scipy import ndimage

    turned = geometry.rotation_matrix(np.radians(rotation_deg))
    spacing = np.cbrt(np.prod(mask.spacing_mm))
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in mask.shape])).reshape(3, -1).T
    across = (geometry.apply(mask.affine, corners) - mask.isocentre_mm) @ turned
    low, high = across.min(axis=0), across.max(axis=0)
    affine = np.eye(4)
    affine[:3, :3] = turned * spacing
    affine[:3, 3] = mask.isocentre_mm + turned @ low
    size = tuple(int(n) for n in np.ceil((high - low) / spacing) + 1)
    index = geometry.invert(mask.affine) @ affine
    data = ndimage.affine_transform(
        mask.data.astype(np.float32), index[:3, :3], index[:3, 3], size, order=1
    )
    return replace(mask, data=data > 0.5, affine=affine)


def cropped(solid: BoneSurface, shaft: Shaft, length_mm: float) -> BoneSurface:
    """Return a bone without what is farther than ``length_mm`` from its end at the joint."""
    kept = solid.part(shaft.heights(solid.centres) < length_mm)
    return replace(kept, solid=solid.solid[shaft.heights(solid.solid) < length_mm])


def _numbers(fit: FemurFit | TibiaFit) -> dict[str, Any]:
    """Return what a fit says of the shape, in plain numbers."""
    if isinstance(fit, FemurFit):
        return {
            "radii_mm": [round(radius, 2) for radius in fit.radii_mm],
            "residual_mm": round(fit.residual_mm, 3),
            "to_condyles_tangent_deg": round(fit.to_tangent_deg, 2),
            "origin": fit.origin,
        }
    return {"width_mm": round(fit.width_mm, 1), "width_by_depth": round(fit.wider, 2)}


def _warn_if_turned(name: str, frame: AnatomicalFrame) -> None:
    """Log a warning if the frame's right is the scanner's left."""
    right = float(np.degrees(np.arccos(np.clip(frame.scanner_from_frame[0, 2], -1, 1))))
    if right > MOST_TURNED_DEG:
        logger.warning(
            f"{name}: by its shape, the subject's right is {right:.0f} degrees from the scanner's"
            " right; check the picture, unless the scan was turned"
        )


def frame_of_axes(
    volume: Volume, bone: str, side: Side, axes: str, origin_mm: Sequence[float] = (0.0, 0.0, 0.0)
) -> AnatomicalFrame:
    """Return a frame along the axes of a file, as those of an implant's STL.

    ``axes`` names the directions of the file for X (anterior), Y (proximal) and Z (the subject's
    right): "y,z,x", or "-x,z,y". ``origin_mm`` is in the volume frame. Raises InputError unless
    they are three different axes in right-handed order.
    """
    words = [word.strip().removeprefix("+") for word in axes.split(",")]
    unit = {"x": [1, 0, 0], "y": [0, 1, 0], "z": [0, 0, 1]}
    if len(words) != 3 or any(word.removeprefix("-") not in unit for word in words):
        raise InputError("axes", f"is {axes!r}", 'three axes such as "y,z,x"', "correct `axes`")
    columns = np.array(
        [np.array(unit[w.removeprefix("-")], float) * (-1 if w[0] == "-" else 1) for w in words]
    ).T
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = columns, origin_mm
    scanner_from_frame = volume.lineage.scanner_from_volume @ frame
    determinant = np.linalg.det(scanner_from_frame[:3, :3])
    if not np.isclose(determinant, 1):
        found = "mirrors the bone" if np.isclose(determinant, -1) else "names an axis twice"
        raise InputError(
            "axes", f"{axes!r} {found}", "a right-handed frame of three axes", "correct `axes`"
        )
    lineage = volume.lineage
    return AnatomicalFrame(
        bone,
        side,
        "axes",
        scanner_from_frame,
        lineage.scanner_from_volume,
        volume=volume.name,
        source=lineage.source,
    )


def frame_of_axes_points(
    bone: str, origin: np.ndarray, right: np.ndarray, proximal: np.ndarray
) -> np.ndarray:
    """Return scanner_from_frame (4, 4) of an origin and two directions (3,).

    A femur keeps the direction to the right and turns the other one; other bones keep the long
    axis (Wu et al., J Biomech 35:543, 2002).
    """
    right, proximal = right / np.linalg.norm(right), proximal / np.linalg.norm(proximal)
    if bone == "femur":
        proximal = proximal - (proximal @ right) * right
    else:
        right = right - (right @ proximal) * proximal
    right, proximal = right / np.linalg.norm(right), proximal / np.linalg.norm(proximal)
    frame = geometry.translation(origin)
    frame[:3, :3] = np.stack([np.cross(proximal, right), proximal, right], axis=1)
    return frame
