"""The commands of pipeline/, and the whole chain once on a phantom."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

import add_dicom_data
import evaluation
from common import files, geometry
from common.command_line import script
from common.errors import InputError
from common.geometry import Detector
from common.results import names, parameters_file
from common.synthetic import xray_simulation
from common.volume import nifti, volume
from common.volume.lineage import Lineage
from common.xray import reading
from pipeline import error_table, make_xray

ROOT = Path(__file__).resolve().parents[1]


def test_the_truth_of_a_made_xray_projects_a_bright_voxel_onto_its_picture(tmp_path):
    hu = np.full((60, 50, 55), -1000, np.int16)
    hu[20:23, 30:33, 40:43] = 3000
    affine = np.diag([-1.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = 40, -30, 10
    nifti.save(tmp_path / "ct.nii.gz", volume.Volume(hu, affine, Lineage()))
    arguments = [
        "--ct",
        str(tmp_path / "ct.nii.gz"),
        "--angles",
        "20",
        "10",
        "-5",
        "--size",
        "96",
        "80",
        "--pixel",
        "1.5",
        "--photons",
        "1e7",
        "--shift",
        "4",
        "-3",
    ]
    assert make_xray.main([*arguments, "-o", str(tmp_path / "x.dcm")]) == 0
    truth = json.loads((tmp_path / "x_truth.json").read_text())
    xray = reading.read(tmp_path / "x.dcm")
    weight = np.where(xray.image > 0.5 * xray.image.max(), xray.image, 0)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    seen = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    expected = geometry.project(
        geometry.apply(affine, np.array([[21.0, 31, 41]])), xray.detector, np.array(truth["camera"])
    )[0]
    assert seen == pytest.approx(expected, abs=0.3)


def test_an_xray_made_without_sdd_gets_it_from_add_dicom_data(tmp_path):
    nifti.save(
        tmp_path / "ct.nii.gz",
        volume.Volume(np.full((20, 20, 20), 100, np.int16), np.diag([3.0, 3, 3, 1]), Lineage()),
    )
    assert (
        make_xray.main(
            [
                "--ct",
                str(tmp_path / "ct.nii.gz"),
                "--size",
                "48",
                "48",
                "--pixel",
                "3",
                "--without_sdd",
                "-o",
                str(tmp_path / "x.dcm"),
            ]
        )
        == 0
    )
    assert "DistanceSourceToDetector" not in pydicom.dcmread(tmp_path / "x.dcm")
    with pytest.raises(InputError, match="add_dicom_data"):
        reading.read(tmp_path / "x.dcm")
    assert (
        add_dicom_data.main(
            ["--i", str(tmp_path / "x.dcm"), "--o", str(tmp_path / "y.dcm"), "--sdd", "1020"]
        )
        == 0
    )
    assert reading.read(tmp_path / "y.dcm").detector == Detector.centred(48, 48, 1020.0, 3.0)


def test_simulation_keeps_the_order_of_attenuation_and_adds_noise():
    ramp = np.repeat(np.linspace(0, 5, 200)[None], 200, 0)
    picture = xray_simulation.simulate(
        ramp, 1.0, xray_simulation.Effects(5000, 0.05, 0.85), np.random.default_rng(0)
    ).astype(float)
    assert (np.diff(picture.mean(0)[5:-5].reshape(-1, 10).mean(1)) > 0).all()
    assert picture[:, 150].std() > picture[:, 20].std() > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-o", "x.jpg"], "expected .dcm or .png"),
        (["-o", "x.dcm", "--labels", "3"], "expected --mask"),
    ],
)
def test_make_xray_refuses_what_it_cannot_do(tmp_path, capsys, flags, message):
    assert make_xray.main(["--ct", str(tmp_path / "none.nii"), *flags]) == script.EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_the_error_table_lists_every_evaluation_and_rejects_a_folder_without_one(tmp_path, capsys):
    assert error_table.main([str(tmp_path)]) == script.EXIT_BAD_INPUT
    for name, errors in (
        (
            "a",
            {
                "in_plane_mm": 0.25,
                "depth_mm": 1.5,
                "rotation_deg": 0.5,
                "mtre_mm": 1.6,
                "projection_mm": 0.3,
            },
        ),
        ("b", None),
    ):
        (tmp_path / name).mkdir()
        entry = {"similarity": {}} if errors is None else {"pose_error": errors, "similarity": {}}
        (tmp_path / name / "evaluation.json").write_text(
            json.dumps({"pictures": {"initial": entry, "final": entry}})
        )
    capsys.readouterr()
    assert error_table.main([str(tmp_path)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert "0.25" in table[1]
    assert table[2].split() == ["b", "-", "-", "-", "-", "-", "-"]
    assert len(table) == 3  # no 95 % bounds are stated
    stated = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    stated["bounds_95"] = {"in_plane_mm": 0.2, "depth_mm": 1.6, "rotation_deg": 0.5}
    (tmp_path / "a" / "evaluation.json").write_text(json.dumps(stated))
    assert error_table.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "inside the 95 % bounds: in-plane 0 of 1 (0 %), depth 1 of 1 (100 %), rotation 1 of 1"
        " (100 %)"
    )
    (tmp_path / "a" / "evaluation.json").unlink()
    (tmp_path / "a").rmdir()
    files.write_json(
        tmp_path / "b" / "p9_comparison.json",
        {"schema": names.EVALUATION_SCHEMA, "pictures": {"initial": entry, "final": entry}},
    )
    files.write_json(tmp_path / "b" / "another.json", {"schema": "another"})
    assert error_table.main([str(tmp_path)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "b",
        "b/p9_comparison",
    ]


@pytest.mark.slow
def test_one_patient_goes_from_raw_ct_to_an_evaluated_registration(tmp_path):
    """Right knee of a phantom, one process per step; a second call finds every step done."""

    def command(*words):
        environment = {**os.environ, "PYTHON": sys.executable}
        return subprocess.run(
            [str(w) for w in words], capture_output=True, text=True, env=environment, cwd=tmp_path
        )

    made = command(
        sys.executable,
        ROOT / "pipeline/make_phantom.py",
        "-o",
        tmp_path,
        "--patients",
        1,
        "--spacing",
        1.5,
    )
    assert made.returncode == 0, made.stderr
    ct, seg = tmp_path / "P01/P01_ct.nii.gz", tmp_path / "P01/segmentations/P01_seg.nii.gz"
    xray = command(
        sys.executable,
        ROOT / "pipeline/make_xray.py",
        "--ct",
        ct,
        "--mask",
        seg,
        "--labels",
        3,
        "--angles",
        8,
        3,
        -4,
        "--size",
        240,
        240,
        "--pixel",
        1.0,
        "-o",
        tmp_path / "ap.dcm",
    )
    assert xray.returncode == 0, xray.stderr
    chain = [
        ROOT / "pipeline/run_patient.sh",
        "--ct",
        ct,
        "--seg",
        seg,
        "--side",
        "right",
        "--xray",
        tmp_path / "ap.dcm",
        "--out",
        tmp_path / "out",
    ]
    chain += [
        "--kinematics",
        "--format png",
        "--spacing",
        "1.5",
        "--minutes",
        "0.1",
        "--truth",
        "_truth.json",
        "--drr",
        "--method fused --supersampling 1",
        "--train",
        "--height 64 --delx 4",
    ]
    first = command(*chain)
    # a tibia alone is less certain than a femur
    assert first.returncode in (0, 3), first.stdout + first.stderr
    folder = tmp_path / "out/results/femur/ap"
    expected = {
        "parameters.pt",
        "gt.png",
        "init_image.png",
        "final_img.png",
        "drr.png",
        "evaluation.png",
        "evaluation.csv",
        "evaluation.json",
        "registration.gif",
        "parameters.txt",
    }
    assert expected <= {path.name for path in folder.iterdir()}
    assert (folder / "3d/scene.html").stat().st_size > 100_000
    result = parameters_file.load(folder / "parameters.pt")
    assert result.xray["flipped"]
    error = json.loads((folder / "evaluation.json").read_text())["pictures"]["final"]["pose_error"]
    assert error["in_plane_mm"] < 0.3
    assert error["rotation_deg"] < 1.0
    with open(tmp_path / "out/kinematics/kinematics.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["frame"], row["femur_verdict"]) == ("ap", result.verdict.code)
    assert (tmp_path / "out/kinematics/kinematics.png").exists()
    assert json.loads((tmp_path / "out/kinematics/femur.json").read_text())["side"] == "right"
    one_bone = command(*chain, "--only", "femur")
    assert one_bone.returncode == 2
    assert "--kinematics: bones are femur; expected femur and tibia" in one_bone.stderr
    again = command(*chain)
    assert again.returncode == 0
    steps = [line for line in again.stdout.splitlines() if line.startswith("== ")]
    assert len(steps) == 23
    assert all("done already" in step for step in steps)
    assert (
        evaluation.main(
            ["--data_dir", str(folder), "--title_suffix", "again", "--output_name", "again.png"]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("ap/knee.dcm", "lat/knee.dcm"), 2),
        (("ap/knee.dcm", "lat/knee.png"), 2),
        (("1.2.826.0.1.1", "1.2.826.0.1.2"), 0),
    ],
)
def test_two_xrays_of_one_name_are_refused_before_anything_runs_and_uids_are_names(
    tmp_path, names, code
):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" + bytes(20))
    for name in ("ct.nii.gz", "seg.nii.gz"):
        (tmp_path / name).write_text("no volume")
    chain = [ROOT / "pipeline/run_patient.sh", "--ct", tmp_path / "ct.nii.gz"]
    chain += ["--seg", tmp_path / "seg.nii.gz", "--side", "left", "--out", tmp_path / "out"]
    chain += ["--sdd", "1000"]
    for name in names:
        chain += ["--xray", tmp_path / name]
    done = subprocess.run(
        [str(word) for word in chain],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 2  # the labelmap ends the chain later
    assert ("several files are named knee" in done.stderr) == (code == 2)
    steps = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert bool(steps) == (code == 0)
    # a file without an ending is DICOM by its content, and gets its distance
    assert code or "add_dicom_data.py --i" in steps[0]


@pytest.mark.slow
def test_all_kernels_of_a_registration_are_compiled_and_kept(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipeline" / "compile_kernels.py"), "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    kept = {path.name.split("-")[0].split(".")[1] for path in tmp_path.rglob("*.nbi")}
    assert {
        "integrate", "integrate_with_jacobian", "highpass", "moments", "best_places"
    } <= kept  # fmt: skip
