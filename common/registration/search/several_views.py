"""Start poses from the matches of several views: pairs that agree on orientation and position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from common import geometry
from common.registration.scene import View
from common.registration.search.matching import Match

SAME_DEG = 18.0  # between the orientations of two templates, which are 8 degrees apart in a bank
GAP_MM = 25.0  # between the rays to the body's centre, which templates place to a pixel
SAME_DEPTH = 0.15  # of the distance from the source, known to a step of the bank
MATCHES, PAIRS = 3000, 4000  # per view, and of two views


def agreeing(
    views: Sequence[View], matches: Sequence[Sequence[Match]], centre: np.ndarray
) -> list[np.ndarray]:
    """Return poses (volume_from_rig) on which matches of two views agree, best first.

    ``centre`` (3,) is that of the body, in its volume. The position is the point nearest to both
    rays to it, and the orientation that of the better match. Where no two agree, the matches of
    each view by themselves are returned.
    """
    seen = [
        _InRig.of(view, some[:MATCHES], centre) for view, some in zip(views, matches, strict=True)
    ]
    found = [_pairs(*pair) for pair in itertools.combinations(seen, 2)]
    scores = np.concatenate([score for score, _, _ in found])
    if not scores.size:
        alone = sorted(
            ((m.score, m.camera @ geometry.invert(view.rig_from_camera))
             for view, some in zip(views, matches, strict=True) for m in some),
            key=lambda each: -each[0],
        )  # fmt: skip
        return [pose for _, pose in alone]
    rotations = np.concatenate([rotation for _, rotation, _ in found])
    points = np.concatenate([point for _, _, point in found])
    best = np.argsort(-scores)[:PAIRS]
    poses = np.tile(np.eye(4), (len(best), 1, 1))
    poses[:, :3, :3] = rotations[best]
    poses[:, :3, 3] = centre - np.einsum("nij,nj->ni", rotations[best], points[best])
    return list(poses)


class _InRig:
    """The matches of one view, in the rig."""

    def __init__(
        self, scores: np.ndarray, rotations: np.ndarray, source: np.ndarray, points: np.ndarray
    ):
        self.scores = scores  # (K,)
        self.rotations = rotations  # (K, 3, 3) volume_from_rig
        self.source = source  # (3,)
        self.distances = np.linalg.norm(points - source, axis=1)  # (K,) to the body's centre
        self.directions = (points - source) / self.distances[:, None]  # (K, 3)

    @classmethod
    def of(cls, view: View, matches: Sequence[Match], centre: np.ndarray) -> _InRig:
        cameras = np.array([match.camera for match in matches]).reshape(-1, 4, 4)
        poses = cameras @ geometry.invert(view.rig_from_camera)
        points = geometry.invert(poses)[:, :3] @ np.r_[centre, 1.0]
        scores = np.array([match.score for match in matches])
        return cls(scores, poses[:, :3, :3], view.rig_from_camera[:3, 3], points)


def _pairs(one: _InRig, other: _InRig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return score (P,), rotation (P, 3, 3) and centre in the rig (P, 3) of pairs that agree."""
    traces = one.rotations.reshape(-1, 9) @ other.rotations.reshape(-1, 9).T
    first, second = np.nonzero(traces > 1 + 2 * np.cos(np.radians(SAME_DEG)))
    along, across = one.directions[first], other.directions[second]
    # the points of both rays that are nearest to each other
    base = other.source - one.source
    cosine = np.einsum("ni,ni->n", along, across)
    square = np.maximum(1 - cosine**2, 1e-6)
    near = (along @ base - cosine * (across @ base)) / square
    far = (cosine * (along @ base) - across @ base) / square
    here = one.source + near[:, None] * along
    there = other.source + far[:, None] * across
    agree = np.linalg.norm(here - there, axis=1) < GAP_MM
    for found, expected in ((near, one.distances[first]), (far, other.distances[second])):
        agree &= np.abs(found - expected) < SAME_DEPTH * expected
    first, second = first[agree], second[agree]
    better = one.scores[first] >= other.scores[second]
    rotations = np.where(better[:, None, None], one.rotations[first], other.rotations[second])
    centres = (here[agree] + there[agree]) / 2
    return one.scores[first] + other.scores[second], rotations, centres
