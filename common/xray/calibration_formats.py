"""Formats of an X-ray calibration, each as a pinhole camera.

MayaCam 2.0 and 1 (XMALab), JointTrack, JSON with K, R and t, the camera JSON of SlicerAutoscoperM
(VTK), YAML of OpenCV, and a 3x4 projection matrix as text, JSON, NumPy or MATLAB file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError, reading
from common.xray.camera_entries import camera_of_json, camera_of_opencv, entries_of_yaml
from common.xray.jointtrack import HEADER, jointtrack
from common.xray.mayacam import mayacam_1, mayacam_2
from common.xray.pinhole import EXPECTED, Pinhole, camera_of_matrix, table_of

MATRIX_FILES = (".npy", ".mat")


def parse(path: Path) -> tuple[Pinhole, list[str], list[str]]:
    """Return the camera stated in a file of any format, remarks on it, and doubts.

    Raises InputError if the file is of no known format.
    """
    if path.suffix.lower() in MATRIX_FILES:
        return camera_of_matrix(path, _matrix_file(path)), [f"3x4 matrix ({path.suffix[1:]})"], []
    text = files.read_text(path, EXPECTED)
    start = text.lstrip()
    if start.startswith("{"):
        return camera_of_json(path, files.read_json(path, EXPECTED))
    if start.startswith("%YAML"):
        return camera_of_opencv(path, entries_of_yaml(path, text)), ["OpenCV YAML"], []
    if start.startswith(HEADER):
        return jointtrack(path, start), ["JointTrack"], []
    if start.lower().startswith("image size"):
        return mayacam_2(path, text), ["MayaCam 2.0"], []
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 3:
        return camera_of_matrix(path, table_of(path, lines, 3, 4, "the matrix")), ["3x4 matrix"], []
    return mayacam_1(path, lines)


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
