"""Bones that share a joint: where one can be beside the other, what overlaps or stands alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

from common import geometry
from common.registration.competition import Solution
from common.registration.found import Found
from common.registration.scene import Structure, View
from common.registration.search.limits import Near
from common.registration.verdict import is_found
from common.volume.attenuation import WATER_PER_MM
from common.volume.hounsfield import SOFT_TISSUE_HU

# fraction of a bone inside another from which one of the two is wrong: less can be the part of the
# neighbour in a crop box
OVERLAPPING = 0.2
# by which a joint gives, beyond turning about where its bones are nearest: a knee turns about an
# axis 20 mm above, which puts the tibia 38 mm farther at 150 degrees
NEARER_MM, FARTHER_MM = 25.0, 45.0
TURNED_DEG = 160.0  # from its orientation in the CT, at most: a knee flexes by 150 degrees
# similarity from which a pose stands against that of a bone with less evidence that its joint does
# not allow (benchmarks/README.md, 'Template bank')
STANDS_ALONE = 0.9
JOINT_GAP_MM = 30.0  # between the bones of a joint where they are nearest, at most
# evidence below that of the best bone by which another one is searched for again
# (benchmarks/README.md, 'Starts from nothing')
UNEQUAL = 0.05


def is_alike(one: Solution, best: Solution) -> bool:
    """Return whether a solution has about the evidence and the similarity of the best.

    Evidence alone is lower for a best bone that is partly out of view: a tibia 27 degrees off had
    0.05 less evidence than its femur, and 0.11 less similarity.
    """
    less = (best.evidence - one.evidence, best.fit.similarity - one.fit.similarity)
    return max(less) < UNEQUAL


def joint_of(known: Structure, other: Structure) -> tuple[Near, float]:
    """Return where the centre of ``other`` can be, in the volume of ``known``, and their gap.

    Both were cut from one CT, in which the gap is the distance between their nearest points.
    """
    placed = [s.ct.lineage.scanner_from_volume for s in (known, other)]
    known_from_other = geometry.invert(placed[0]) @ placed[1]
    points = geometry.apply(known_from_other, other.body.points)
    distances, nearest = KDTree(known.body.points).query(points)
    touching = int(np.argmin(distances))
    joint = (points[touching] + known.body.points[nearest[touching]]) / 2
    centre = geometry.apply(known_from_other, other.body.centre_mm)
    lever = float(np.linalg.norm(centre - joint))
    near = Near(joint, max(0.0, lever - NEARER_MM), lever + FARTHER_MM)
    return near, float(distances[touching])


def apart_mm(known: Structure, pose: np.ndarray, other: Structure, pose_other: np.ndarray) -> float:
    """Return how far ``other`` is from where its joint with ``known`` lets it be; 0 if acceptable.

    Poses are volume_from_rig. Structures that share no joint are never apart.
    """
    if not shares_joint(known, other):
        return 0.0
    joint, _ = joint_of(known, other)
    known_from_other = pose @ geometry.invert(pose_other)
    centre = geometry.apply(known_from_other, other.body.centre_mm)
    distance = float(np.linalg.norm(centre - joint.point))
    in_ct = geometry.invert(known.ct.lineage.scanner_from_volume)
    in_ct = in_ct @ other.ct.lineage.scanner_from_volume
    turned = geometry.rotation_angle_deg(known_from_other[:3, :3] @ in_ct[:3, :3].T)
    too_far = np.radians(max(0.0, turned - TURNED_DEG)) * distance
    return max(joint.least_mm - distance, distance - joint.most_mm, too_far, 0.0)


def largest_apart_mm(number: int, structures: Sequence[Structure], found: Sequence[Found]) -> float:
    """Return the largest `apart_mm` of one structure from any other.

    Of two with unequal evidence, only the one with less is apart, unless the other is no clear fit.
    """
    poses = [one.solution.fit.poses[0] for one in found]
    clear = found[number].solution.fit.similarity >= STANDS_ALONE
    enough = found[number].solution.evidence - UNEQUAL if clear else -np.inf
    others = [
        other
        for other, one in enumerate(found)
        if other != number and one.solution.evidence >= enough
    ]
    return max(
        (
            apart_mm(structures[other], poses[other], structures[number], poses[number])
            for other in others
        ),
        default=0.0,
    )


def is_alone(
    number: int, views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> bool:
    """Return whether a structure is no clear fit and another one of its joint is not found.

    In lateral X-rays with both legs, a wrong tibia lies where a wrong femur lets it be
    (benchmarks/README.md, 'Template bank').
    """
    if found[number].solution.fit.similarity >= STANDS_ALONE:
        return False
    return any(
        other != number
        and shares_joint(structures[number], structure)
        and not is_found(one.solution, views, structure)
        for other, (structure, one) in enumerate(zip(structures, found, strict=True))
    )


def shares_joint(one: Structure, other: Structure) -> bool:
    """Return whether two structures of one CT are so near to each other that they share a joint."""
    return same_scan(one, other) and joint_of(one, other)[1] <= JOINT_GAP_MM


def same_scan(one: Structure, other: Structure) -> bool:
    source = one.ct.lineage.source.get("sha256")
    same_source = bool(source) and source == other.ct.lineage.source.get("sha256")
    return same_source or (one.ct.path is not None and one.ct.path == other.ct.path)


def largest_overlap(
    number: int, structures: Sequence[Structure], poses: Sequence[np.ndarray]
) -> float:
    """Return the largest fraction of one structure inside any other; 0 if acceptable.

    Metal may be inside bone: a component is, and a bone from before the operation is not cut.
    """
    metal = structures[number].body.metal
    others = [
        other
        for other, structure in enumerate(structures)
        if other != number and structure.body.metal == metal
    ]
    shares = [
        overlap(structures[number], poses[number], structures[other], poses[other])
        for other in others
    ]
    largest = max(shares, default=0.0)
    return largest if largest >= OVERLAPPING else 0.0


def overlap(
    one: Structure, pose_one: np.ndarray, other: Structure, pose_other: np.ndarray
) -> float:
    """Return the fraction of a bone's points in dense voxels of another, each at its pose."""
    points = geometry.apply(pose_other, geometry.apply(geometry.invert(pose_one), one.body.points))
    index = np.round(geometry.apply(geometry.invert(other.whole.affine), points)).astype(int)
    inside = ((index >= 0) & (index < other.whole.shape)).all(axis=1)
    dense = other.whole.data[tuple(index[inside].T)] > WATER_PER_MM * (1 + SOFT_TISSUE_HU / 1000)
    return float(dense.sum() / len(points))
