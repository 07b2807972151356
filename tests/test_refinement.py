"""Gauss-Newton refinement: recovered poses, robustness, several views and bodies, uncertainty."""

from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from common import geometry
from common.drr import joseph
from common.geometry import Detector
from common.registration import uncertainty
from common.registration.gauss_newton import refine, refine_each
from common.registration.pyramid import Level
from common.registration.scene import Body, View
from common.volume import attenuation
from common.volume.volume import points_of
from common.xray.xray import Xray

DETECTOR = Detector(150, 140, 900.0, (1.2, 1.2), (75.0, 70.0))
LEVELS = (Level(4.8, 16.0, 10), Level(2.4, 8.0, 10), Level(1.2, 5.0, 10))


@pytest.fixture(scope="module")
def body() -> Body:
    ct = helpers.small_ct()
    return Body(
        joseph.FusedRenderer(
            attenuation.select_structures(ct, None, None, -1000.0), ct.isocentre_mm
        ),
        points_of(ct),
    )


@pytest.fixture(scope="module")
def truth(body) -> np.ndarray:
    return geometry.translation(body.centre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )


def take_xray(bodies, cameras, noise=0.003) -> Xray:
    """The X-ray of bodies at their poses, with added attenuations."""
    image = sum(
        b.renderer.render(camera[None], DETECTOR)[0]
        for b, camera in zip(bodies, cameras, strict=True)
    )
    image = np.clip(image + np.random.default_rng(0).normal(0, noise, image.shape), 0, None).astype(
        np.float32
    )
    return Xray(image, np.ones(image.shape, bool), DETECTOR, Path("xray.png"))


def moved(camera, body, turn_deg=(3, -4, 3), shift_mm=(5, 6, -5)) -> np.ndarray:
    return geometry.twist(np.r_[np.radians(turn_deg), shift_mm], body.centre_mm) @ camera


def error(pose, truth, body):
    return geometry.pose_error(pose, truth, body.points, DETECTOR)


def test_a_perturbed_pose_converges_to_the_truth(body, truth):
    start = moved(truth, body)
    fit = refine([View(take_xray([body], [truth]))], [body], [start], LEVELS)
    assert error(start, truth, body).mtre_mm > 8
    assert error(fit.poses[0], truth, body).in_plane_mm < 0.03
    assert error(fit.poses[0], truth, body).depth_mm < 0.6
    assert error(fit.poses[0], truth, body).rotation_deg < 0.2


@pytest.mark.parametrize("power", [0.7, 1.4])
def test_an_unknown_tone_curve_hardly_changes_the_pose(body, truth, power):
    xray = take_xray([body], [truth])
    curved = replace(xray, image=(xray.image / xray.image.max()) ** power)
    fit = refine([View(curved)], [body], [moved(truth, body)], LEVELS)
    assert error(fit.poses[0], truth, body).in_plane_mm < 0.15
    # 11 mm with a straight line instead of the curve
    assert error(fit.poses[0], truth, body).depth_mm < 4


def test_an_x_ray_with_dark_bone_is_not_explained(body, truth):
    xray = take_xray([body], [truth])
    inverted = replace(xray, image=xray.image.max() - xray.image)
    fit = refine([View(inverted)], [body], [truth], LEVELS[-1:])
    assert fit.similarity < 0.4 < refine([View(xray)], [body], [truth], LEVELS[-1:]).similarity


def test_structures_that_are_not_rendered_have_little_weight(body, truth):
    xray = take_xray([body], [truth])
    wired = xray.image.copy()
    wired[40:42, 20:120] += 4  # a wire
    wired[90:96, 60:66] += 4  # a bead
    fit = refine([View(replace(xray, image=wired))], [body], [moved(truth, body)], LEVELS)
    assert error(fit.poses[0], truth, body).in_plane_mm < 0.3


def test_pixels_outside_the_collimator_are_ignored(body, truth):
    xray = take_xray([body], [truth])
    valid = np.zeros_like(xray.valid)
    valid[10:120, 15:110] = True
    garbage = np.where(valid, xray.image, 50).astype(np.float32)
    fit = refine(
        [View(replace(xray, image=garbage, valid=valid))], [body], [moved(truth, body)], LEVELS
    )
    assert error(fit.poses[0], truth, body).in_plane_mm < 0.1


def test_a_second_view_determines_the_depth_that_one_view_leaves_open(body, truth):
    turn = np.eye(4)
    turn[:3, :3] = geometry.rotation_matrix([0, np.pi / 2, 0])
    # the second camera sees the body's centre on its axis at the same distance
    centre = geometry.apply(geometry.invert(truth), body.centre_mm)
    second = geometry.translation(centre) @ turn @ geometry.translation(-centre)
    views = [
        View(take_xray([body], [truth], 0.1)),
        View(take_xray([body], [truth @ second], 0.1), second),
    ]
    one = refine(views[:1], [body], [moved(truth, body)], LEVELS)
    two = refine(views, [body], [moved(truth, body)], LEVELS)
    axis = truth[:3, 2]
    depth_variance = [axis @ fit.covariance[3:, 3:] @ axis for fit in (one, two)]
    assert error(two.poses[0], truth, body).mtre_mm < 0.4
    assert depth_variance[1] < depth_variance[0] / 4


def test_two_overlapping_bodies_are_refined_together(body, truth):
    other_truth = moved(truth, body, (20, 25, -30), (30, 10, 12))
    xray = take_xray([body, body], [truth, other_truth])
    starts = [
        moved(truth, body, (1, -2, 1), (3, 2, -2)),
        moved(other_truth, body, (-1, 1, 2), (-2, 3, 2)),
    ]
    fit = refine([View(xray)], [body, body], starts, LEVELS)
    assert error(fit.poses[0], truth, body).in_plane_mm < 0.1
    assert error(fit.poses[1], other_truth, body).in_plane_mm < 0.1
    assert fit.covariance.shape == (12, 12)


def test_every_evaluated_pose_is_traced(body, truth):
    fit = refine([View(take_xray([body], [truth]))], [body], [moved(truth, body)], LEVELS)
    seconds = [each.seconds for each in fit.trace]
    assert {each.pixel_mm for each in fit.trace} == {level.pixel_mm for level in LEVELS}
    assert seconds == sorted(seconds)
    assert any(np.allclose(each.poses[0], fit.poses[0]) for each in fit.trace)
    assert fit.trace[0].similarity < fit.similarity


def test_a_body_outside_the_image_gives_no_pose(body, truth):
    away = geometry.translation(truth[:3, 0] * 900) @ truth
    assert refine([View(take_xray([body], [truth]))], [body], [away], LEVELS) is None


@pytest.mark.slow
def test_trials_side_by_side_end_where_each_ends_alone(body, truth):
    views = [View(take_xray([body], [truth], noise=0.01))]
    far = geometry.translation((500, 0, 0)) @ truth
    starts = [
        moved(truth, body),
        far,
        moved(truth, body, (-4, 2, 5), (-6, 3, 60)),
        moved(truth, body, (1, 6, -3), (30, 20, -90)),
    ]
    together = refine_each(views, [body], [[start] for start in starts], LEVELS)
    assert together[1] is None
    for start, fit in zip(starts, together, strict=True):
        alone = refine(views, [body], [start], LEVELS)
        assert (alone is None) == (fit is None)
        if fit is not None:
            np.testing.assert_allclose(fit.poses[0], alone.poses[0], atol=1e-6)
            assert fit.similarity == pytest.approx(alone.similarity, abs=1e-9)
            np.testing.assert_allclose(fit.covariance, alone.covariance, rtol=1e-4, atol=1e-9)
            assert [each.similarity for each in fit.trace] == pytest.approx(
                [each.similarity for each in alone.trace], abs=1e-9
            )


def test_more_noise_means_more_uncertainty(body, truth):
    quiet, loud = (
        refine([View(take_xray([body], [truth], noise))], [body], [truth], LEVELS[-1:])
        for noise in (0.02, 0.4)
    )
    assert np.trace(loud.covariance[3:, 3:]) > 4 * np.trace(quiet.covariance[3:, 3:])


def test_the_correlated_area_of_white_noise_is_one_pixel_and_of_smooth_noise_many():
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    assert uncertainty._correlated_pixels(noise) == pytest.approx(1, abs=0.1)
    assert uncertainty._correlated_pixels(gaussian_filter(noise, 2)) > 20
