"""The comparison of local contrasts: blur, high-pass, tone curve, residuals and their moments."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.registration import contrast, contrast_kernel, pyramid, tone_kernel

SHAPE = (40, 50)


def smooth(seed, count, width=2.0):
    noise = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    blurred = gaussian_filter(noise, (0, width, width)).astype(np.float32)
    return blurred / blurred.std((1, 2), keepdims=True)


def compared(drr, derivatives, image, weights):
    features = np.stack([function(image) for function in contrast.TONE_BASIS])[None]
    rows = np.concatenate([drr[None], derivatives])[None].astype(np.float32)
    which, grey = np.zeros(1, int), np.zeros((1, 2))
    contrast_kernel.grey_ranges(image[None], which, weights[None], grey)
    features = features.astype(np.float32)
    found = contrast.compare(rows, features, which, weights[None], grey)
    return found, found.residuals(rows[:, 0].copy(), features, which, weights[None])[0]


def weights_inside():
    weights = np.zeros(SHAPE, np.float32)
    weights[5:35, 8:45] = np.random.default_rng(5).uniform(0.2, 1, (30, 37))
    return weights


@pytest.mark.parametrize("sigma", [(0.5, 0.7), (2.0, 3.3), (9.0, 12.0)])
def test_the_blur_is_a_gaussian_with_zeros_beyond_the_border(sigma):
    images = smooth(0, 3, 1.0)
    expected = [gaussian_filter(each, sigma, mode="constant", truncate=3.0) for each in images]
    np.testing.assert_allclose(pyramid.blur(images, sigma), expected, atol=2e-6)


def test_a_constant_has_no_contrast_up_to_the_edge_of_the_valid_field():
    valid = np.zeros((1, *SHAPE), np.float32)
    valid[0, 10:30, 5:40] = 1
    down, across = pyramid._gaussian(2.0), pyramid._gaussian(3.0)
    average = np.empty_like(valid)
    contrast_kernel.blur(valid, down, across, average)
    out = np.empty((1, 1, *SHAPE), np.float32)
    contrast_kernel.highpass(
        np.full_like(out, 7.0), np.zeros(1, int), valid, 1 / np.maximum(average, 1e-6), down,
        across, out,
    )  # fmt: skip
    np.testing.assert_allclose(out, 0, atol=1e-5)


def test_an_xray_that_is_a_rising_curve_of_the_drr_explains_it():
    image = 0.5 + 0.1 * smooth(1, 1)[0]
    found, residual = compared(0.7 * image + 0.3 * image**2, smooth(2, 6), image, weights_inside())
    assert found.seen.all()
    assert found.cost[0] < 1e-3
    assert np.abs(residual).max() < 0.2


def test_an_inverted_xray_explains_nothing():
    image = 0.5 + 0.1 * smooth(1, 1)[0]
    found, _ = compared(-image, smooth(2, 6), image, weights_inside())
    assert found.cost[0] == pytest.approx(1)


def test_cost_and_normal_equations_are_sums_over_the_residuals():
    image, weights = 0.5 + 0.1 * smooth(1, 1)[0], weights_inside()
    drr, derivatives = image + 0.05 * smooth(3, 1)[0], smooth(2, 6)
    found, residual = compared(drr, derivatives, image, weights)
    share = weights / weights.sum()
    assert found.cost[0] == pytest.approx(float((share * residual**2).sum()), rel=1e-5)
    assert float((share * residual).sum()) == pytest.approx(0, abs=1e-6)
    # the derivative by the k-th unknown is the change of the residual
    step = 1e-3
    slopes = []
    for derivative in derivatives:
        after, before = (
            compared(drr + sign * step * derivative, derivatives, image, weights)[1]
            for sign in (1, -1)
        )
        slopes.append((after - before).ravel() / (2 * step))
    slopes = np.array(slopes)
    gradient = slopes @ (share * residual).ravel()
    np.testing.assert_allclose(found.right[0], gradient, atol=0.03 * np.abs(gradient).max())
    normal = (slopes * share.ravel()) @ slopes.T
    np.testing.assert_allclose(found.normal[0], normal, atol=0.03 * normal.max())


def test_too_few_pixels_are_not_compared():
    image, weights = 0.5 + 0.1 * smooth(1, 1)[0], np.zeros(SHAPE, np.float32)
    weights[0, : tone_kernel.MIN_ZONE_PX - 1] = 1
    found, residual = compared(image, smooth(2, 6), image, weights)
    assert not found.seen.any()
    assert not residual.any()
    weights[0, tone_kernel.MIN_ZONE_PX - 1] = 1
    assert compared(image, smooth(2, 6), image, weights)[0].seen.all()


def test_other_structures_have_less_weight():
    weights = weights_inside()
    residual = 0.1 * smooth(4, 1)
    residual[0, 20, 20] = 5
    lowered = weights[None].copy()
    contrast_kernel.downweight(residual, lowered, contrast.CAUCHY)
    ratio = lowered[0][weights > 0] / weights[weights > 0]
    assert lowered[0, 20, 20] / weights[20, 20] < 0.01
    assert np.median(ratio) > 0.8


def test_small_systems_are_solved_whatever_the_order_of_their_rows():
    rng = np.random.default_rng(0)
    for size in (1, 2, 4):
        matrix, right = rng.normal(size=(size, size)), rng.normal(size=(size, 7))
        matrix[0, 0] = 0 if size > 1 else 2.0  # a pivot is needed
        found = tone_kernel._solve(matrix, right)
        np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-9)
