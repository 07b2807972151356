"""The inspector: its listing, the files it rejects, and that their code is not executed."""

import collections
import datetime
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import save_registration

import read_pt

ROOT = Path(__file__).resolve().parents[1]


class RunsCode:
    """Pickles as a call of os.mkdir."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def show(path, capsys, *flags) -> tuple[int, str, str]:
    code = read_pt.main([str(path), *flags])
    out, err = capsys.readouterr()
    return code, out, err


def saved(tmp_path, content, **settings):
    torch.save(content, tmp_path / "file.pt", **settings)
    return tmp_path / "file.pt"


def test_tensors_show_type_shape_dtype_and_small_values(tmp_path, capsys):
    content = {
        "small": torch.tensor([[1.5, 2.0]]),
        "large": torch.arange(100.0),
        "flag": True,
        "none": None,
        "pair": (3, 4.5),
        "empty": torch.zeros(0, 3),
    }
    code, out, _ = show(saved(tmp_path, content), capsys)
    assert code == 0
    assert out.splitlines() == [
        "file.pt: dict of 6",
        "  small: Tensor 1x2 float32 = [[1.5, 2]]",
        "  large: Tensor 100 float32, 0 to 99, mean 49.5",
        "  flag: bool = True",
        "  none: NoneType = None",
        "  pair: tuple = (3, 4.5)",
        "  empty: Tensor 0x3 float32",
    ]


def test_a_plain_tensor_and_broken_numbers(tmp_path, capsys):
    values = torch.ones(5, 5)
    values[0, 0], values[1, 1] = float("nan"), float("inf")
    assert (
        show(saved(tmp_path, values), capsys)[1]
        == "file.pt: Tensor 5x5 float32, 1 to 1, mean 1, 2 NaN or infinite\n"
    )


def test_integer_boolean_half_and_scalar_tensors(tmp_path, capsys):
    content = [
        torch.tensor(7),
        torch.zeros(4, 9, dtype=torch.bool),
        torch.zeros(50, dtype=torch.float16),
        torch.arange(20),
    ]
    lines = show(saved(tmp_path, content), capsys)[1].splitlines()
    assert lines[1:] == [
        "  [0]: Tensor scalar int64 = 7",
        "  [1]: Tensor 4x9 bool",
        "  [2]: Tensor 50 float16, 0 to 0, mean 0",
        "  [3]: Tensor 20 int64, 0 to 19, mean 9.5",
    ]


def test_nesting_ends_at_the_depth_and_long_dictionaries_are_cut(tmp_path, capsys):
    path = saved(tmp_path, {"a": {"b": {"c": 1}}, **{f"k{i}": i for i in range(80)}})
    out = show(path, capsys, "--depth", "1")[1]
    assert "  a: dict of 1 ...\n" in out
    assert "b:" not in out
    assert "... 21 more (--items 81)" in out
    assert show(path, capsys, "--depth", "0")[1] == "file.pt: dict of 81 ...\n"
    assert "k79: int = 79" in show(path, capsys, "--items", "81")[1]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_a_date_opens_safely(tmp_path, capsys, legacy):
    weights = collections.OrderedDict(weight=torch.zeros(3, 2))
    content = {
        "model_state_dict": weights,
        "itr": 12,
        "date": datetime.datetime(2025, 3, 4, 5, 6),
        "config": {"sdd": 1020.0, "name": "x"},
    }
    code, out, _ = show(saved(tmp_path, content, _use_new_zipfile_serialization=not legacy), capsys)
    assert code == 0
    assert "model_state_dict: OrderedDict of 1" in out
    assert "datetime.datetime(2025, 3, 4, 5, 6)" in out
    assert "sdd: float = 1020.0" in out


def test_the_result_of_a_registration_opens_safely(tmp_path, capsys):
    save_registration(tmp_path)
    code, out, _ = show(tmp_path / "parameters.pt", capsys)
    assert code == 0
    assert "schema: str = 'registration/1'" in out
    assert "final_pose: Tensor 1x4x4 float64 = [[[" in out


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path, capsys, form):
    proof, path = tmp_path / "the code has run", tmp_path / "file.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"weights": RunsCode(proof)}))
    else:
        torch.save({"weights": RunsCode(proof)}, path, _use_new_zipfile_serialization=form == "zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch remarks on the pickle protocol
        code, out, err = show(path, capsys)
    assert code == 2
    assert out == ""
    assert not proof.exists()
    assert "--unsafe" in err
    assert ("posix.mkdir" in err) == (form != "pickle")
    assert len(err.strip().splitlines()) == 1


def test_unsafe_opens_it_and_says_so(tmp_path, capsys):
    proof = tmp_path / "the code has run"
    code, _, err = show(saved(tmp_path, {"weights": RunsCode(proof)}), capsys, "--unsafe")
    assert code == 0
    assert proof.exists()
    assert "code in the file is executed" in err


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint at all", b"PK\x03\x04 a torn archive", bytes(1000)]
)
def test_files_that_are_no_pytorch_file_are_one_line(tmp_path, capsys, content):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    code, out, err = show(path, capsys)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_a_torn_checkpoint_and_an_absent_file_are_one_line(tmp_path, capsys):
    path = saved(tmp_path, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    assert show(path, capsys)[0] == 2
    code, _, err = show(tmp_path / "absent.pt", capsys)
    assert code == 2
    assert "not found" in err


def test_numpy_arrays_are_described_like_tensors():
    (line,) = read_pt.describe(np.arange(3), "a")
    assert line == "a: ndarray 3 int64 = [0, 1, 2]"


def test_tensors_that_numpy_lacks_show_their_values(tmp_path, capsys):
    content = {
        "sparse": torch.eye(2).to_sparse(),
        "brain float": torch.tensor([0.5], dtype=torch.bfloat16),
        "conjugate": torch.tensor([1 + 2j]).conj(),
    }
    lines = show(saved(tmp_path, content), capsys)[1].splitlines()
    assert lines[1:] == [
        "  sparse: Tensor 2x2 float32 = [[1, 0], [0, 1]]",
        "  brain float: Tensor 1 bfloat16 = [0.5]",
        "  conjugate: Tensor 1 complex64 = [(1-2j)]",
    ]


def test_a_result_is_shown_without_importing_torch(tmp_path):
    save_registration(tmp_path)
    code = "import sys, read_pt; read_pt.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, str(tmp_path / "parameters.pt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "final_pose: Tensor 1x4x4 float64 = [[[" in done.stdout
