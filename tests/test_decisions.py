"""Decisions of people: kept whole, about one pose, and used by every step that reads results."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from helpers import save_registration

import evaluation
from common import files
from common.errors import InputError
from common.reports import registered
from common.results import decisions, parameters_file
from common.results.decisions import Decision
from common.results.folders import find_results


def decision(folder, choice="accept", reviewer="ab", note="") -> Decision:
    sha256 = files.sha256(folder / "parameters.pt")
    camera = parameters_file.load(folder / "parameters.pt").scanner_pose[0].camera
    return Decision(reviewer, choice, note, decisions.now(), sha256, camera.tolist(), "solver")


def standing_on(folder) -> list[Decision]:
    return decisions.standing(folder, parameters_file.load(folder / "parameters.pt"))


@pytest.fixture
def result(tmp_path):
    save_registration(tmp_path / "knee")
    return tmp_path / "knee"


def test_decisions_are_added_line_by_line_and_the_last_of_each_reviewer_stands(result):
    decisions.append(result, decision(result, "accept"))
    decisions.append(result, decision(result, "reject", note="mirrored"))
    decisions.append(result, decision(result, "accept", "cd"))
    assert len((result / "review_ab.jsonl").read_text().splitlines()) == 2
    standing = standing_on(result)
    assert [(one.reviewer, one.choice) for one in standing] == [("ab", "reject"), ("cd", "accept")]
    assert standing[0].words == "rejected by ab (mirrored)"


def test_a_decision_does_not_hold_for_another_pose(result):
    decisions.append(result, decision(result))
    stored = parameters_file.load(result / "parameters.pt")
    assert standing_on(result) != []
    parameters_file.save(
        result / "parameters.pt", dataclasses.replace(stored, final_pose=stored.init_pose)
    )
    assert standing_on(result) == []
    assert len(decisions.read(result)) == 1


def test_a_line_that_a_crash_cut_short_is_skipped_and_the_next_one_is_whole(result):
    path = decisions.append(result, decision(result))
    with open(path, "a") as stream:
        stream.write('{"schema": "review/1", "choi')
    decisions.append(result, decision(result, "reject"))
    assert [one.choice for one in decisions.read(result)] == ["accept", "reject"]


def test_other_damage_is_named_with_its_line(result):
    path = decisions.append(result, decision(result))
    with open(path, "a") as stream:
        stream.write('{"schema": "review/1", "choice": "maybe"}\n')
    with pytest.raises(InputError, match=r"review_ab.jsonl.*correct line 2"):
        decisions.read(result)


def test_a_reviewer_is_a_name_and_not_a_path():
    for name in ("../ab", "", ".ab", "a/b", "a" * 61):
        with pytest.raises(InputError, match="reviewer"):
            decisions.check_reviewer(name)
    assert decisions.check_reviewer("Ada L. 2") == "Ada L. 2"


@pytest.mark.parametrize(
    ("choices", "code"),
    [
        ({}, "ok"),
        ({"ab": "reject"}, "failed"),
        ({"ab": "accept", "cd": "reject"}, "failed"),
        ({"ab": "accept", "cd": "second look"}, "suspect"),
        ({"ab": "accept", "cd": "accept"}, "ok"),
    ],
)
def test_the_most_cautious_reviewer_decides_what_a_report_says(result, choices, code):
    for reviewer, choice in choices.items():
        decisions.append(result, decision(result, choice, reviewer))
    found = registered.load_registered(result)
    assert found.verdict == code
    assert len(found.result.verdict.reasons) == len(choices)
    assert parameters_file.load(result / "parameters.pt").verdict.code == "ok"  # as it was


def test_evaluation_states_a_rejection_in_its_files(result, caplog):
    decisions.append(result, decision(result, "reject", note="wrong bone"))
    assert evaluation.main(["--data_dir", str(result)]) == 0
    content = json.loads((result / "evaluation.json").read_text())
    assert content["verdict"] == "failed"
    assert content["review"] == ["rejected by ab (wrong bone)"]
    assert "counts as failed: rejected by ab" in caplog.text
    rows = list(csv.DictReader((result / "evaluation.csv").read_text().splitlines()))
    assert [row["verdict"] for row in rows] == ["", "failed"]


def test_results_in_hidden_folders_are_not_found(result):
    hidden = result / ".correction"
    hidden.mkdir()
    (hidden / "parameters.pt").write_bytes((result / "parameters.pt").read_bytes())
    assert find_results(result.parent) == [result]


def test_rival_poses_are_kept_and_files_without_them_stay_readable(result):
    stored = parameters_file.load(result / "parameters.pt")
    assert stored.rival_poses == []
    parameters_file.save(
        result / "parameters.pt", dataclasses.replace(stored, rival_poses=[stored.init_pose])
    )
    (rival,) = parameters_file.load(result / "parameters.pt").rival_poses
    np.testing.assert_allclose(rival, stored.init_pose)
