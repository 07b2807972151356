"""Step 4: grids, anti-aliasing and air against known values."""

import json

import nibabel
import numpy as np
import pytest

import center_isometric
from common.geometry import apply, rotation_matrix
from common.volume import nifti, resampling
from common.volume.lineage import Lineage
from common.volume.volume import Volume, same_grid

OBLIQUE = rotation_matrix(np.radians([20, 10, -30]))


def affine_of(directions, spacing, shape, middle=(30.0, -50, 12)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(spacing, float)
    affine[:3, 3] = middle - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def ct(directions=None, spacing=(1.0, 1.0, 1.0), shape=(20, 24, 16), data=None) -> Volume:
    data = (
        np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
        if data is None
        else data
    )
    return Volume(
        data,
        affine_of(np.eye(3) if directions is None else directions, spacing, data.shape),
        Lineage(source={"name": "a", "sha256": ""}),
    )


def test_a_volume_on_the_requested_grid_is_moved_but_not_interpolated():
    source = ct()
    result = center_isometric.center_isometric(source, 1.0)
    np.testing.assert_array_equal(result.data, source.data)
    np.testing.assert_allclose(result.isocentre_mm, 0, atol=1e-9)
    assert result.data.dtype == np.int16


def test_axes_of_the_file_become_those_of_the_patient():
    """Sagittal slices, front to back and head to foot: the new array is the old one reoriented."""
    source = ct(directions=np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))
    result = center_isometric.center_isometric(source, 1.0)
    np.testing.assert_array_equal(result.data, source.data.transpose(2, 0, 1)[:, ::-1, ::-1])
    np.testing.assert_allclose(result.affine[:3, :3], np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    "directions", [np.eye(3), np.diag([-1.0, 1, 1]), OBLIQUE], ids=["RAS", "LAS", "oblique"]
)
@pytest.mark.parametrize("spacing", [0.9, 2.3])
def test_the_grid_is_cubic_centred_and_covers_the_volume(directions, spacing):
    source = ct(directions, spacing=(0.8, 1.1, 3.0))
    shape, affine = center_isometric.centred_grid(source, spacing)
    np.testing.assert_allclose(affine[:3, :3], spacing * np.eye(3))
    np.testing.assert_allclose(apply(affine, (np.array(shape) - 1) / 2), 0, atol=1e-9)
    corners = (
        apply(
            source.affine, np.array([[0, 0, 0], [19, 0, 0], [0, 23, 0], [0, 0, 15], [19, 23, 15]])
        )
        - source.isocentre_mm
    )
    assert (np.abs(corners) <= spacing * np.array(shape) / 2).all()


def test_a_linear_ramp_keeps_its_values_between_voxels():
    index = np.indices((20, 24, 16)).astype(np.float32)
    source = ct(
        spacing=(1.0, 1.0, 2.0),
        data=(10 * index[0] + 3 * index[1] - 7 * index[2]).astype(np.float32),
    )
    result = center_isometric.center_isometric(source, 1.0)
    inner = np.stack(
        np.meshgrid(*[np.arange(3, n - 3) for n in result.shape], indexing="ij"), -1
    ).reshape(-1, 3)
    at = apply(np.linalg.inv(source.affine), apply(result.affine, inner) + source.isocentre_mm)
    np.testing.assert_allclose(result.data[tuple(inner.T)], at @ [10, 3, -7], atol=1e-3)


def test_a_pattern_finer_than_the_new_voxels_becomes_its_mean_and_does_not_alias():
    data = np.zeros((64, 64, 64), np.float32)
    data[::2] = 1000
    result = center_isometric.center_isometric(ct(data=data), 4.0)
    inner = result.data[2:-2, 2:-2, 2:-2]
    assert abs(inner.mean() - 500) < 5
    assert np.ptp(inner) < 20


def test_only_axes_that_become_coarser_are_smoothed():
    data = np.zeros((31, 31, 31), np.float32)
    data[15, 15, 15] = 1
    volume = ct(spacing=(1.0, 2.0, 4.0), data=data)
    smooth = resampling.resample(
        volume, volume.shape, volume.affine, blur_voxels=center_isometric.blur_for(volume, 2.0)
    ).data
    assert smooth[14, 15, 15] > 0.01
    assert smooth[15, 14, 15] == smooth[15, 15, 14] == 0
    # second moment along x: (new^2 - old^2) / (8 ln 2)
    variance = (smooth.sum((1, 2)) * (np.arange(31) - 15) ** 2).sum()
    assert variance == pytest.approx((4 - 1) / (8 * np.log(2)), rel=0.02)


@pytest.mark.parametrize(("lowest", "expected"), [(-1000, -1000), (0, -1000), (-2048, -2048)])
def test_outside_the_field_there_is_air_or_the_cts_own_padding(lowest, expected):
    data = np.full((20, 24, 16), 50, np.int16)
    data[5, 5, 5] = lowest
    result = center_isometric.center_isometric(ct(OBLIQUE, data=data), 1.0)
    assert result.data[0, 0, 0] == expected
    assert result.data[tuple(n // 2 for n in result.shape)] == 50


def test_labels_stay_labels():
    data = np.zeros((20, 24, 16), np.uint8)
    data[5:12, 5:12, 5:12] = 7
    result = center_isometric.center_isometric(ct(OBLIQUE, data=data), 0.7, labels=True)
    assert set(np.unique(result.data)) == {0, 7}
    assert (result.data == 7).sum() * 0.7**3 == pytest.approx(7**3, rel=0.05)


def save(path, volume):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.data, volume.affine), path)


def test_a_folder_is_centred_with_its_sibling_masks(tmp_path, capsys):
    for name in ("P01_femur", "P02_femur"):
        save(tmp_path / "femur_cts_aligned" / f"{name}.nii.gz", ct(OBLIQUE))
    save(
        tmp_path / "femur_masks_aligned" / "P01_femur.nii.gz",
        ct(OBLIQUE, data=np.ones((20, 24, 16), np.uint8)),
    )
    assert (
        center_isometric.main(
            [
                "-i",
                str(tmp_path / "femur_cts_aligned"),
                "-o",
                str(tmp_path / "femur_cts_centred"),
                "--spacing",
                "2",
            ]
        )
        == 0
    )
    assert "1 of 2 CTs have a labelmap" in capsys.readouterr().err
    image = nifti.load_ct(tmp_path / "femur_cts_centred" / "P01_femur.nii.gz")
    mask = nifti.load_labelmap(tmp_path / "femur_masks_centred" / "P01_femur.nii.gz")
    assert same_grid(image, mask)
    assert (tmp_path / "femur_cts_centred" / "P02_femur.nii.gz").exists()
    assert not (tmp_path / "femur_masks_centred" / "P02_femur.nii.gz").exists()


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("out", "out/P01.nii.gz"),
        ("there/volume.nii.gz", "there/volume.nii.gz"),
        ("volume.nii", "volume.nii"),
    ],
)
def test_the_output_of_one_file_is_a_folder_or_a_file(tmp_path, out, expected):
    save(tmp_path / "P01.nii.gz", ct())
    assert (
        center_isometric.main(["-i", str(tmp_path / "P01.nii.gz"), "-o", str(tmp_path / out)]) == 0
    )
    result = nifti.load_ct(tmp_path / expected)
    np.testing.assert_allclose(result.isocentre_mm, 0, atol=1e-4)
    np.testing.assert_allclose(result.lineage.scanner_from_volume[:3, 3], [30, -50, 12], atol=1e-4)


def test_a_mask_can_be_named(tmp_path):
    save(tmp_path / "P01.nii.gz", ct())
    save(tmp_path / "seg.nii.gz", ct(data=np.ones((20, 24, 16), np.uint8)))
    assert (
        center_isometric.main(
            [
                "-i",
                str(tmp_path / "P01.nii.gz"),
                "-o",
                str(tmp_path / "out"),
                "--mask",
                str(tmp_path / "seg.nii.gz"),
            ]
        )
        == 0
    )
    assert nifti.load_labelmap(tmp_path / "out_masks" / "P01.nii.gz").data.all()
    sidecar = json.loads((tmp_path / "out" / "P01.json").read_text())
    assert sidecar["history"][-1]["settings"]["spacing_mm"] == 1.0


@pytest.mark.parametrize(
    "flags",
    [
        ("--spacing", "0"),
        ("--spacing", "nan"),
        ("--mask", "missing.nii.gz"),
        ("-i", "missing.nii.gz"),
        ("-i", "."),
    ],
)
def test_invalid_input_is_an_error_of_one_line(tmp_path, capsys, flags):
    save(tmp_path / "P01.nii.gz", ct())
    flags = [str(tmp_path / "empty") if flag == "." else flag for flag in flags]
    (tmp_path / "empty").mkdir()
    assert (
        center_isometric.main(
            ["-i", str(tmp_path / "P01.nii.gz"), "-o", str(tmp_path / "out"), *flags]
        )
        == 2
    )
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_a_labelmap_on_another_grid_is_rejected(tmp_path):
    save(tmp_path / "P01.nii.gz", ct())
    save(tmp_path / "seg.nii.gz", ct(data=np.ones((20, 24, 15), np.uint8)))
    assert (
        center_isometric.main(
            [
                "-i",
                str(tmp_path / "P01.nii.gz"),
                "-o",
                str(tmp_path / "out"),
                "--mask",
                str(tmp_path / "seg.nii.gz"),
            ]
        )
        == 2
    )
