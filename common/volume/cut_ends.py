"""Ends where a CT cuts a bone: a DRR shows an edge there that no X-ray has.

A cut is the face of a CT that the labelmap of a bone reaches. `crop_cts.py` records the cuts in the
lineage, in the scanner frame, so that they follow the bone through alignment and centring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import reading
from common.geometry import apply, invert
from common.volume.volume import Volume

LEAST_VOXELS = 12  # of a label on a face; fewer touch it without being cut
MOST_POINTS = 400
REACH_VOXELS = 1.5  # voxels within this distance of a cut are its rim or its lid


@dataclass(frozen=True, eq=False)
class Cut:
    """A plane in the scanner frame, RAS mm."""

    point_mm: np.ndarray  # (3,)
    normal: np.ndarray  # (3,), unit vector out of the CT

    def as_setting(self) -> dict[str, list[float]]:
        """Return the entry of the lineage."""
        return {"point": self.point_mm.tolist(), "normal": self.normal.tolist()}


def cuts_of(data: np.ndarray, labels: list[int] | None, volume: Volume) -> list[Cut]:
    """Return the cuts of a structure at the faces of its volume.

    The structure consists of the ``labels`` (default: all) of ``data``, a labelmap (I, J, K) on the
    grid of the volume.
    """
    scanner_from_index = volume.lineage.scanner_from_volume @ volume.affine
    found = []
    for axis in range(3):
        for last in (False, True):
            plane = np.moveaxis(data, axis, 0)[-1 if last else 0]
            face = np.argwhere(plane > 0 if labels is None else np.isin(plane, labels))
            if len(face) < LEAST_VOXELS:
                continue
            index = np.insert(face.mean(axis=0), axis, data.shape[axis] - 1 if last else 0)
            outward = scanner_from_index[:3, axis] * (1 if last else -1)
            found.append(Cut(apply(scanner_from_index, index), outward / np.linalg.norm(outward)))
    return found


def recorded_cuts(volume: Volume) -> list[Cut] | None:
    """Return the cuts that the lineage records; None if no step has determined them.

    Raises InputError if the record is damaged.
    """
    recorded = [
        entry["settings"]["cuts"]
        for entry in volume.lineage.history
        if isinstance(entry.get("settings"), dict) and "cuts" in entry["settings"]
    ]
    if not recorded:
        return None
    with reading(
        volume.name,
        "a point and a normal per cut in its lineage",
        "run crop_cts.py again",
        found="its lineage has invalid cuts",
    ):
        return [
            Cut(np.array(cut["point"], float).reshape(3), np.array(cut["normal"], float).reshape(3))
            for cut in recorded[-1]
        ]


def end_points(inside: np.ndarray, volume: Volume, cuts: Sequence[Cut]) -> np.ndarray:
    """Return the points (N, 3) of a structure at its cuts, RAS mm in the volume frame.

    ``inside`` is the mask of the structure on the grid of the volume. N is at most `MOST_POINTS`;
    more are sampled, with a fixed seed.
    """
    index = np.argwhere(inside)
    centres = apply(volume.affine, index)
    volume_from_scanner = invert(volume.lineage.scanner_from_volume)
    near = np.zeros(len(index), bool)
    for cut in cuts:
        point = apply(volume_from_scanner, cut.point_mm)
        normal = volume_from_scanner[:3, :3] @ cut.normal
        near |= (centres - point) @ normal > -REACH_VOXELS * volume.spacing_mm.max()
    points = centres[near]
    if len(points) <= MOST_POINTS:
        return points
    return points[np.random.default_rng(0).choice(len(points), MOST_POINTS, replace=False)]
