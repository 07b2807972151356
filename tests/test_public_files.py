"""Real files that come with pydicom: each is read, or refused in one line.

They are made by scanners, converters and other programs, whole and damaged, in every transfer
syntax; the package that is installed holds them.
"""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame

from common.errors import InputError, going_on
from common.volume import nifti
from common.xray import dicom, reading, runs
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


def test_a_real_rtstruct_of_the_outline_and_of_points_has_no_bone():
    with pytest.raises(InputError, match="no region with closed contours but the outline"):
        nifti.load_labelmap(FILES / "rtstruct.dcm")


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
@pytest.mark.parametrize("frames", [1, 2])
def test_jpeg_extended_with_12_bits_has_its_known_values(tmp_path, capfd, name, frames):
    """Two values that DCMTK and other decoders give; rescaling leaves stored values alone."""
    dataset = pydicom.dcmread(FILES / name)
    dataset.RescaleSlope, dataset.RescaleIntercept = 3, -7
    other = pydicom.dcmread(FILES / "JPGExtended.dcm")
    if frames == 2:
        parts = [get_frame(each.PixelData, 0, number_of_frames=1) for each in (other, dataset)]
        dataset.NumberOfFrames, dataset.PixelData = 2, encapsulate(parts)
    dataset.save_as(tmp_path / "x.dcm")
    grey, _ = dicom.read(tmp_path / "x.dcm", frames - 1 if frames > 1 else None)
    assert grey.shape == (1024, 256)
    assert (grey[420, 140], grey[230, 120]) == (244, 95)
    assert capfd.readouterr().err == ""


def test_a_damaged_jpeg_extended_is_refused(tmp_path):
    dataset = pydicom.dcmread(FILES / "JPGExtended.dcm")
    dataset.PixelData = encapsulate([b"\xff\xd8" + bytes(400)])
    dataset.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=r"cannot be read.*dcmdjpeg"):
        dicom.read(tmp_path / "x.dcm", None)
