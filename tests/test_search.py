"""The search for start poses: grids, templates, peaks and aiming."""

import helpers
import numpy as np
import pytest
from test_refinement import DETECTOR, body, error, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.geometry.pose_range import PoseRange
from common.registration import competition
from common.registration.scene import View
from common.registration.search import grids, matching, search

RANGES = PoseRange(
    r1=(-30, 30), r2=(-20, 20), r3=(-20, 20), tx=(-20, 20), ty=(560, 680), tz=(-20, 20)
)


@pytest.mark.slow
def test_the_search_finds_the_truth_without_a_start_pose(body, truth):
    view = View(take_xray([body], [truth]))
    poses = search.search([view], body, RANGES, keep=8)
    assert min(error(pose, truth, body).rotation_deg for pose in poses) < 13
    winner = competition.compete([view], body, poses, scatter=0, keep=8)
    assert error(winner.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert error(winner.fit.poses[0], truth, body).rotation_deg < 0.2


def test_templates_cover_the_range_in_steps_no_wider_than_stated():
    angles, depths = grids.template_grid(RANGES), grids.depth_grid(RANGES)
    for axis, (low, high) in enumerate((RANGES.r1, RANGES.r2, RANGES.r3)):
        values = np.unique(angles[:, axis])
        assert values[0] == low
        assert values[-1] == high
        assert np.diff(values).max() <= grids.TEMPLATE_STEP_DEG + 1e-9
    assert RANGES.ty[0] < depths.min() <= depths.max() < RANGES.ty[1]


def test_a_range_of_one_value_makes_one_template():
    single = PoseRange(r1=(5, 5), r2=(0, 0), r3=(1, 1), ty=(800, 800))
    assert grids.template_grid(single).tolist() == [[5, 0, 1]]
    assert grids.depth_grid(single).tolist() == [800]


@pytest.mark.parametrize(("column", "row"), [(75.0, 70.0), (20.0, 120.0)])
def test_aiming_turns_the_axis_to_the_pixel_and_keeps_the_source(column, row):
    camera = geometry.camera_from_pose(geometry.pose_from_angles(helpers.TRUE_ANGLES, [0, 600, 0]))
    point = geometry.apply(camera, np.array([0, 0, 600.0]))
    (aimed,) = matching.aim(camera[None], DETECTOR, column, row)
    assert geometry.project(point[None], DETECTOR, aimed)[0] == pytest.approx(
        [column, row], abs=1e-6
    )
    assert np.allclose(aimed[:3, 3], camera[:3, 3])
    assert np.linalg.det(aimed[:3, :3]) == pytest.approx(1)


def test_all_rotations_are_proper_and_leave_no_gap():
    rotations = grids.all_rotations(20.0)
    assert np.allclose(np.linalg.det(rotations), 1)
    rng = np.random.default_rng(0)
    for vector in rng.normal(size=(200, 3)):
        asked = geometry.rotation_matrix(vector / np.linalg.norm(vector) * rng.uniform(0, np.pi))
        angles = np.degrees(
            np.arccos(np.clip((np.einsum("nij,ij->n", rotations, asked) - 1) / 2, -1, 1))
        )
        assert angles.min() < 20


def test_axes_meet_where_two_cameras_were_aimed():
    target = np.array([12.0, -30, 55])
    cameras = [
        geometry.translation(target)
        @ geometry.camera_from_pose(geometry.pose_from_angles([angle, 5, 0], [0, 700, 0]))
        for angle in (0, 80)
    ]
    np.testing.assert_allclose(grids.meeting_point(cameras), target, atol=1e-9)


@pytest.mark.slow
def test_two_views_find_a_bone_of_unknown_orientation(body, truth):
    """Turned by 130 degrees against everything that a pose range would say."""
    turned = moved(truth, body, (100, 70, -40), (0, 0, 0))
    centre = geometry.apply(geometry.invert(turned), body.centre_mm)
    quarter = np.eye(4)
    quarter[:3, :3] = geometry.rotation_matrix([0, np.pi / 2, 0])
    second = geometry.translation(centre) @ quarter @ geometry.translation(-centre)
    views = [View(take_xray([body], [turned])), View(take_xray([body], [turned @ second]), second)]
    poses = search.search(views, body, RANGES, full=True)
    winner = competition.compete(views, body, poses, scatter=0, keep=len(poses))
    assert error(winner.fit.poses[0], turned, body).mtre_mm < 0.5


def test_peaks_are_the_highest_local_maxima_and_keep_their_distance():
    values = np.full((9, 9), -1.0)
    values[2, 2], values[2, 3], values[7, 7], values[0, 8] = 0.9, 0.8, 0.5, 0.3
    assert [divmod(int(place), 9) for place in search._peaks(values, 2, 4)] == [
        (2, 2),
        (7, 7),
        (0, 8),
    ]
    assert [divmod(int(place), 9) for place in search._peaks(values, 2, 1)] == [(2, 2)]
    assert (
        search._peaks(np.full((3, 3), -1.0), 1, 1).size
        == search._peaks(np.full((3, 3), -1.0), 1, 4).size
        == 0
    )


def test_a_search_near_a_point_finds_no_pose_elsewhere(body, truth):
    view = View(take_xray([body], [truth]))
    centre = geometry.apply(geometry.invert(truth), body.centre_mm)
    best, *_ = search.search([view], body, RANGES, near=search.Near(centre, 40))
    assert error(best, truth, body).in_plane_mm < 8
    aside = centre + np.array([60.0, 0, 0])
    for pose in search.search([view], body, RANGES, near=search.Near(aside, 40)):
        assert np.linalg.norm(geometry.apply(geometry.invert(pose), body.centre_mm) - aside) < 45


@pytest.mark.slow
def test_empty_air_is_no_bone(body, truth):
    """Stripes a hundred times fainter than the bone, where nothing else is."""
    xray = take_xray([body], [truth], noise=0)
    xray.image[:] += 0.001 * (np.arange(xray.image.shape[1]) % 16 < 8)
    best = search.search([View(xray)], body, RANGES, keep=1)[0]
    assert error(best, truth, body).in_plane_mm < 8
