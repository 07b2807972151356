"""Calibrations as named entries: JSON with K, R and t, a VTK camera, YAML of OpenCV, lens terms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError, reading
from common.geometry import rotation_matrix
from common.xray.lens import Lens
from common.xray.pinhole import KEYS_EXPECTED, Pinhole, array_of, camera_of_matrix

VTK_KEYS = ("camera-position", "focal-point", "view-up", "view-angle")
# names of a 3x4 matrix in JSON or MATLAB files
MATRIX_KEYS = ("P", "projection", "projection_matrix", "camera_projection")
# a name like these states lens terms; the first group are those in OpenCV's order
LENS_KEYS = ("distortion", "dist", "D", "dist_coeffs", "distCoeffs", "distortion_coefficients")
SINGLE_TERMS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
LENS_NAME = re.compile(r"dist|^[kp][1-9]$|lens|radial|tangential", re.IGNORECASE)


def camera_of_json(path: Path, content: dict[str, Any]) -> tuple[Pinhole, list[str], list[str]]:
    """Return the camera of a JSON object: K, R, t; a VTK camera; or a 3x4 matrix."""
    if all(key in content for key in VTK_KEYS):
        return _vtk(path, content), ["VTK camera of SlicerAutoscoperM"], []
    for key in MATRIX_KEYS:
        if key in content:
            camera = camera_of_matrix(path, array_of(path, content, key, (3, 4)))
            if "image_size" in content:
                width, height = array_of(path, content, "image_size", (2,))
                camera = replace(camera, width=int(width), height=int(height))
            return _with_lens(path, camera, content), [f"3x4 matrix {key}"], []
    missing = [key for key in ("K", "R", "t", "image_size") if key not in content]
    if missing:
        raise InputError(path, f"has no {', '.join(missing)}", KEYS_EXPECTED, "add them")
    width, height = array_of(path, content, "image_size", (2,))
    matrix, rotation = (array_of(path, content, key, (3, 3)) for key in ("K", "R"))
    shift = array_of(path, content, "t", (3,))
    camera = Pinhole(int(width), int(height), matrix, rotation, shift)
    return _with_lens(path, camera, content), ["JSON with K, R and t"], []


def _vtk(path: Path, content: dict[str, Any]) -> Pinhole:
    """Return the camera of VTK's position, focal point, view up and vertical view angle (degrees).

    Its principal point is the centre of the image.
    """
    source, target, up = (array_of(path, content, key, (3,)) for key in VTK_KEYS[:3])
    (angle,) = array_of(path, {"view-angle": [content["view-angle"]]}, "view-angle", (1,))
    size = {"size": [content.get("image-width"), content.get("image-height")]}
    width, height = array_of(path, size, "size", (2,))
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


def entries_of_yaml(path: Path, text: str) -> dict[str, Any]:
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


def camera_of_opencv(path: Path, content: dict[str, Any]) -> Pinhole:
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
    matrix, shift = array_of(path, found, "K", (3, 3)), array_of(path, found, "t", (3,))
    turn = np.asarray(found["R"], float)
    rotation = (
        rotation_matrix(turn.ravel()) if turn.size == 3 else array_of(path, found, "R", (3, 3))
    )
    width, height = array_of(path, found, "size", (2,))
    camera = Pinhole(int(width), int(height), matrix, rotation, shift)
    return _with_lens(path, camera, content)
