"""Landmarks of a bone from 3D Slicer (.mrk.json) or CSV, and the anatomical frame they define."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, reading
from common.geometry import RAS_FROM_LPS
from common.kinematics.anatomical_frames import frame_of_axes_points
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.joint_coordinates import Side
from common.volume.volume import Volume

POINTS = ("medial", "lateral", "proximal", "distal")
ORIGIN = "origin"  # optional: else the middle of medial and lateral
PLANES = ("sagittal", "axial")  # with normals to the subject's right and proximal, or opposite
EXPECTED = (
    "points medial, lateral, proximal and distal, or planes sagittal and axial; origin is optional"
)
LEAST_APART_MM = 5.0
LEAST_ANGLE_DEG = 30.0  # between the two directions
# a plane has no front: its normal is turned towards the scanner's right or top, which must be
# within this angle
MOST_TURNED_DEG = 60.0


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points (3,) and planes (centre and unit normal, (3,) each) by name, RAS mm of the volume."""

    points: dict[str, np.ndarray] = field(default_factory=dict)
    planes: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def read_landmarks(path: str | Path) -> Landmarks:
    """Read landmarks in the frame of the volume, as Slicer shows it.

    A CSV file has a line ``name,x,y,z`` and a row per point, RAS mm. Raises InputError if the file
    is neither, or an entry is no finite position.
    """
    path = files.existing_file(path, "landmarks (.mrk.json of 3D Slicer, or CSV)")
    if path.suffix.lower() == ".json":
        content = files.read_json(path, "markups of 3D Slicer")
        with reading(path, "markups of 3D Slicer (.mrk.json)", "save the markups again"):
            found = _of_markups(content["markups"])
    elif path.suffix.lower() == ".csv":
        with reading(path, "a line name,x,y,z and a row per point, RAS mm", "correct the table"):
            found = _of_csv(path)
    else:
        raise InputError(path, f"ends in {path.suffix}", ".mrk.json or .csv", "save it as one")
    numbers = [*found.points.values(), *(part for plane in found.planes.values() for part in plane)]
    if not all(np.isfinite(number).all() for number in numbers):
        raise InputError(path, "a position is not finite", EXPECTED, "correct the landmarks")
    return found


def _of_markups(markups: list[Mapping[str, Any]]) -> Landmarks:
    """Return the landmarks of markups; what is missing or malformed raises as it comes."""
    points: dict[str, np.ndarray] = {}
    planes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for markup in markups:
        to_ras = RAS_FROM_LPS[:3, :3] if _is_lps(markup["coordinateSystem"]) else np.eye(3)
        controls = {
            str(point["label"]).strip().lower(): to_ras @ np.array(point["position"], float)
            for point in markup["controlPoints"]
            if point.get("positionStatus", "defined") == "defined"
        }
        if markup["type"] == "Plane":
            corners = list(controls.values())
            if "normal" in markup:
                normal = to_ras @ np.array(markup["normal"], float)
                centre = to_ras @ np.array(markup["center"], float)
            else:
                normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
                centre = np.mean(corners, axis=0)
            name = str(markup["name"]).strip().lower()
            planes[name] = centre, normal / np.linalg.norm(normal)
        else:
            points |= controls
    return Landmarks(points, planes)


def _is_lps(system: Any) -> bool:
    """Return whether coordinates are LPS; Slicer writes a name or, in old files, a number."""
    if system in ("LPS", 1, "1"):
        return True
    if system in ("RAS", 0, "0"):
        return False
    raise ValueError(f"coordinateSystem {system!r}")


def _of_csv(path: Path) -> Landmarks:
    with open(path, newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    return Landmarks(
        {
            row["name"].strip().lower(): np.array([row["x"], row["y"], row["z"]], float)
            for row in rows
        }
    )


def frame_by_landmarks(
    path: str | Path, landmarks: Landmarks, volume: Volume, bone: str, side: Side
) -> AnatomicalFrame:
    """Return the frame that landmarks in the frame of a volume define; ``path`` names their file.

    A femur keeps the line from medial to lateral, other bones the one from distal to proximal; the
    origin is the middle of medial and lateral, or the centre of the sagittal plane, unless a point
    ``origin`` is stated. Raises InputError if a landmark is missing, or the two lines are short or
    nearly parallel.
    """
    place = volume.lineage.scanner_from_volume
    points = {name: geometry.apply(place, point) for name, point in landmarks.points.items()}
    if set(POINTS) <= set(points):
        right = points["lateral"] - points["medial"]
        right = right if side == "right" else -right
        proximal = points["proximal"] - points["distal"]
        middle = (points["medial"] + points["lateral"]) / 2
        method = "landmarks"
    elif set(PLANES) <= set(landmarks.planes):
        right = _towards(path, place, landmarks, "sagittal", 0) * LEAST_APART_MM
        proximal = _towards(path, place, landmarks, "axial", 2) * LEAST_APART_MM
        middle = geometry.apply(place, landmarks.planes["sagittal"][0])
        method = "planes"
    else:
        named = ", ".join([*landmarks.points, *landmarks.planes]) or "nothing"
        raise InputError(path, f"names {named}", EXPECTED, "rename or add landmarks")
    lengths = np.linalg.norm([right, proximal], axis=1)
    cosine = abs(right @ proximal) / max(lengths.prod(), 1e-9)
    if lengths.min() < LEAST_APART_MM - 1e-9 or cosine > np.cos(np.radians(LEAST_ANGLE_DEG)):
        raise InputError(
            path,
            f"its lines are {lengths[0]:.0f} and {lengths[1]:.0f} mm long,"
            f" {np.degrees(np.arccos(min(cosine, 1))):.0f} degrees apart",
            f"at least {LEAST_APART_MM:g} mm and {LEAST_ANGLE_DEG:g} degrees",
            "correct the landmarks",
        )
    frame = frame_of_axes_points(bone, points.get(ORIGIN, middle), right, proximal)
    return AnatomicalFrame(
        bone, side, method, frame, place, volume=volume.name, source=volume.lineage.source
    )


def _towards(
    path: str | Path, place: np.ndarray, landmarks: Landmarks, name: str, axis: int
) -> np.ndarray:
    """Return the normal (3,) of a plane in the scanner frame, turned towards one of its axes."""
    normal = place[:3, :3] @ landmarks.planes[name][1]
    if abs(normal[axis]) < np.cos(np.radians(MOST_TURNED_DEG)):
        raise InputError(
            path,
            f"the normal of plane {name} is {np.degrees(np.arccos(abs(normal[axis]))):.0f} degrees"
            f" from the scanner's {'right' if axis == 0 else 'upward axis'}",
            f"at most {MOST_TURNED_DEG:g}, to know its direction",
            "state points instead of planes",
        )
    return normal * np.sign(normal[axis])
