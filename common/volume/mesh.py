"""Surfaces of triangles: read with pyvista and nibabel, checked, closed and turned outside out.

STL, PLY, OBJ, VTP and GIFTI, in millimetres. Coordinates stay those of the file, and its frame
becomes the volume frame. Where the file states, as 3D Slicer does, that its axes are LPS, the
scanner's frame has others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.errors import InputError, reading
from common.geometry import RAS_FROM_LPS

if TYPE_CHECKING:
    import pyvista

GIFTI = ".gii"
ENDINGS = (".stl", ".ply", ".obj", ".vtp", GIFTI)
SURFACE = "a closed surface of triangles in mm (STL, PLY, OBJ, VTP or GIFTI)"
UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
# longest side of a bone or an implant; what is smaller is in another unit
LEAST_SIDE_MM, MOST_SIDE_MM, LEAST_SIDE_OF_INCHES = 8.0, 1200.0, 0.3
MOST_TRIANGLES = 5_000_000
# free edges that are closed, as a share of the surface's diagonal: gaps of an export, not a cut
MOST_HOLE = 0.05
LEAST_PART = 1e-3  # of the volume of all parts; smaller ones are debris
# 3D Slicer states the axes in the header of STL, in a comment of PLY and OBJ, in a field of VTP
SPACE = "SPACE"
STATED_SPACE, HEADER_BYTES = re.compile(rb"SPACE=(RAS|LPS)"), 2000


@dataclass(frozen=True)
class Mesh:
    """A closed surface whose triangles are counterclockwise seen from outside."""

    vertices: np.ndarray  # (V, 3) mm in the volume frame
    triangles: np.ndarray  # (T, 3) vertex numbers
    path: Path
    remarks: tuple[str, ...] = ()  # what was repaired
    scanner_from_file: np.ndarray = field(default_factory=lambda: np.eye(4))  # (4, 4), RAS mm

    @property
    def volume_mm3(self) -> float:
        """Enclosed volume (divergence theorem)."""
        return float(np.sum(signed_volumes(self.vertices, self.triangles)))


def is_surface(path: str | Path) -> bool:
    """Return whether a path has the ending of a surface."""
    return Path(path).suffix.lower() in ENDINGS


def read_mesh(path: str | Path, unit: str | None = None) -> Mesh:
    """Read a surface; ``unit`` (of `UNITS_MM`) is that of the file, by default checked mm.

    Small gaps are closed, parts that are inside out are turned, and debris is dropped, with a
    remark each. Raises InputError if the file is no surface, is open, or has a size of no bone or
    implant in millimetres.
    """
    path = files.existing_file(path, SURFACE)
    with reading(path, SURFACE, "export it again"):
        if path.suffix.lower() == GIFTI:
            (vertices, triangles), space = _gifti(path), "RAS"
        else:
            vertices, triangles, space = _polydata(path)
    _check(path, vertices, triangles)
    vertices = vertices * UNITS_MM[unit or "mm"]
    _check_size(path, vertices, unit)
    closed, holes = _closed(path, vertices, triangles)
    vertices, triangles, parts = _outside_out(closed)
    remarks = [remark for remark in (holes, *parts) if remark]
    placed = RAS_FROM_LPS if space == "LPS" else np.eye(4)
    return Mesh(vertices, triangles, path, tuple(remarks), placed)


def write_mesh(
    path: Path, vertices: np.ndarray, triangles: np.ndarray, space: str | None = None
) -> None:
    """Write vertices (V, 3) and triangles (T, 3) as binary STL or PLY, by the ending.

    ``space``, "RAS" or "LPS", is stated in the file as by 3D Slicer.
    """
    import pyvista
    import vtk

    surface = pyvista.PolyData.from_regular_faces(vertices.astype(np.float32), triangles)
    stated = f"{SPACE}={space}" if space else "surface"
    if path.suffix.lower() == ".stl":
        writer = vtk.vtkSTLWriter()
        writer.SetHeader(stated)
    else:
        writer = vtk.vtkPLYWriter()
        writer.AddComment(stated)
    writer.SetInputData(surface)
    writer.SetFileTypeToBinary()
    with files.atomic(path) as partial:
        writer.SetFileName(str(partial))
        if not writer.Write():
            raise OSError(f"{path} cannot be written")


def _polydata(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Return vertices (V, 3) and triangles (T, 3) of any format of VTK, equal vertices merged.

    The third value is the space that the file states, "RAS" if it states none.
    """
    import pyvista
    import vtk

    vtk.vtkObject.GlobalWarningDisplayOff()
    found = pyvista.read(path)
    if not isinstance(found, pyvista.PolyData):
        raise InputError(path, f"holds a {type(found).__name__}", SURFACE, "export its surface")
    surface = found.triangulate().clean()  # triangles without area become lines or points
    if surface.n_faces == 0:
        raise InputError(path, "holds no triangles", SURFACE, "export the surface, not points")
    triangles = surface.faces.reshape(-1, 4)[:, 1:]
    return (
        np.asarray(surface.points, float),
        np.asarray(triangles, np.int64),
        _stated_space(path, found),
    )


def _stated_space(path: Path, found: pyvista.PolyData) -> str:
    """Return the space of the coordinates, "RAS" or "LPS", that a file states."""
    if SPACE in found.field_data:
        return str(found.field_data[SPACE][0])
    with open(path, "rb") as stream:
        stated = STATED_SPACE.search(stream.read(HEADER_BYTES))
    return stated[1].decode() if stated else "RAS"


def _gifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and triangles of a GIFTI file, in the space of its coordinates."""
    import nibabel

    image = nibabel.load(path)
    if not isinstance(image, nibabel.GiftiImage):
        raise InputError(path, f"is a {type(image).__name__}", SURFACE, "export its surface")
    points = image.agg_data("NIFTI_INTENT_POINTSET")
    triangles = image.agg_data("NIFTI_INTENT_TRIANGLE")
    if not (len(points) and len(triangles)):
        raise InputError(path, "holds no triangles", SURFACE, "choose a .surf.gii")
    return np.asarray(points, float), np.asarray(triangles, np.int64)


def _check(path: Path, vertices: np.ndarray, triangles: np.ndarray) -> None:
    """Raise InputError if coordinates are not finite, or there are too few or many triangles."""
    if not np.isfinite(vertices).all():
        raise InputError(path, "has coordinates that are not finite", SURFACE, "export it again")
    if not 4 <= len(triangles) <= MOST_TRIANGLES:
        raise InputError(
            path,
            f"has {len(triangles):,} triangles",
            f"4 to {MOST_TRIANGLES:,}",
            "simplify it (quadric decimation keeps the shape)",
        )


def _check_size(path: Path, vertices: np.ndarray, unit: str | None) -> None:
    """Raise InputError if the longest side is that of no bone or implant, naming other units."""
    side = float(np.ptp(vertices, axis=0).max())
    if LEAST_SIDE_MM <= side <= MOST_SIDE_MM:
        return
    stated = UNITS_MM[unit or "mm"]
    fitting = [
        f"{name} ({side / stated * mm:.0f} mm)"
        for name, mm in UNITS_MM.items()
        if LEAST_SIDE_MM <= side / stated * mm <= MOST_SIDE_MM
    ]
    raise InputError(
        path,
        f"its longest side is {side:.3g} mm",
        f"{LEAST_SIDE_MM:.0f} to {MOST_SIDE_MM:.0f} mm",
        f"it may be in {' or '.join(fitting)}: convert it with pipeline/import_mesh.py and `unit`"
        if fitting
        else "check the file",
    )


def _closed(
    path: Path, vertices: np.ndarray, triangles: np.ndarray
) -> tuple[pyvista.PolyData, str]:
    """Return the surface with small gaps closed, and what was closed in words.

    Raises InputError if a gap is large: the surface is cut or lacks a part.
    """
    import pyvista

    surface = pyvista.PolyData.from_regular_faces(vertices, triangles)
    if not surface.n_open_edges:
        return surface, ""
    free_mm = surface.extract_feature_edges(
        feature_edges=False, non_manifold_edges=False, manifold_edges=False
    ).length  # the diagonal of their box
    diagonal = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    closed = surface.fill_holes(max(MOST_HOLE * diagonal, 1e-6)).triangulate()
    if closed.n_open_edges:
        raise InputError(
            path,
            f"is open: {surface.n_open_edges} free edges, over {free_mm:.0f} mm",
            "a closed surface",
            "close it (Blender, MeshLab, 3D Slicer), or export the whole part",
        )
    return closed, f"{surface.n_open_edges} free edges around small gaps were closed"


def _outside_out(surface: pyvista.PolyData) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return vertices and triangles with all parts turned outside out, and remarks.

    A part inside another one that is turned inwards is a cavity, and stays.
    """
    oriented = surface.compute_normals(
        cell_normals=True,
        point_normals=False,
        consistent_normals=True,
        split_vertices=False,
        auto_orient_normals=False,
    )
    vertices = np.asarray(oriented.points, float)
    triangles = np.asarray(oriented.regular_faces, np.int64)
    numbers = parts_of(triangles, len(vertices))
    volumes = np.bincount(numbers, signed_volumes(vertices, triangles))
    kept = np.flatnonzero(np.abs(volumes) > LEAST_PART * np.abs(volumes).sum())
    remarks = []
    if len(kept) < len(volumes):
        remarks.append(f"{len(volumes) - len(kept)} specks were left out")
    corners = [vertices[triangles[numbers == part].ravel()] for part in kept]
    lows, highs = (np.array([get(c, axis=0) for c in corners]) for get in (np.min, np.max))
    turned = []
    for index, part in enumerate(kept):
        inside = (lows[index] > lows).all(axis=1) & (highs[index] < highs).all(axis=1)
        if volumes[part] < 0 and not inside.any():
            turned.append(part)
    if turned:
        these = np.isin(numbers, turned)
        triangles[these] = triangles[these][:, ::-1]
        remarks.append("it was inside out and was turned")
    solid = sum(volumes[part] > 0 or part in turned for part in kept)
    if solid > 1:
        remarks.append(
            f"{solid} separate parts are registered as one rigid body; give parts that move as"
            " files of their own"
        )
    return vertices, triangles[np.isin(numbers, kept)], remarks


def parts_of(triangles: np.ndarray, vertices: int) -> np.ndarray:
    """Return the number of the connected part of each triangle (T,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.concatenate([triangles[:, 0], triangles[:, 1]])
    columns = np.concatenate([triangles[:, 1], triangles[:, 2]])
    edges = coo_array((np.ones(len(rows), np.int8), (rows, columns)), (vertices, vertices))
    _, of_vertex = connected_components(edges, directed=False)
    _, numbers = np.unique(of_vertex[triangles[:, 0]], return_inverse=True)
    return numbers


def signed_volumes(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return the volume (T,) of the tetrahedra from the origin to each triangle, mm^3."""
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    return np.einsum("ti,ti->t", a, np.cross(b, c)) / 6
