"""Functional alignment: known turns of frames are undone, and short movements are refused."""

import csv
import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_kinematics import CAMERA, command, save, scene, template, tibia_camera

from common import geometry
from common.errors import InputError
from common.kinematics.functional_alignment import align
from common.kinematics.joint_coordinates import knee_coordinates, tibia_from_coordinates
from pipeline import kinematics

__all__ = ["scene", "template"]  # fixtures


def hinge(flexion, side="right") -> np.ndarray:
    """femur_from_tibia of a knee that only flexes."""
    return np.array(
        [tibia_from_coordinates(np.eye(4), np.array([f, 0, 0, 2, 3, 25.0]), side) for f in flexion]
    )


def turned(poses: np.ndarray, femur_deg, tibia_deg) -> np.ndarray:
    femur, tibia = (
        geometry.twist(np.r_[np.radians(turn), 0, 0, 0], np.zeros(3))
        for turn in (femur_deg, tibia_deg)
    )
    return geometry.invert(femur) @ poses @ tibia


@pytest.mark.parametrize("side", ["left", "right"])
def test_frames_that_are_turned_are_turned_back(side):
    flexion = np.linspace(-5, 80, 40)
    wrong = turned(hinge(flexion, side), [4, -6, 0], [-3, 5, 0])
    cross_talk = knee_coordinates(np.eye(4), wrong, side)
    assert np.ptp(cross_talk[:, 1]) > 3
    found = align(wrong, side)
    np.testing.assert_allclose(found.after_deg, 0, atol=1e-6)
    assert found.before_deg.min() > 1
    femur, tibia = np.radians(found.femur_deg), np.radians(found.tibia_deg)
    again = turned(wrong, np.degrees(femur), np.degrees(tibia))
    six = knee_coordinates(np.eye(4), again, side)
    np.testing.assert_allclose(six[:, 1:3], 0, atol=1e-6)
    # the axes are those of the hinge again: turned there and back
    for back, there in ((femur, [4, -6, 0]), (tibia, [-3, 5, 0])):
        left = Rotation.from_rotvec(np.radians(there)) * Rotation.from_rotvec(back)
        along = Rotation.from_rotvec([0, 0, left.as_rotvec()[2]])
        assert np.degrees((along.inv() * left).magnitude()) < 0.3


def test_noise_that_the_corrections_cannot_explain_remains():
    rng = np.random.default_rng(3)
    flexion = np.linspace(0, 60, 50)
    six = np.c_[flexion, rng.normal(0, 1, 50), rng.normal(0, 2, 50), np.zeros((50, 3))]
    poses = np.array([tibia_from_coordinates(np.eye(4), row, "right") for row in six])
    found = align(turned(poses, [3, 2, 0], [1, -4, 0]), "right")
    np.testing.assert_allclose(found.after_deg, [1, 2], rtol=0.25)


def test_a_short_movement_and_too_few_frames_are_refused():
    with pytest.raises(InputError, match="flexion ranges over 29"):
        align(hinge(np.linspace(0, 29, 20)), "right")
    with pytest.raises(InputError, match="has 3 frames"):
        align(hinge([0, 40, 80]), "right")


def test_the_aligned_table_stands_beside_the_first_one_and_states_its_turns(scene, template):
    names = tuple(f"h{number}" for number in range(8))
    for number, name in enumerate(names):
        six = np.array([8.0 * number, 3, -4 + number, 1, 2, 3])
        save(template, scene / name / "femur", "femur", CAMERA, name)
        save(template, scene / name / "tibia", "tibia", tibia_camera(six), name)
    assert kinematics.main([*command(scene, names, names), "--align", "reframe"]) == 0
    tables = {}
    for name in ("kinematics.csv", "kinematics_aligned.csv"):
        with open(scene / "knee" / name, newline="") as stream:
            rows = list(csv.DictReader(stream))
        tables[name] = np.array([[float(row["VV_deg"]), float(row["IE_deg"])] for row in rows])
    np.testing.assert_allclose(tables["kinematics.csv"][:, 0], 3, atol=1e-5)
    stated = json.loads((scene / "knee/kinematics.json").read_text())["functional_alignment"]
    after = np.sqrt((tables["kinematics_aligned.csv"] ** 2).mean(axis=0))
    np.testing.assert_allclose(after, list(stated["rms_after_deg"].values()), atol=1e-3)
    assert (after < list(stated["rms_before_deg"].values())).all()
    assert np.linalg.norm(stated["femur_deg"]) > 0.5
    assert stated["frames"] == 8


def test_a_movement_too_short_to_align_writes_nothing(scene, capsys):
    assert kinematics.main([*command(scene), "--align", "reframe"]) == 2
    assert "align: has 3 frames with a pose that is ok" in capsys.readouterr().err
    assert not (scene / "knee/kinematics.csv").exists()
    assert kinematics.main([*command(scene), "--align", "reframe", "--order", "ZXY"]) == 2
    assert "given with --order" in capsys.readouterr().err
