"""Anatomical frames as markers over time: OpenSim's .trc, and C3D.

A bone has four markers: its origin (BONE_O) and the points `AXIS_MM` along its axes X (anterior), Y
(proximal) and Z (the subject's right). They are in a world whose y points up in the image and z
towards the source, or in that of the calibration.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np

from common import files
from common.errors import InputError
from common.kinematics.bone_poses import BonePoses, rate_hz

AXIS_MM = 100.0
ENDINGS = ("O", "X", "Y", "Z")
MOST_C3D_FRAMES = 65_535  # its header counts frames in 16 bits


def marker_names(poses: BonePoses) -> list[str]:
    """Return the names of the eight markers."""
    return [f"{bone}_{ending}" for bone in poses.bones for ending in ENDINGS]


def markers(poses: BonePoses) -> np.ndarray:
    """Return the markers (N, 8, 3) in mm; NaN without a pose."""
    places = poses.laboratory_from_frame
    origins = places[..., :3, 3]
    tips = origins[..., None, :] + AXIS_MM * places[..., :3, :3].swapaxes(-1, -2)
    return np.concatenate([origins[..., None, :], tips], axis=2).reshape(len(places), -1, 3)


def as_trc(name: str, poses: BonePoses) -> str:
    """Return a marker file (.trc) in mm; markers of a frame without a pose are empty cells.

    Raises InputError if the rate of the frames is not constant.
    """
    rate, points, labels = rate_hz(poses.times, "trc"), markers(poses), marker_names(poses)
    count = len(points)
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame"
        "\tOrigNumFrames",
        f"{rate:.6f}\t{rate:.6f}\t{count}\t{len(labels)}\tmm\t{rate:.6f}\t1\t{count}",
        "Frame#\tTime\t" + "\t\t\t".join(labels),
        "\t\t" + "\t".join(f"{axis}{n}" for n in range(1, len(labels) + 1) for axis in "XYZ"),
        "",
    ]
    assert poses.times is not None
    for number, (time, row) in enumerate(zip(poses.times, points, strict=True), start=1):
        cells = [f"{x:.5f}" if np.isfinite(x) else "" for x in row.ravel()]
        lines.append("\t".join([str(number), f"{time:.6f}", *cells]))
    return "\n".join(lines) + "\n"


def write_c3d(path: Path, poses: BonePoses) -> None:
    """Write the markers as C3D (ezc3d) in mm, float; without a pose, a residual of -1.

    Raises InputError if the rate of the frames is not constant, or ezc3d is not installed.
    """
    rate, points, labels = rate_hz(poses.times, "c3d"), markers(poses), marker_names(poses)
    if len(points) > MOST_C3D_FRAMES:
        raise InputError(
            "format", f"{len(points)} frames", f"at most {MOST_C3D_FRAMES}", "choose another format"
        )
    content = _ezc3d().c3d()
    point = content["parameters"]["POINT"]
    point["RATE"]["value"] = [rate]
    point["LABELS"]["value"] = labels
    point["UNITS"]["value"] = ["mm"]
    values = np.ones((4, len(labels), len(points)))
    values[:3] = points.transpose(2, 1, 0)
    content["data"]["points"] = values
    residuals = np.where(poses.known, 0.0, -1.0)
    content["data"]["meta_points"]["residuals"] = np.tile(residuals, (1, len(labels), 1))
    with files.atomic(path) as partial:
        content.write(str(partial))


def check_c3d() -> None:
    """Raise InputError if ezc3d, which writes C3D, is not installed."""
    _ezc3d()


def _ezc3d() -> ModuleType:
    try:
        return importlib.import_module("ezc3d")
    except ModuleNotFoundError:
        raise InputError(
            None, "ezc3d is not installed", "the package that writes C3D", "pip install ezc3d"
        ) from None
