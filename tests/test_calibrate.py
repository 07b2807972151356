"""Cameras from points of a known object: recovered, also with noise; refused without depth."""

import numpy as np
import pytest

from common import geometry
from common.errors import InputError
from common.geometry import rotation_matrix
from common.xray import calibration
from common.xray.camera_fit import fit_camera, project, triangulate
from common.xray.pinhole import Pinhole
from pipeline import calibrate

SIZE = (1024, 900)
MATRIX = np.array([[5200.0, 0, 530], [0, 5200, 441], [0, 0, 1]])
VIEWS = [
    Pinhole(*SIZE, MATRIX, rotation_matrix(turn), np.array(shift))
    for turn, shift in (([0.1, -0.05, 0.02], [3.0, -5, 950]), ([0.05, -1.55, 0.1], [-4.0, 2, 1010]))
]
POINTS = np.random.default_rng(3).uniform(-60, 60, (14, 3))


def table(path, rows):
    path.write_text(
        "name,values\n" + "".join(f"b{n},{','.join(map(str, r))}\n" for n, r in enumerate(rows))
    )
    return str(path)


@pytest.mark.parametrize("view", VIEWS)
def test_a_camera_is_recovered_from_exact_points(tmp_path, view):
    fit = fit_camera(tmp_path, POINTS, project(view, POINTS), SIZE)
    assert fit.rms_px < 1e-6
    np.testing.assert_allclose(fit.camera.matrix, MATRIX, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(fit.camera.shift, view.shift, atol=1e-3)


def test_two_views_triangulate_the_points_in_spite_of_noise(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.array([project(view, POINTS) + rng.normal(0, 0.3, (14, 2)) for view in VIEWS])
    fits = [fit_camera(tmp_path, POINTS, seen, SIZE) for seen in pixels]
    assert all(0.1 < fit.rms_px < 0.6 for fit in fits)
    found = triangulate([fit.camera for fit in fits], pixels)
    assert np.linalg.norm(found - POINTS, axis=1).max() < 0.2


@pytest.mark.parametrize(
    ("points", "found"), [(POINTS[:5], "are 5"), (POINTS * [1, 1, 0], "lie in one plane")]
)
def test_too_few_points_and_points_in_a_plane_are_refused(tmp_path, points, found):
    with pytest.raises(InputError, match=f"its points {found}"):
        fit_camera(tmp_path / "v.csv", points, project(VIEWS[0], points), SIZE)


def test_the_script_writes_calibrations_that_registration_reads(tmp_path, capsys):
    flags = ["--points", table(tmp_path / "points.csv", POINTS), "--size", *map(str, SIZE)]
    seen = [project(view, POINTS) for view in VIEWS]
    seen[1][3] += 30  # a bead that was mistaken for another
    views = [table(tmp_path / f"view{n}.csv", pixels) for n, pixels in enumerate(seen)]
    assert calibrate.main([*flags, "--pixels", *views, "-o", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "view1.csv: b3 is" in error
    assert "mm RMS" in error
    camera = calibration.read(tmp_path / "out/view0.json", image_size=SIZE)
    again = geometry.project(POINTS, camera.detector, camera.rig_from_camera)
    np.testing.assert_allclose(again, seen[0], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b0,1\n", "line 1 is 'b0,1'"),
        ("b0,1,2\nb0,3,4\n", "line 2"),
        ("name,column,row\nb0,1,far\n", "line 2"),
        ("b77,1,2\n", "names b77"),
        ("name,column,row\n", "has no points"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, capsys, text, message):
    (tmp_path / "view.csv").write_text(text)
    flags = ["--points", table(tmp_path / "points.csv", POINTS), "--size", *map(str, SIZE)]
    flags += ["--pixels", str(tmp_path / "view.csv"), "-o", str(tmp_path / "out")]
    assert calibrate.main(flags) == 2
    assert message in capsys.readouterr().err
