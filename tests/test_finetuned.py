import csv

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import FAST, TINY, write_ct, write_mask

import agnostic
import finetuned
from common import files, geometry
from common.command_line import script
from common.drr import joseph
from common.files import torch_files
from common.geometry import Detector
from common.geometry.pose_range import PoseRange
from common.pose_network import checkpoint, prediction
from common.volume import attenuation, nifti


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks train faster on one thread, especially on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("ct") / "P01.nii.gz")


@pytest.fixture(scope="module")
def model(ct, tmp_path_factory):
    out = tmp_path_factory.mktemp("agnostic")
    assert (
        agnostic.main(
            [
                "-i",
                str(ct.parent),
                "-o",
                str(out),
                "--name",
                "a",
                *FAST,
                *TINY,
                "--iterations",
                "5",
                "--r1",
                "-20",
                "10",
                "--sdd",
                "1100",
            ]
        )
        == 0
    )
    return out / "a.pth"


def arguments(ct, model, out, *more):
    return [
        "-i",
        str(ct),
        "-o",
        str(out),
        "-c",
        str(model),
        "--name",
        "p",
        "--batch_size",
        "4",
        "--device",
        "cpu",
        *more,
    ]


@pytest.mark.slow
def test_network_detector_and_poses_are_the_checkpoints(ct, model, tmp_path, capsys):
    assert finetuned.main(arguments(ct, model, tmp_path, "--iterations", "3")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "p.pth")
    before, after = (
        checkpoint.load_checkpoint(model),
        checkpoint.load_checkpoint(tmp_path / "p.pth"),
    )
    assert after.detector == before.detector
    assert after.pose_range == before.pose_range == PoseRange(r1=(-20.0, 10.0))
    assert after.config["model_name"] == "test_resnet"
    assert after.config["ckptpath"] == str(model)
    assert after.config["volpath"] == str(ct)


@pytest.mark.slow
def test_training_starts_from_the_checkpoints_weights(ct, model, tmp_path):
    assert finetuned.main(arguments(ct, model, tmp_path, "--iterations", "1", "--lr", "1e-8")) == 0
    before, after = (
        checkpoint.load_checkpoint(model).content["model_state_dict"],
        checkpoint.load_checkpoint(tmp_path / "p.pth").content["model_state_dict"],
    )
    assert all(
        torch.allclose(before[key], after[key], atol=1e-6)
        for key in before
        if key.endswith(("weight", "bias"))
    )


@pytest.mark.slow
def test_flags_override_the_checkpoint(ct, model, tmp_path):
    assert (
        finetuned.main(
            arguments(
                ct, model, tmp_path, "--iterations", "2", "--ty", "600", "700", "--sdd", "1000"
            )
        )
        == 0
    )
    after = checkpoint.load_checkpoint(tmp_path / "p.pth")
    assert after.pose_range == PoseRange(r1=(-20.0, 10.0), ty=(600.0, 700.0))
    assert after.detector.sdd_mm == 1000


@pytest.mark.slow
def test_a_checkpoint_of_xvr_is_finetuned_in_its_own_convention(ct, tmp_path):
    """xvr's early key set: no unit factor, no reverse_x_axis, no pose range."""
    config = {
        "model_name": "test_resnet",
        "parameterization": "se3_log_map",
        "convention": None,
        "norm_layer": "batchnorm2d",
        "height": 64,
        "sdd": 1020.0,
        "delx": 4.0,
        "orientation": "PA",
    }
    made = prediction.make_network(config)
    torch.save(
        {
            "model_state_dict": made.state_dict(),
            "optimizer_state_dict": {},
            "scheduler_state_dict": {},
            "itr": 0,
            "model_number": 0,
            "config": config,
        },
        tmp_path / "x.pth",
    )
    assert (
        finetuned.main(arguments(ct, tmp_path / "x.pth", tmp_path / "out", "--iterations", "2"))
        == 0
    )
    after = checkpoint.load_checkpoint(tmp_path / "out" / "p.pth")
    assert after.config["unit_conversion_factor"] == 1.0
    assert not after.config["reverse_x_axis"]
    assert after.config["orientation"] == "PA"
    assert after.pose_range.ty == PoseRange().ty


@pytest.mark.slow
def test_resume_continues_to_the_same_end(ct, model, tmp_path):
    assert finetuned.main(arguments(ct, model, tmp_path / "whole", "--iterations", "6")) == 0
    assert finetuned.main(arguments(ct, model, tmp_path / "whole", "--resume")) == 0
    rows = list(csv.DictReader((tmp_path / "whole" / "p.csv").read_text().splitlines()))
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_one_mask_file_serves_the_one_ct(ct, model, tmp_path):
    mask = write_mask(tmp_path / "any_name.nii.gz", ct)
    assert (
        finetuned.main(
            arguments(ct, model, tmp_path / "out", "--iterations", "2", "--mask", str(mask))
        )
        == 0
    )


# ------------------------------------------------------------------------------------------ --check

RANGE = [
    "--r1",
    "-8",
    "8",
    "--r2",
    "-8",
    "8",
    "--r3",
    "-8",
    "8",
    "--tx",
    "-10",
    "10",
    "--ty",
    "780",
    "860",
    "--tz",
    "-10",
    "10",
]


@pytest.fixture(scope="module")
def like(ct, tmp_path_factory):
    """An X-ray of the CT near the centre of the range, with its geometry in a JSON file."""
    volume, detector = nifti.load_ct(ct), Detector.centred(192, 160, 1100.0, 1.3)
    camera = geometry.translation(volume.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles([3, -2, 2], [2, 820, -3])
    )
    image = joseph.FusedRenderer(
        attenuation.select_structures(volume, None, None, -1000.0), volume.isocentre_mm
    ).render(camera[None], detector)[0]
    path = tmp_path_factory.mktemp("like") / "xray.png"
    Image.fromarray((image / image.max() * 250).round().astype(np.uint8)).save(path)
    files.write_json(path.with_suffix(".json"), {"sdd_mm": 1100, "pixel_spacing_mm": [1.3, 1.3]})
    return path


@pytest.mark.slow
def test_check_writes_one_image_and_a_table_and_trains_nothing(ct, model, like, tmp_path, capsys):
    assert (
        finetuned.main(
            arguments(ct, model, tmp_path / "out", "--check", "--like", str(like), *RANGE)
        )
        == 0
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["check.png"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "out" / "check.png")
    table = dict(line.split("  ", 1) for line in lines if "  " in line)
    assert table["source to isocentre"].strip() == "820.0 mm"
    assert table["poses that show the bone"].strip() == "100 %"
    assert float(table["similarity as it is"]) > 0.8
    assert not any(line.startswith(("LIKELY", "IMPOSSIBLE")) for line in lines)


@pytest.mark.slow
def test_check_finds_a_range_behind_the_detector_and_one_that_misses_it(
    ct, model, like, tmp_path, capsys
):
    wrong = [
        *RANGE[:6],
        "--r1",
        "-8",
        "8",
        "--tx",
        "-400",
        "400",
        "--ty",
        "780",
        "1090",
        "--tz",
        "-10",
        "10",
    ]
    assert (
        finetuned.main(arguments(ct, model, tmp_path, "--check", "--like", str(like), *wrong))
        == script.EXIT_BAD_INPUT
    )
    out = capsys.readouterr().out
    assert (
        "IMPOSSIBLE: the range reaches 1090 mm from the source, the detector is at 1100 mm."
        " Lower --ty or raise --sdd." in out
    )
    assert "of the range's poses the bone misses the training detector. Narrow --tx and --tz" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "add --like"),
        (("--resume", "--like"), "drop one of the two"),
        (("--like",), "already exists"),
    ],
)
def test_check_refuses_before_it_reads_anything(ct, model, like, tmp_path, capsys, more, message):
    (tmp_path / "check.png").write_text("mine")
    refused(
        arguments(ct, model, tmp_path, "--check", *more, *([str(like)] if more else [])),
        capsys,
        message,
    )
    assert (tmp_path / "check.png").read_text() == "mine"


# ---------------------------------------------------------------------------------------- bad input


def refused(argv, capsys, *words):
    assert finetuned.main(argv) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("finetuned.py: ")
    for word in words:
        assert word in message


def test_a_missing_checkpoint_is_refused(ct, tmp_path, capsys):
    refused(arguments(ct, tmp_path / "none.pth", tmp_path), capsys, "none.pth", "not found")


def test_a_checkpoint_of_another_architecture_is_refused(ct, model, tmp_path, capsys):
    content = torch_files.load(model, "a checkpoint")
    content["config"]["parameterization"] = "quaternion"
    torch.save(content, tmp_path / "m.pth")
    refused(arguments(ct, tmp_path / "m.pth", tmp_path / "out"), capsys, "m.pth", "not those of")


def test_a_mask_on_another_grid_is_refused(ct, model, tmp_path, capsys):
    from dataclasses import replace

    from common.volume import nifti

    mask = write_mask(tmp_path / "mask.nii.gz", ct)
    volume = nifti.load_labelmap(mask)
    nifti.save(mask, replace(volume, data=volume.data[:-1]))
    refused(
        arguments(ct, model, tmp_path / "out", "--mask", str(mask)), capsys, "mask.nii.gz", "grid"
    )


def test_the_checkpoint_is_never_overwritten(ct, model, tmp_path, capsys):
    argv = arguments(ct, model, model.parent, "--overwrite")
    argv[argv.index("p")] = "a"
    refused(argv, capsys, "also an input")


def test_a_run_of_another_program_cannot_be_resumed(ct, model, tmp_path, capsys):
    content = torch_files.load(model, "a checkpoint")
    del content["training"]
    torch.save(content, tmp_path / "p_last.pth")
    refused(arguments(ct, model, tmp_path, "--resume"), capsys, "p_last.pth", "--resume")
