"""Calibrations of rigs: every format of one camera projects a point to the same pixel."""

import json

import numpy as np
import pytest
from scipy.io import savemat

from common import geometry
from common.errors import InputError
from common.xray import calibration
from common.xray.camera_entries import SINGLE_TERMS
from common.xray.lens import Lens

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


def test_jointtrack_states_distance_and_pixels_of_one_camera_about_the_middle(tmp_path):
    path = tmp_path / "calibration.txt"
    path.write_text("JT_INTCALIB\r\n1198\r\n0\r\n0\r\n0.373")
    found = calibration.read(path, pixel_mm=0.5, image_size=(1024, 768))
    detector = found.detector
    assert detector.sdd_mm == pytest.approx(1198)
    assert detector.pixel_mm == pytest.approx((0.373, 0.373))
    assert detector.principal_px == (511.5, 383.5)
    np.testing.assert_array_equal(found.rig_from_camera, np.eye(4))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [("1198 0 0", "3 words"), ("1198 2 0 0.373", "2 and 0 mm"), ("0 0 0 0.373", "0 and 0.373 mm")],
)
def test_a_jointtrack_calibration_that_leaves_something_open_is_refused(tmp_path, numbers, message):
    path = tmp_path / "calibration.txt"
    path.write_text(f"JT_INTCALIB {numbers}")
    with pytest.raises(InputError, match=message):
        calibration.read(path, image_size=(1024, 1024))


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
        ({"distortion": [0.1, 0, 0]}, "not 4, 5 or 8 numbers"),
        ({"lens_model": [0.1, 0, 0, 0, 0]}, "states lens distortion"),
        ({"radial": [0.1]}, "states lens distortion"),
        ({"dist": [0.1, 0, 0, 0], "k1": 0.1}, "states lens distortion"),
        ({"t": [1, 2]}, "3 numbers"),
        ({"K": "none"}, "does not hold numbers"),
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


# --------------------------------------------------------------------------------- further formats


def projection():
    return K @ np.c_[R, T]


def text_of(matrix, separator=" "):
    return "\n".join(separator.join(f"{value:.12g}" for value in row) for row in matrix) + "\n"


def write_matrix(path, scale=1.0):
    matrix = scale * projection()
    if path.suffix == ".npy":
        np.save(path, matrix)
    elif path.suffix == ".mat":
        savemat(path, {"P": matrix, "frames": np.arange(5)})
    elif path.suffix == ".json":
        path.write_text(json.dumps({"P": matrix.tolist()}))
    else:
        path.write_text(text_of(matrix, "," if path.stem == "commas" else "\t"))
    return path


@pytest.mark.parametrize("name", ["p.txt", "commas.csv", "p.npy", "p.mat", "p.json"])
@pytest.mark.parametrize("scale", [1.0, -0.002])
def test_a_3x4_matrix_projects_like_its_camera_whatever_its_scale(tmp_path, name, scale):
    camera = calibration.read(write_matrix(tmp_path / name, scale), image_size=SIZE)
    np.testing.assert_allclose(projected(camera), pinhole(POINTS), atol=1e-4)
    assert np.linalg.norm(camera.rig_from_camera[:3, 3] - (-R.T @ T)) < 1e-4


def yaml(path, lens=(0, 0, 0, 0, 0), rotation=R):
    def matrix(name, values):
        values = np.atleast_2d(values)
        data = ", ".join(f"{value:.12g}" for value in values.ravel())
        rows, columns = values.shape
        return (
            f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {columns}\n   dt: d\n"
            f"   data: [ {data} ]\n"
        )

    entries = matrix("camera_matrix", K) + matrix("distortion_coefficients", lens)
    entries += matrix("R", rotation) + matrix("T", T[:, None])
    path.write_text(f"%YAML:1.0\n---\nimage_width: {SIZE[0]}\nimage_height: {SIZE[1]}\n{entries}")
    return path


def test_opencv_yaml_projects_like_mayacam_2(tmp_path):
    camera = calibration.read(yaml(tmp_path / "cam.yml"))
    np.testing.assert_allclose(projected(camera), pinhole(POINTS), atol=1e-6)
    turned = calibration.read(yaml(tmp_path / "cam.yml", rotation=[[0.3, -0.7, 0.2]]))
    np.testing.assert_allclose(projected(turned), pinhole(POINTS), atol=1e-6)


def test_a_vtk_camera_projects_as_its_view_angle_and_axes_say(tmp_path):
    size, angle = (800, 600), 24.0
    content = {
        "camera-position": [0, -900, 0],
        "focal-point": [0, 0, 0],
        "view-up": [0, 0, 1],
        "view-angle": angle,
        "image-width": size[0],
        "image-height": size[1],
    }
    (tmp_path / "cam.json").write_text(json.dumps(content))
    camera = calibration.read(tmp_path / "cam.json")
    focal = size[1] / 2 / np.tan(np.radians(angle) / 2)
    points = np.array([[0.0, 0, 0], [50, 0, 0], [0, 0, 50]])
    centre = np.array([399.5, 299.5])
    shift = focal * 50 / 900
    expected = [centre, centre + np.array([shift, 0]), centre - np.array([0, shift])]
    np.testing.assert_allclose(projected_points(camera, points), expected, atol=1e-6)


def projected_points(camera, points):
    return geometry.project(points, camera.detector, camera.rig_from_camera)


@pytest.mark.parametrize("separator", [" ", "\t", ";", ", ", "  "])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_byte_order_marks_and_line_ends_do_not_matter(tmp_path, separator, coding, end):
    for write in (mayacam_2, lambda path: mayacam_1(path, K[0, 0])):
        text = write(tmp_path / "cam.txt").read_text()
        expected = projected(calibration.read(tmp_path / "cam.txt"))
        text = text.replace(",", separator).replace("\n", end)
        (tmp_path / "cam.txt").write_bytes(text.encode(coding))
        np.testing.assert_allclose(
            projected(calibration.read(tmp_path / "cam.txt")), expected, atol=1e-6
        )


@pytest.mark.parametrize(
    ("section", "refused"),
    [
        ("undistortion\n-0.35,0.12,0,0,0,0,0,0\n", True),
        ("undistortion\n0,0.0,0,0,0e0,0,0,0\n", False),
        ("lens\n1\n", True),
        ("7,8\n", True),
    ],
)
def test_a_further_section_of_mayacam_2_is_refused_unless_it_is_zero(tmp_path, section, refused):
    path = mayacam_2(tmp_path / "cam.txt")
    path.write_text(path.read_text() + "\n" + section)
    if refused:
        with pytest.raises(InputError, match="has a further section"):
            calibration.read(path)
    else:
        calibration.read(path)


@pytest.mark.parametrize("distance", [12.0, 120.0, 290.0])
def test_a_source_that_is_near_the_origin_is_warned_of(tmp_path, distance, caplog):
    shift = T / np.linalg.norm(T) * distance
    calibration.read(mayacam_2(tmp_path / "cam.txt", shift=shift))
    assert "in centimetres or metres" in caplog.text


def test_a_mayacam_1_whose_film_plane_is_in_centimetres_is_warned_of(tmp_path, caplog):
    path = mayacam_1(tmp_path / "cam.csv", K[0, 0])
    calibration.read(path)
    assert "by its film plane" not in caplog.text
    rows = [[float(value) for value in line.split(",")] for line in path.read_text().splitlines()]
    rows[0] = [value / 10 * 10 for value in rows[0]]  # more than 300 away
    rows[2] = [value / 10 for value in rows[2]]
    path.write_text(text_of(rows, ","))
    calibration.read(path)
    assert "by its film plane, a pixel measures 0.01" in caplog.text


# -------------------------------------------------------------------------------------- lens terms

TERMS = (-0.3, 0.1, 0.001, -0.002, 0.02)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: as_json(folder / "c.json", distortion=TERMS),
        lambda folder: as_json(folder / "c.json", dist_coeffs=TERMS),
        lambda folder: as_json(folder / "c.json", D=TERMS),
        lambda folder: as_json(folder / "c.json", **dict(zip(SINGLE_TERMS, TERMS, strict=False))),
        lambda folder: yaml(folder / "c.yml", TERMS),
    ],
)
def test_lens_terms_are_read_in_opencvs_order_and_said(tmp_path, write, caplog):
    camera = calibration.read(write(tmp_path))
    assert camera.lens.terms == (*TERMS, 0, 0, 0)
    assert "has lens terms" in caplog.text


def test_a_point_is_distorted_by_the_formula_of_opencv():
    lens = Lens.of(np.array(TERMS), K)
    pixel = np.array([1200.0, 400.0])
    x, y = (pixel - K[:2, 2]) / np.diag(K)[:2]
    k1, k2, p1, p2, k3 = TERMS
    s = x * x + y * y
    radial = 1 + k1 * s + k2 * s**2 + k3 * s**3
    seen = [
        x * radial + 2 * p1 * x * y + p2 * (s + 2 * x * x),
        y * radial + p1 * (s + 2 * y * y) + 2 * p2 * x * y,
    ]
    np.testing.assert_allclose(lens.distorted(pixel), seen * np.diag(K)[:2] + K[:2, 2])


def test_a_distorted_picture_is_undistorted():
    matrix = np.array([[150.0, 0, 60], [0, 150, 48], [0, 0, 1]])
    lens = Lens.of(np.array([-0.2, 0.0, 0.0, 0.0]), matrix)
    columns, rows = np.meshgrid(np.arange(120.0), np.arange(96.0))
    smooth = np.sin(columns / 9) + np.cos(rows / 7)
    # the distorted picture shows, at the distorted place of each pixel, the value of that pixel
    grid = np.stack([columns, rows], -1)
    undistorted = grid.copy()
    for _ in range(40):
        undistorted += grid - lens.distorted(undistorted)
    seen = np.sin(undistorted[..., 0] / 9) + np.cos(undistorted[..., 1] / 7)
    found, inside = lens.undistort(seen)
    assert inside[20:-20, 20:-20].all()
    assert np.abs(found - smooth)[inside].max() < 0.03
    assert np.abs(seen - smooth)[inside].max() > 0.3
