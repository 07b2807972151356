"""The animation: its poses, the content of its frames, and that it opens as a GIF."""

import dataclasses

import numpy as np
import pytest
from helpers import save_registration
from PIL import Image, ImageSequence

import animate_2d_pose
from common import geometry
from common.geometry import Detector
from common.reports import animation, overlays
from common.results.result import TRAJECTORY_COLUMNS


@pytest.fixture(scope="module")
def registration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registration")
    return folder, *save_registration(folder)


def animate(folder, *flags, name="a.gif") -> tuple[int, list[np.ndarray], list[int]]:
    arguments = [
        "--volume",
        folder / "ct.nii.gz",
        "--parameters",
        folder / "parameters.pt",
        "--output_path",
        folder / name,
        "--overwrite",
    ]
    code = animate_2d_pose.main([str(a) for a in (*arguments, *flags)])
    if code:
        return code, [], []
    frames, durations = [], []
    with Image.open(folder / name) as gif:
        assert gif.format == "GIF"
        for frame in ImageSequence.Iterator(gif):
            frames.append(np.asarray(frame.convert("RGB")).astype(int))
            durations.append(frame.info["duration"])
    return code, frames, durations


def with_poses(result, poses):
    """The result with a trajectory through these poses."""
    parameters = [np.r_[geometry.angles_from_pose(pose)] for pose in poses]
    columns = dict(zip(TRAJECTORY_COLUMNS[:6], np.array(parameters).T.tolist(), strict=True))
    return dataclasses.replace(
        result,
        trajectory={
            **columns,
            **{name: list(np.arange(len(poses)) / 10) for name in TRAJECTORY_COLUMNS[6:]},
        },
    )


def test_the_last_frame_stays_a_second_and_all_poses_are_shown(registration):
    code, frames, durations = animate(registration[0])
    assert code == 0
    assert len(frames) == 6
    assert durations == [120] * 5 + [1000]
    assert frames[0].shape[1] == 110


def test_the_overlay_is_grey_where_drr_and_x_ray_agree_and_coloured_at_the_start(registration):
    _, frames, _ = animate(registration[0])
    colour = [np.ptp(frame[:90], axis=2).mean() for frame in frames]
    assert colour[-1] < 8
    assert colour[0] > 3 * colour[-1]
    assert colour == sorted(colour, reverse=True)


def test_the_difference_fades_to_white(registration):
    _, frames, _ = animate(registration[0], "--mode", "difference")
    darkness = [(255 - frame[:90]).mean() for frame in frames]
    assert darkness[-1] < 0.3 * darkness[0]


def test_side_by_side_keeps_the_x_ray_still_on_the_left(registration):
    folder, _, result = registration
    _, frames, _ = animate(folder, "--mode", "side")
    assert frames[0].shape[1] == 2 * 110 + 4
    for frame in frames:
        np.testing.assert_allclose(
            frame[:90, :110, 0], result.image, atol=12
        )  # 256 colours in a GIF
    assert np.abs(frames[0][:90, 114:] - frames[-1][:90, 114:]).mean() > 5


@pytest.mark.parametrize("colour", ["red", "cyan", "white"])
def test_colours_of_the_overlay_and_the_difference(colour):
    xray, drr = {"red": (1, 0), "cyan": (0, 1), "white": (1, 1)}[colour]
    one = np.ones((2, 2))
    assert (
        animation.compose("overlay", xray * one, drr * one)[0, 0].tolist()
        == {"red": [255, 0, 0], "cyan": [0, 255, 255], "white": [255] * 3}[colour]
    )
    assert (
        animation.compose("difference", xray * one, drr * one)[0, 0].tolist()
        == {"red": [0, 0, 255], "cyan": [255, 0, 0], "white": [255] * 3}[colour]
    )


def test_many_poses_are_thinned_with_the_first_and_last_kept(registration):
    _, _, result = registration
    long = with_poses(
        result,
        [
            geometry.twist(np.r_[np.zeros(3), i, 0, 0], np.zeros(3)) @ result.init_pose
            for i in range(500)
        ],
    )
    long = dataclasses.replace(long, final_pose=long.trajectory_poses()[-1])
    steps = animation.choose_steps(long, 60)
    assert len(steps) == 60
    assert steps[0].caption == ("start pose",)  # registration.py writes it with scale 0
    assert steps[1].caption[0] == "iteration 9 of 500"
    assert steps[-1].caption[0] == "iteration 500 of 500"
    shifts = [step.pose[0, 3] for step in steps]
    assert max(np.diff(shifts)) < 9.5


def test_repeated_poses_are_shown_once_and_start_and_final_pose_are_added(registration):
    _, _, result = registration
    between = geometry.twist(np.array([0, 0, 0, 5.0, 0, 0]), np.zeros(3)) @ result.init_pose
    steps = animation.choose_steps(with_poses(result, [between] * 4), 60)
    assert [step.caption[0] for step in steps] == ["start pose", "iteration 4 of 4", "final pose"]
    np.testing.assert_allclose(steps[-1].pose, result.final_pose)


def test_a_registration_that_did_not_move_is_one_frame(registration):
    _, _, result = registration
    still = dataclasses.replace(
        with_poses(result, [result.final_pose] * 3), init_pose=result.final_pose
    )
    assert len(animation.choose_steps(still, 60)) == 1


def test_one_picture_is_a_gif_that_stays_a_second(tmp_path):
    picture = Image.fromarray(np.full((9, 11, 3), 77, np.uint8))
    animation.save_gif(tmp_path / "a.gif", [picture])
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (1, (11, 9), 1000)
        np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), np.asarray(picture))


def test_the_tone_curve_undoes_a_monotone_change_of_grey():
    drr = np.random.default_rng(0).random((80, 80)) * 3 + 0.1
    xray = (drr / 4) ** 0.6
    np.testing.assert_allclose(overlays.match_tone(drr, xray)(drr), xray, atol=0.01)
    assert overlays.match_tone(drr, xray)(np.zeros(1)) == 0


def test_a_wide_picture_is_binned_and_the_caption_fits(tmp_path):
    save_registration(
        tmp_path, detector=Detector(300, 900, 900.0, (0.3, 0.5), (440.0, 160.0)), steps=2
    )
    _, frames, _ = animate(tmp_path)
    assert frames[0].shape[1] == 300
    assert np.ptp(frames[-1][:100], axis=2).mean() < 8
    narrow = animation.write_captions(
        [np.zeros((20, 60, 3), np.uint8)], [("iteration 1", "similarity 1", "scale 4")], 1.0
    )
    assert narrow[0].height > 20 + 3 * 15


@pytest.mark.parametrize(
    "flags",
    [
        ("--max_frames", "1"),
        ("--output_path", "movie.mp4"),
        ("--volume", "absent.nii.gz"),
        ("--parameters", "absent.pt"),
    ],
)
def test_bad_flags_are_one_line(registration, capsys, flags):
    assert animate(registration[0], *flags)[0] == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
