import helpers
import numpy as np
import pytest
from test_refinement import DETECTOR, body, error, moved, take_xray, truth  # noqa: F401

from common import geometry, start
from common.poserange import PoseRange
from common.refinement import View

RANGES = PoseRange(r1=(-30, 30), r2=(-20, 20), r3=(-20, 20), tx=(-20, 20), ty=(560, 680), tz=(-20, 20))


def test_the_search_needs_no_start_pose(body, truth):  # noqa: F811
    view = View(take_xray([body], [truth]))
    poses = start.search([view], body, RANGES, keep=8)
    assert min(error(pose, truth, body).rotation_deg for pose in poses) < 13
    winner = start.compete([view], body, poses, scatter=0, keep=8)
    assert error(winner.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert error(winner.fit.poses[0], truth, body).rotation_deg < 0.2


def test_starts_scattered_around_a_poor_one_find_the_truth(body, truth):  # noqa: F811
    poor = moved(truth, body, (9, -9, 8), (10, 12, -9))
    winner = start.compete([View(take_xray([body], [truth]))], body, [poor])
    assert error(winner.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert winner.candidates == start.SCATTER_COUNT + 1
    assert winner.agreement > 0.3


def test_the_same_seed_gives_the_same_pose(body, truth):  # noqa: F811
    view = View(take_xray([body], [truth]))
    first, second = (start.compete([view], body, [moved(truth, body)], seed=3).fit.poses[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_no_candidate_in_the_picture_gives_no_winner(body, truth):  # noqa: F811
    away = geometry.translation(truth[:3, 0] * 2000) @ truth
    assert start.compete([View(take_xray([body], [truth]))], body, [away]) is None


def test_the_true_pose_scores_best(body, truth):  # noqa: F811
    poses = [truth, moved(truth, body, (5, 0, 0), (0, 0, 0)), moved(truth, body, (0, 0, 0), (6, 0, 4))]
    scores = start.score([View(take_xray([body], [truth]))], body, poses, start.COARSE[1], poses[:1])
    assert scores.argmax() == 0
    assert scores[0] > 0.98


def test_near_duplicates_are_dropped_but_depth_separates_little(body, truth):  # noqa: F811
    turned = moved(truth, body, (0, 10, 0), (0, 0, 0))
    nudged = moved(truth, body, (1, 0, 0), (1, 1, 0))
    deeper = geometry.translation(truth[:3, 2] * 20) @ truth
    assert [np.allclose(pose, kept) for pose, kept in zip(start.distinct([truth, nudged, deeper, turned], np.eye(4), body, 5), (truth, turned), strict=True)] == [True, True]


def test_templates_cover_the_range_in_steps_no_wider_than_stated():
    angles, depths = start.template_grid(RANGES)
    for axis, (low, high) in enumerate((RANGES.r1, RANGES.r2, RANGES.r3)):
        values = np.unique(angles[:, axis])
        assert values[0] == low
        assert values[-1] == high
        assert np.diff(values).max() <= start.TEMPLATE_STEP_DEG + 1e-9
    assert RANGES.ty[0] < depths.min() <= depths.max() < RANGES.ty[1]


def test_a_range_of_one_value_makes_one_template():
    angles, depths = start.template_grid(PoseRange(r1=(5, 5), r2=(0, 0), r3=(1, 1), ty=(800, 800)))
    assert angles.tolist() == [[5, 0, 1]]
    assert depths.tolist() == [800]


@pytest.mark.parametrize(("column", "row"), [(75.0, 70.0), (20.0, 120.0)])
def test_aiming_turns_the_axis_to_the_pixel_and_keeps_the_source(column, row):
    camera = geometry.camera_from_pose(geometry.pose_from_angles(helpers.TRUE_ANGLES, [0, 600, 0]))
    point = geometry.apply(camera, np.array([0, 0, 600.0]))
    aimed = start._aim(camera, DETECTOR, column, row)
    assert geometry.project(point[None], DETECTOR, aimed)[0] == pytest.approx([column, row], abs=1e-6)
    assert np.allclose(aimed[:3, 3], camera[:3, 3])
    assert np.linalg.det(aimed[:3, :3]) == pytest.approx(1)
