"""A bone beside a known one: scored in all views at once, at places in space."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_refinement import error, take_xray
from test_register import bone_of

from common import geometry
from common.registration import neighbours
from common.registration.scene import Structure, View
from common.registration.search.anywhere import Banks, alongside_starts
from common.registration.search.bank import viewing_rotations
from common.registration.search.in_space import TURN_STEP_DEG, Alongside, _nearest
from common.registration.search.matching import axis_to, camera_from_turned
from common.registration.starts import Starter

AXIS = np.array([0.0, 0, 1])
SEARCH = Starter("search", banks=Banks(keep=False))


@pytest.fixture(scope="module")
def bone() -> Structure:
    return bone_of()


@pytest.fixture(scope="module")
def rig(bone) -> list[np.ndarray]:
    """Two cameras, 70 degrees apart about the point 800 mm in front of the first."""
    about = np.array([0.0, 0, 800])
    return [np.eye(4), geometry.twist(np.r_[0, np.radians(70), 0, 0, 0, 0], about)]


def pose_at(body, place, turn_deg=0.0) -> np.ndarray:
    """volume_from_rig of a body upright and turned about its axis, its centre at a place."""
    upright = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    rotation = geometry.rotation_matrix(np.radians(turn_deg) * AXIS) @ upright
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = body.centre_mm - rotation @ place
    return pose


def views_of(bodies, poses, rig) -> list[View]:
    return [View(take_xray(bodies, [pose @ camera for pose in poses]), camera) for camera in rig]


def test_orientations_are_turned_about_the_long_axis_and_tilted_up_to_the_limit():
    rotations = Alongside(np.eye(3), AXIS, np.zeros(3), 40.0, 25.0).rotations()
    tilts = np.degrees(np.arccos(np.clip(rotations[:, 2, 2], -1, 1)))
    assert tilts.min() < 1e-6
    assert 20 < tilts.max() < 25.001
    about = rotations[tilts < 1e-6]
    turns = np.sort(np.degrees(np.arctan2(about[:, 1, 0], about[:, 0, 0])))
    np.testing.assert_allclose(np.diff(turns), 8, atol=1e-6)


def test_places_fill_the_sphere_of_the_reach():
    places = Alongside(np.eye(3), AXIS, np.array([1.0, 2, 3]), 30.0, 25.0).places()
    distances = np.linalg.norm(places - (1, 2, 3), axis=1)
    assert distances.max() <= 30
    assert len(places) == pytest.approx(4 / 3 * np.pi * (30 / 6) ** 3, rel=0.1)


@pytest.mark.parametrize("turn_deg", [0, 65, 150])
def test_the_best_place_and_orientation_are_those_of_the_body(thigh, rig, turn_deg):
    body, place = thigh.body, np.array([12.0, -15, 820])
    truth = pose_at(body, place, turn_deg)
    near = place + np.array([10, 8, -14])
    alongside = Alongside(pose_at(body, place)[:3, :3], AXIS, near, 36.0, 16.0)
    views = views_of([body], [truth], rig)
    best = alongside_starts(views, thigh, Banks(keep=False), alongside)[0]
    assert error(best, truth, body).rotation_deg < 10
    found = geometry.apply(geometry.invert(best), body.centre_mm)
    assert np.linalg.norm(found - place) < 5


def test_the_nearest_template_is_seen_as_the_camera_sees_the_body():
    """A template's camera, turned and aimed, differs by no more than the steps of a bank allow."""
    up = np.array([0.0, 0, 1])
    banks = [
        SimpleNamespace(rotations=viewing_rotations(up, tilts)) for tilts in ((0, 30), (30, 90.1))
    ]
    cameras = Rotation.random(300, random_state=0).as_matrix()
    ray = np.array([0.1, -0.15, 1]) / np.linalg.norm([0.1, -0.15, 1])
    for camera, bank, direction, turn in zip(cameras, *_nearest(banks, cameras, ray), strict=True):
        turned = camera_from_turned(turn * TURN_STEP_DEG)[:3, :3]
        aimed = axis_to((turned.T @ ray)[None])[0].T
        seen = banks[bank].rotations[direction] @ aimed @ turned.T
        assert geometry.rotation_angle_deg(seen @ camera.T) < 7


def test_a_bone_turned_about_its_axis_beside_a_known_one_is_found(bone, rig):
    other = replace(bone, ct=replace(bone.ct, path=None))
    known, wanted = pose_at(bone.body, [0, 0, 800.0]), pose_at(bone.body, [34.0, 8, 800], 130)
    views = views_of([bone.body, other.body], [known, wanted], rig)
    beside = neighbours._alongside(bone, other, known)
    cleared = [neighbours.without(view, bone.body, known) for view in views]
    found = neighbours._search_alongside(cleared, views, other, SEARCH, 0, beside)
    assert error(found.fit.poses[0], wanted, other.body).mtre_mm < 0.5


def test_bones_that_follow_each_other_in_their_ct_are_not_searched_for_side_by_side(bone):
    source = replace(bone.ct.lineage, source={"sha256": "same CT"})
    one = replace(bone, ct=replace(bone.ct, lineage=source))
    pose = pose_at(bone.body, [0, 0, 800.0])
    for shift, side_by_side in (((0, 0, 70.0), False), ((25.0, 0, 0), True)):
        placed = replace(source, scanner_from_volume=geometry.translation(shift))
        other = replace(bone, ct=replace(bone.ct, lineage=placed))
        beside = neighbours._alongside(one, other, pose)
        assert (beside is not None) == side_by_side
        if beside:
            moved = geometry.apply(geometry.invert(pose), bone.body.centre_mm + shift)
            np.testing.assert_allclose(beside.centre, moved, atol=1e-6)
