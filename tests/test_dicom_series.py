"""DICOM CTs: series chosen, stacks that were tilted or are uneven, and enhanced CTs."""

import zipfile

import numpy as np
import pydicom
import pytest
from dicom_cts import AFFINE, ct, dicom_series, enhanced, same
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from common.errors import InputError
from common.geometry import apply
from common.volume import dicom_series as dicom_series_module
from common.volume import nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume


@pytest.fixture
def two_series(tmp_path):
    """A soft and a sharp series of one scan, of other heights, and a localizer."""
    folder = dicom_series(
        tmp_path / "slices", ct(), SeriesNumber=2, ConvolutionKernel="B30f", BodyPartExamined="LEG"
    )
    sharp = Volume(ct().data + np.int16(7), AFFINE, Lineage())
    dicom_series(
        folder, sharp, SeriesInstanceUID="1.2.4", SeriesNumber=3,
        ConvolutionKernel=["Br64d", "3"], BodyPartExamined="KNEE", SeriesDescription="Secret thin",
    )  # fmt: skip
    dicom_series(folder, ct(), SeriesInstanceUID="1.2.5", ImageType=["ORIGINAL", "LOCALIZER"])
    return folder, sharp


def test_several_series_are_listed_without_their_description(two_series):
    with pytest.raises(
        InputError, match=r"2 CT series \(.*2, LEG, B30f.*; .*3, KNEE, Br64d 3"
    ) as e:
        nifti.load_ct(two_series[0])
    assert "Secret" not in str(e.value)


@pytest.mark.parametrize("words", [["3"], ["1.2.4"], ["br64"], ["knee", "Br64d"], ["thin"]])
def test_words_choose_a_series_of_a_folder_and_of_a_zip(two_series, tmp_path, words):
    folder, sharp = two_series
    same(nifti.load_ct(folder, fill=False, series=words), sharp)
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, path.name)
    same(nifti.load_ct(tmp_path / "ct.zip", fill=False, series=words), sharp)
    same(nifti.load_ct(dicom_series_module.file_of(folder, "a CT", words), fill=False), sharp)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["4"], "none of them with 4"), (["B"], "2 of them"), (["leg", "Br64d"], "none")],
)
def test_words_of_no_or_of_several_series_are_refused(two_series, words, said):
    with pytest.raises(InputError, match=said):
        nifti.load_ct(two_series[0], series=words)


def test_one_file_chooses_its_series(two_series):
    same(nifti.load_ct(two_series[0] / "IM0005_1.2.4", fill=False), two_series[1])


@pytest.mark.parametrize(
    ("step", "tilt_mm", "message"),
    [
        (lambda k: k + (k > 3), 0.0, "1 slices are missing.*the first gap is after"),
        (lambda k: k + 2 * (k > 3), 0.0, "2 slices are missing"),
        (lambda k: k - (k == 5), 0.0, "2 slices lie at one place"),
        (None, 1.6, "slide away by 46.8 degrees"),
    ],
)
def test_slices_that_are_lost_double_or_slide_away_are_refused_with_their_numbers(
    tmp_path, step, tilt_mm, message
):
    folder = dicom_series(tmp_path / "slices", ct(), step, tilt_mm)
    with pytest.raises(InputError, match=message):
        nifti.load_ct(folder)


# Hounsfield units that are linear in space: linear interpolation is exact but for rounding
SLOPES, LEVEL = np.array([2.0, -3.0, 5.0]), 300.0


def linear_stack(step=None, tilt_mm=0.0) -> Volume:
    """A volume for `dicom_series` of which each voxel has the value of its place after it."""
    volume = Volume(np.zeros((30, 24, 12), np.int16), AFFINE, Lineage())
    index = np.argwhere(np.ones(volume.shape, bool)).astype(float)
    index[:, 2] = [step(k) if step else k for k in index[:, 2]]
    points = apply(AFFINE, index)
    down = AFFINE[:3, 1] / volume.spacing_mm[1]
    points += np.outer(np.argwhere(np.ones(volume.shape, bool))[:, 2] * tilt_mm, down)
    values = np.rint(points @ SLOPES + LEVEL).astype(np.int16)
    return Volume(values.reshape(volume.shape), AFFINE, Lineage())


@pytest.mark.parametrize("tilt_mm", [0.3, -0.55])
def test_a_stack_of_a_tilted_gantry_is_upright_with_each_value_at_its_place(
    tmp_path, caplog, tilt_mm
):
    volume = linear_stack(None, tilt_mm)
    folder = dicom_series(tmp_path / "slices", volume, None, tilt_mm)
    found = nifti.load_ct(folder, fill=False)
    angle = np.degrees(np.arctan2(abs(tilt_mm), 1.5))
    assert f"tilted by {angle:.1f} degrees" in caplog.text
    axes = found.affine[:3, :3] / found.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-4)
    inside = np.argwhere(found.data > found.data.min() + 1)
    expected = apply(found.affine, inside) @ SLOPES + LEVEL
    off = np.abs(found.data[tuple(inside.T)] - expected)
    # the outermost pixels of each slice are mixed with what lies beside it
    assert len(inside) > 0.9 * volume.data.size
    assert np.percentile(off, 90) <= 1.01
    middle = found.data[3:-3, 12:16, 2:-2]
    places = np.argwhere(np.ones(middle.shape, bool)) + np.array([3, 12, 2])
    np.testing.assert_allclose(
        middle.ravel(), apply(found.affine, places) @ SLOPES + LEVEL, atol=1.01
    )


def test_uneven_slices_are_interpolated_with_each_value_at_its_place(tmp_path, caplog):
    def step(k):
        return k if k < 6 else 6 + 2.5 * (k - 6)  # thick slices beyond the joint

    volume = linear_stack(step)
    folder = dicom_series(tmp_path / "slices", volume, step)
    found = nifti.load_ct(folder, fill=False)
    assert "1.5 to 3.75 mm apart; interpolated to 1.5 mm" in caplog.text
    assert found.shape == (30, 24, 19)
    places = np.argwhere(np.ones(found.shape, bool))
    np.testing.assert_allclose(
        found.data.ravel(), apply(found.affine, places) @ SLOPES + LEVEL, atol=1.01
    )


def test_a_tilt_that_only_the_header_states_is_warned_of(tmp_path, caplog):
    straight = Volume(ct().data, np.diag([0.8, 0.9, 1.5, 1.0]), Lineage())
    folder = dicom_series(tmp_path / "slices", straight, GantryDetectorTilt="-12.5")
    same(nifti.load_ct(folder, fill=False), straight)
    assert "states a gantry tilt of -12.5 degrees, which neither" in caplog.text


@pytest.mark.parametrize("order", [None, [3, 0, 7, 1, 2, 6, 5, 4]])
def test_an_enhanced_ct_is_sorted_and_in_hounsfield_units(tmp_path, caplog, order):
    caplog.set_level("INFO")
    path = enhanced(tmp_path / "ct.dcm", ct(), order, ConvolutionKernel="B70f")
    same(nifti.load_ct(path, fill=False), ct())
    assert "8 slices, B70f, 1.5 mm thick, frames of one file, stack 1" in caplog.text
    same(nifti.load_ct(tmp_path, fill=False), ct())


def test_the_stacks_of_an_enhanced_ct_are_listed_and_chosen(tmp_path):
    tall = Volume(np.concatenate([ct().data, ct().data + np.int16(3)], axis=2), AFFINE, Lineage())
    path = enhanced(tmp_path / "ct.dcm", tall, stack=lambda n: "A" if n < 9 else "B")
    with pytest.raises(InputError, match=r"2 CT series .*stack A.*stack B"):
        nifti.load_ct(path)
    first = Volume(tall.data[:, :, :9], AFFINE, Lineage())
    same(nifti.load_ct(path, fill=False, series=["A"]), first)


def test_slices_without_preamble_and_transfer_syntax_are_read_with_one_warning(tmp_path, caplog):
    folder = dicom_series(tmp_path / "slices", ct())
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        bare = DicomBytesIO()
        bare.is_little_endian, bare.is_implicit_VR = True, True
        write_dataset(bare, dataset)
        path.write_bytes(bare.getvalue())
    same(nifti.load_ct(folder, fill=False), ct())
    same(nifti.load_ct(next(folder.iterdir()), fill=False), ct())
    said = [line for line in caplog.messages if "states no transfer syntax" in line]
    assert len(said) == 2  # one for each time
    assert "read as Implicit VR Little Endian" in said[0]
