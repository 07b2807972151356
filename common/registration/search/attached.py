"""Start poses of a bone beside a metal part: one end of the bone is near the part.

What a part leaves of a bone to see matches other bones too, so templates do not find it. But a part
whose pose is known says where one end of the bone is: what is left to try are the sides from which
it is seen (benchmarks/README.md, 'Implants').
"""

from __future__ import annotations

import numpy as np

from common import geometry
from common.registration.scene import Structure, View
from common.registration.search.anywhere import UPRIGHT_TILT_DEG, upright
from common.registration.search.bank import viewing_rotations
from common.registration.search.matching import camera_from_turned

EVERY = 6  # of the directions of a template bank
TURNS_DEG = (-24.0, 0.0, 24.0)  # of the X-ray, anticlockwise
# of the part's centre, from the end of the bone along its long axis
INWARD_MM, NEAR_MM = 15.0, 8.0


def attached_starts(view: View, structure: Structure, point: np.ndarray) -> list[np.ndarray]:
    """Return start poses (volume_from_rig) with one end of a bone at a point (3,) of the rig.

    The bone is upright in the view.
    """
    camera_from_rig = geometry.invert(view.rig_from_camera)
    centre = geometry.apply(camera_from_rig, point)
    starts = []
    for straight in viewing_rotations(upright(structure), UPRIGHT_TILT_DEG)[::EVERY]:
        for turn_deg in TURNS_DEG:
            rotation = straight @ camera_from_turned(turn_deg)[:3, :3]
            for end in _ends(structure):
                volume_from_camera = np.eye(4)
                volume_from_camera[:3, :3] = rotation
                volume_from_camera[:3, 3] = end - rotation @ centre
                starts.append(volume_from_camera @ camera_from_rig)
    return starts


def _ends(structure: Structure) -> list[np.ndarray]:
    """Return two points (3,) near the ends of a bone, on its long axis, in its volume."""
    points, centre = structure.body.points, structure.body.centre_mm
    axis = np.linalg.eigh(np.cov(points.T))[1][:, -1]
    along = (points - centre) @ axis
    low, high = np.percentile(along, [1, 99])
    return [
        points[np.abs(along - place) < NEAR_MM].mean(axis=0)
        for place in (low + INWARD_MM, high - INWARD_MM)
    ]
