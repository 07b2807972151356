"""Formats of an X-ray calibration, each as a pinhole camera.

MayaCam 2.0 and 1 (XMALab), JSON with K, R and t, the camera JSON of SlicerAutoscoperM (VTK), YAML
of OpenCV, and a 3x4 projection matrix as text, JSON, NumPy or MATLAB file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading
from common.geometry import rotation_matrix
from common.xray.lens import Lens

EXPECTED = (
    "an X-ray calibration (MayaCam 2.0 or 1, JSON with K, R, t, JSON of a VTK camera, OpenCV YAML,"
    " or a 3x4 matrix)"
)
KEYS_EXPECTED = "K (3x3), R (3x3), t (3, mm) and image_size [width, height]"
# (rows, columns) of the sections of MayaCam 2.0
SECTIONS = {
    "image size": (1, 2),
    "camera matrix": (3, 3),
    "rotation": (3, 3),
    "translation": (3, 1),
}
MATRIX_FILES = (".npy", ".mat")
VTK_KEYS = ("camera-position", "focal-point", "view-up", "view-angle")
# names of a 3x4 matrix in JSON or MATLAB files
MATRIX_KEYS = ("P", "projection", "projection_matrix", "camera_projection")
# a name like these states lens terms; the first group are those in OpenCV's order
LENS_KEYS = ("distortion", "dist", "D", "dist_coeffs", "distCoeffs", "distortion_coefficients")
SINGLE_TERMS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
LENS_NAME = re.compile(r"dist|^[kp][1-9]$|lens|radial|tangential", re.IGNORECASE)
# a MayaCam 1 whose film plane has smaller pixels than this is in centimetres or metres
LEAST_PIXEL_MM = 0.03
SKEW_PX = 1.0  # largest skew of a 3x4 matrix that counts as none


@dataclass(frozen=True)
class Pinhole:
    """OpenCV's pinhole model, as stated in a file: pixel = K (R P + t) / z."""

    width: int  # 0 if the file does not state the size
    height: int
    matrix: np.ndarray  # (3, 3) K
    rotation: np.ndarray  # (3, 3) R
    shift: np.ndarray  # (3,) t, mm
    lens: Lens | None = None


def parse(path: Path) -> tuple[Pinhole, list[str], list[str]]:
    """Return the camera stated in a file of any format, remarks on it, and doubts.

    Raises InputError if the file is of no known format.
    """
    if path.suffix.lower() in MATRIX_FILES:
        return camera_of_matrix(path, _matrix_file(path)), [f"3x4 matrix ({path.suffix[1:]})"], []
    text = files.read_text(path, EXPECTED)
    start = text.lstrip()
    if start.startswith("{"):
        return _json(path, files.read_json(path, EXPECTED))
    if start.startswith("%YAML"):
        return _opencv(path, _yaml(path, text)), ["OpenCV YAML"], []
    if start.lower().startswith("image size"):
        return _mayacam_2(path, text), ["MayaCam 2.0"], []
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 3:
        return camera_of_matrix(path, _numbers(path, lines, 3, 4, "the matrix")), ["3x4 matrix"], []
    return _mayacam_1(path, lines)


# ----------------------------------------------------------------------------------------- MayaCam


def _mayacam_2(path: Path, text: str) -> Pinhole:
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
        blocks[name] = _numbers(
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


def _mayacam_1(path: Path, lines: list[str]) -> tuple[Pinhole, list[str], list[str]]:
    """Return the camera of five rows of three numbers, remarks and doubts.

    The rows are the source, the angles, the film plane, (u0, v0, -focal length) and (scale, width,
    height). The angles rotate Maya's camera (x right, y up, looking along -z) about z, then its new
    y, then its new x. u0 and v0 count pixels from 1, v0 upwards from the lower edge. The focal
    length is the mean of both axes. The film plane only shows the unit.
    """
    rows = _numbers(path, lines, 5, 3, "MayaCam 1")
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


# -------------------------------------------------------------------------------------------- JSON


def _json(path: Path, content: dict[str, Any]) -> tuple[Pinhole, list[str], list[str]]:
    """Return the camera of a JSON object: K, R, t; a VTK camera; or a 3x4 matrix."""
    if all(key in content for key in VTK_KEYS):
        return _vtk(path, content), ["VTK camera of SlicerAutoscoperM"], []
    for key in MATRIX_KEYS:
        if key in content:
            camera = camera_of_matrix(path, _array(path, content, key, (3, 4)))
            if "image_size" in content:
                width, height = _array(path, content, "image_size", (2,))
                camera = replace(camera, width=int(width), height=int(height))
            return _with_lens(path, camera, content), [f"3x4 matrix {key}"], []
    missing = [key for key in ("K", "R", "t", "image_size") if key not in content]
    if missing:
        raise InputError(path, f"has no {', '.join(missing)}", KEYS_EXPECTED, "add them")
    width, height = _array(path, content, "image_size", (2,))
    matrix, rotation = (_array(path, content, key, (3, 3)) for key in ("K", "R"))
    shift = _array(path, content, "t", (3,))
    camera = Pinhole(int(width), int(height), matrix, rotation, shift)
    return _with_lens(path, camera, content), ["JSON with K, R and t"], []


def _vtk(path: Path, content: dict[str, Any]) -> Pinhole:
    """Return the camera of VTK's position, focal point, view up and vertical view angle (degrees).

    Its principal point is the centre of the image.
    """
    source, target, up = (_array(path, content, key, (3,)) for key in VTK_KEYS[:3])
    (angle,) = _array(path, {"view-angle": [content["view-angle"]]}, "view-angle", (1,))
    size = {"size": [content.get("image-width"), content.get("image-height")]}
    width, height = _array(path, size, "size", (2,))
    forward = target - source
    right = np.cross(forward, up)
    if not (0 < angle < 180 and np.linalg.norm(forward) > 0 and np.linalg.norm(right) > 0):
        raise InputError(
            path,
            f"has a view angle of {angle:g} degrees, or a focal point at the camera",
            "a VTK camera",
            "export it again",
        )
    down = np.cross(forward, right)
    rotation = np.stack([v / np.linalg.norm(v) for v in (right, down, forward)])
    focal = height / 2 / np.tan(np.radians(angle) / 2)
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Pinhole(int(width), int(height), matrix, rotation, -rotation @ source)


def _with_lens(path: Path, camera: Pinhole, content: dict[str, Any]) -> Pinhole:
    """Return the camera with the lens terms of a file's entries.

    Raises InputError if they are in an order that is not known.
    """
    named = [key for key in content if LENS_NAME.search(key) or key == "D"]
    stated = [key for key in named if _says_something(content[key])]
    if not stated:
        return camera
    if all(key in SINGLE_TERMS for key in stated):
        terms = [float(content.get(key) or 0) for key in SINGLE_TERMS]
    elif len(stated) == 1 and stated[0] in LENS_KEYS:
        terms = content[stated[0]]
    else:
        raise InputError(
            path,
            f"states lens distortion ({', '.join(stated)})",
            f"{' '.join(SINGLE_TERMS)}, or {LENS_KEYS[0]} in that order, as OpenCV has them",
            "name them so, or undistort the X-rays and leave them out",
        )
    try:
        return replace(camera, lens=Lens.of(np.array(terms, float), camera.matrix))
    except (TypeError, ValueError):
        raise InputError(
            path,
            f"has lens terms in {stated[0]} that are not 4, 5 or 8 numbers",
            f"{' '.join(SINGLE_TERMS)}",
            "correct them, or undistort the X-rays and leave them out",
        ) from None


def _says_something(value: Any) -> bool:
    """Return whether an entry is there and not zero."""
    if isinstance(value, str | dict):
        return bool(value)
    return value is not None and bool(np.any(np.array(value, dtype=object) != 0))


# ------------------------------------------------------------------------------------- OpenCV YAML


def _yaml(path: Path, text: str) -> dict[str, Any]:
    """Return the entries of a YAML file of OpenCV, matrices as arrays."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads plain values and OpenCV's matrices, nothing else."""

    def matrix(loader: yaml.SafeLoader, node: yaml.Node) -> np.ndarray:
        entry = loader.construct_mapping(node, deep=True)
        return np.array(entry["data"], float).reshape(entry["rows"], entry["cols"])

    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", matrix)
    body = re.sub(r"^%YAML.*$", "", text, count=1, flags=re.MULTILINE)
    with reading(path, "YAML as OpenCV writes it", "export it again"):
        content = yaml.load(body, Loader)
    if not isinstance(content, dict):
        raise InputError(path, "has no entries", "YAML as OpenCV writes it", "export it again")
    return content


def _opencv(path: Path, content: dict[str, Any]) -> Pinhole:
    """Return the camera of OpenCV's entries; R and t default to the camera's own frame."""

    def first(*names: str) -> Any:
        return next((content[name] for name in names if name in content), None)

    found = {
        "K": first("camera_matrix", "cameraMatrix", "K", "M", "M1", "intrinsics"),
        "R": first("R", "rotation", "rotation_matrix", "rvec"),
        "t": first("T", "t", "tvec", "translation"),
        "size": [first("image_width", "width"), first("image_height", "height")],
    }
    if found["size"][0] is None and first("image_size", "imageSize") is not None:
        found["size"] = first("image_size", "imageSize")
    if found["K"] is None or found["size"][0] is None:
        raise InputError(
            path,
            "has no camera_matrix or no image_width and image_height",
            "the entries of an OpenCV calibration",
            "add them",
        )
    if found["R"] is None and found["t"] is None:
        found["R"], found["t"] = np.eye(3), np.zeros(3)
    matrix, shift = _array(path, found, "K", (3, 3)), _array(path, found, "t", (3,))
    turn = np.asarray(found["R"], float)
    rotation = rotation_matrix(turn.ravel()) if turn.size == 3 else _array(path, found, "R", (3, 3))
    width, height = _array(path, found, "size", (2,))
    camera = Pinhole(int(width), int(height), matrix, rotation, shift)
    return _with_lens(path, camera, content)


# ------------------------------------------------------------------------------------- 3x4 matrices


def _matrix_file(path: Path) -> np.ndarray:
    """Return the 3x4 matrix in a NumPy or MATLAB file."""
    path = files.existing_file(path, EXPECTED)
    what = "one matrix of 3 x 4 numbers"
    with reading(path, what, "save it again"):
        if path.suffix.lower() == ".npy":
            found = [np.load(path, allow_pickle=False)]
        else:
            from scipy.io import loadmat

            found = [value for name, value in loadmat(path).items() if not name.startswith("__")]
            found = [np.asarray(value) for value in found if np.shape(value) == (3, 4)]
    if len(found) != 1 or found[0].shape != (3, 4) or found[0].dtype.kind not in "fiu":
        shapes = ", ".join(str(each.shape) for each in found) or "no such matrix"
        raise InputError(path, f"holds {shapes}", what, "save it again")
    return found[0].astype(float)


def camera_of_matrix(path: Path, projection: np.ndarray) -> Pinhole:
    """Return the camera of a projection (3, 4): homogeneous mm to pixel (column, row).

    Integers are at pixel centres. The size of the image is not part of it.
    """
    from scipy.linalg import rq

    left = projection[:, :3]
    if not np.isfinite(projection).all() or abs(np.linalg.det(left)) < 1e-12:
        raise InputError(
            path,
            "its matrix has no camera (it is singular or not finite)",
            "a projection of mm to pixels",
            "calibrate again",
        )
    matrix, rotation = rq(left * np.sign(np.linalg.det(left)))
    signs = np.diag(np.sign(np.diag(matrix)))
    matrix, rotation = matrix @ signs, signs @ rotation
    scale = matrix[2, 2]
    shift = np.linalg.solve(matrix, projection[:, 3] * np.sign(np.linalg.det(left)))
    matrix = matrix / scale
    if abs(matrix[0, 1]) < SKEW_PX:  # of a matrix with few digits
        matrix[0, 1] = 0.0
    return Pinhole(0, 0, matrix, rotation, shift)


# ----------------------------------------------------------------------------------------- numbers


def _array(path: Path, content: dict[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an entry as an array of a shape. Raises InputError if it is none."""
    try:
        found = np.array(content[key], float)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.size != np.prod(shape) or (found.ndim > 1 and len(shape) > 1 and found.shape != shape):
        what = f"is {found.shape}" if found.size else "does not hold numbers"
        raise InputError(
            path,
            f"{key} {what}",
            f"{' x '.join(map(str, shape))} numbers, of {KEYS_EXPECTED}",
            "correct it",
        )
    return found.reshape(shape)


def _numbers(path: Path, lines: list[str], rows: int, columns: int, what: str) -> np.ndarray:
    """Return lines of numbers, separated by commas, semicolons, tabs or blanks, (rows, columns).

    Raises InputError for any other shape.
    """
    try:
        table = np.array(
            [
                [float(value) for value in re.split(r"[,;\s]+", line.strip(" ,;\t"))]
                for line in lines
            ]
        )
    except ValueError:
        table = np.empty(0)
    if table.shape != (rows, columns):
        raise InputError(
            path,
            f"{what} does not hold {rows} rows of {columns} numbers",
            EXPECTED,
            "export it again",
        )
    return table


def _turn(axis: int, degrees: float) -> np.ndarray:
    """Return the 3x3 rotation about a coordinate axis."""
    return rotation_matrix(np.radians(degrees) * np.eye(3)[axis])
