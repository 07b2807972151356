"""Image metrics at values known by hand."""

import numpy as np
import pytest

from common.xray import similarity


def noise(seed=0, shape=(50, 60)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_an_image_agrees_with_itself_at_any_brightness_and_contrast():
    found = similarity.compare(300 * noise() - 40, noise())
    assert found["MSE"] == pytest.approx(0, abs=1e-25)
    assert found["SSIM"] == pytest.approx(1)
    assert found["NCC"] == pytest.approx(1)
    assert found["NMI"] == pytest.approx(2, abs=0.01)


def test_a_negative_correlates_with_minus_one_and_keeps_its_information():
    found = similarity.compare(-noise(), noise())
    assert found["NCC"] == pytest.approx(-1)
    assert found["NMI"] > 1.9
    assert found["SSIM"] < 0


def test_unrelated_images_agree_in_nothing():
    found = similarity.compare(noise(1, (300, 300)), noise(2, (300, 300)))
    assert abs(found["NCC"]) < 0.02
    assert found["NMI"] == pytest.approx(1, abs=0.03)
    assert found["MSE"] == pytest.approx(1 / 6, abs=0.005)  # of two uniform variables


def test_mse_and_ncc_of_four_pixels_by_hand():
    a, b = np.array([[0.0, 1], [2, 4]]), np.array([[0.0, 2], [2, 4]])
    assert similarity.ncc(a, b) == pytest.approx(8 / np.sqrt(8.75 * 8))
    big = np.kron(a, np.ones((10, 10))), np.kron(b, np.ones((10, 10)))
    assert similarity.compare(*big)["MSE"] == pytest.approx(0.25**2 / 4)


def test_pixels_outside_the_mask_are_ignored():
    inside = np.zeros((50, 60), bool)
    inside[5:40, 10:50] = True
    spoilt = np.where(inside, noise(), 1000 * noise(3))
    eroded = np.zeros_like(inside)
    eroded[8:37, 13:47] = True  # SSIM looks 3 pixels around
    assert similarity.compare(spoilt, noise(), inside)["MSE"] == pytest.approx(0, abs=1e-25)
    assert similarity.compare(spoilt, noise(), inside)["NCC"] == pytest.approx(1)
    assert similarity.compare(np.where(inside, noise(), 0.5), noise(), eroded)[
        "SSIM"
    ] == pytest.approx(1)


def test_a_constant_image_scores_zero_not_nan():
    assert similarity.ncc(np.ones((5, 5)), noise(shape=(5, 5))) == 0
    found = similarity.compare(np.ones((50, 60)), noise())
    assert found["NCC"] == 0
    assert all(np.isfinite(list(found.values())))


def test_normalise_maps_the_mask_to_0_to_1_without_clipping():
    image = np.array([[0.0, 10], [20, 90]])
    np.testing.assert_allclose(similarity.normalise(image), image / 90)
    np.testing.assert_allclose(
        similarity.normalise(image, np.array([[True, True], [True, False]])), image / 20
    )
    assert not similarity.normalise(np.full((2, 2), 7)).any()


def test_integer_images_do_not_overflow():
    a = np.array([[0, 255], [255, 0]], np.uint8)
    assert similarity.ncc(a, 255 - a) == pytest.approx(-1)
    big = np.kron(a, np.ones((8, 8), np.uint8))
    assert similarity.compare(big, 255 - big)["MSE"] == pytest.approx(1)


def test_every_metric_says_which_way_is_better():
    assert set(similarity.compare(noise(), noise(1))) == set(similarity.BETTER)
    assert similarity.BETTER["MSE"] == "lower"
