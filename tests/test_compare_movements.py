"""Two movements compared: alignment by flexion and time, and Bland and Altman's known answers."""

import csv
import json

import numpy as np
import pytest

from common import files
from common.errors import InputError
from common.kinematics import comparison, movement_table
from common.kinematics.joint_coordinates import KNEE_COLUMNS
from common.kinematics.movement_table import Table
from pipeline import compare_movements

FLEXION = 30 - 25 * np.cos(np.linspace(0, 2 * np.pi, 61))  # 5 to 55 degrees and back


def table(values: np.ndarray, times=None, name="a", half=0.5, **changes) -> Table:
    count = len(values)
    return Table(
        name, tuple(f"f{n}" for n in range(count)), times, KNEE_COLUMNS, values,
        np.full((count, 6), half), changes.pop("systematic", np.ones(6)),
        changes.pop("side", "left"), changes.pop("frames", ("x", "y")),
    )  # fmt: skip


def knee(flexion=FLEXION, internal=0.0) -> np.ndarray:
    """Numbers whose internal rotation is flexion / 10 while flexing and 2 more while extending."""
    values = np.zeros((len(flexion), 6))
    values[:, 0] = flexion
    extending = np.gradient(flexion) < 0
    values[:, 2] = flexion / 10 + 2 * extending + internal
    values[:, 4] = flexion / 5
    return values


def test_a_constant_difference_is_found_at_the_same_flexion_though_the_speed_differs():
    slow = 30 - 25 * np.cos(np.linspace(0, 2 * np.pi, 241))
    points = comparison.align(table(knee()), table(knee(slow, 1.5)), "flexion", 1)
    assert points.at.min() == 5
    assert points.at.max() == 55
    assert points.phases.count("flexing") == points.phases.count("extending")
    inside = (points.at > 8) & (points.at < 52)  # between two frames at the ends, the phase changes
    np.testing.assert_allclose(points.difference[inside, 2], 1.5, atol=0.02)
    np.testing.assert_allclose(points.first[inside, 4], points.at[inside] / 5, atol=1e-9)
    flexing = np.array([phase == "flexing" for phase in points.phases]) & inside
    np.testing.assert_allclose(points.first[flexing, 2], points.at[flexing] / 10, atol=1e-9)
    np.testing.assert_allclose(points.half, np.hypot(0.5, 0.5), atol=1e-9)
    found = comparison.agreement([points])
    assert "FE_deg" not in found
    assert found["IE_deg"].bias == pytest.approx(1.5, abs=0.1)
    assert found["AP_mm"].bias == pytest.approx(0, abs=1e-9)
    assert found["AP_mm"].beyond_band == 0


def test_percent_is_of_the_time_between_the_first_and_the_last_pose():
    line = np.zeros((5, 6))
    line[:, 0] = [np.nan, 0, 1, 4, 8]
    line[0] = np.nan
    times = np.array([0.0, 1, 2, 5, 9])
    points = comparison.align(table(line, times), table(line + 1, times), "percent", 12.5)
    np.testing.assert_allclose(points.first[:, 0], np.linspace(0, 8, 9), atol=1e-9)
    np.testing.assert_allclose(points.difference, 1, atol=1e-9)


def test_nothing_is_interpolated_across_a_gap():
    values = knee()
    values[20:23] = np.nan
    for by in ("percent", "flexion"):
        points = comparison.align(table(values), table(knee()), by, 1)
        gaps = np.isnan(points.first[:, 0])
        assert 1 < gaps.sum() < 20
        assert np.isnan(points.difference[gaps]).all()
    exact = comparison.align(table(values), table(knee()), "percent", 100 / 60)
    assert np.flatnonzero(np.isnan(exact.first[:, 0])).tolist() == [20, 21, 22]


def differences(*groups) -> list[comparison.Points]:
    """Pairs whose differences are known."""
    pairs = []
    for group in groups:
        second = np.tile(np.array(group, float)[:, None], (1, 6))
        zero, half = np.zeros_like(second), np.full_like(second, 1.5)
        pairs.append(
            comparison.Points(
                "p", KNEE_COLUMNS, ("",) * len(group), np.arange(len(group)), zero, second, half,
                np.full(6, 0.3),
            )
        )  # fmt: skip
    return pairs


def test_bias_and_limits_of_one_pair_are_those_of_its_points():
    found = comparison.agreement(differences([1, 2, 3, 4, 5]))["VV_deg"]
    assert (found.bias, found.sd) == (3, pytest.approx(np.sqrt(2.5)))
    assert found.limits[1] == pytest.approx(3 + 1.959964 * np.sqrt(2.5))
    assert found.interval is None
    assert found.beyond_band == pytest.approx(4 / 5)
    assert found.systematic == pytest.approx(0.3)


def test_limits_of_several_pairs_have_the_variance_between_and_within_pairs():
    # means 0 and 4, within variance 2: between mean square 16 = 2 * 8, (16 - 2) / 2 = 7 between
    found = comparison.agreement(differences([-1, 1], [3, 5]))["VV_deg"]
    assert found.bias == 2
    assert found.sd == pytest.approx(3)  # 7 between and 2 within
    # t of one degree of freedom is 12.706, standard error of the mean 2
    assert found.interval[1] == pytest.approx(2 + 12.706 * 2, abs=1e-2)
    # alike pairs: no variance between them
    alike = comparison.agreement(differences([-1, 1, 0], [1, 0, -1]))["VV_deg"]
    assert alike.sd == pytest.approx(1)


def test_limits_hold_95_of_100_new_differences():
    rng = np.random.default_rng(1)
    pairs = [rng.normal(0, 2) + rng.normal(1, 1, 40) for _ in range(400)]
    low, high = comparison.agreement(differences(*pairs))["VV_deg"].limits
    new = rng.normal(0, 2, 20_000) + rng.normal(1, 1, 20_000)
    assert np.mean((new > low) & (new < high)) == pytest.approx(0.95, abs=0.02)


def test_the_error_of_the_same_frames_cancels_and_that_of_others_does_not():
    same = comparison.align(table(knee()), table(knee()), "percent", 5)
    other = comparison.align(table(knee()), table(knee(), frames=("x", "z")), "percent", 5)
    unknown = comparison.align(table(knee(), frames=()), table(knee(), frames=()), "percent", 5)
    np.testing.assert_allclose(same.systematic, 0)
    for each in (other, unknown):
        np.testing.assert_allclose(each.systematic, np.sqrt(2))


@pytest.mark.parametrize(
    ("second", "error"),
    [(knee(FLEXION + 60), "0 points in common"), (np.full((61, 6), np.nan), "0 points in common")],
)
def test_movements_without_common_flexion_are_refused(second, error):
    with pytest.raises(InputError) as refused:
        comparison.align(table(knee()), table(second), "flexion", 1)
    assert error in str(refused.value)


# ------------------------------------------------------------------------------------------- script


def save(folder, values, side="left", quantities=KNEE_COLUMNS, smooth=False) -> None:
    """Write the two files of kinematics.py that are read."""
    rows = []
    for number, numbers in enumerate(values):
        row = {"frame": f"f{number}", "time_s": f"{number / 10}"}
        for ending, sign in (("", 0), ("_low", -1), ("_high", 1)):
            for name, value in zip(quantities, numbers, strict=True):
                row[name + ending] = "" if np.isnan(value) else f"{value + 0.4 * sign}"
                if smooth:
                    row[name + "_smooth" + ending] = row[name + ending]
        rows.append(row)
    content = {
        "schema": movement_table.SCHEMA,
        "columns": list(quantities),
        "systematic_band": dict.fromkeys(quantities, 0.2),
        "anatomical_frames": [{"side": side, "sha256": f"{side}{n}"} for n in range(2)],
    }
    folder.mkdir()
    files.write_text(folder / "kinematics.csv", files.as_csv(rows))
    files.write_json(folder / "kinematics.json", content)


@pytest.fixture
def legs(tmp_path):
    save(tmp_path / "left", knee())
    save(tmp_path / "right", knee(internal=1.0), "right")
    return tmp_path


def command(folder, *more) -> list[str]:
    return [
        "--first", str(folder / "left"), "--second", str(folder / "right"), "-o",
        str(folder / "out"), *more,
    ]  # fmt: skip


def test_the_files_state_bias_limits_and_every_point(legs, capsys):
    assert compare_movements.main(command(legs, "--format", "png", "svg")) == 0
    assert capsys.readouterr().out.strip() == str(legs / "out/comparison.csv")
    with open(legs / "out/comparison.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["phase"] == "flexing"
    assert "FE_deg_first" not in rows[0]
    row = next(each for each in rows if each["FE_deg"] == "30")
    assert float(row["AP_mm_first"]) == pytest.approx(6)
    assert float(row["IE_deg_difference"]) == pytest.approx(1)
    assert float(row["IE_deg_difference_high"]) == pytest.approx(1 + np.hypot(0.4, 0.4), abs=1e-4)
    stated = json.loads((legs / "out/comparison.json").read_text())
    assert stated["difference"] == "right less left"
    assert stated["agreement"]["IE_deg"]["bias"] == pytest.approx(1)
    assert stated["agreement"]["IE_deg"]["share_beyond_band"] == 1
    assert stated["agreement"]["VV_deg"]["systematic_band"] == pytest.approx(0.2828, abs=1e-4)
    assert "internal rotation" in (legs / "out/bland_altman.svg").read_text()
    assert (legs / "out/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert compare_movements.main(command(legs)) == 2
    assert "already exists" in capsys.readouterr().err


def test_several_pairs_by_percent_with_smoothed_numbers(tmp_path):
    for number in range(3):
        save(tmp_path / f"a{number}", knee(), smooth=True)
        save(tmp_path / f"b{number}", knee(internal=number), smooth=True)
    lists = [[str(tmp_path / f"{x}{n}") for n in range(3)] for x in "ab"]
    flags = ["--by", "percent", "--step", "2", "--smoothed", "--labels", "before", "after"]
    out = tmp_path / "out"
    assert compare_movements.main(
        ["--first", *lists[0], "--second", *lists[1], "-o", str(out), *flags]
    ) == 0  # fmt: skip
    stated = json.loads((out / "comparison.json").read_text())
    assert stated["difference"] == "after less before"
    rotation = stated["agreement"]["IE_deg"]
    assert rotation["bias"] == pytest.approx(1)
    assert rotation["sd"] == pytest.approx(1)  # 0, 1 and 2 between pairs, nothing within
    assert stated["agreement"]["FE_deg"]["points"] == 3 * 51
    with open(out / "comparison.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [rows[0]["pair"], rows[-1]["pair"], rows[-1]["percent"]] == ["1", "3", "100"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda legs: ["--smoothed"], "has no smoothed columns"),
        (lambda legs: ["--step", "0"], "--step: found 0"),
        (lambda legs: ["--second", str(legs / "left")], "is both movements"),
        (lambda legs: ["--second", str(legs / "right"), str(legs / "left")], "as many as --first"),
        (lambda legs: ["--second", str(legs / "gone")], "gone/kinematics.json: not found"),
        (
            lambda legs: [
                "--second",
                str(save(legs / "hip", knee(), quantities=tuple("ABCDEF")) or legs / "hip"),
            ],
            "compare movements of one joint",
        ),
        (
            lambda legs: (legs / "right/kinematics.csv").write_text("frame,time_s\nf1,0\n") and [],
            "incomplete",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_nothing_is_written(legs, capsys, change, error):
    assert compare_movements.main(command(legs, *change(legs))) == 2
    shown = capsys.readouterr().err
    assert error in shown
    assert shown.count("\n") == 1
    assert not (legs / "out").exists()
