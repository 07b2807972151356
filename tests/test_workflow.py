"""The workflow: its plan, its SLURM jobs, and a tiny cohort in which one patient is invalid."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.results import cohort
from pipeline import make_cohort

ROOT = Path(__file__).resolve().parents[1]
STUBS = {
    # every job has a different number
    "sbatch": 'printf "%s\\n" "$*" >> "$STUB_LOG"; wc -l < "$STUB_LOG"',
    "sacct": (
        'case "$*" in *State*) for job in $(seq $(wc -l < "$STUB_LOG")); do echo "$job|FAILED";'
        " done;; esac"
    ),
    "sacctmgr": "echo lab",
    "sinfo": "echo short",
    "squeue": "",
    "scontrol": "",
    "scancel": "",
}


def snakemake(folder, *flags, path="") -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        "STUB_LOG": str(folder / "submitted.txt"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        ROOT / "workflow/Snakefile",
        "--nocolor",
        *flags,
    ]
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Two patients with dummy files, enough for a plan; returns the folder."""
    folder = tmp_path_factory.mktemp("planned")
    rows = [",".join([*cohort.REQUIRED, *cohort.OPTIONAL])]
    for name in ("P01", "P02"):
        (folder / name).mkdir()
        for file in ("ct.nii", "a seg.nii.gz", "left_1.dcm", "right_1.png"):
            (folder / name / file).write_bytes(b"x")
        rows += [
            f"{name},{name}/ct.nii,{name}/a seg.nii.gz,{name}/left_1.dcm,left,1020,,,",
            (
                f"{name},{name}/ct.nii,{name}/a"
                f" seg.nii.gz,{name}/right_1.png,right,1000,0.3,,--flip no"
            ),
        ]
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_a_dry_run_lists_every_job_in_words(planned):
    done = snakemake(planned, "--cores", "2", "-n", "--printshellcmds")
    assert done.returncode == 0, done.stdout
    said = done.stdout
    counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    # 2 patients, 2 bones, 2 sides, one X-ray each; only DICOM files get a header
    assert counts == {
        "crop": 2,
        "align": 2,
        "agnostic": 2,
        "finetune": 8,
        "header": 2,
        "register": 2,
        "report": 2,
        "cohort_report": 1,
        "all": 1,
        "total": 22,
    }
    assert ": P02, right tibia: finetune the model" in said
    png = next(
        line
        for line in said.splitlines()
        if line.startswith("registration.py") and "P01/right_1.png" in line
    )
    assert "--sdd 1000.0 --pixel_spacing 0.3 --flip no" in png
    assert "_mirrored.nii.gz" in png
    assert "--ct_filename P02_ct.nii " in said
    assert re.search(
        r'ln -sfn "\$\(realpath \'P02/a seg.nii.gz\'\)" \S+/P02_seg.nii.gz',
        re.sub(r"\$\(dirname (\S+)\)", r"\1", said),
    )
    assert "--sdd" not in next(
        line
        for line in said.splitlines()
        if line.startswith("registration.py") and "left_1.dcm" in line
    )


@pytest.mark.slow
def test_xrays_of_one_side_and_equal_flags_are_registered_in_one_call_without_training(tmp_path):
    rows = [",".join([*cohort.REQUIRED, *cohort.OPTIONAL])]
    for name in ("ct.nii", "seg.nii", "a.png", "b.png", "c.png", "d.png"):
        (tmp_path / name).write_bytes(b"x")
    for view, side, flags in (
        ("a", "left", ""),
        ("b", "left", ""),
        ("c", "left", "--bone dark"),
        ("d", "right", ""),
    ):
        rows.append(f"P01,ct.nii,seg.nii,{view}.png,{side},1000,0.3,,{flags}")
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.yaml").write_text("training: false\nextras: [listing]\n")
    said = snakemake(
        tmp_path, "--cores", "1", "-n", "--printshellcmds", "--configfile", tmp_path / "own.yaml"
    ).stdout
    assert "agnostic" not in said
    assert "finetune" not in said
    calls = [line for line in said.splitlines() if line.startswith("registration.py")]
    assert len(calls) == 6  # three for each bone
    assert not any(" -c " in call for call in calls)
    assert sum("a.png b.png -v cohort/femur_cts/P01_femur.nii.gz" in call for call in calls) == 1
    # given several X-rays, registration.py makes a folder for each
    assert "-o cohort/results/P01/femur " in next(call for call in calls if "a.png" in call)
    assert "-o cohort/results/P01/femur/c " in next(call for call in calls if "c.png" in call)
    assert "P01_femur_mirrored" in next(call for call in calls if "d.png" in call)


@pytest.mark.slow
def test_the_joint_of_every_leg_is_stated_by_choice_with_frames_in_the_order_of_their_names(
    planned,
):
    flags = ["--cores", "1", "-n", "--printshellcmds", "--config"]
    said = snakemake(planned, *flags, "kinematics=--fps 30").stdout
    assert re.search(r"^kinematics +4$", said, re.MULTILINE)  # two patients, two sides
    call = next(
        line
        for line in said.splitlines()
        if line.startswith("pipeline/kinematics.py") and "P02_right" in line
    )
    assert "--femur cohort/results/P02/femur/right_1 --tibia cohort/results/P02/tibia" in call
    assert "--name 'P02, right knee' --fps 30 --overwrite" in call
    frame = next(line for line in said.splitlines() if "--bone tibia -o" in line and "P01" in line)
    assert "P01/tibia_masks_cropped/P01_tibia" in frame
    attached = snakemake(planned, *flags, "crop=--attached tibia=10,11").stdout
    assert "--padding 10 --attached tibia=10,11 --overwrite" in attached
    assert "--labels 3 4 1 2 --overwrite" not in attached  # the fibula is cleaned too
    (planned / "wrist.yaml").write_text(
        'kinematics: ""\nbones: [{name: radius, right: 1, left: 2}]\n'
    )
    refused = snakemake(planned, *flags[:3], "--configfile", planned / "wrist.yaml")
    assert refused.returncode != 0
    assert "kinematics: bones are radius; expected femur and tibia" in refused.stdout


def together(lines: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "workflow/together.py")]
    return subprocess.run(command, input=lines, cwd=folder, capture_output=True, text=True)


def test_commands_in_one_process_have_their_own_logs_and_outputs_and_a_failure_stops_no_other(
    tmp_path,
):
    import torch

    torch.save({"pose": torch.eye(4)}, tmp_path / "a.pt")
    done = together(
        "read_pt.py gone.pt > gone.txt 2> logs/gone.log\nread_pt.py a.pt > a.txt 2> logs/a.log\n",
        tmp_path,
    )
    assert done.returncode == 2
    assert "read_pt.py: gone.pt: not found" in (tmp_path / "logs/gone.log").read_text()
    assert not (tmp_path / "gone.txt").exists()
    assert "pose" in (tmp_path / "a.txt").read_text()
    (tmp_path / "logs/a.log").write_text(before := "of an earlier command\n")
    assert together("read_pt.py a.pt > a.txt\n", tmp_path).returncode == 0
    chain = "read_pt.py a.pt > b.txt 2> logs/b.log && read_pt.py gone.pt 2>> logs/a.log"
    done = together(f"{chain} && read_pt.py a.pt > c.txt\nread_pt.py a.pt > d.txt\n", tmp_path)
    assert done.returncode == 2
    assert [(tmp_path / f"{name}.txt").exists() for name in "bcd"] == [True, False, True]
    kept, added = (tmp_path / "logs/a.log").read_text(), "read_pt.py: gone.pt: not found"
    assert kept.startswith(before)
    assert added in kept[len(before) :]
    refused = together("rm a.pt\nread_pt.py a.pt 2> x y\n", tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("together.py: ") == 2
    assert (tmp_path / "a.pt").exists()


@pytest.mark.slow
def test_a_misspelt_setting_is_refused(planned):
    done = snakemake(planned, "--cores", "1", "-n", "--config", "spacing=2")
    assert done.returncode != 0
    assert "'spacing' was unexpected" in done.stdout


@pytest.mark.slow
def test_slurm_gets_cores_memory_time_and_gpus_of_each_job(planned, tmp_path):
    """The published executor plugin with commands that only record their arguments."""
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("P01", "P02"):  # prepared already, so that training comes first
        for stage in ("crop", "femur_align", "tibia_align"):
            path = planned / f"cohort/patients/{name}/{stage}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("ok\n")
    settings = planned / "gpu.yaml"
    settings.write_text("resources:\n  agnostic: {threads: 4, mem_mb: 9000, runtime: 90, gpu: 1}\n")
    flags = [
        "--workflow-profile",
        ROOT / "workflow/profiles/slurm",
        "--configfile",
        settings,
        "--until",
        "agnostic",
        "header",
    ]
    flags += [
        "--default-resources",
        "slurm_account=lab",
        "slurm_partition=short",
        "--slurm-init-seconds-before-status-checks",
        "1",
    ]
    done = snakemake(planned, *flags, path=tmp_path)
    lines = (planned / "submitted.txt").read_text().splitlines()
    assert len(lines) == 3, done.stdout  # the headers of two X-rays are one entry of the queue
    training = [line for line in lines if "rule_agnostic" in line]
    assert {re.search(r"bone=(\w+)", line)[1] for line in training} == {"femur", "tibia"}
    for wanted in ("-A lab", "-p short", "-t 90", "--mem 9000", "--cpus-per-task=4", "--gpus=1"):
        assert all(f" {wanted} " in line for line in training), (wanted, training[0])
    header = next(line for line in lines if "group_header" in line)
    for wanted in ("-t 30", "--mem 6000", "--ntasks=1", "--cpus-per-task=2"):
        assert f" {wanted} " in header, (wanted, header)
    assert (
        "Some jobs failed" in done.stdout
    )  # sacct said so, and the cohort's page was written all the same
    assert (planned / "cohort/index.html").exists()


@pytest.mark.slow
def test_a_tiny_cohort_is_processed_without_its_invalid_patient(tmp_path):
    assert (
        make_cohort.main(
            [
                "-o",
                str(tmp_path),
                "--patients",
                "2",
                "--views",
                "1",
                "--spacing",
                "2.5",
                "--size",
                "96",
                "--quiet",
            ]
        )
        == 0
    )
    rows = (tmp_path / "patients.csv").read_text().splitlines()
    left = [
        row.replace(
            "_truth.json,",
            f"_truth.json,--init fixed --init_pose {tmp_path}/{row[:3]}/xrays/left_1_truth.json",
        )
        for row in rows
        if "right" not in row
    ]
    (tmp_path / "patients.csv").write_text("\n".join(left) + "\n")
    (tmp_path / "P02/segmentations/P02_seg.nii.gz").write_bytes(b"no labelmap")
    (tmp_path / "tiny.yaml").write_text(
        "bones: [{name: femur, right: 3, left: 4}]\nspacing_mm: 2.5\nagnostic: --iterations 2"
        " --batch_size 2 --height 64 --delx 4\nfinetune: --iterations 2 --batch_size 2\ndrr:"
        " --method fused --supersampling 1\nextras: [listing]\n"
    )
    run = ["--cores", "2", "--configfile", tmp_path / "tiny.yaml"]
    first = snakemake(tmp_path, *run)
    assert first.returncode != 0
    output = tmp_path / "cohort"
    assert (output / "results/P01/femur/left_1/evaluation.json").exists(), first.stdout
    assert (output / "models/P02_femur_left.pth").stat().st_size == 0  # not prepared
    assert (output / "reports/P01.html").stat().st_size > 1e6
    page = (output / "index.html").read_text()
    assert page.index("P02, femur, left_1") < page.index("P01, femur, left_1")
    assert "crop: segmentation_preprocessing.py: " in page
    assert len((output / "benchmarks/register/P01.tsv").read_text().splitlines()) == 2
    planned_again = "".join(re.findall(r"Job \d+: .*", snakemake(tmp_path, *run, "-n").stdout))
    assert "P01" not in planned_again, "a finished job would be done again"
    assert "P02: register" in planned_again, "the page of the failed run counts as its end"


@pytest.mark.slow
def test_an_invalid_xray_and_an_unprepared_bone_block_nothing_else_of_their_patient(tmp_path):
    made = ["--patients", "1", "--views", "2", "--spacing", "2.5", "--size", "96", "--quiet"]
    assert make_cohort.main(["-o", str(tmp_path), *made]) == 0
    head, *rows = (tmp_path / "patients.csv").read_text().splitlines()
    left = []
    for row in rows:
        if ",left," in row:
            view = re.search(r"(left_\d)", row)[1]
            pose = f"--init fixed --init_pose {tmp_path}/P01/xrays/{view}_truth.json"
            left.append(row.replace("_truth.json,", f"_truth.json,{pose}"))
    assert len(left) == 2
    (tmp_path / "patients.csv").write_text("\n".join([head, *left]) + "\n")
    (tmp_path / "own.yaml").write_text(
        "bones: [{name: femur, right: 3, left: 4}, {name: tibia, right: 1, left: 2}]\n"
        "spacing_mm: 2.5\ntraining: false\ndrr: --method fused --supersampling 1\nextras: []\n"
    )
    xray = tmp_path / "P01/xrays/left_2.dcm"
    whole = xray.read_bytes()
    xray.write_bytes(b"no X-ray")
    run = ["--cores", "2", "--configfile", tmp_path / "own.yaml"]
    output = tmp_path / "cohort"
    assert snakemake(tmp_path, *run, "--until", "align").returncode == 0
    assert len(list((output / "tibia_cts").glob("*.nii.gz"))) == 2
    # the reference has no tibia: nothing to align one to
    for path in (output / "patients/P01/tibia_cts_cropped").glob("*.nii.gz"):
        path.rename(path.with_suffix(".kept"))
    (output / "patients/P01/femur_align.txt").unlink()

    first = snakemake(tmp_path, *run)
    assert first.returncode != 0
    finished = {path.parent for path in output.rglob("evaluation.json")}
    assert finished == {output / "results/P01/femur/left_1"}, first.stdout
    page = (output / "index.html").read_text()
    assert "header: add_dicom_data.py: " in page
    assert "align: " in page
    assert not list((output / "tibia_cts").glob("*.nii.gz"))  # those of the run before
    assert not (output / "xrays/P01/left_2.dcm").exists()  # the next run makes it again

    xray.write_bytes(whole)
    for path in (output / "patients/P01/tibia_cts_cropped").glob("*.kept"):
        path.rename(path.with_suffix(".gz"))
    (output / "patients/P01/tibia_align.txt").unlink()
    second = snakemake(tmp_path, *run)
    assert second.returncode == 0, second.stdout
    assert len(list(output.rglob("evaluation.json"))) == 4
