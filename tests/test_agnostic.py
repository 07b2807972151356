import csv
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import FAST, TINY, write_ct, write_mask

import agnostic
from common.files import torch_files
from common.pose_network import prediction
from common.pose_network.checkpoint import load_checkpoint
from common.training import batches

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(3):
        write_ct(folder / f"P{number}.nii.gz", shift=number, seed=number)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks train faster on one thread, especially on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(cts, out, *more):
    return ["-i", str(cts), "-o", str(out), "--name", "m", *FAST, *TINY, *more]


def weights(path):
    return torch_files.load(path, "a checkpoint")["model_state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_training_writes_a_model_its_last_state_a_log_and_two_images(cts, tmp_path, capsys):
    assert agnostic.main(arguments(cts, tmp_path, "--iterations", "10")) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == str(tmp_path / "m.pth")
    assert {path.name for path in tmp_path.iterdir()} == {
        "m.pth",
        "m_last.pth",
        "m.csv",
        "m_tensorboard",
        "m_samples.png",
        "m_curve.png",
    }
    checkpoint = load_checkpoint(tmp_path / "m.pth")
    assert checkpoint.detector.height == 64
    assert checkpoint.config["reverse_x_axis"]
    prediction.build_network(checkpoint)
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert len(rows) == 10
    best = min(rows, key=lambda row: float(row["mtre_mm_median"]))
    assert checkpoint.content["itr"] == int(best["iteration"])


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.slow
def test_tensorboard_holds_the_rows_of_the_csv_also_over_a_resumed_and_a_repeated_run(
    cts, tmp_path, monkeypatch
):
    calls, real = [], batches.images_of

    def interrupted(*args):
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    for _ in range(2):
        calls.clear()
        monkeypatch.setattr(batches, "images_of", interrupted)
        assert agnostic.main(arguments(cts, tmp_path, "--iterations", "5", "--overwrite")) == 130
        monkeypatch.undo()
        assert agnostic.main([*arguments(cts, tmp_path), "--resume"]) == 0
        rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
        for tag in ("loss_mm", "mtre_mm_median"):
            found = scalars(tmp_path / "m_tensorboard", tag)
            assert (
                [step for step, _ in found]
                == [int(row["iteration"]) for row in rows]
                == [1, 2, 3, 4, 5]
            )
            assert np.allclose(
                [value for _, value in found], [float(row[tag]) for row in rows], rtol=1e-4
            )


class StandIn(types.ModuleType):
    """The part of wandb that a training run uses, with a record of the calls."""

    Error = type("Error", (Exception,), {})

    def __init__(self, refuses=False):
        super().__init__("wandb")
        self.refuses, self.started, self.logged, self.ended = refuses, None, [], None

    def init(self, **settings):
        if self.refuses:
            raise self.Error("no API key configured")
        self.started = settings
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.ended = kind or "done"

    def log(self, figures, step):
        self.logged.append((step, figures))


@pytest.mark.slow
def test_weights_and_biases_gets_every_row_if_requested(cts, tmp_path, monkeypatch):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert agnostic.main(arguments(cts, tmp_path, "--iterations", "3", "--wandb", "knees")) == 0
    assert (wandb.started["project"], wandb.started["name"], wandb.started["dir"]) == (
        "knees",
        "m",
        str(tmp_path),
    )
    assert wandb.started["config"]["model_name"] == "test_resnet"
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert [step for step, _ in wandb.logged] == [1, 2, 3]
    assert [figures["mtre_mm_median"] for _, figures in wandb.logged] == pytest.approx(
        [float(row["mtre_mm_median"]) for row in rows], rel=1e-4
    )
    assert wandb.ended == "done"


@pytest.mark.slow
def test_weights_and_biases_is_not_used_unless_requested(cts, tmp_path, monkeypatch):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert agnostic.main(arguments(cts, tmp_path, "--iterations", "1")) == 0
    assert wandb.started is None


@pytest.mark.parametrize(
    ("module", "message"),
    [(None, "pip install wandb"), (StandIn(refuses=True), "no API key configured")],
)
def test_a_missing_or_rejecting_weights_and_biases_stops_before_the_first_batch(
    cts, tmp_path, monkeypatch, capsys, module, message
):
    monkeypatch.setitem(sys.modules, "wandb", module)
    refused(
        arguments(cts, tmp_path, "--iterations", "1", "--wandb", "knees"),
        capsys,
        "--wandb",
        message,
    )
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.slow
def test_a_budget_of_minutes_is_kept(cts, tmp_path):
    assert agnostic.main(arguments(cts, tmp_path, "--minutes", "0.05")) == 0
    seconds = float(
        list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))[-1]["seconds"]
    )
    assert seconds >= 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_another_seed_another(cts, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert (
            agnostic.main(arguments(cts, tmp_path / name, "--iterations", "3", "--seed", seed)) == 0
        )
    first, again, other = (weights(tmp_path / name / "m_last.pth") for name in "abc")
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.slow
def test_one_patient_in_three_is_held_out_and_its_ct_is_never_trained_on(
    cts, tmp_path, monkeypatch, capsys
):
    seen = set()
    real = batches.make_scenes
    monkeypatch.setattr(
        batches,
        "make_scenes",
        lambda patient, *args: (seen.add(patient.name), real(patient, *args))[1],
    )
    assert agnostic.main(arguments(cts, tmp_path, "--iterations", "12")) == 0
    assert len(seen) == 2
    assert "held-out patients" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_and_resume_ends_where_an_uninterrupted_run_ends(cts, tmp_path, monkeypatch):
    assert agnostic.main(arguments(cts, tmp_path / "whole", "--iterations", "9")) == 0
    calls, real = [], batches.images_of

    def interrupted(*args):
        calls.append(0)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(batches, "images_of", interrupted)
    assert agnostic.main(arguments(cts, tmp_path / "parts", "--iterations", "9")) == 130
    assert (
        3 <= load_checkpoint(tmp_path / "parts" / "m_last.pth").content["itr"] <= 4
    )  # the fourth batch is made while the third is used
    monkeypatch.undo()
    assert agnostic.main([*arguments(cts, tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (
        torch_files.load(tmp_path / name / "m_last.pth", "a checkpoint")
        for name in ("whole", "parts")
    )
    assert same(whole["model_state_dict"], parts["model_state_dict"])
    assert whole["itr"] == parts["itr"] == 9
    moments = [
        [
            value
            for state in run["optimizer_state_dict"]["state"].values()
            for value in state.values()
        ]
        for run in (whole, parts)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    assert whole["scheduler_state_dict"] == parts["scheduler_state_dict"]


def launch(command, threads="1"):
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(cts, tmp_path):
    def start(folder, *flags):  # with the same threads: another number adds up in another order
        return launch(
            [sys.executable, str(ROOT / "agnostic.py"), *arguments(cts, tmp_path / folder, *flags)]
        )

    def finish(folder, *flags):
        with start(folder, *flags) as run:
            run.communicate(timeout=300)
            assert run.returncode == 0

    # a process that compiles the renderer rounds the last bit otherwise than one that loads it
    finish("compiled", "--iterations", "1")
    finish("whole", "--iterations", "60")
    last = tmp_path / "parts" / "m_last.pth"
    with start("parts", "--iterations", "60") as victim:
        deadline = time.monotonic() + 120
        while not last.exists() and time.monotonic() < deadline and victim.poll() is None:
            time.sleep(0.02)
        victim.kill()
        victim.communicate()
    assert load_checkpoint(last).content["itr"] < 60
    finish("parts", "--resume")
    assert same(weights(tmp_path / "whole" / "m_last.pth"), weights(last))


@pytest.mark.slow
def test_two_processes_train_one_model(cts, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "agnostic.py"),
    ]
    with launch([*command, *arguments(cts, tmp_path, "--iterations", "6")]) as run:
        out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out.splitlines() == [str(tmp_path / "m.pth")]
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert int(rows[-1]["pictures"]) == 2 * 4 * 6
    prediction.build_network(load_checkpoint(tmp_path / "m.pth"))


@pytest.mark.slow
def test_masks_are_found_by_the_cts_name(cts, tmp_path):
    masks = tmp_path / "masks"
    for ct in sorted(cts.glob("*.nii.gz")):
        write_mask(masks / ct.name, ct)
    assert (
        agnostic.main(
            arguments(
                cts, tmp_path / "out", "--iterations", "2", "--mask", str(masks), "--labels", "1"
            )
        )
        == 0
    )


# ---------------------------------------------------------------------------------------- bad input


def refused(argv, capsys, *words):
    assert agnostic.main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    message = lines[-1]
    assert message.startswith("agnostic.py: ")
    for word in words:
        assert word in message
    return message


def test_an_empty_folder_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    refused(arguments(tmp_path / "empty", tmp_path / "out"), capsys, "empty", "no CT")
    assert not list((tmp_path / "out").glob("*"))


def test_a_file_in_place_of_the_folder_is_refused(cts, tmp_path, capsys):
    refused(arguments(cts / "P0.nii.gz", tmp_path), capsys, "not a folder")


def test_a_ct_without_bone_is_named(tmp_path, capsys):
    write_ct(tmp_path / "in" / "A.nii.gz")
    path = write_ct(tmp_path / "in" / "B.nii.gz")
    from dataclasses import replace

    from common.volume import nifti

    volume = nifti.load_ct(path)
    nifti.save(path, replace(volume, data=np.minimum(volume.data, 40)))
    refused(
        arguments(tmp_path / "in", tmp_path / "out", "--iterations", "2"),
        capsys,
        "B.nii.gz",
        "expected a bone",
    )
    assert not list((tmp_path / "out").glob("*.pth"))


def test_a_file_that_is_not_a_ct_is_named(tmp_path, capsys):
    write_ct(tmp_path / "in" / "A.nii.gz")
    (tmp_path / "in" / "B.nii.gz").write_bytes(b"text")
    refused(arguments(tmp_path / "in", tmp_path / "out", "--iterations", "2"), capsys, "B.nii.gz")


def test_a_missing_mask_is_named(cts, tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    refused(
        arguments(cts, tmp_path / "out", "--mask", str(tmp_path / "masks")),
        capsys,
        "P0.nii.gz",
        "labelmap",
    )


def test_a_missing_label_is_refused(cts, tmp_path, capsys):
    for ct in sorted(cts.glob("*.nii.gz")):
        write_mask(tmp_path / "masks" / ct.name, ct)
    refused(
        arguments(cts, tmp_path / "out", "--mask", str(tmp_path / "masks"), "--labels", "9"),
        capsys,
        "label",
        "9",
    )


def test_a_backbone_that_does_not_exist_is_refused(cts, tmp_path, capsys):
    refused(
        [*arguments(cts, tmp_path / "out"), "--model_name", "resnet1999"],
        capsys,
        "resnet1999",
        "timm",
    )


@pytest.mark.slow
def test_a_detector_that_sees_nothing_is_refused(cts, tmp_path, capsys):
    refused(arguments(cts, tmp_path / "out", "--tx", "900", "950"), capsys, "detector")


def test_an_existing_model_is_not_replaced(cts, tmp_path, capsys):
    (tmp_path / "m.pth").write_text("precious")
    refused(arguments(cts, tmp_path), capsys, "--overwrite")
    assert (tmp_path / "m.pth").read_text() == "precious"


def test_resuming_nothing_is_refused(cts, tmp_path, capsys):
    refused(arguments(cts, tmp_path, "--resume"), capsys, "m_last.pth")


@pytest.mark.parametrize("name", ["../m", "a/b", "", ".hidden"])
def test_a_name_that_is_not_a_file_name_is_refused(cts, tmp_path, capsys, name):
    argv = arguments(cts, tmp_path)
    argv[argv.index("m")] = name
    refused(argv, capsys, "--name")


def test_help_needs_no_torch():
    code = (
        "import sys, agnostic, finetuned; agnostic.build_parser(); finetuned.build_parser();"
        " sys.exit(int(any(m in sys.modules for m in ('torch', 'nibabel', 'scipy', 'matplotlib',"
        " 'numba'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
