"""Calibrations of rigs: every format of one camera projects a point to the same pixel."""

import json

import numpy as np
import pytest

from common import geometry
from common.errors import InputError
from common.xray import calibration

SIZE = (1760, 1520)  # width, height
K = np.array([[6167.353, 0, 803.741], [0, 6165.632, 865.698], [0, 0, 1]])
R = geometry.rotation_matrix([0.3, -0.7, 0.2])
T = np.array([-16.63, -77.84, 901.39])
POINTS = np.array([[0.0, 0, 0], [30, -20, 10], [-55, 41, 63]])


def pinhole(points, matrix=K):
    """The definition in the file format: x = R P + t, divided by depth."""
    x = points @ R.T + T
    return np.c_[
        matrix[0, 0] * x[:, 0] / x[:, 2] + matrix[0, 2],
        matrix[1, 1] * x[:, 1] / x[:, 2] + matrix[1, 2],
    ]


def mayacam_2(path, matrix=K, rotation=R, shift=T, size=SIZE):
    def rows(a):
        return "\n".join(",".join(f"{value:.12g}" for value in np.atleast_1d(row)) for row in a)

    path.write_text(
        f"image size\n{size[0]},{size[1]}\n\ncamera"
        f" matrix\n{rows(matrix)}\n\nrotation\n{rows(rotation)}\n\ntranslation\n{rows(shift)}\n"
    )
    return path


def mayacam_1(path, focal):
    """A camera of XMALab's older export: Maya's axes, pixels from 1, rows from the lower edge."""
    world_from_maya = R.T @ np.diag([1.0, -1, -1])
    about_y = -np.arcsin(world_from_maya[2, 0])
    about_x = np.arctan2(world_from_maya[2, 1], world_from_maya[2, 2])
    about_z = np.arctan2(world_from_maya[1, 0], world_from_maya[0, 0])
    u0, v0 = K[0, 2] + 1, SIZE[1] - 1 - K[1, 2] + 1
    rows = [
        -R.T @ T,
        np.degrees([about_x, about_y, about_z]),
        [0.1 * (SIZE[0] / 2 - u0), 0.1 * (SIZE[1] / 2 - v0), -0.1 * focal],
        [u0, v0, -focal],
        [0.1, *SIZE],
    ]
    path.write_text("\n".join(",".join(f"{value:.12g}" for value in row) for row in rows) + "\n")
    return path


def as_json(path, **changes):
    path.write_text(
        json.dumps(
            {"K": K.tolist(), "R": R.tolist(), "t": T.tolist(), "image_size": SIZE} | changes
        )
    )
    return path


def projected(camera):
    return geometry.project(POINTS, camera.detector, camera.rig_from_camera)


def test_mayacam_2_projects_as_its_definition_says(tmp_path):
    camera = calibration.read(mayacam_2(tmp_path / "cam.txt"))
    assert camera.image_size == SIZE
    np.testing.assert_allclose(projected(camera), pinhole(POINTS), atol=1e-6)


def test_unequal_focal_lengths_and_the_principal_point_are_kept_exactly(tmp_path):
    matrix = K * [[1.0], [1.03], [1.0]]
    matrix[1, 2] = K[1, 2]
    camera = calibration.read(mayacam_2(tmp_path / "cam.txt", matrix))
    np.testing.assert_allclose(camera.detector.intrinsics, matrix, rtol=1e-12)
    assert camera.detector.pixel_mm[0] > camera.detector.pixel_mm[1]


def test_json_projects_like_mayacam_2(tmp_path):
    np.testing.assert_allclose(
        projected(calibration.read(as_json(tmp_path / "cam.json"))), pinhole(POINTS), atol=1e-6
    )


def test_mayacam_1_projects_like_mayacam_2_with_its_one_focal_length(tmp_path):
    focal = (K[0, 0] + K[1, 1]) / 2
    expected = pinhole(POINTS, np.array([[focal, 0, K[0, 2]], [0, focal, K[1, 2]], [0, 0, 1]]))
    np.testing.assert_allclose(
        projected(calibration.read(mayacam_1(tmp_path / "cam.csv", focal))), expected, atol=1e-6
    )


@pytest.mark.parametrize("pixel_mm", [0.1, 0.25])
def test_the_chosen_pixel_spacing_sets_the_distance_and_keeps_the_image(tmp_path, pixel_mm):
    camera = calibration.read(mayacam_2(tmp_path / "cam.txt"), pixel_mm)
    assert camera.detector.pixel_mm[0] == pytest.approx(pixel_mm)
    assert camera.detector.sdd_mm == pytest.approx(K[0, 0] * pixel_mm)
    np.testing.assert_allclose(projected(camera), pinhole(POINTS), atol=1e-6)


def test_the_nominal_detector_lies_behind_the_rigs_origin(tmp_path):
    assert calibration.read(mayacam_2(tmp_path / "cam.txt")).detector.sdd_mm == pytest.approx(
        1.5 * T[2]
    )


def test_a_calibration_of_another_image_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="1760 x 1520 pixels; expected the X-ray's 1760 x 1760"):
        calibration.read(mayacam_2(tmp_path / "cam.txt"), image_size=(1760, 1760))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"R": np.diag([1.0, 1, -1]).tolist()}, "not a rotation matrix"),
        ({"R": (2 * R).tolist()}, "not a rotation matrix"),
        ({"K": [[6000, 9, 800], [0, 6000, 800], [0, 0, 1]]}, "camera matrix"),
        ({"K": [[-6000, 0, 800], [0, 6000, 800], [0, 0, 1]]}, "camera matrix"),
        ({"distortion": [0.1, 0, 0, 0, 0]}, "lens distortion"),
        ({"t": [1, 2]}, "3 numbers"),
        ({"K": "none"}, "not numbers"),
    ],
)
def test_a_json_that_is_not_a_pinhole_camera_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        calibration.read(as_json(tmp_path / "cam.json", **changes))


def test_zero_distortion_is_accepted(tmp_path):
    np.testing.assert_allclose(
        projected(calibration.read(as_json(tmp_path / "cam.json", distortion=[0, 0, 0, 0, 0]))),
        pinhole(POINTS),
        atol=1e-6,
    )


def test_a_json_without_a_rotation_names_what_is_missing(tmp_path):
    path = tmp_path / "cam.json"
    path.write_text(json.dumps({"K": K.tolist(), "t": T.tolist()}))
    with pytest.raises(InputError, match="no R, image_size"):
        calibration.read(path)


def test_a_truncated_mayacam_is_refused(tmp_path):
    path = mayacam_2(tmp_path / "cam.txt")
    path.write_text(path.read_text().split("translation")[0])
    with pytest.raises(InputError, match="0 sections 'translation'"):
        calibration.read(path)


def test_any_other_text_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("camera one stood on the left\n")
    with pytest.raises(InputError, match="MayaCam 1 does not hold 5 rows"):
        calibration.read(path)


def test_a_calibration_in_metres_is_pointed_out(tmp_path, caplog):
    calibration.read(as_json(tmp_path / "cam.json", t=(T / 1000).tolist()))
    assert "write its translation in millimetres" in caplog.text
