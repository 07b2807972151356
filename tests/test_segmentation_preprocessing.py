"""Step 1 on labelmaps whose islands are known."""

import json
import re

import nibabel
import numpy as np
import pytest
from scipy import ndimage

import segmentation_preprocessing
from common.volume import nifti, volume

AFFINE = np.array([[-0.5, 0, 0, 10.0], [0, 0.8, 0, -20], [0, 0, 1.5, 30], [0, 0, 0, 1]])


def labelmap() -> np.ndarray:
    """Label 2: a bar of 12 voxels, islands of 1 and 3. Label 5: two cubes that touch at a corner.

    Label 7: one voxel.
    """
    data = np.zeros((20, 18, 16), np.uint16)
    data[2:14, 3, 3] = 2
    data[18, 16, 3] = 2
    data[2:5, 10, 12] = 2
    data[4:6, 6:8, 6:8] = 5
    data[6:8, 8:10, 8:10] = 5
    data[19, 17, 15] = 7
    return data


@pytest.fixture
def seg(tmp_path):
    path = tmp_path / "P01_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labelmap(), AFFINE), path)
    return path


def clean(seg, *flags) -> tuple[int, volume.Volume | None]:
    out = seg.parent / "out"
    code = segmentation_preprocessing.main(["-i", str(seg), "-o", str(out), *flags])
    result = out / "P01_seg_cleaned.nii.gz"
    return code, nifti.load_labelmap(result) if result.exists() else None


def test_islands_are_removed_and_the_largest_component_of_every_label_is_kept(seg):
    code, result = clean(seg)
    expected = labelmap()
    expected[18, 16, 3] = 0
    expected[2:5, 10, 12] = 0
    assert code == 0
    np.testing.assert_array_equal(result.data, expected)


def test_parts_that_touch_at_a_corner_are_one_component(seg):
    _, result = clean(seg, "-l", "5")
    assert (result.data == 5).sum() == 16


@pytest.mark.parametrize("flag", ["-l", "-labels", "--labels"])
def test_only_the_requested_labels_are_cleaned(seg, flag):
    _, result = clean(seg, flag, "5", "7")
    np.testing.assert_array_equal(result.data, labelmap())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
def test_grid_and_data_type_are_kept(tmp_path, dtype):
    path = tmp_path / "P01_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labelmap().astype(dtype), AFFINE, dtype=dtype), path)
    clean(path)
    image = nibabel.load(tmp_path / "out" / "P01_seg_cleaned.nii.gz")
    assert image.get_data_dtype() == dtype
    assert image.shape == (20, 18, 16)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)


def test_an_uncompressed_input_is_not_changed(tmp_path):
    path = tmp_path / "P01_seg.nii"
    nibabel.save(nibabel.Nifti1Image(labelmap(), AFFINE), path)
    _, result = clean(path)
    assert result.data[18, 16, 3] == 0
    np.testing.assert_array_equal(nibabel.load(path).get_fdata(), labelmap())


def test_counts_are_reported_and_recorded(seg, capsys):
    _, result = clean(seg)
    assert "label 2: 12 voxels kept, 2 islands with 4 voxels removed" in capsys.readouterr().err
    step = result.lineage.history[-1]
    assert step["step"] == "segmentation_preprocessing"
    assert step["settings"]["labels"][0] == {
        "label": 2,
        "voxels_kept": 12,
        "islands_removed": 2,
        "voxels_removed": 4,
        "large": [],
    }
    assert result.lineage.source["name"] == "P01_seg.nii.gz"
    np.testing.assert_array_equal(result.lineage.scanner_from_volume, np.eye(4))


def test_a_missing_label_is_a_warning_and_the_others_are_cleaned(seg, capsys):
    code, result = clean(seg, "-l", "2", "9")
    assert code == 0
    assert "label 9 is missing" in capsys.readouterr().err
    assert (result.data == 2).sum() == 12


@pytest.mark.parametrize("flags", [("-l", "9"), ("-l", "0"), ("-l", "-3")])
def test_no_label_to_clean_is_an_error_of_one_line(seg, capsys, flags):
    code, result = clean(seg, *flags)
    assert code == 2
    assert result is None
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .startswith("segmentation_preprocessing.py: ")
    )


def test_an_empty_labelmap_is_an_error(tmp_path):
    path = tmp_path / "P01_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    assert clean(path) == (2, None)


def test_a_ct_is_rejected(tmp_path):
    path = tmp_path / "P01_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), -1000, np.int16), np.eye(4)), path)
    assert clean(path) == (2, None)


def test_an_existing_output_is_kept_unless_overwrite(seg):
    assert clean(seg)[0] == 0
    assert clean(seg)[0] == 2
    assert clean(seg, "--overwrite")[0] == 0


def test_the_output_of_an_earlier_run_keeps_its_history(seg):
    clean(seg)
    again = seg.parent / "again"
    assert (
        segmentation_preprocessing.main(
            ["-i", str(seg.parent / "out" / "P01_seg_cleaned.nii.gz"), "-o", str(again)]
        )
        == 0
    )
    sidecar = json.loads((again / "P01_seg_cleaned_cleaned.json").read_text())
    assert [entry["step"] for entry in sidecar["history"]] == ["segmentation_preprocessing"] * 2
    assert sidecar["source"]["name"] == "P01_seg.nii.gz"


@pytest.mark.parametrize("density", [0.02, 0.08, 0.5])
def test_components_of_noise_are_those_that_scipy_finds(density):
    noise = (np.random.default_rng(0).random((17, 23, 31)) < density).astype(np.uint8)
    components, count = ndimage.label(noise, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    (report,) = segmentation_preprocessing.keep_largest_components(noise)
    assert (report.voxels_kept, report.islands_removed) == (sizes.max(), count - 1)
    np.testing.assert_array_equal(noise, components == 1 + sizes.argmax())


# ------------------------------------------------------------------------------------ large pieces


def broken_bone() -> np.ndarray:
    """Label 4: a shaft of 1000 voxels with a gap of three slices, 600 on one side, 400 beyond."""
    data = np.zeros((20, 18, 16), np.uint8)
    data[3:13, 3:13, 0:6] = 4
    data[3:13, 3:13, 9:13] = 4
    data[18, 16, 1] = 4
    return data


def write(path, data):
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), path)
    return path


def test_a_large_piece_that_is_removed_is_warned_of_with_its_size_and_place(tmp_path, capsys):
    code, result = clean(write(tmp_path / "P01_seg.nii.gz", broken_bone()), "--quiet")
    assert code == 0
    assert (result.data == 4).sum() == 600
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    # 400 of 1001 voxels of 0.6 mm3; 9 - 5 slices of 1.5 mm
    assert "a second piece of 40 % (0.2 cm3), 6 mm away, at R 6, A -14, S 46 mm" in warning
    assert "--keep 4" in warning
    (piece,) = result.lineage.history[-1]["settings"]["labels"][0]["large"]
    assert (piece["voxels"], piece["kept"]) == (400, False)
    assert piece["gap_mm"] == pytest.approx(6.0)
    assert piece["centre_mm"] == pytest.approx([6.2, -14.0, 45.8], abs=0.1)


def test_large_pieces_of_a_label_can_be_kept_and_its_islands_still_go(tmp_path, capsys):
    code, result = clean(write(tmp_path / "P01_seg.nii.gz", broken_bone()), "--keep", "4")
    assert code == 0
    expected = broken_bone()
    expected[18, 16, 1] = 0
    np.testing.assert_array_equal(result.data, expected)
    assert "warning" not in capsys.readouterr().err


def test_an_island_below_5_percent_is_not_warned_of(tmp_path, capsys):
    data = broken_bone()
    data[3:13, 3:13, 6:9] = 4
    clean(write(tmp_path / "P01_seg.nii.gz", data))
    assert "warning" not in capsys.readouterr().err


def test_one_label_for_both_legs_is_warned_of(tmp_path, knees, capsys):
    shared = np.where(knees.segmentation.data == 1, 2, knees.segmentation.data)
    path = tmp_path / "P01_seg.nii.gz"
    nifti.save(path, volume.Volume(shared, knees.segmentation.affine, knees.segmentation.lineage))
    assert clean(path, "-l", "2", "3", "4")[0] == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert re.search(r"label 2 has a second piece of (4|5)\d %", warnings[0])
    assert "two bones need two labels" in warnings[0]
