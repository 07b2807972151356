"""Smoothing a phantom movement: less noise in depth, no bias at its turning points, gaps stay."""

from functools import partial

import numpy as np
import pytest

from common import geometry
from common.errors import InputError
from common.kinematics.joint_coordinates import knee_coordinates, tibia_from_coordinates
from common.kinematics.movement import Movement
from common.kinematics.smoother import OUTLIER, smooth

COORDINATES = partial(knee_coordinates, side="left")
TIMES = np.arange(60) / 30
FLEXION = 35 - 30 * np.cos(np.pi * TIMES)  # 5 to 65 degrees and back
TRUE = np.stack(
    [FLEXION, 1 + FLEXION / 30, FLEXION / 7, 3 + 0 * FLEXION, FLEXION / 8 - 2, 20 - FLEXION / 20], 1
)
# of a lateral view: depth is along Z of the femur; of a frontal one, along X
DEVIATIONS = np.r_[np.radians([0.25, 0.25, 0.25]), 0.1, 0.1, 1.5]
FRONTAL = DEVIATIONS[[0, 1, 2, 5, 4, 3]]
TURNING = slice(27, 34)


def noisy(
    seed: int,
    flipped: int | None = None,
    true: np.ndarray = TRUE,
    deviations: np.ndarray = DEVIATIONS,
) -> Movement:
    """The movement with noise about the tibia's origin; one frame may be turned around."""
    rng = np.random.default_rng(seed)
    poses, covariances = [], []
    for number, six in enumerate(true):
        pose = tibia_from_coordinates(np.eye(4), six, "left")
        x, y, z = pose[:3, 3]
        noise = rng.normal(0, deviations)
        if number == flipped:
            noise[1] += 2.5
        poses.append(geometry.twist(noise, pose[:3, 3]) @ pose)
        carry = np.eye(6)  # from a turn about the tibia's origin to one about the femur's
        carry[3:, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
        covariances.append(carry @ np.diag(deviations**2) @ carry.T)
    moved, count = np.array(poses), len(TRUE)
    values = COORDINATES(np.tile(np.eye(4), (count, 1, 1)), moved)
    empty = np.zeros((count, 6, 6))
    names = tuple(map(str, range(count)))
    return Movement(names, values, empty, empty, moved, np.array(covariances))


@pytest.mark.slow
@pytest.mark.parametrize(("deviations", "depth"), [(DEVIATIONS, 3), (FRONTAL, 4)])
def test_smoothing_lowers_depth_noise_three_fold_without_bias_at_the_turning_point(
    deviations, depth
):
    before, after, inside = [], [], []
    for seed in range(3):
        found = noisy(seed, deviations=deviations)
        smoothed = smooth(found, TIMES, COORDINATES)
        before.append(found.values - TRUE)
        after.append(smoothed.values - TRUE)
        inside.append(np.abs(after[-1]) < smoothed.half)
    raw, left = (np.sqrt(np.mean(np.square(errors), axis=(0, 1))) for errors in (before, after))
    assert raw[depth] / left[depth] > 3
    assert (left < raw).all()
    assert np.abs(np.mean(after, axis=0)[TURNING, 0].mean()) < 0.2
    assert np.mean(inside) > 0.85


@pytest.mark.slow
def test_a_knee_that_really_moves_along_the_view_keeps_its_movement():
    true = TRUE.copy()
    true[:, 3] += 4 * np.sin(np.pi * TIMES)  # mm, once to each side in two seconds
    errors, inside = [], []
    for seed in range(4):
        smoothed = smooth(noisy(seed, true=true), TIMES, COORDINATES)
        errors.append(smoothed.values[:, 3] - true[:, 3])
        inside.append(np.abs(errors[-1]) < smoothed.half[:, 3])
    assert np.sqrt(np.mean(np.square(errors))) < DEVIATIONS[5] / 2.5
    assert np.abs(np.mean(errors, axis=0)).max() < 0.75
    assert np.mean(inside) > 0.85


def test_a_flipped_frame_hardly_counts():
    found = noisy(1, flipped=20)
    smoothed = smooth(found, TIMES, COORDINATES, cutoff_hz=3)
    assert smoothed.weights[20] < OUTLIER
    assert np.abs(smoothed.values[20, :3] - TRUE[20, :3]).max() < 1
    assert np.abs(found.values[20, :3] - TRUE[20, :3]).max() > 50


def test_a_gap_stays_a_gap():
    found = noisy(2)
    for numbers in (found.values, found.proximal_from_distal, found.relative_covariances):
        numbers[10:13] = np.nan
    smoothed = smooth(found, TIMES, COORDINATES, cutoff_hz=3)
    assert np.isnan(smoothed.values[10:13]).all()
    assert np.isfinite(np.delete(smoothed.values, [10, 11, 12], 0)).all()
    assert np.abs(smoothed.values[9, 0] - TRUE[9, 0]) < 0.7


def test_a_movement_of_constant_velocity_is_left_as_it_is():
    found = noisy(0)
    exact = TRUE.copy()
    exact[:, 0] = np.linspace(0, 60, 60)
    exact[:, 1:] = [0, 0, 1, 0, 2]
    for number, six in enumerate(exact):
        found.proximal_from_distal[number] = tibia_from_coordinates(np.eye(4), six, "left")
    found.values[:] = exact
    # the tibia's origin turns with the femur: nearly constant velocity over short steps
    smoothed = smooth(found, TIMES, COORDINATES, cutoff_hz=5)
    np.testing.assert_allclose(smoothed.values[5:-5, :3], exact[5:-5, :3], atol=0.05)


def test_a_lower_cutoff_smooths_more():
    found = noisy(3)
    spread = [
        np.diff(smooth(found, TIMES, COORDINATES, hertz).values[:, 3]).std() for hertz in (8, 2)
    ]
    assert spread[1] < spread[0] / 2


def test_too_few_frames_are_refused():
    found = noisy(0)
    found.values[4:] = np.nan
    with pytest.raises(InputError, match="has 4 frames with a pose"):
        smooth(found, TIMES, COORDINATES)
