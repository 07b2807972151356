import numpy as np
from test_refinement import body, error, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.registration import adam
from common.registration.gauss_newton import Trace
from common.registration.pyramid import View


def test_the_reference_optimiser_comes_near_the_truth_and_traces_its_way(body, truth):
    start, trace = moved(truth, body, (2, -2, 2), (3, 4, -3)), Trace()
    fit = adam.ascend([View(take_xray([body], [truth]))], body, start, trace)
    assert (
        error(fit.poses[0], truth, body).in_plane_mm < 0.5 < error(start, truth, body).in_plane_mm
    )
    assert (
        error(fit.poses[0], truth, body).rotation_deg < 0.5 * error(start, truth, body).rotation_deg
    )
    assert fit.similarity > 0.9
    assert fit.covariance.shape == (6, 6)
    np.testing.assert_allclose(trace.rows[0][0][0], start, atol=1e-4)
    assert any(np.array_equal(row[0][0], fit.poses[0]) for row in trace.rows)


def test_a_body_outside_the_picture_gives_no_pose(body, truth):
    away = geometry.translation(truth[:3, 0] * 2000) @ truth
    assert adam.ascend([View(take_xray([body], [truth]))], body, away, Trace()) is None
