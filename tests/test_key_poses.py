"""Key poses: the order of frames, two sides that meet, and a sequence tracked from its middle."""

import json
from dataclasses import replace

import pytest
from test_registration import error, frames_of, patient, register  # noqa: F401

from common import geometry
from common.command_line import script
from common.registration import key_poses
from common.registration.key_poses import Step, Tracking, steps
from common.results import parameters_file


def test_without_key_poses_frames_follow_one_another():
    assert steps(3, []) == [Step(0, None), Step(1, 0), Step(2, 1)]


def test_a_key_frame_is_tracked_from_to_both_ends():
    assert steps(5, [2]) == [Step(2, None), Step(1, 2), Step(0, 1), Step(3, 2), Step(4, 3)]


@pytest.mark.parametrize(
    ("keys", "twice"),
    [([0, 6], [1, 2, 3, 4, 5]), ([1, 2], []), ([0, 2, 7], [1, 3, 4, 5, 6]), ([4], [])],
)
def test_every_frame_comes_once_and_those_between_two_keys_twice(keys, twice):
    order = [step.frame for step in steps(9, keys)]
    assert sorted(set(order)) == list(range(9))
    assert [frame for frame in range(9) if order.count(frame) == 2] == twice
    assert len(order) == 9 + len(twice)
    for number, step in enumerate(steps(9, keys)):  # what a frame is tracked from comes before it
        assert step.after is None or step.after in order[:number]


def test_a_frame_between_two_keys_is_complete_when_both_sides_have_reached_it():
    tracking: Tracking[str, int] = Tracking(4, [0, 3], hold=str.lower)
    done = {}
    for step in tracking.steps:
        before = tracking.before(step) or 0
        done[step] = tracking.reached(step, f"FROM {before}", before + 1)
    assert done == {
        Step(0, None): ["FROM 0"],
        Step(1, 0): [],
        Step(2, 1): [],
        Step(3, None): ["FROM 0"],
        Step(2, 3): ["from 2", "FROM 1"],
        Step(1, 2): ["from 1", "FROM 2"],
    }


def test_a_side_that_fails_leaves_the_other_and_the_state_before():
    tracking: Tracking[str, int] = Tracking(4, [0, 3])
    done = {}
    for step in tracking.steps:
        before = tracking.before(step) or 0
        failed = step in (Step(1, 0), Step(2, 3))
        found = None if failed else f"from {before}"
        done[step] = tracking.reached(step, found, before + 1)
    assert (done[Step(2, 1)], done[Step(2, 3)]) == ([], ["from 1"])  # of frame 0, as 1 failed
    assert done[Step(1, 2)] == ["from 1"]  # of frame 3


def pose_file(folder, name, camera):
    path = folder / name
    path.write_text(json.dumps({"camera": camera.tolist()}))
    return path


@pytest.mark.slow
def test_frames_between_two_key_poses_are_found_from_both_and_agree(patient, tmp_path):
    folder, _ = patient
    names, cameras = frames_of(
        folder, [([2.0 * k, -1.5 * k, k], [1.5 * k, -2.0 * k, k]) for k in range(5)]
    )
    first, last = (pose_file(tmp_path, f"{n}.json", cameras[n]) for n in (0, 4))
    keys = ["--sequence", "--init", "fixed", "--init_pose", f"0={first}", f"4={last}"]
    assert register(folder, tmp_path / "out", *keys, xrays=names) == 0
    for number, camera in enumerate(cameras, start=1):
        result = parameters_file.load(tmp_path / "out" / f"frame{number}" / "parameters.pt")
        assert error(result, camera).in_plane_mm < 0.2
        assert result.verdict.code == "ok"


@pytest.mark.slow
def test_two_sides_that_end_at_different_poses_are_suspect(patient, tmp_path, monkeypatch):
    folder, _ = patient
    names, cameras = frames_of(folder, [([0.0] * 3, [0.5 * k, 0.0, 0.0]) for k in range(3)])
    first, last = (pose_file(tmp_path, f"{n}.json", cameras[n]) for n in (0, 2))
    compared = key_poses.met

    def apart(one, other):
        shift = geometry.translation([0.0, 0.0, 5.0])
        (bone,) = other.found
        fit = replace(bone.solution.fit, poses=[shift @ bone.pose])
        moved = replace(bone, solution=replace(bone.solution, fit=fit))
        return compared(one, replace(other, found=[moved]))

    monkeypatch.setattr(key_poses, "met", apart)
    keys = ["--sequence", "--init", "fixed", "--init_pose", f"0={first}", f"2={last}"]
    assert register(folder, tmp_path / "out", *keys, xrays=names) == 0
    results = [
        parameters_file.load(tmp_path / "out" / f"frame{number}" / "parameters.pt")
        for number in (1, 2, 3)
    ]
    assert [result.verdict.code for result in results] == ["ok", "suspect", "ok"]
    assert "tracked from the key poses before and after it" in results[1].verdict.reasons[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init_pose", "0=a.json"], "0=a.json without --sequence"),
        (["--sequence", "--init_pose", "0=a.json", "b.json"], "b.json"),
        (["--sequence", "--init_pose", "7={pose}"], "frame 7 of 2 frames"),
        (["--sequence", "--init_pose", "0={pose}", "0={pose}"], "2 files for 1 volumes at frame 0"),
    ],
)
def test_key_poses_that_fit_no_sequence_are_one_line(patient, tmp_path, capsys, flags, message):
    folder, _ = patient
    names, cameras = frames_of(folder, [([0.0] * 3, [0.0] * 3), ([0.0] * 3, [1.0, 0, 0])])
    pose = pose_file(tmp_path, "pose.json", cameras[0])
    words = [word.format(pose=pose) for word in flags]
    code = register(folder, tmp_path / "out", "--init", "fixed", *words, xrays=names)
    assert code == script.EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
