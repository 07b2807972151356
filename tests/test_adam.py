"""The first-order reference optimiser."""

import numpy as np
import pytest
from test_refinement import body, error, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.registration import adam
from common.registration.scene import View


@pytest.mark.slow
def test_the_reference_optimiser_approaches_the_truth_and_records_its_trace(body, truth):
    start = moved(truth, body, (2, -2, 2), (3, 4, -3))
    fit = adam.ascend([View(take_xray([body], [truth]))], body, start)
    before, after = error(start, truth, body), error(fit.poses[0], truth, body)
    assert after.in_plane_mm < 0.5 < before.in_plane_mm
    assert after.rotation_deg < 0.5 * before.rotation_deg
    assert fit.similarity > 0.9
    assert fit.covariance.shape == (6, 6)
    np.testing.assert_allclose(fit.trace[0].poses[0], start, atol=1e-4)
    assert any(np.array_equal(each.poses[0], fit.poses[0]) for each in fit.trace)


@pytest.mark.slow
def test_a_body_outside_the_image_gives_no_pose(body, truth):
    away = geometry.translation(truth[:3, 0] * 2000) @ truth
    assert adam.ascend([View(take_xray([body], [truth]))], body, away) is None
