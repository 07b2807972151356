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
from training_helpers import FAST

from common import geometry
from common.geometry.pose_range import NAMES
from common.volume import nifti

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def accuracy():
    return benchmark("accuracy")


def test_starts_are_off_by_no_more_than_they_say(accuracy):
    centre, camera = (
        np.array([10.0, -20, 30]),
        geometry.translation([10.0, -20, 30]) @ geometry.camera_from_pose(TRUTH),
    )
    for seed in range(20):
        start = geometry.displaced(camera, centre, 8.0, 10.0, 25.0, np.random.default_rng(seed))
        moved = geometry.apply(geometry.invert(start), centre) - geometry.apply(
            geometry.invert(camera), centre
        )
        assert geometry.rotation_angle_deg(start[:3, :3] @ camera[:3, :3].T) <= 8.0
        assert (
            np.linalg.norm(moved[:2]) <= 10.0 + 4.0
        )  # the camera's own axes have turned with the start
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


def write_case(folder):
    """ct.nii.gz, view.png and its truth."""
    ct = helpers.small_ct()
    nifti.save(folder / "ct.nii.gz", ct)
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(TRUTH)
    Image.fromarray(xray_of(ct, camera)).save(folder / "view.png")
    (folder / "view.json").write_text(
        json.dumps({"sdd_mm": 900, "pixel_spacing_mm": [1.2, 1.2], "principal_point_px": [75, 70]})
    )
    (folder / "view_truth.json").write_text(json.dumps({"camera": camera.tolist()}))


@pytest.mark.slow
def test_accuracy_lists_every_registration_and_its_error(accuracy, tmp_path, capsys):
    write_case(tmp_path)
    assert (
        accuracy.main(
            [
                "--ct",
                str(tmp_path / "ct.nii.gz"),
                "--xrays",
                str(tmp_path / "view.png"),
                "--starts",
                "2",
                "-o",
                str(tmp_path / "out.csv"),
            ]
        )
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 2
    assert all(float(row["in_plane_mm"]) < 0.2 for row in rows)
    assert "2 registrations, 100.0 % within 1 mm in plane" in capsys.readouterr().out


@pytest.mark.slow
def test_the_training_benchmark_trains_predicts_and_refines(tmp_path, capsys):
    write_case(tmp_path)
    flags = ["--ct", str(tmp_path / "ct.nii.gz"), "--xrays", str(tmp_path / "view.png")]
    training = [
        "-o",
        str(tmp_path / "models"),
        "--name",
        "m",
        "--iterations",
        "2",
        "--model_name",
        "test_resnet",
        *FAST,
    ]
    assert benchmark("training").main([*flags, "-o", str(tmp_path / "a.csv"), "--", *training]) == 0
    assert (
        benchmark("training").main(
            [*flags, "-o", str(tmp_path / "b.csv"), "--trained", str(tmp_path / "models" / "m.pth")]
        )
        == 0
    )
    first, again = (
        list(csv.DictReader((tmp_path / name).read_text().splitlines()))
        for name in ("a.csv", "b.csv")
    )
    assert float(first[0]["start_mtre_mm"]) > 0
    assert {key: value for key, value in first[0].items() if key != "seconds"} == {
        key: value for key, value in again[0].items() if key != "seconds"
    }
    assert "1 X-rays, medians" in capsys.readouterr().out


def test_the_training_benchmark_counts_what_ends_within_a_millimetre():
    module = benchmark("training")
    rows = [
        {f"{when}_{name}": value for when in ("start", "end") for name in module.ERRORS}
        for value in (0.5, 0.9, 2.0, float("inf"))
    ]
    assert "50 % within 1 mm in plane" in module.summary(rows)


def test_the_training_benchmark_starts_from_what_the_network_predicts(tmp_path, monkeypatch):
    from common.pose_network import checkpoint, prediction

    write_case(tmp_path)
    monkeypatch.setattr(prediction, "predict_pose", lambda *_: TRUTH)
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda _: None)
    monkeypatch.setattr(prediction, "build_network", lambda _: None)
    flags = [
        "--ct",
        str(tmp_path / "ct.nii.gz"),
        "--xrays",
        str(tmp_path / "view.png"),
        "--trained",
        "m.pth",
        "-o",
        str(tmp_path / "c.csv"),
    ]
    assert benchmark("training").main(flags) == 0
    (row,) = csv.DictReader((tmp_path / "c.csv").read_text().splitlines())
    assert float(row["start_mtre_mm"]) < 1e-3
    assert float(row["end_in_plane_mm"]) < 0.2


def test_calls_are_timed_in_turn_and_the_least_counts():
    module = benchmark("rendering")
    order, clock = [], iter(range(1000))
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    least = module.least_seconds(calls, 3, lambda: float(next(clock)))
    assert least == {"a": 1.0, "b": 1.0}
    assert "".join(order) == "abababab"


def test_growth_is_drawn_with_a_panel_for_each_amount():
    module = benchmark("table")
    rows = [
        {
            "panel": "pixels",
            "what": "image",
            "threads": threads,
            "amount": f"{amount}",
            "seconds": "1",
        }
        for threads in ("1", "2")
        for amount in (4000, 16000)
    ]
    runs = [
        {"cameras": "1", "pixels": "512", "frames": frames, "seconds": f"{2 * int(frames)}",
         "processor_seconds": "3", "in_plane_mm": "0.1", "rotation_deg": "0.2"}
        for frames in ("2", "5", "10")
    ]  # fmt: skip
    figure = module.draw_growth(rows, runs)
    assert [axis.get_xlabel() for axis in figure.axes] == [x for x, _ in module.PANELS.values()]
    assert [len(axis.lines) for axis in figure.axes] == [0, 2, 0, 1]
    assert figure.axes[1].lines[0].get_xdata().tolist() == [4.0, 16.0]
    assert module._frame_line(next(iter(module.runs_of(runs).items()))) == (
        "| 1 camera(s), 512 pixels | 2.00 | 0.00 | 0.10 | 0.20 |"
    )


def test_the_knee_of_a_sequence_moves_smoothly():
    module = benchmark("sequence")
    poses = module.motion(20, np.array([10.0, -20, 30]))
    centres = [geometry.apply(pose, np.array([10.0, -20, 30])) for pose in poses]
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert 0.2 < steps.min() <= steps.max() < 3
