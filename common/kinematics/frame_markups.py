"""The axes of an anatomical frame as markups for 3D Slicer, over the volume they were found in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.geometry import RAS_FROM_LPS
from common.kinematics.frame_file import AnatomicalFrame
from common.results.slicer import MARKUPS_SCHEMA, line_display

LENGTH_MM = 50.0
# red, green, blue, as Slicer colours its own axes
COLOURS = {
    "X anterior": (0.9, 0.2, 0.2),
    "Y proximal": (0.2, 0.8, 0.2),
    "Z right": (0.2, 0.4, 1.0),
}


def write_axes(path: Path, frame: AnatomicalFrame) -> None:
    """Write a line per axis from the origin, LPS mm in the frame of the volume."""
    place = frame.volume_from_frame
    lines = [
        _line(f"{frame.bone} {name}", place[:3, 3], place[:3, 3] + LENGTH_MM * place[:3, axis], rgb)
        for axis, (name, rgb) in enumerate(COLOURS.items())
    ]
    files.write_json(path, {"@schema": MARKUPS_SCHEMA, "markups": lines})


def _line(
    name: str, start: np.ndarray, stop: np.ndarray, colour: tuple[float, float, float]
) -> dict[str, Any]:
    """Return the markup of a line between points (3,), RAS mm."""
    return {
        "name": name,
        "type": "Line",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "controlPoints": [
            {
                "id": str(number),
                "label": label,
                "position": (RAS_FROM_LPS[:3, :3] @ point).tolist(),
                "positionStatus": "defined",
            }
            for number, (label, point) in enumerate(
                [(f"{name}: origin", start), (f"{name}: end", stop)], start=1
            )
        ],
        "display": line_display(colour, 1.0, 0.6),
    }
