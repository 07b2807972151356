"""Where a CT ends inside a bone: the rendering shows an edge there that no X-ray has.

A cut is a plane, (point, outward normal), in the scanner's frame: the face of the CT that the bone's labelmap reaches. `crop_cts.py` writes the cuts into the lineage, so that
they follow the bone through alignment and centring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.geometry import apply, invert
from common.volume.volume import Volume

LEAST_VOXELS = 12  # of a label on a face: fewer touch it without being cut
MOST_POINTS = 400
REACH_VOXELS = 1.5  # what lies that near to a cut is its rim or its lid
Cut = dict[str, list[float]]


def cuts_of(data: np.ndarray, labels: list[int] | None, volume: Volume) -> list[Cut]:
    """The cuts of a structure (labels of ``data``, all of them by default, on the volume's grid) at the faces of its volume, scanner's frame."""
    scanner_from_index = volume.lineage.scanner_from_volume @ volume.affine
    found = []
    for axis in range(3):
        for last in (False, True):
            plane = data.take(-1 if last else 0, axis=axis)
            face = np.argwhere(plane > 0 if labels is None else np.isin(plane, labels))
            if len(face) < LEAST_VOXELS:
                continue
            index = np.insert(face.mean(axis=0), axis, data.shape[axis] - 1 if last else 0)
            normal = scanner_from_index[:3, axis] * (1 if last else -1)
            found.append(
                {
                    "point": apply(scanner_from_index, index).tolist(),
                    "normal": (normal / np.linalg.norm(normal)).tolist(),
                }
            )
    return found


def recorded_cuts(volume: Volume) -> list[Cut] | None:
    """What the lineage says of cuts; None where no step has looked for them."""
    stated: list[Any] = [
        entry["settings"]["cuts"]
        for entry in volume.lineage.history
        if isinstance(entry.get("settings"), dict) and "cuts" in entry["settings"]
    ]
    return stated[-1] if stated else None


def end_points(inside: np.ndarray, volume: Volume, cuts: Sequence[Cut]) -> np.ndarray:
    """(N, 3) points of the structure that lie at a cut, in the volume's world, mm."""
    index = np.argwhere(inside)
    world = apply(volume.affine, index)
    volume_from_scanner = invert(volume.lineage.scanner_from_volume)
    near = np.zeros(len(index), bool)
    for cut in cuts:
        point, normal = (
            apply(volume_from_scanner, np.array(cut["point"])),
            volume_from_scanner[:3, :3] @ np.array(cut["normal"]),
        )
        near |= (world - point) @ normal > -REACH_VOXELS * volume.spacing_mm.max()
    points = world[near]
    return (
        points
        if len(points) <= MOST_POINTS
        else points[np.random.default_rng(0).choice(len(points), MOST_POINTS, replace=False)]
    )
