"""Calibrations of XMALab: MayaCam 2.0 and 1."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.geometry import rotation_matrix
from common.xray.pinhole import Pinhole, table_of

# (rows, columns) of the sections of MayaCam 2.0
SECTIONS = {
    "image size": (1, 2),
    "camera matrix": (3, 3),
    "rotation": (3, 3),
    "translation": (3, 1),
}
# a MayaCam 1 whose film plane has smaller pixels than this is in centimetres or metres
LEAST_PIXEL_MM = 0.03


def mayacam_2(path: Path, text: str) -> Pinhole:
    """Return the camera of named sections, each with rows of numbers."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blocks, used = {}, set()
    for name, (rows, columns) in SECTIONS.items():
        starts = [i for i, line in enumerate(lines) if line.lower() == name]
        if len(starts) != 1:
            raise InputError(
                path,
                f"has {len(starts)} sections '{name}'",
                "one, as exported by XMALab",
                "export MayaCams 2.0 again",
            )
        first = starts[0] + 1
        used |= set(range(starts[0], first + rows))
        blocks[name] = table_of(
            path, lines[first : first + rows], rows, columns, f"section '{name}'"
        )
    _check_rest(path, [line for i, line in enumerate(lines) if i not in used])
    width, height = blocks["image size"][0]
    return Pinhole(
        int(width),
        int(height),
        blocks["camera matrix"],
        blocks["rotation"],
        blocks["translation"][:, 0],
    )


def _check_rest(path: Path, lines: list[str]) -> None:
    """Raise InputError if there are further sections, unless they hold only zeros (no lens)."""
    names = [line for line in lines if re.search(r"[A-Za-z]{2}", line)]
    values = [v for line in lines if line not in names for v in re.split(r"[,;\s]+", line) if v]
    zeros = all(re.fullmatch(r"[-+]?0*\.?0*([eE][-+]?\d+)?", value) for value in values)
    if lines and not (zeros and names):
        raise InputError(
            path,
            f"has a further section '{(names or lines)[0]}'",
            "the four sections of MayaCam 2.0: the camera of undistorted X-rays",
            "undistort the X-rays (XMALab does), and remove the section",
        )


def mayacam_1(path: Path, lines: list[str]) -> tuple[Pinhole, list[str], list[str]]:
    """Return the camera of five rows of three numbers, remarks and doubts.

    The rows are the source, the angles, the film plane, (u0, v0, -focal length) and (scale, width,
    height). The angles rotate Maya's camera (x right, y up, looking along -z) about z, then its new
    y, then its new x. u0 and v0 count pixels from 1, v0 upwards from the lower edge. The focal
    length is the mean of both axes. The film plane only shows the unit.
    """
    rows = table_of(path, lines, 5, 3, "MayaCam 1")
    source, (about_x, about_y, about_z), film, (u0, v0, depth), (_, width, height) = rows
    if width == 0 or height == 0:
        raise InputError(
            path,
            f"has an image size of {width:g} x {height:g}",
            "the size of the X-rays",
            "write width and height into its last line, or export MayaCams 2.0",
        )
    world_from_maya = _turn(2, about_z) @ _turn(1, about_y) @ _turn(0, about_x)
    rotation = np.diag([1.0, -1.0, -1.0]) @ world_from_maya.T
    matrix = np.array([[-depth, 0, u0 - 1], [0, -depth, height - v0], [0, 0, 1.0]])
    remark = "MayaCam 1, which has one focal length for both axes; its unit is assumed to be mm"
    doubts = []
    pixel = abs(film[2] / depth) if depth else 0.0
    if 0 < pixel < LEAST_PIXEL_MM:
        doubts.append(
            f"by its film plane, a pixel measures {pixel:.3g}; if the file is in centimetres,"
            " multiply its first row by 10"
        )
    camera = Pinhole(int(width), int(height), matrix, rotation, -rotation @ source)
    return camera, [f"{remark}; MayaCam 2.0 is more complete"], doubts


def _turn(axis: int, degrees: float) -> np.ndarray:
    """Return the 3x3 rotation about a coordinate axis."""
    return rotation_matrix(np.radians(degrees) * np.eye(3)[axis])
