"""The numbers of the verdict are made from fits with known truth."""

import json

import numpy as np
import pytest
from test_benchmarks import benchmark, write_case

from common.geometry import Detector
from common.registration import trust
from common.synthetic import falsities

CUES = {
    "similarity": 0.9,
    "rival_gap": 1.0,
    "least_rise": 0.05,
    "moved": 0.01,
    "flipped": -0.3,
}


@pytest.fixture(scope="module")
def calibrate():
    return benchmark("calibrate")


def fits(rng, count=400, wrong=0.2, bounds_of="bone", **changed):
    """Fits whose errors are normal, with twice the standard deviation that the curvature gives."""
    rows = []
    for number in range(count):
        is_wrong = number < wrong * count
        cues = CUES | {"moved": (0.05 if is_wrong else 0.01) * np.exp(rng.normal(0, 0.4))}
        sd = rng.uniform(0.05, 0.2)
        errors = 2 * sd * np.abs(rng.normal(size=3))
        rows.append(
            {
                "patient": number % 4,
                "kind": "other_patient" if is_wrong else "near",
                "views": 1,
                "bounds_of": bounds_of,
                "in_plane_mm": errors[0],
                "depth_mm": errors[1],
                "rotation_deg": errors[2],
                "deviations": {"in_plane": sd, "depth": sd, "rotation": sd},
                "half_voxel": {"in_plane": 0.0, "depth": 0.0, "rotation": 0.0},
                "cues": cues | changed,
                "code": None,
            }
        )
    return rows


def all_kinds(rng, **changed):
    return [row for kind in trust.KINDS for row in fits(rng, bounds_of=kind, **changed)]


def test_a_factor_is_the_quantile_of_errors_over_their_standard_deviation(calibrate):
    made = calibrate.make_model(all_kinds(np.random.default_rng(0)))
    for kind in trust.KINDS:
        for factor in made["bounds"][kind].values():
            assert factor == pytest.approx(2 * 1.96, rel=0.12)


def test_bounds_made_from_some_patients_cover_the_errors_of_others(calibrate):
    rng = np.random.default_rng(1)
    learned = [*all_kinds(rng), *fits(rng, 2000)]
    model = trust.Model.from_entries(calibrate.make_model(learned))
    tested = [(model, row) for row in fits(rng, 2000) if calibrate.is_sure(row)]
    shares = [float(cell.split(" %")[0]) for cell in calibrate.covered(tested).split("|")[1:]]
    assert all(93 <= share <= 97 for share in shares)


def test_larger_errors_of_a_kind_widen_the_bounds_of_that_kind_only(calibrate):
    rng = np.random.default_rng(2)
    rows = all_kinds(rng)
    for row in rows:
        if row["bounds_of"] == "whole":
            row["depth_mm"] *= 3
    bounds = calibrate.make_model(rows)["bounds"]
    assert bounds["whole"]["depth"] == pytest.approx(3 * bounds["bone"]["depth"], rel=0.2)
    assert bounds["whole"]["in_plane"] == pytest.approx(bounds["bone"]["in_plane"], rel=0.2)


def test_a_cue_against_a_pose_never_lowers_its_chance_whatever_the_fits_say(calibrate):
    rows = all_kinds(np.random.default_rng(3))
    for row in rows:  # as if poses with a rival were right
        row["cues"]["rival_gap"] = 1.0 if row["kind"] == "other_patient" else 0.01
    weights = calibrate.make_model(rows)["wrong"]["weights"]
    assert weights["rival"] == 0
    assert weights["moved"] > 0
    assert all(weights[name] * sign >= 0 for name, sign in calibrate.SIGNS.items())


def test_a_whole_ct_does_not_teach_the_chance_of_bones(calibrate):
    rng = np.random.default_rng(4)
    rows = all_kinds(rng)
    strange = [row | {"cues": CUES | {"moved": 1.0}} for row in fits(rng, bounds_of="whole")]
    assert calibrate.make_model(rows)["wrong"] == calibrate.make_model([*rows, *strange])["wrong"]


def test_a_pose_that_is_wrong_or_from_far_makes_no_bound(calibrate):
    row = fits(np.random.default_rng(5), 1, wrong=0)[0]
    assert calibrate.is_sure(row)
    assert not calibrate.is_sure(row | {"in_plane_mm": 2.1})
    assert not calibrate.is_sure(row | {"kind": "far"})
    assert not calibrate.is_sure(row | {"kind": "search_absent"})


def test_too_few_fits_of_a_kind_are_an_error_that_names_it(calibrate, tmp_path, capsys):
    rows = fits(np.random.default_rng(6))
    (tmp_path / "fits_0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert calibrate.main(["-w", str(tmp_path)]) == 2
    assert "has 0 right fits of bone_several" in capsys.readouterr().err.replace("`", "")


def test_the_tables_and_the_diagram_are_of_subjects_that_a_model_has_not_seen(
    calibrate, tmp_path, capsys
):
    rng = np.random.default_rng(7)
    others = [row | {"patient": calibrate.OTHER} for row in fits(rng, 100, wrong=0)]
    rows = [*all_kinds(rng), *others]
    (tmp_path / "fits_0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert calibrate.main(["-w", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| other | bone | near | 100 |") for line in lines)
    assert any(line.startswith("| phantoms | metal | near | 320 |") for line in lines)
    assert (tmp_path / "reliability.png").stat().st_size > 5000
    for model, rest in calibrate.held_out(rows):
        assert model.factors.keys() == set(trust.KINDS)
        assert len({calibrate.is_other(row) for row in rest}) == 1
    tested = [row for _, rest in calibrate.held_out(rows) for row in rest]
    assert sorted(map(id, tested)) == sorted(map(id, rows))


@pytest.mark.slow
def test_fits_of_a_whole_ct_are_kept_once(tmp_path):
    write_case(tmp_path)
    (tmp_path / "view.json").write_text(
        json.dumps(
            json.loads((tmp_path / "view.json").read_text())
            | {"camera": json.loads((tmp_path / "view_truth.json").read_text())["camera"]}
        )
    )
    flags = ["-w", str(tmp_path / "work"), "--patients", "0"]
    also = ["--also", str(tmp_path / "ct.nii.gz"), "-", "whole", str(tmp_path / "view.png")]
    for _ in range(2):
        assert benchmark("fits").main([*flags, *also]) == 0
    (line,) = (tmp_path / "work" / "fits_other_0.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["kind"], row["bounds_of"], row["bone"]) == ("whole", "whole", "whole")
    assert row["in_plane_mm"] < 0.2


def test_a_tilted_detector_sees_a_point_where_its_plane_meets_the_ray():
    detector = Detector.centred(101, 201, 500.0, (1.0, 1.0))
    angle = np.radians(falsities.TILT_DEG)
    along = 70.0  # mm on the tilted detector, right of the principal point
    ray = along * np.cos(angle) / (1 + along * np.sin(angle) / 500)  # where the straight one has it
    image = np.exp(-0.5 * ((np.arange(201) - 100 - ray) / 2) ** 2) * np.ones((101, 1))
    valid = np.ones(image.shape, bool)
    seen, _, _ = falsities.falsified(image, valid, detector, "tilted")
    assert np.average(np.arange(201) - 100, weights=seen[50]) == pytest.approx(along, abs=0.05)
    same, _, wrong = falsities.falsified(image, valid, detector, "wrong_sdd")
    assert wrong.sdd_mm == pytest.approx(515)
    assert same is image
