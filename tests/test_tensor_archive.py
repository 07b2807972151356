"""Files of arrays and plain types, as PyTorch writes and reads them, without PyTorch."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import save_registration

from common.files import tensor_archive
from common.files.tensor_archive import NotPlainError

ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f8"),
    "part": np.arange(40, dtype=np.int16).reshape(5, 8)[1::2, ::-3],
    "image": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "flags": np.array([True, False]),
    "one": np.array(3.5, np.float32),
    "none": np.zeros((0, 3), np.int64),
}
PLAIN = {"text": "Knie ä", "list": [1, -2.5, None, True, 10**12], "nested": ({}, ("a", []))}


def test_pytorch_opens_what_is_written(tmp_path):
    with open(tmp_path / "a.pt", "wb") as stream:
        tensor_archive.save(stream, {**ARRAYS, "plain": PLAIN})
    for mapped in (False, True):
        found = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mapped)
        assert found.pop("plain") == PLAIN
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].shape == array.shape
            np.testing.assert_array_equal(found[name].numpy(), array)


def test_what_pytorch_writes_is_read(tmp_path):
    shown = torch.arange(12.0).reshape(3, 4).T[1:]  # not contiguous, with an offset
    tensors = {name: torch.as_tensor(array.astype(array.dtype.newbyteorder("=")).copy())
               for name, array in ARRAYS.items()}  # fmt: skip
    torch.save({**tensors, "shown": shown, "twice": [shown, shown], **PLAIN}, tmp_path / "a.pt")
    found = tensor_archive.load(tmp_path / "a.pt")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["shown"], shown.numpy())
    np.testing.assert_array_equal(found["twice"][1], shown.numpy())
    assert {name: found[name] for name in PLAIN} == PLAIN


@pytest.mark.parametrize(
    "value", [object(), np.float64(1), {1, 2}, print, np.array(["a"]), np.ones(2, complex)]
)
def test_other_types_are_not_written(value):
    with pytest.raises(NotPlainError, match="is not a"):
        tensor_archive.save(io.BytesIO(), {"value": value})


class Calls:
    def __reduce__(self):
        return print, ("executed",)


EXPANDED = torch.zeros(1).expand(10**12)


@pytest.mark.parametrize(
    "content", [torch.nn.Linear(2, 2), Calls(), EXPANDED, torch.ones(2).cfloat()]
)
def test_other_types_are_not_read_and_nothing_is_executed(tmp_path, capsys, content):
    torch.save({"value": content}, tmp_path / "a.pt")
    with pytest.raises(NotPlainError):
        tensor_archive.load(tmp_path / "a.pt")
    assert "executed" not in capsys.readouterr().out


def test_damaged_and_compressed_files_are_not_read(tmp_path):
    whole = io.BytesIO()
    tensor_archive.save(whole, ARRAYS)
    damaged = bytearray(whole.getvalue())
    damaged[damaged.index(ARRAYS["image"].tobytes())] ^= 1
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(
        tmp_path / "compressed.pt", "w", zipfile.ZIP_DEFLATED
    ) as other:  # fmt: skip
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    (tmp_path / "damaged.pt").write_bytes(damaged)
    (tmp_path / "cut.pt").write_bytes(whole.getvalue()[:-100])
    (tmp_path / "text.pt").write_text("no archive")
    for name in ("compressed", "damaged", "cut", "text"):
        with pytest.raises(NotPlainError):
            tensor_archive.load(tmp_path / f"{name}.pt")


def test_x_rays_are_registered_and_results_written_and_read_without_pytorch(tmp_path):
    save_registration(tmp_path)
    code = (
        "import sys; from pathlib import Path; from common.results import parameters_file;"
        "from common.registration import inputs, recording, register;"
        "path = Path(sys.argv[1]); parameters_file.save(path / 'again.pt',"
        " parameters_file.load(path / 'parameters.pt')); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)
    one, again = (torch.load(tmp_path / f"{name}.pt") for name in ("parameters", "again"))
    assert list(one) == list(again)
    assert torch.equal(one["final_pose"], again["final_pose"])
