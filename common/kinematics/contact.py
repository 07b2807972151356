"""Distances between the bones of a knee over a movement: how near, and where on the plateau.

A CT shows no cartilage. These are distances between bone surfaces, which include the cartilage of
both sides and the meniscus; the nearest point of the bones is near, but not at, the contact of the
joint (Anderst and Tashman, J Biomech 36:1291, 2003, use such distances to compare movements of one
knee).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import files, geometry
from common.errors import InputError
from common.kinematics.bone_surface import bone_mask, bone_mesh
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.joint_coordinates import Side
from common.kinematics.movement import BAND, Movement
from common.volume.mesh import is_surface, read_mesh
from common.volume.nifti import load_labelmap

COMPARTMENTS = ("medial", "lateral")
PLATEAU_MM = 16.0  # the plateau is within this distance of the highest point
FACING_UP = 0.7  # n . Y of its faces, 46 degrees: the slope of a plateau is up to 15
# half the width of the strip between both compartments: the spines of the eminence lie in it, and
# face the notch rather than a condyle
EMINENCE_MM = 12.0
# bone surfaces that bear load are up to about 6 mm apart: twice 2 to 3 mm of cartilage
NEAR_MM = 6.0
LEAST_POINTS = 200  # of each compartment
AWAY_MM = 60.0  # of a frame's origin from its bone, at most


@dataclass(frozen=True, eq=False)
class Mesh:
    """The surface of a bone in its anatomical frame, mm, outward triangles."""

    vertices: np.ndarray  # (V, 3)
    triangles: np.ndarray  # (T, 3)


@dataclass(frozen=True, eq=False)
class Plateau:
    """Points of the tibial plateau in the tibia's frame."""

    points: np.ndarray  # (P, 3)
    areas: np.ndarray  # (P,) mm²
    lateral: np.ndarray  # (P,) whether of the lateral compartment

    def compartment(self, name: str) -> np.ndarray:
        """Return the mask (P,) of the medial or lateral points."""
        return self.lateral if name == "lateral" else ~self.lateral


@dataclass(frozen=True, eq=False)
class Contact:
    """Distances of a plateau to the femur in N frames; NaN without a pose."""

    plateau: Plateau
    distances: np.ndarray  # (N, P) mm; negative inside the femur
    nearest: np.ndarray  # (N, 2) point of the least distance, medial and lateral; -1 without a pose
    least: np.ndarray  # (N, 2) mm
    half: np.ndarray  # (N, 2) half the width of their 95 % band from the poses, mm

    def places(self) -> np.ndarray:
        """Return the points (N, 2, 3) of the least distances in the tibia's frame."""
        found = self.plateau.points[self.nearest]
        found[self.nearest < 0] = np.nan
        return found

    def near_areas(self, near_mm: float = NEAR_MM) -> np.ndarray:
        """Return the areas (N, 2) of the plateau nearer than ``near_mm``, mm²."""
        inside = np.where(self.distances < near_mm, self.plateau.areas, 0.0)
        areas = np.stack(
            [inside[:, self.plateau.compartment(name)].sum(axis=1) for name in COMPARTMENTS], axis=1
        )
        return np.where(np.isfinite(self.least), areas, np.nan)


def load_mesh(path: Path, frame: AnatomicalFrame) -> Mesh:
    """Return the surface of a bone's labelmap or of an implant's file, in its anatomical frame.

    A labelmap without lineage is in the frame of the file that ``frame`` was found in. Raises
    InputError if it is not the bone of the frame.
    """
    if is_surface(path):
        found = read_mesh(path)
        vertices = geometry.apply(frame.scanner_from_volume, found.vertices)
        triangles = found.triangles
        if np.linalg.det(frame.scanner_from_volume[:3, :3]) < 0:
            triangles = triangles[:, ::-1]
    else:
        labelmap = load_labelmap(path)
        if not labelmap.lineage.history:
            placed_by = replace(labelmap.lineage, scanner_from_volume=frame.scanner_from_volume)
            labelmap = replace(labelmap, lineage=placed_by)
        vertices, triangles = bone_mesh(bone_mask(labelmap))
    placed = geometry.apply(geometry.invert(frame.scanner_from_frame), vertices)
    away = float(np.linalg.norm(placed, axis=1).min())
    if away > AWAY_MM:
        raise InputError(
            path,
            f"is {away:.0f} mm away from the frame of the {frame.bone}",
            f"the {frame.bone} whose frame it is",
            "give the labelmap of the volume that the frame was found in, femur first",
        )
    return Mesh(placed, triangles)


def plateau_of(tibia: Mesh, side: Side, name: str = "the tibia") -> Plateau:
    """Return the points of a tibia's plateau: its faces that look up, near the highest point.

    Raises InputError if a compartment has too few.
    """
    corners = tibia.vertices[tibia.triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    areas = np.linalg.norm(cross, axis=1)
    centres = corners.mean(axis=1)
    up = cross[:, 1] > FACING_UP * areas
    high = centres[:, 1] > tibia.vertices[:, 1].max() - PLATEAU_MM
    across = centres[:, 2] * (1 if side == "right" else -1)
    kept = up & high & (np.abs(across) > EMINENCE_MM)
    plateau = Plateau(centres[kept], areas[kept], across[kept] > 0)
    for each in COMPARTMENTS:
        count = int(plateau.compartment(each).sum())
        if count < LEAST_POINTS:
            raise InputError(
                name,
                f"shows {count} triangles of a {each} plateau",
                f"at least {LEAST_POINTS}",
                "give the labelmap of the whole proximal tibia, and its frame",
            )
    return plateau


def contact(found: Movement, femur: Mesh, plateau: Plateau) -> Contact:
    """Return the distances of a plateau to the femur in every frame.

    The distance is that to the nearest point of the femur's triangles, negative inside. The band of
    the least distance is first-order: a relative twist (w, t) of the tibia about the femur's origin
    changes the distance at a point q with the femur's normal n by (q x n) . w + n . t.
    """
    import pyvista

    surface = pyvista.PolyData.from_regular_faces(femur.vertices, femur.triangles)
    normals = np.asarray(surface.compute_normals(point_normals=False).cell_normals, float)
    count = len(found.names)
    distances = np.full((count, len(plateau.points)), np.nan)
    nearest = np.full((count, 2), -1)
    least, half = np.full((count, 2), np.nan), np.full((count, 2), np.nan)
    sides = [np.flatnonzero(plateau.compartment(name)) for name in COMPARTMENTS]
    for number in found.known:
        points = geometry.apply(found.proximal_from_distal[number], plateau.points)
        cells, places = surface.find_closest_cell(points, return_closest_point=True)
        offsets = points - places
        lengths = np.linalg.norm(offsets, axis=1)
        inside = np.einsum("pi,pi->p", offsets, normals[cells]) < 0
        distances[number] = np.where(inside, -lengths, lengths)
        for which, members in enumerate(sides):
            best = members[distances[number][members].argmin()]
            normal, point = normals[cells[best]], points[best]
            slope = np.r_[np.cross(point, normal), normal]
            nearest[number, which], least[number, which] = best, distances[number, best]
            half[number, which] = BAND * np.sqrt(slope @ found.relative_covariances[number] @ slope)
    return Contact(plateau, distances, nearest, least, half)


def columns() -> list[str]:
    """Return the columns of `as_table`."""
    parts = ("distance_mm", "distance_mm_low", "distance_mm_high", "AP_mm", "ML_mm", "near_mm2")
    return ["frame", "time_s", *(f"{name}_{part}" for name in COMPARTMENTS for part in parts)]


def as_table(found: Contact, names: Sequence[str], times: np.ndarray | None, side: Side) -> str:
    """Return the CSV table, a row per frame: least distance, its place on the plateau, near area.

    AP is anterior and ML lateral of the tibia's origin.
    """
    lateral = 1 if side == "right" else -1
    places, areas = found.places(), found.near_areas()
    rows = []
    for number, name in enumerate(names):
        row = {"frame": name, "time_s": "" if times is None else f"{times[number]:.6f}"}
        for which in range(len(COMPARTMENTS)):
            least, half = found.least[number, which], found.half[number, which]
            x, _, z = places[number, which]
            numbers = (least, least - half, least + half, x, lateral * z, areas[number, which])
            cells = [f"{value:.4f}" if np.isfinite(value) else "" for value in numbers]
            start = 2 + 6 * which
            row |= dict(zip(columns()[start : start + 6], cells, strict=True))
        rows.append(row)
    return files.as_csv(rows, columns())
