"""Runs that fail: killed at a random moment, on a full disk, short of memory, or next to another.

Files with a final name are complete, and a rerun gives the result of an uninterrupted run.
"""

import datetime
import io
import os
import random
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from conftest import count, rounds

TRAIN = (
    "--name m --iterations 3 --seed 1 --device cpu --model_name test_resnet --height 64 --delx 4"
    " --batch_size 2"
)
STEPS = {  # fast ones first: `make test` does one round of each of them
    "segmentation_preprocessing": "-i seg.nii.gz -o out",
    "crop_cts": "--base_dir patient --ct_filename ct.nii.gz --seg_filename seg.nii.gz",
    "center_isometric": "-i cohort -o out",
    "add_dicom_data": "--i xray.dcm --o out/x.dcm --sdd 1020",
    "create_drr": (
        "--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.png --method"
        " fused --device cpu"
    ),
    "registration": (
        "result/gt.png -v ct.nii.gz -o out --sdd 900 --pixel_spacing 1.6 1.8 --principal_point 57"
        " 41 --init fixed --init_pose result/parameters.pt --bone bright --device cpu"
    ),
    "coregister_cts": "--input_dir cohort --output_dir out --reference_file P01.nii.gz",
    "evaluation": "--data_dir result",
    "visualize_3d_drr": (
        "--volume ct.nii.gz --parameters result/parameters.pt --output_dir out --device cpu"
    ),
    "animate_2d_pose": (
        "--volume ct.nii.gz --parameters result/parameters.pt --output_path out/a.gif --device cpu"
    ),
    "agnostic": f"-i cohort -o out {TRAIN}",
}
QUICK = 6
ALWAYS_SAME = (
    "segmentation_preprocessing",
    "crop_cts",
    "coregister_cts",
    "center_isometric",
    "create_drr",
    "evaluation",
    "animate_2d_pose",
)
RANDOM = random.Random(int(os.environ.get("SOAK_SEED", "1")))


def order(step: str, folder: Path, *more: str, **limits) -> dict:
    return {"script": step, "argv": [*shlex.split(STEPS[step]), *more], "cwd": folder, **limits}


def written(folder: Path, before: set[Path]) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in before
    }


def poses(content: bytes, folder: Path) -> np.ndarray:
    (folder / "compare.pt").write_bytes(content)
    return torch.load(folder / "compare.pt", weights_only=True)["final_pose"].numpy()


def same(step: str, one: dict[str, bytes], other: dict[str, bytes], folder: Path) -> bool:
    """Return whether two runs gave the same result.

    Bytes are compared if the step is exact, else names and the relevant content.
    """
    if one.keys() != other.keys():
        return False
    if step in ALWAYS_SAME:
        return one == other
    if step == "registration":
        return np.allclose(
            poses(one["out/parameters.pt"], folder),
            poses(other["out/parameters.pt"], folder),
            atol=1e-4,
        )
    if step == "agnostic":
        weights = []
        for content in (one["out/m_last.pth"], other["out/m_last.pth"]):
            (folder / "compare.pth").write_bytes(content)
            with torch.serialization.safe_globals([datetime.datetime]):
                weights.append(
                    torch.load(folder / "compare.pth", weights_only=True)["model_state_dict"]
                )
        return all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    if step == "add_dicom_data":
        values = [pydicom.dcmread(io.BytesIO(content["out/x.dcm"])) for content in (one, other)]
        return (
            values[0].pixel_array.tolist() == values[1].pixel_array.tolist()
            and values[0].DistanceSourceToDetector == values[1].DistanceSourceToDetector
        )
    return all(
        len(one[name]) > 0.9 * len(other[name]) for name in one
    )  # the scene's HTML holds a random id


@pytest.fixture(scope="module")
def uninterrupted(children, patient, tmp_path_factory):
    """A function that returns output and duration of an undisturbed step, by name."""
    known: dict[str, tuple[dict[str, bytes], float]] = {}

    def of(step: str) -> tuple[dict[str, bytes], float]:
        if step not in known:
            folder = Path(
                shutil.copytree(patient, tmp_path_factory.mktemp("whole") / "files", symlinks=True)
            )
            before = set(folder.rglob("*"))
            (answer,) = children.run(order(step, folder))
            assert answer["code"] == 0, answer
            known[step] = written(folder, before), answer["seconds"]
        return known[step]

    return of


@pytest.mark.slow
def test_a_step_killed_at_any_moment_leaves_only_complete_files_and_its_rerun_is_complete(
    children, fresh, uninterrupted, tmp_path
):
    for number in rounds(0.45, QUICK):
        step = list(STEPS)[number % len(STEPS)]
        whole, seconds = uninterrupted(step)
        folder = fresh("killed")
        before = set(folder.rglob("*"))
        (answer,) = children.run(order(step, folder, kill_after=RANDOM.uniform(0, 1.1 * seconds)))
        count("kills" if answer["code"] == -9 else "runs that ended before the kill")
        left = {
            name: content for name, content in written(folder, before).items() if "/." not in name
        }
        assert left.keys() <= whole.keys()
        if step in ALWAYS_SAME:
            assert all(whole[name] == content for name, content in left.items())
        assert all(
            name.replace(".nii.gz", ".json") in left for name in left if name.endswith(".nii.gz")
        )  # no volume without its lineage
        (again,) = children.run(order(step, folder, "--overwrite"))
        assert again["code"] == 0, (step, again)
        assert same(step, written(folder, before), whole, tmp_path), step


def refused_clearly(step: str, answer: dict) -> bool:
    """Exit code 2 and one line, or one line per file in a step of several."""
    lines = [line for line in answer["err"].splitlines() if line.startswith(f"{step}.py: ")]
    return (
        answer["code"] == 2
        and len(lines) in (1, 2)
        and "Traceback" not in answer["err"]
        and all(re.fullmatch(r".+: .+; expected .+; .+", line) for line in lines)
    )


@pytest.mark.slow
def test_a_disk_that_becomes_full_is_one_clear_line_and_leaves_only_complete_files(
    children, fresh, uninterrupted, tmp_path
):
    """A limit on file size simulates the full disk: it hits any write, and needs no rights."""
    for number in rounds(0.05, QUICK):
        step = list(STEPS)[number % len(STEPS)]
        whole, _ = uninterrupted(step)
        folder = fresh("full")
        before = set(folder.rglob("*"))
        largest = max(map(len, whole.values()))
        (answer,) = children.run(order(step, folder, file_bytes=RANDOM.randrange(8, largest)))
        count("full disks (limit on files)")
        assert refused_clearly(step, answer), (step, answer)
        assert "cannot be written" in answer["err"], answer
        left = written(folder, before)
        assert left.keys() < whole.keys(), (step, left.keys() - whole.keys())
        if step in ALWAYS_SAME:
            assert all(whole[name] == content for name, content in left.items())


@pytest.mark.slow
def test_a_full_file_system_is_one_clear_line(children, fresh, uninterrupted, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        warnings.warn(
            f"cannot mount a small tmpfs ({done.stderr.strip()}): the full disk is only simulated"
            " by limits on file sizes",
            stacklevel=1,
        )
        return
    try:
        for number in rounds(0.05, 4):
            step = ("segmentation_preprocessing", "center_isometric", "create_drr", "registration")[
                number % 4
            ]
            folder = fresh("files")
            (mount / "out").mkdir()
            (folder / "out").symlink_to(mount / "out")
            with open(mount / "fill", "wb") as stream:
                stream.write(bytes(2**20 - 4096 * RANDOM.randrange(4, 8)))
            (answer,) = children.run(order(step, folder))
            count("full file systems")
            assert answer["code"] == 0 or refused_clearly(step, answer), (step, answer)
            assert not [name for name in os.listdir(mount / "out") if name.startswith(".")]
            whole, _ = uninterrupted(step)
            if step != "registration":
                assert all(
                    whole[f"out/{path.name}"] == path.read_bytes()
                    for path in (mount / "out").iterdir()
                )
            subprocess.run(["rm", "-rf", str(mount / "out"), str(mount / "fill")], check=True)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.slow
def test_too_little_memory_is_one_clear_line(children, fresh, uninterrupted):
    import nibabel

    steps = ("segmentation_preprocessing", "crop_cts", "center_isometric")
    for number in rounds(0.05, 3):
        step = steps[number % 3]
        folder = fresh("small")
        for name in (
            "ct",
            "seg",
            "patient/ct",
            "patient/seg",
            "cohort/P01",
            "cohort/P02",
        ):  # the same bone in a larger field
            image = nibabel.load(folder / f"{name}.nii.gz")
            data = np.pad(
                np.asanyarray(image.dataobj),
                120,
                mode="constant",
                constant_values=-1000 if "seg" not in name else 0,
            )
            nibabel.save(nibabel.Nifti1Image(data, image.affine), folder / f"{name}.nii.gz")
            (folder / f"{name}.json").unlink()
        before = set(folder.rglob("*"))
        (answer,) = children.run(order(step, folder, memory_mb=RANDOM.randrange(2, 120)))
        count("address spaces")
        assert answer["code"] == 0 or (
            refused_clearly(step, answer) and "memory" in answer["err"]
        ), (step, answer)
        assert not [name for name in written(folder, before) if "/." in name]


@pytest.mark.slow
def test_of_two_runs_with_one_output_folder_the_second_is_rejected(children, fresh, uninterrupted):
    for number in rounds(0.05, QUICK):
        step = [step for step in STEPS if step != "add_dicom_data"][number % (len(STEPS) - 1)]
        folder = fresh("shared")
        before = set(folder.rglob("*"))
        answers = children.run(order(step, folder), order(step, folder))
        count("pairs of runs at once")
        assert sorted(answer["code"] for answer in answers) == [0, 2], (step, answers)
        (refused,) = [answer for answer in answers if answer["code"] == 2]
        assert re.search(r"another run is writing it|already exists", refused["err"]), refused
        assert written(folder, before).keys() == uninterrupted(step)[0].keys()


@pytest.mark.slow
def test_runs_with_different_outputs_share_a_folder(children, fresh):
    folder = fresh("shared")
    (folder / "other.nii.gz").write_bytes((folder / "seg.nii.gz").read_bytes())
    second = {
        "script": "segmentation_preprocessing",
        "argv": ["-i", "other.nii.gz", "-o", "out"],
        "cwd": folder,
    }
    assert [
        answer["code"]
        for answer in children.run(order("segmentation_preprocessing", folder), second)
    ] == [0, 0]
    assert sorted(os.listdir(folder / "out")) == [
        "other_cleaned.json",
        "other_cleaned.nii.gz",
        "seg_cleaned.json",
        "seg_cleaned.nii.gz",
    ]
