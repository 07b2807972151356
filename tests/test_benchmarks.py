import csv
import importlib.util
import json
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
from PIL import Image
from test_registration import TRUTH, xray_of

from common import geometry, volumes
from common.poserange import NAMES

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def accuracy():
    spec = importlib.util.spec_from_file_location("benchmark_accuracy", FOLDER / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_starts_are_off_by_no_more_than_they_say(accuracy):
    centre, camera = np.array([10.0, -20, 30]), geometry.translation([10.0, -20, 30]) @ geometry.camera_from_pose(TRUTH)
    for seed in range(20):
        start = accuracy.perturbed(camera, centre, 8.0, 10.0, 25.0, np.random.default_rng(seed))
        moved = geometry.apply(geometry.invert(start), centre) - geometry.apply(geometry.invert(camera), centre)
        assert geometry.rotation_angle_deg(start[:3, :3] @ camera[:3, :3].T) <= 8.0
        assert np.linalg.norm(moved[:2]) <= 10.0 + 4.0  # the camera's own axes have turned with the start
        assert abs(moved[2]) <= 25.0 + 4.0


def test_the_range_around_a_pose_holds_it_and_is_as_wide_as_the_knees(accuracy):
    centre = np.array([10.0, -20, 30])
    camera = geometry.translation(centre) @ geometry.camera_from_pose(TRUTH)
    ranges = accuracy.range_around(camera, centre, None, np.random.default_rng(3))
    values = [*helpers.TRUE_ANGLES, *helpers.TRUE_OFFSET]
    for name, value in zip(NAMES, values, strict=True):
        low, high = getattr(ranges, name)
        assert low <= value <= high
    assert ranges.r1[1] - ranges.r1[0] == pytest.approx(60)


def test_accuracy_lists_every_registration_and_its_error(accuracy, tmp_path, capsys):
    ct = helpers.small_ct()
    volumes.save(tmp_path / "ct.nii.gz", ct)
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(TRUTH)
    Image.fromarray(xray_of(ct, camera)).save(tmp_path / "view.png")
    (tmp_path / "view.json").write_text(json.dumps({"sdd_mm": 900, "pixel_spacing_mm": [1.2, 1.2], "principal_point_px": [75, 70]}))
    (tmp_path / "view_truth.json").write_text(json.dumps({"camera": camera.tolist()}))
    assert accuracy.main(["--ct", str(tmp_path / "ct.nii.gz"), "--xrays", str(tmp_path / "view.png"), "--starts", "2", "-o", str(tmp_path / "out.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(float(row["in_plane_mm"]) < 0.2 for row in rows)
    assert "2 registrations, 100.0 % within 1 mm in plane" in capsys.readouterr().out
