"""Real files that come with pydicom: each is read, or refused in one line.

They are made by scanners, converters and other programs, whole and damaged, in every transfer
syntax; the package that is installed holds them.
"""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

from common.errors import InputError, going_on
from common.volume import nifti
from common.xray import reading, runs
from common.xray.stated_geometry import StatedGeometry

FILES = Path(pydicom.__file__).parent / "data/test_files"
DICOMS = sorted(path for path in FILES.glob("*.dcm"))
STATED = StatedGeometry(1000.0, (0.5, 0.5))
# grey pictures of which another file has the same values, by another way to store them
ALIKE = [
    ("MR_small.dcm", "MR_small_RLE.dcm"),
    ("MR_small.dcm", "MR_small_bigendian.dcm"),
    ("MR_small.dcm", "MR_small_expb.dcm"),
    ("MR_small.dcm", "MR_small_implicit.dcm"),
    ("MR_small.dcm", "MR_small_jp2klossless.dcm"),
    ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    ("MR_small.dcm", "MR_small_padded.dcm"),
]
REFUSED = {
    "JPGExtended.dcm": "JPEG Extended with 12 bits",
    "JPEG-lossy.dcm": "JPEG Extended with 12 bits",
    "SC_rgb_rle_16bit.dcm": "is a colour image",
    "SC_rgb_jpeg_dcmtk.dcm": "is stored as YBR_FULL",
    "examples_palette.dcm": "is stored as PALETTE COLOR",
    "MR_truncated.dcm": "cannot be read",
    "rtplan.dcm": "has no pixels",
    "test-SR.dcm": "has no pixels",
}


def first_frame(path):
    return reading.read(path, STATED, frame=0 if reading.count_frames(path) > 1 else None)


@pytest.mark.parametrize("path", DICOMS, ids=lambda path: path.name)
@pytest.mark.parametrize("read", [first_frame, nifti.load_ct, nifti.load_labelmap])
def test_a_real_file_is_read_or_refused_in_one_line(path, read):
    problems: list[InputError] = []
    with going_on(problems):
        read(path)
    assert all(re.fullmatch(r".+: .+; expected .+; .+", str(each)) for each in problems)


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=lambda name: name)
def test_a_picture_is_the_same_however_it_is_stored(one, other):
    expected, found = first_frame(FILES / one), first_frame(FILES / other)
    np.testing.assert_array_equal(found.image, expected.image)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_grey_picture_is_refused_for_its_reason(name):
    with pytest.raises(InputError, match=REFUSED[name]):
        first_frame(FILES / name)


def test_a_folder_of_real_slices_is_one_volume_in_hounsfield_units():
    """An abdomen of five slices of 16 x 16 pixels: read as a series, then found without bone."""
    folder = FILES / "dicomdirtests/98892001/CT5N"
    with pytest.raises(InputError, match=r"range from -888 to 85; expected a bone"):
        nifti.load_ct(folder)


def test_the_pictures_of_a_real_dicomdir_are_listed_in_its_order():
    found = runs.run_of(FILES / "dicomdirtests/DICOMDIR")
    assert len(found) == 31
    assert all(path.is_file() for path in found)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_real_rtstruct_of_the_outline_and_of_points_has_no_bone(tmp_path):
    """The file has no preamble, and gets one."""
    dataset = pydicom.dcmread(FILES / "rtstruct.dcm", force=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(tmp_path / "rtstruct.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="no region with closed contours but the outline"):
        nifti.load_labelmap(tmp_path / "rtstruct.dcm")
