"""RTSTRUCT: contours become the voxels that they surround, on the grid of their CT."""

import numpy as np
import pytest
from dicom_cts import AFFINE, NAMES, ct, dicom_series, labels, rtstruct, same

import crop_cts
from common.errors import InputError
from common.volume import label_names, nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume


def masks():
    return {name: labels().data == value for name, value in NAMES.items()}


@pytest.fixture
def study(tmp_path):
    """The folders of a study: slices, and contours beside them."""
    dicom_series(tmp_path / "ct", ct())
    (tmp_path / "rt").mkdir()
    return tmp_path


def drawn(path):
    found = nifti.load_labelmap(path)
    return Volume((found.data > 0).astype(np.uint8), found.affine, Lineage())


@pytest.mark.parametrize("place", ["rt/rs.dcm", "ct/rs.dcm", "rs.dcm"])
def test_the_voxels_inside_contours_are_the_labels_by_their_names(study, place):
    path = rtstruct(study / place, ct(), masks())
    assert label_names.names_of(path) == {"femur_left": 1, "tibia_left": 2}
    expected = np.select([labels().data == 3, labels().data == 5], [1, 2])
    same(nifti.load_labelmap(path), Volume(expected, AFFINE, Lineage()))


def test_a_contour_inside_another_one_is_a_hole(study):
    ring = np.zeros((12, 10, 8), bool)
    ring[2:10, 1:9, 2:5] = True
    ring[4:8, 4:7, 2:5] = False
    path = rtstruct(study / "rt/rs.dcm", ct(), {"ring": ring})
    same(drawn(path), Volume(ring.astype(np.uint8), AFFINE, Lineage()))


def test_slices_between_contours_are_filled_and_a_gap_between_two_parts_is_not(study):
    cone = np.zeros((12, 10, 8), bool)
    for k in range(5):
        cone[1 + k : 11 - k, 2:8, k] = True
    path = rtstruct(study / "rt/rs.dcm", ct(), {"cone": cone}, every=2)
    same(drawn(path), Volume(cone.astype(np.uint8), AFFINE, Lineage()))
    parts = np.zeros((12, 10, 8), bool)
    parts[3:8, 3:7, [0, 1, 2, 6, 7]] = True
    path = rtstruct(study / "rt/rs.dcm", ct(), {"parts": parts})
    same(drawn(path), Volume(parts.astype(np.uint8), AFFINE, Lineage()))


def test_the_outline_of_the_patient_is_left_out_and_said(study, caplog):
    around = {"Outline": np.ones((12, 10, 8), bool), "BODY": np.ones((12, 10, 8), bool)}
    path = rtstruct(study / "rt/rs.dcm", ct(), {**around, **masks()}, Outline="EXTERNAL")
    assert set(label_names.names_of(path)) == set(NAMES)
    assert (nifti.load_labelmap(path).data > 0).sum() == (labels().data > 0).sum()
    assert "Outline is left out, the outline of the patient" in caplog.text
    assert "BODY is left out" in caplog.text
    assert "Secret" not in caplog.text


def test_contours_of_another_series_and_of_none_are_refused(study):
    path = rtstruct(study / "rt/rs.dcm", ct(), masks(), uid="1.2.4")
    with pytest.raises(InputError, match="the CT that its contours were drawn on is not in"):
        nifti.load_labelmap(path)
    path = rtstruct(study / "rt/rs.dcm", ct(), {"none": np.zeros((12, 10, 8), bool)})
    with pytest.raises(InputError, match="no region with closed contours"):
        nifti.load_labelmap(path)
    turned = Volume(ct().data, AFFINE[:, [2, 0, 1, 3]], Lineage())  # contours along other planes
    path = rtstruct(study / "rt/rs.dcm", turned, {"turned": np.ones((8, 8, 8), bool)})
    with pytest.raises(InputError, match="does not lie in a slice of its CT"):
        nifti.load_labelmap(path)


def test_contours_on_a_tilted_stack_lie_where_its_upright_grid_has_the_bone(tmp_path):
    rng = np.random.default_rng(0)
    bone = np.zeros((12, 10, 8), bool)
    bone[3:9, 3:7, 1:7] = True
    volume = Volume(
        np.where(bone, 900, rng.integers(-40, 40, bone.shape)).astype(np.int16), AFFINE, Lineage()
    )
    tilt_mm = 0.9  # as wide as a pixel: whole pixels are moved
    folder = dicom_series(tmp_path / "ct", volume, None, tilt_mm)
    # the contours of each slice lie where the slice is
    shifted = volume.affine.copy()
    shifted[:3, 2] += tilt_mm * volume.affine[:3, 1] / volume.spacing_mm[1]
    path = rtstruct(folder / "rs.dcm", Volume(volume.data, shifted, Lineage()), {"bone": bone})
    grid, found = nifti.load_ct(folder, fill=False), nifti.load_labelmap(path)
    np.testing.assert_array_equal(found.data > 0, grid.data > 500)
    assert (found.data > 0).sum() == bone.sum()


def test_crop_takes_contours_by_name(study):
    rtstruct(study / "rt/rs.dcm", ct(), masks())
    flags = ["--base_dir", str(study), "--ct_filename", "ct", "--seg_filename", "rt/rs.dcm"]
    flags += ["--bones", "femur", "--labels", "99", "femur_left"]
    assert crop_cts.main(flags) == 0
    bone = nifti.load_labelmap(study / "femur_masks_cropped/ct_femur.nii.gz")
    assert (bone.data > 0).sum() == (labels().data == 3).sum()
