"""X-rays of several cameras, in the order in which a shell lists them."""

import logging
from pathlib import Path

import pytest

from common.command_line.camera_names import in_order_of_cameras
from common.errors import InputError


def paths(*names):
    return [Path("xrays", name) for name in names]


CAMERAS = [Path("cam1.txt"), Path("cam2.txt")]


def test_x_rays_listed_camera_by_camera_are_paired_by_their_names(caplog):
    listed = paths("cam1_000.tif", "cam1_040.tif", "cam2_000.tif", "cam2_040.tif")
    with caplog.at_level(logging.INFO):
        found = in_order_of_cameras(listed, CAMERAS)
    assert found == paths("cam1_000.tif", "cam2_000.tif", "cam1_040.tif", "cam2_040.tif")
    assert "cam1_000.tif + cam2_000.tif; cam1_040.tif + cam2_040.tif" in caplog.text


def test_x_rays_in_the_order_of_the_cameras_stay_as_they_are(caplog):
    listed = paths("a_CAM1.png", "a_cam2.png", "b_cam1.png", "b_cam2.png")
    with caplog.at_level(logging.INFO):
        assert in_order_of_cameras(listed, CAMERAS) == listed
    assert not caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("cam11_0.tif", "cam12_0.tif", "cam11_1.tif", "cam12_1.tif"),  # other cameras
        ("x0.tif", "x1.tif", "y0.tif", "y1.tif"),
        ("cam2_cam1_0.tif", "cam1_0.tif"),  # one name fits both
        ("mycam2.tif", "mycam1.tif"),
    ],
)
def test_names_that_do_not_say_which_camera_it_was_change_nothing(names):
    assert in_order_of_cameras(paths(*names), CAMERAS) == paths(*names)


def test_a_single_calibration_changes_nothing():
    listed = paths("b_cam1.tif", "a_cam1.tif")
    assert in_order_of_cameras(listed, CAMERAS[:1]) == listed


def test_cameras_with_different_numbers_of_x_rays_are_an_error():
    with pytest.raises(InputError, match="say 3 of cam1, 1 of cam2; expected as many"):
        in_order_of_cameras(paths("cam1_0.tif", "cam1_1.tif", "cam1_2.tif", "cam2_0.tif"), CAMERAS)
