"""Readers of nearly correct files return or raise InputError within ten seconds."""

import copy
import datetime
import io
import json
import random
import struct
import time
import zipfile
from pathlib import Path

import files
import pydicom
import pytest
import torch
from conftest import SECONDS, count, rounds
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from common.errors import going_on
from common.pose_network import checkpoint
from common.results import parameters_file
from common.volume import label_names, lineage, nifti
from common.xray import calibration, reading
from common.xray.reading import StatedGeometry

SLOWEST_S = 10
FLAGS = StatedGeometry(1000.0, (0.5, 0.5))
CT, LABELS, XRAY = nifti.load_ct, nifti.load_labelmap, lambda path: reading.read(path, FLAGS)
READERS = {  # name: (reader, a good file)
    "NIfTI": (CT, "unpacked.nii"),
    "packed NIfTI": (CT, "ct.nii.gz"),
    "labelmap": (LABELS, "seg.nii.gz"),
    "NRRD": (CT, "ct_odd.nrrd"),
    "MHA": (CT, "ct_odd.mha"),
    "segmentation of Slicer": (LABELS, "boxed.seg.nrrd"),
    "enhanced CT": (CT, "ct_enhanced.dcm"),
    "RTSTRUCT": (label_names.names_of, "ct_slices/contours.dcm"),
    "DICOM": (XRAY, "xray.dcm"),
    "compressed DICOM": (XRAY, "packed.dcm"),
    "PNG": (XRAY, "xray.png"),
    "TIFF": (XRAY, "xray.tif"),
    "MayaCam": (calibration.read, "cam.txt"),
    "calibration JSON": (calibration.read, "cam.json"),
    "parameters": (parameters_file.load, "result/parameters.pt"),
    "checkpoint": (checkpoint.load_checkpoint, "other_weights.pth"),
}
ODD = (0, 1, 0x7F, 0x80, 0xFF)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    files.build(folder)
    (
        folder / "ct.json"
    ).unlink()  # its hash would refuse every change before the voxels are looked at
    (folder / "seg.json").unlink()
    (folder / "unpacked.nii").write_bytes((folder / "unpacked.nii.gz").read_bytes())
    (folder / "cam.json").write_text(
        json.dumps(
            {
                "K": files.K.tolist(),
                "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
                "t": [0, 0, 900],
                "image_size": [1760, 1520],
            }
        )
    )
    files.Image.fromarray(files.bright(16)).save(folder / "xray.tif")
    dataset = pydicom.dcmread(folder / "xray.dcm")
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(folder / "packed.dcm")
    return folder


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return the content with some bytes changed, removed, repeated or replaced.

    In an archive of PyTorch, its pickle is damaged.
    """
    if content[:4] == b"PK\x03\x04" and chance.random() < 0.7:
        return in_archive(content, chance)
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        head = chance.random() < 0.6  # most of what can go wrong stands in the first bytes
        at = chance.randrange(min(len(data), 600) if head else len(data))
        kind = chance.random()
        if kind < 0.5:
            data[at] = chance.choice(ODD) if chance.random() < 0.5 else chance.randrange(256)
        elif kind < 0.65:
            data[at : at + 4] = struct.pack(
                chance.choice(("<i", ">i", "<f")), chance.choice((0, -1, 2**31 - 1, 32767))
            )
        elif kind < 0.75:
            del data[at : at + chance.randrange(1, 40)]
        elif kind < 0.9:
            data[at:at] = data[at : at + chance.randrange(1, 40)]
        else:
            del data[at:]
        if not data:
            return b"x"
    return bytes(data)


def in_archive(content: bytes, chance: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(
                name, damaged(data, chance) if name.endswith("data.pkl") and data else data
            )
    return out.getvalue()


def must_return_or_refuse(reader, path: Path) -> None:
    began, problems = time.monotonic(), []
    with going_on(problems):
        reader(path)
    assert time.monotonic() - began < SLOWEST_S
    assert all(
        str(path.parent) in str(problem) or path.name in str(problem) for problem in problems
    )
    count("fuzzed files refused" if problems else "fuzzed files read")


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name, folder, tmp_path, capfd):
    reader, good = READERS[name]
    content = (folder / good).read_bytes()
    path = tmp_path / Path(good).name
    for number in rounds(0.2 / len(READERS), 25):
        path.write_bytes(damaged(content, random.Random(f"{name} {number}")))
        must_return_or_refuse(reader, path)
    capfd.readouterr()


def with_hypothesis(test):
    """Few examples in `make test`; new ones in every round of the soak."""
    return settings(
        max_examples=200 if SECONDS else 25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(test)


def soaked(make_test, share: float = 0.03) -> None:
    for number in rounds(share, 1):
        seed(number)(make_test())()


def paths_of(tree, at=()) -> list[tuple]:
    """Return the positions of the values in a nested container."""
    found = [at] if at else []
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list | tuple)
        else ()
    )
    return found + [path for key, value in items for path in paths_of(value, (*at, key))]


def replaced(tree, path: tuple, value):
    tree = copy.copy(list(tree) if isinstance(tree, tuple) else tree)
    tree[path[0]] = value if len(path) == 1 else replaced(tree[path[0]], path[1:], value)
    return tree


@pytest.mark.parametrize("kind", ["lineage", "calibration"])
@pytest.mark.slow
def test_json_with_anything_anywhere_is_read_or_refused(kind, folder, tmp_path, capfd):
    if kind == "lineage":
        image = tmp_path / "v.nii.gz"
        volume = nifti.load_ct(folder / "ct.nii.gz")
        nifti.save(image, volume)
        target, read = (
            lineage.sidecar(image),
            lambda path: lineage.read(image, volume.shape, volume.affine),
        )
    else:
        target, read = tmp_path / "cam.json", calibration.read
    good = json.loads((target if kind == "lineage" else folder / "cam.json").read_text())

    def make_test():
        @with_hypothesis
        @given(st.sampled_from(paths_of(good)), JSON_VALUES)
        def test(path, value):
            target.write_text(
                json.dumps(replaced(good, path, value)), encoding="utf-8", errors="surrogatepass"
            )
            must_return_or_refuse(read, target)

        return test

    soaked(make_test)
    capfd.readouterr()


TORCH_VALUES = JSON_VALUES | st.sampled_from(
    [
        torch.zeros(0),
        torch.tensor(float("nan")),
        torch.zeros(4, 4),
        torch.ones(2, 3, dtype=torch.bool),
        torch.zeros(1).expand(10**9),
    ]
)


@pytest.mark.parametrize("kind", ["parameters", "checkpoint"])
@pytest.mark.slow
def test_pytorch_files_with_anything_anywhere_are_read_or_refused(kind, folder, tmp_path, capfd):
    reader, name = READERS[kind]
    with torch.serialization.safe_globals([datetime.datetime]):
        good = torch.load(folder / name, weights_only=True)
    target = tmp_path / "x.pt"

    def make_test():
        @with_hypothesis
        @given(
            st.sampled_from([path for path in paths_of(good) if "points_mm" not in path[:-1]]),
            TORCH_VALUES,
        )
        def test(path, value):
            torch.save(replaced(good, path, value), target)
            must_return_or_refuse(reader, target)

        return test

    soaked(make_test)
    capfd.readouterr()


TAGS = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "SamplesPerPixel",
    "PixelRepresentation",
    "DistanceSourceToDetector",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "PixelPaddingValue",
    "FieldOfViewRotation",
)


def test_dicom_tags_with_any_number_are_read_or_refused(folder, tmp_path, capfd):
    target = tmp_path / "x.dcm"

    def make_test():
        @with_hypothesis
        @given(
            st.sampled_from(TAGS),
            st.integers(-(2**31), 2**31)
            | st.floats()
            | st.text("0123456789.-+e\\ aN", max_size=12),
        )
        def test(tag, value):
            dataset = pydicom.dcmread(folder / "xray.dcm")
            entry = pydicom.dataelem.RawDataElement
            vr = pydicom.datadict.dictionary_VR(tag)
            raw = (
                struct.pack("<H", int(value) % 65536)
                if vr == "US" and not isinstance(value, str) and value == value and abs(value) < 1e9
                else str(value).encode()[:16]
            )
            key = pydicom.tag.Tag(tag)
            dataset[key] = entry(
                key, vr[:2], len(raw) + len(raw) % 2, raw + b" " * (len(raw) % 2), 0, False, True
            )
            dataset.save_as(target)
            must_return_or_refuse(XRAY, target)

        return test

    soaked(make_test)
    capfd.readouterr()
