"""A phantom knee that bends by a known amount: truth, pictures, and limits."""

import json

import numpy as np
import pytest
from PIL import Image

from common import geometry
from common.synthetic import bending, phantom
from pipeline import make_movement


def test_the_knee_bends_by_the_stated_angle_and_the_bones_project_where_the_truth_says(tmp_path):
    flags = ["--frames", "3", "--spacing", "3", "--size", "64", "--flexion", "0", "30"]
    assert make_movement.main(["-o", str(tmp_path / "m"), *flags]) == 0
    truth = json.loads((tmp_path / "m/movement_truth.json").read_text())
    frames = truth["frames"]
    assert [each["flexion_deg"] for each in frames] == [0, 30, 0]
    assert [each["name"] for each in frames] == ["frame_000", "frame_001", "frame_002"]
    cameras = [{bone: np.array(each[bone]) for bone in bending.BONES} for each in frames]
    # the femur rests, as does the camera
    np.testing.assert_allclose(cameras[0]["femur"], cameras[1]["femur"], atol=1e-9)
    np.testing.assert_allclose(cameras[0]["tibia"], cameras[2]["tibia"], atol=1e-9)
    turned = cameras[1]["tibia"] @ geometry.invert(cameras[0]["tibia"])
    # its other two angles, of up to 3 degrees, bend the axis a little
    assert geometry.rotation_angle_deg(turned[:3, :3]) == pytest.approx(30, abs=0.3)
    # a landmark of the bent tibia, in the CT at rest, is where the picture shows bone
    stated = json.loads((tmp_path / "m/xrays/frame_001.json").read_text())
    pixel = stated["pixel_spacing_mm"][0]
    detector = geometry.Detector.centred(64, 64, stated["sdd_mm"], pixel)
    plateau = np.array(phantom.make(0, 3.0).truth["landmarks"]["tibia left"]["medial plateau"])
    column, row = geometry.project(plateau[None], detector, cameras[1]["tibia"])[0]
    image = np.asarray(Image.open(tmp_path / "m/xrays/frame_001.png")).astype(float)
    assert image[round(row), round(column)] > np.percentile(image, 60)


def test_a_course_turns_once_in_its_middle():
    course = bending.course(5, 35, 61)
    assert (course[0], course[-1], course[30]) == (5, 5, 35)
    assert (np.diff(course[:31]) > 0).all()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--flexion", "20", "10"], "a lower and a higher angle"),
        (["--flexion", "0", "90"], "0 to 45 degrees"),
        (["--frames", "1"], "--frames: found 1"),
        (["--photons", "0"], "--photons: found 0"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, capsys, flags, error):
    assert make_movement.main(["-o", str(tmp_path / "m"), *flags]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
