"""The second pose of a body with a plane of symmetry: in one view, both look nearly alike.

The mirror image of a body, seen in a mirror across the view, is the body itself in another pose.
But for perspective, its silhouette is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common import geometry
from common.registration.competition import SAME_EVIDENCE, Solution, compete, follow
from common.registration.pyramid import LEVELS
from common.registration.scene import Structure, View
from common.volume.symmetry import reflection


def with_twin(
    views: Sequence[View], structure: Structure, solution: Solution, seed: int
) -> Solution:
    """Return the better of a solution and its mirror twins, with the other as its runner-up.

    Only a metal part in a single view has twins: its inside does not tell front from back. The twin
    of a solution that was followed from the frame before is refined as that was; else candidates
    around it compete.
    """
    if len(views) > 1 or not structure.body.metal:
        return solution
    for plane in structure.mirror_planes:
        pose = twin(solution.fit.poses[0], views[0], plane, structure.body.centre_mm)
        if solution.candidates > 1:
            other = compete(views, structure.body, [pose], seed=seed)
        else:
            other = follow(views, structure.body, [pose], LEVELS)
        if other is None or _same(solution, other):
            continue
        if other.evidence > solution.evidence + SAME_EVIDENCE:
            solution, other = replace(other, candidates=solution.candidates), solution
        known = solution.runner_up
        if known is None or known.similarity < other.fit.similarity:
            others = (*(known.poses if known else ()), *solution.others)
            solution = replace(solution, runner_up=other.fit, others=others)
    return solution


def twin(pose: np.ndarray, view: View, mirror: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the pose (volume_from_rig) that looks like ``pose`` by the mirror plane of a body.

    ``mirror`` (4, 4) is the reflection in the volume frame, ``centre`` (3,) that of the body.
    """
    camera_from_volume = geometry.invert(pose @ view.rig_from_camera)
    point = geometry.apply(camera_from_volume, centre)
    across = reflection(point / np.linalg.norm(point), point)
    seen = across @ camera_from_volume @ mirror
    # what the mirrors move away from the centre of the view is moved back
    seen[:3, 3] += point - geometry.apply(seen, centre)
    return geometry.invert(seen) @ geometry.invert(view.rig_from_camera)


def _same(one: Solution, other: Solution) -> bool:
    turn = one.fit.poses[0][:3, :3].T @ other.fit.poses[0][:3, :3]
    return bool(geometry.rotation_angle_deg(turn) < 2.0)
