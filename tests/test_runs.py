"""Runs of X-rays: folders in natural order, DICOM series by instance, DICOMDIR, several cameras."""

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from test_xrays import GEOMETRY, bright, dicom

from common.errors import InputError
from common.xray import runs


def pictures(folder, names):
    folder.mkdir()
    for name in names:
        Image.fromarray(bright(8)).save(folder / name)
    return folder


def test_a_folder_of_pictures_is_a_run_in_natural_order(tmp_path):
    folder = pictures(tmp_path / "cam1", ["x10.png", "x2.png", "x1.png"])
    (folder / "x1.json").write_text("{}")
    (folder / ".hidden.png").write_text("")
    assert [path.name for path in runs.run_of(folder)] == ["x1.png", "x2.png", "x10.png"]


def test_a_folder_of_dicom_files_is_a_run_by_instance_number(tmp_path):
    for name, number in (("a", "3"), ("b", "1"), ("c", "2")):
        dicom(tmp_path / name, bright(), InstanceNumber=number, SeriesInstanceUID="1.2", **GEOMETRY)
    (tmp_path / "notes.txt").write_text("no X-ray")
    assert [path.name for path in runs.run_of(tmp_path)] == ["b", "c", "a"]


def test_folders_of_two_cameras_give_one_picture_of_each_per_instant(tmp_path):
    one = pictures(tmp_path / "cam1", ["1.png", "2.png"])
    two = pictures(tmp_path / "cam2", ["1.png", "2.png"])
    found = runs.expanded([one, two], 2)
    assert [f"{path.parent.name}/{path.name}" for path in found] == [
        "cam1/1.png", "cam2/1.png", "cam1/2.png", "cam2/2.png",
    ]  # fmt: skip
    (two / "2.png").unlink()
    with pytest.raises(InputError, match="have 2 and 1 pictures"):
        runs.expanded([one, two], 2)


def dicomdir(folder, names):
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    listing = pydicom.dcmread(dicom(folder / "x", np.zeros((16, 16))))
    del listing.PixelData
    listing.DirectoryRecordSequence = records
    listing.save_as(folder / "DICOMDIR")
    return folder / "DICOMDIR"


def test_a_dicomdir_stands_for_the_images_that_it_lists(tmp_path):
    (tmp_path / "IM").mkdir()
    for name in ("2", "1"):
        dicom(tmp_path / "IM" / name, bright(), **GEOMETRY)
    found = runs.run_of(dicomdir(tmp_path, [["IM", "2"], ["IM", "1"]]))
    assert [path.name for path in found] == ["2", "1"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("listed", [[["GONE"]], [["..", "ELSEWHERE"]], []])
def test_a_dicomdir_without_its_files_is_refused(tmp_path, listed):
    folder = tmp_path / "disc"
    folder.mkdir()
    (tmp_path / "ELSEWHERE").write_text("not of this disc")
    with pytest.raises(InputError, match="DICOMDIR: lists"):
        runs.run_of(dicomdir(folder, listed))


def test_a_folder_with_nothing_with_two_kinds_or_with_two_series_is_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="contains no X-ray"):
        runs.run_of(empty)
    mixed = pictures(tmp_path / "mixed", ["x.png"])
    dicom(mixed / "a.dcm", bright(), SeriesInstanceUID="1.2", **GEOMETRY)
    with pytest.raises(InputError, match="both DICOM files and pictures"):
        runs.run_of(mixed)
    (mixed / "x.png").unlink()
    dicom(mixed / "b.dcm", bright(), SeriesInstanceUID="1.3", **GEOMETRY)
    with pytest.raises(InputError, match="contains 2 series"):
        runs.run_of(mixed)
