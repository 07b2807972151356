"""Joint coordinates: the six numbers of a knee (Grood and Suntay), and those of any other joint.

Frames of both bones, on both sides: X anterior, Y proximal, Z to the subject's right, right-handed,
millimetres. These are the axes that the International Society of Biomechanics recommends (Wu et
al., J Biomech 35:543, 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from common import geometry
from common.errors import InputError

Side: TypeAlias = Literal["left", "right"]

# of a knee, in the order of every array of six numbers; + is flexion, varus (the ankle towards the
# midline), internal rotation of the tibia, tibia lateral, tibia anterior, distraction
KNEE_COLUMNS = ("FE_deg", "VV_deg", "IE_deg", "ML_mm", "AP_mm", "PD_mm")
# Z to the subject's right, so that a mirror along it exchanges left and right
SAGITTAL_MIRROR = np.diag([1.0, 1.0, -1.0, 1.0])


def knee_coordinates(
    world_from_femur: np.ndarray, world_from_tibia: np.ndarray, side: Side
) -> np.ndarray:
    """Return the six numbers (..., 6) of poses (..., 4, 4), columns as in `KNEE_COLUMNS`.

    Flexion is about the femur's Z, internal rotation about the tibia's Y, varus about the floating
    axis perpendicular to both; the translations are those of the tibia's origin relative to the
    femur's, projected on these three axes (Grood and Suntay, J Biomech Eng 105:136, 1983). The
    numbers of a left knee are those of its mirror image.
    """
    sign = _sign(side)
    femur, tibia = np.asarray(world_from_femur, float), np.asarray(world_from_tibia, float)
    flexion_axis, long_axis = femur[..., :3, 2], tibia[..., :3, 1]
    floating = np.cross(long_axis, flexion_axis)
    floating /= np.linalg.norm(floating, axis=-1, keepdims=True)
    offset = tibia[..., :3, 3] - femur[..., :3, 3]
    flexion = np.arctan2(-_dot(floating, femur[..., :3, 1]), _dot(floating, femur[..., :3, 0]))
    varus = np.arcsin(np.clip(_dot(flexion_axis, long_axis), -1, 1))
    internal = np.arctan2(_dot(floating, tibia[..., :3, 2]), _dot(floating, tibia[..., :3, 0]))
    angles = np.degrees(np.stack([flexion, sign * varus, sign * internal], axis=-1))
    shifts = [sign * _dot(offset, flexion_axis), _dot(offset, floating), -_dot(offset, long_axis)]
    return np.concatenate([angles, np.stack(shifts, axis=-1)], axis=-1)


def tibia_from_coordinates(
    world_from_femur: np.ndarray, coordinates: np.ndarray, side: Side
) -> np.ndarray:
    """Return world_from_tibia (4, 4) of six numbers (6,): the inverse of `knee_coordinates`."""
    sign = _sign(side)
    flexion, varus, internal = np.radians(coordinates[:3])
    turned = (
        geometry.rotation_matrix([0, 0, -flexion])
        @ geometry.rotation_matrix([sign * varus, 0, 0])
        @ geometry.rotation_matrix([0, sign * internal, 0])
    )
    flexion_axis, long_axis = np.array([0.0, 0, 1]), turned[:, 1]
    floating = np.cross(long_axis, flexion_axis)
    axes = np.stack([flexion_axis, floating / np.linalg.norm(floating), long_axis])
    lateral, anterior, distal = coordinates[3:]
    femur_from_tibia = np.eye(4)
    femur_from_tibia[:3, :3] = turned
    femur_from_tibia[:3, 3] = np.linalg.solve(axes, [sign * lateral, anterior, -distal])
    return np.asarray(world_from_femur, float) @ femur_from_tibia


def cardan_columns(order: str) -> tuple[str, ...]:
    """Return the names of the numbers of `cardan_coordinates`: Z_deg, X_deg, Y_deg, X_mm, ...

    An axis that occurs twice is numbered: Y1_deg, X_deg, Y2_deg. Raises InputError for an order
    other than three axes of which no two neighbours are the same.
    """
    if len(order) != 3 or set(order) - set("XYZ") or order[0] == order[1] or order[1] == order[2]:
        raise InputError(
            "order",
            f"is {order!r}",
            "three of X, Y and Z, such as ZXY, with no axis twice in a row",
            "correct `order`",
        )
    proper = order[0] == order[2]
    names = [f"{order[0]}1", order[1], f"{order[2]}2"] if proper else list(order)
    return (*(f"{name}_deg" for name in names), "X_mm", "Y_mm", "Z_mm")


def cardan_coordinates(
    world_from_proximal: np.ndarray, world_from_distal: np.ndarray, side: Side, order: str = "ZXY"
) -> np.ndarray:
    """Return rotation and position (..., 6) of a distal bone in the frame of the proximal bone.

    The angles (degrees) are turns about the axes of the moving bone in the ``order``, from the
    proximal to the distal frame; the position (mm) is that of the distal origin along the
    proximal axes. A left joint is mirrored to a right one first, as ISB recommends, so that both
    sides have the same signs. Columns are those of `cardan_columns`. Where the second angle makes
    the first and third axis parallel, the third angle is 0. Raises InputError as `cardan_columns`.
    """
    from scipy.spatial.transform import Rotation

    cardan_columns(order)
    moved = geometry.invert(np.asarray(world_from_proximal, float)) @ world_from_distal
    if _sign(side) < 0:
        moved = SAGITTAL_MIRROR @ moved @ SAGITTAL_MIRROR
    flat = moved.reshape(-1, 4, 4)
    angles = Rotation.from_matrix(flat[:, :3, :3]).as_euler(
        order, degrees=True, suppress_warnings=True
    )
    return np.concatenate([angles, flat[:, :3, 3]], axis=1).reshape(*moved.shape[:-2], 6)


def unwrapped(coordinates: np.ndarray, angles: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Return numbers (N, 6) of a movement without jumps of 360 degrees in the ``angles`` columns.

    Rows of NaN (frames without a pose) are skipped.
    """
    continuous = np.array(coordinates, float)
    for column in angles:
        known = np.isfinite(continuous[:, column])
        continuous[known, column] = np.unwrap(continuous[known, column], period=360)
    return continuous


def _sign(side: Side) -> float:
    if side not in ("left", "right"):
        raise InputError("side", f"is {side!r}", "left or right", "state the side of the joint")
    return 1.0 if side == "right" else -1.0


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1)
