"""Joint coordinates: known answers of a knee on both sides, other joints, helical axes."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from common import geometry
from common.errors import InputError
from common.kinematics import helical_axis
from common.kinematics.joint_coordinates import (
    cardan_columns,
    cardan_coordinates,
    knee_coordinates,
    tibia_from_coordinates,
    unwrapped,
)

# made by physical meaning, by symmetry of left and right, and from the knee of a musculoskeletal
# model (OpenSim's Rajagopal2016); FE, VV, IE in degrees, ML, AP, PD in mm
KNOWN = json.loads((Path(__file__).parent / "knee_known_answers.json").read_text())
SIX = np.array([72.0, 4, 11, 3, -6, 27])


def pose(rotvec=(0.0, 0, 0), offset=(0.0, 0, 0)) -> np.ndarray:
    return geometry.twist(np.array([*np.radians(rotvec), *offset]), np.zeros(3))


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: f"{case['name']} {case['side']}")
def test_a_knee_has_its_known_six_numbers(case):
    found = knee_coordinates(
        np.array(case["world_from_femur"]), np.array(case["world_from_tibia"]), case["side"]
    )
    np.testing.assert_allclose(found, case["expected"], atol=1e-6)


def test_there_are_23_known_answers_on_both_sides():
    assert len(KNOWN) == 23
    assert {case["side"] for case in KNOWN} == {"left", "right"}


@pytest.mark.parametrize(("side", "to_midline"), [("right", -1.0), ("left", 1.0)])
def test_varus_is_positive_when_the_ankle_moves_to_the_midline(side, to_midline):
    ankle = np.array([0.0, -400, 0])
    tibia = tibia_from_coordinates(np.eye(4), np.array([0.0, 10, 0, 0, 0, 0]), side)
    assert geometry.apply(tibia, ankle)[2] * to_midline > 60  # Z is the subject's right


@pytest.mark.parametrize(("side", "to_midline"), [("right", -1.0), ("left", 1.0)])
def test_internal_rotation_is_positive_when_the_toes_turn_to_the_midline(side, to_midline):
    toes = np.array([200.0, -400, 0])
    tibia = tibia_from_coordinates(np.eye(4), np.array([0.0, 0, 10, 0, 0, 0]), side)
    assert geometry.apply(tibia, toes)[2] * to_midline > 30


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_six_numbers_give_the_pose_back(side):
    femur = pose((20, -30, 40), (5, 6, 7))
    for six in (SIX, -SIX / 3, np.zeros(6)):
        tibia = tibia_from_coordinates(femur, six, side)
        np.testing.assert_allclose(knee_coordinates(femur, tibia, side), six, atol=1e-9)


def test_the_numbers_of_many_frames_are_those_of_each():
    femurs = np.stack([pose((i, 2 * i, -i), (i, 0, 0)) for i in range(5)])
    tibias = np.stack([pose((-3 * i, i, i), (0, -20, i)) for i in range(5)])
    every = knee_coordinates(femurs, tibias, "left")
    assert every.shape == (5, 6)
    np.testing.assert_allclose(every[3], knee_coordinates(femurs[3], tibias[3], "left"))


def test_a_side_that_is_neither_left_nor_right_is_refused():
    with pytest.raises(InputError, match="left or right"):
        knee_coordinates(np.eye(4), np.eye(4), "L")


# ------------------------------------------------------------------------------------ other joints


@pytest.mark.parametrize("order", ["ZXY", "XYZ", "YXZ", "YXY", "ZYX"])
def test_the_angles_of_any_order_are_turns_about_the_moving_axes(order):
    angles = np.array([25.0, 35, -40])
    moved = np.eye(4)
    for axis, angle in zip(order, angles, strict=True):
        moved = moved @ pose(angle * np.eye(3)["XYZ".index(axis)])
    moved[:3, 3] = [1, 2, 3]
    world = pose((10, 20, 30), (4, 5, 6))
    found = cardan_coordinates(world, world @ moved, "right", order)
    np.testing.assert_allclose(found, [*angles, 1, 2, 3], atol=1e-9)


def test_a_left_joint_has_the_numbers_of_its_mirror_image():
    mirror = np.diag([1.0, 1, -1, 1])
    proximal, distal = pose((10, 0, 5)), pose((-20, 30, 8), (1, 2, 3))
    right = cardan_coordinates(proximal, distal, "right")
    left = cardan_coordinates(mirror @ proximal @ mirror, mirror @ distal @ mirror, "left")
    np.testing.assert_allclose(left, right, atol=1e-9)


def test_the_cardan_angles_of_a_knee_are_its_flexion_varus_and_rotation():
    tibia = tibia_from_coordinates(np.eye(4), SIX, "left")
    flexion, varus, internal = cardan_coordinates(np.eye(4), tibia, "left", "ZXY")[:3]
    np.testing.assert_allclose([-flexion, varus, internal], SIX[:3], atol=1e-9)


def test_parallel_axes_leave_the_third_angle_at_zero():
    moved = pose((90, 0, 0))
    np.testing.assert_allclose(
        cardan_coordinates(np.eye(4), moved, "right", "ZXY")[:3], [0, 90, 0], atol=1e-6
    )


@pytest.mark.parametrize("order", ["ZXX", "ZZY", "ABC", "ZX", "zxy"])
def test_an_order_with_an_axis_twice_in_a_row_is_refused(order):
    with pytest.raises(InputError, match="three of X, Y and Z"):
        cardan_columns(order)


def test_columns_name_the_axes_in_their_order():
    assert cardan_columns("ZXY")[:3] == ("Z_deg", "X_deg", "Y_deg")
    assert cardan_columns("YXY")[:3] == ("Y1_deg", "X_deg", "Y2_deg")


def test_angles_beyond_180_degrees_stay_continuous_across_a_gap():
    rows = np.zeros((5, 6))
    rows[:, 0] = [170, 179, np.nan, -178, -170]
    np.testing.assert_allclose(unwrapped(rows)[[0, 1, 3, 4], 0], [170, 179, 182, 190])


# ------------------------------------------------------------------------------------ helical axes


def test_a_turn_about_a_known_line_has_that_line_as_its_helical_axis():
    direction, point = np.array([2.0, -1, 2]) / 3, np.array([30.0, 10, -20])
    motion = geometry.twist(np.array([*np.radians(40) * direction, *(5 * direction)]), point)
    found = helical_axis.helical_axis(motion)
    np.testing.assert_allclose(found.direction, direction, atol=1e-12)
    assert found.angle_deg == pytest.approx(40)
    assert found.shift_mm == pytest.approx(5)
    assert found.point_mm @ direction == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(np.cross(found.point_mm - point, direction), 0, atol=1e-9)


def test_helical_axes_wait_until_a_step_is_large_enough():
    poses = np.stack([pose((0, 0, -angle)) for angle in (0.0, 4, 8, 12, 15, 23, 24)])
    poses[3] = np.nan  # a frame without a pose
    steps = helical_axis.helical_axes(poses)
    assert [(step.first, step.last) for step in steps] == [(0, 4)]
    np.testing.assert_allclose(steps[0].direction, [0, 0, -1], atol=1e-12)
    assert Rotation.from_matrix(poses[4, :3, :3]).magnitude() == pytest.approx(np.radians(15))
    assert helical_axis.helical_axes(np.full((3, 4, 4), np.nan)) == []
