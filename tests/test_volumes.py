"""Volumes on disk and their grids, conversion to SimpleITK, and attenuation."""

import itertools

import nibabel
import numpy as np
import pytest

from common.errors import InputError
from common.geometry import RAS_FROM_LPS, apply, rotation_matrix, translation, twist
from common.volume import attenuation, folders, itk, nifti, resampling
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.lineage import Lineage
from common.volume.volume import (
    Volume,
    affine_of_box,
    embedded,
    index_box,
    points_of,
    same_grid,
)

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = rotation_matrix([0.2, -0.3, 0.4]) @ np.diag([0.7, 1.1, -2.0])
OBLIQUE[:3, 3] = [11.0, -22, 33]


def ramp(dtype=np.int16, affine=OBLIQUE) -> Volume:
    return Volume(
        np.arange(7 * 6 * 5, dtype=dtype).reshape(7, 6, 5),
        affine,
        Lineage(source={"name": "x", "sha256": ""}),
    )


def write(path, data, affine=OBLIQUE, **options):
    nibabel.save(nibabel.Nifti1Image(data, affine, **options), path)
    return path


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64]
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_saved_volume_is_read_with_its_data_type_and_grid(tmp_path, dtype, ending):
    made = ramp(dtype)
    back = nifti.load_ct(nifti.save(tmp_path / f"v{ending}", made))
    np.testing.assert_array_equal(back.data, made.data)
    assert back.data.dtype == {np.uint8: np.int16, np.uint16: np.int16}.get(
        dtype, dtype
    )  # signed, so that air outside fits in
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-5)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["v.json", f"v{ending}"]


def test_header_scaling_is_applied(tmp_path):
    """nibabel chooses its own scale factors, so the bytes are written: header, then numbers."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((2, 3, 4))
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"], header["magic"] = (
        2,
        -1024,
        352,
        b"n+1",
    )
    (tmp_path / "v.nii").write_bytes(
        header.binaryblock + bytes(4) + np.arange(600, 624, dtype=np.int16).tobytes()
    )
    back = nifti.load_ct(tmp_path / "v.nii")
    assert back.data.dtype == np.float32
    np.testing.assert_array_equal(back.data.ravel(order="F"), 2 * np.arange(600, 624) - 1024)


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path):
    path = write(tmp_path / "v.nii.gz", np.full((4, 5, 6, 1), 500, np.int16))
    assert nifti.load_ct(path).shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 5, 6, 2), np.int16), "three dimensions"),
        (np.zeros((4, 5), np.int16), "three dimensions"),
        (np.zeros((4, 5, 1), np.int16), "at least 2 slices"),
        (np.full((4, 5, 6), np.nan, np.float32), "NaN"),
        (np.full((4, 5, 6), np.inf, np.float32), "NaN"),
    ],
)
def test_invalid_cts_are_rejected(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        nifti.load_ct(write(tmp_path / "v.nii.gz", data))


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([0.0, 1, 1, 1]),
        np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["singular", "sheared"],
)
def test_an_unusable_affine_is_rejected(tmp_path, affine):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.header.set_sform(affine, 1)
    image.header["qform_code"] = 0
    path = tmp_path / "v.nii.gz"
    image.to_filename(path)
    with pytest.raises(InputError, match=r"affine|perpendicular"):
        nifti.load_ct(path)


def test_damaged_files_are_rejected(tmp_path):
    whole = write(
        tmp_path / "v.nii.gz",
        np.random.default_rng(0).integers(0, 1000, (30, 30, 30)).astype(np.int16),
    ).read_bytes()
    for name, content in {
        "cut.nii.gz": whole[: len(whole) // 2],
        "text.nii.gz": b"not an image",
        "text.nii": b"not an image" * 100,
        "empty.nii": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            nifti.load_ct(tmp_path / name)


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    labels = nifti.load_labelmap(write(tmp_path / "v.nii.gz", np.full((4, 5, 6), 3, np.float32)))
    assert labels.data.dtype.kind == "i"
    assert (labels.data == 3).all()


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_fractions_and_negative_numbers_are_not_labels(tmp_path, value):
    with pytest.raises(InputError, match=r"label|fractions"):
        nifti.load_labelmap(write(tmp_path / "v.nii.gz", np.full((4, 5, 6), value, np.float32)))


@pytest.mark.parametrize(
    "affine", [OBLIQUE, np.diag([-1.0, 1, 2, 1])], ids=["oblique", "left-handed"]
)
def test_each_voxel_has_the_same_position_in_simpleitk_in_lps_and_back(affine):
    volume = ramp(np.float32, affine)
    image = itk.to_sitk(volume)
    for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(index),
            RAS_FROM_LPS[:3, :3] @ apply(affine, np.array(index)),
            atol=1e-9,
        )
        assert image[index] == volume.data[index]
    back = itk.from_sitk(image, volume.lineage)
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, affine, atol=1e-9)


def test_a_rigid_transform_for_simpleitk_maps_the_same_points():
    motion = twist(np.array([0.3, 0.1, -0.5, 9, 8, -7]), np.zeros(3))
    point = np.array([1.0, 20, -30])
    lps = itk.sitk_from_rigid(motion).TransformPoint((RAS_FROM_LPS[:3, :3] @ point).tolist())
    np.testing.assert_allclose(RAS_FROM_LPS[:3, :3] @ lps, apply(motion, point), atol=1e-9)


def test_resampling_on_its_own_grid_changes_nothing():
    volume = ramp()
    np.testing.assert_array_equal(
        resampling.resample(volume, volume.shape, volume.affine).data, volume.data
    )


def test_resampling_returns_the_value_at_the_transformed_position():
    """The new grid is shifted by two voxels along the first axis; outside voxels are filled."""
    volume = ramp()
    shift = np.eye(4)
    shift[:3, 3] = 2 * OBLIQUE[:3, 0]
    moved = resampling.resample(
        volume, volume.shape, volume.affine, volume_from_new=shift, outside=-1000
    )
    np.testing.assert_array_equal(moved.data[:5], volume.data[2:])
    assert (moved.data[5:] == -1000).all()


def test_whole_numbers_are_rounded_not_truncated():
    volume = Volume(
        np.array([-10, -9, 9, 10], np.int16).reshape(4, 1, 1).repeat(2, 1).repeat(2, 2),
        np.eye(4),
        Lineage(),
    )
    affine = np.eye(4)
    affine[0, 3] = 0.75
    np.testing.assert_array_equal(
        resampling.resample(volume, (1, 1, 1), affine).data, [[[-9]]]
    )  # -9.25
    affine[0, 3] = 2.75
    np.testing.assert_array_equal(
        resampling.resample(volume, (1, 1, 1), affine).data, [[[10]]]
    )  # 9.75


def test_labels_are_carried_to_a_finer_grid():
    coarse = Volume(
        np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.diag([2.0, 2, 2, 1]), Lineage()
    )
    fine_affine = np.eye(4)
    fine_affine[:3, 3] = -0.5
    fine = Volume(np.zeros((4, 4, 4), np.int16), fine_affine, Lineage())
    np.testing.assert_array_equal(
        resampling.resample_labels(coarse, fine).data,
        coarse.data.repeat(2, 0).repeat(2, 1).repeat(2, 2),
    )


def test_same_grid_means_the_same_position_of_every_voxel():
    volume = ramp()
    assert same_grid(volume, ramp(np.uint8))
    moved = OBLIQUE.copy()
    moved[0, 3] += 0.01
    assert not same_grid(volume, ramp(affine=moved))
    assert not same_grid(volume, Volume(volume.data[:-1], OBLIQUE, Lineage()))


def test_attenuation_follows_the_definition_of_the_hounsfield_unit():
    hu = np.array([-2048, -1000, 0, 40, 1000], np.int16)
    np.testing.assert_allclose(
        attenuation.attenuation(hu),
        np.array([0, 0, 1, 1.04, 2]) * attenuation.WATER_PER_MM,
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        attenuation.attenuation(hu, above_hu=SOFT_TISSUE_HU),
        np.array([0, 0, 0, 0, 0.96]) * attenuation.WATER_PER_MM,
        rtol=1e-6,
    )


def test_a_box_is_the_masks_extent_clipped_to_the_array():
    mask = np.zeros((10, 10, 10), bool)
    mask[3:5, 0:2, 9] = True
    assert index_box(mask) == (slice(3, 5), slice(0, 2), slice(9, 10))
    assert index_box(mask, np.array([1, 2, 3])) == (slice(2, 6), slice(0, 4), slice(6, 10))
    box = index_box(mask)
    np.testing.assert_allclose(
        apply(affine_of_box(OBLIQUE, box), np.zeros(3)), apply(OBLIQUE, np.array([3, 0, 9]))
    )


def test_random_points_are_in_the_mask():
    volume = ramp()
    mask = volume.data > 150
    points = points_of(volume, mask, count=20)
    index = np.rint(apply(np.linalg.inv(OBLIQUE), points)).astype(int)
    assert mask[tuple(index.T)].all()
    assert len(np.unique(index, axis=0)) == 20


@pytest.mark.parametrize(
    ("lowest", "air"), [(-1000, -1000), (-1024, -1000), (-2048, -2048), (30, -1000)]
)
def test_air_is_the_cts_own_padding_or_1000_below_water(lowest, air):
    assert attenuation.air_hu(np.array([lowest, 100], np.int16)) == air


@pytest.mark.parametrize(
    ("folder", "masks"),
    [
        ("femur_cts_cropped", "femur_masks_cropped"),
        ("source_cts", "source_masks"),
        ("aligned", "aligned_masks"),
    ],
)
def test_the_sibling_masks_folder_is_named_after_that_of_the_cts(tmp_path, folder, masks):
    assert folders.masks_folder(tmp_path / folder) == tmp_path / masks


def test_images_in_a_folder_are_listed_by_name(tmp_path):
    for name in ("b.nii.gz", "a.nii", "a.json", ".partial-c.nii.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in folders.images_in(tmp_path)] == ["a.nii", "b.nii.gz"]
    (tmp_path / "b.nii").touch()
    with pytest.raises(InputError, match="both"):
        folders.images_in(tmp_path)


def test_a_volume_resampled_in_slabs_equals_one_resampled_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    made = Volume(rng.integers(-1000, 2000, (40, 30, 50)).astype(np.int16), OBLIQUE, Lineage())
    grid = (
        (31, 34, 37),
        twist(np.r_[0.3, -0.2, 0.1, 2, 3, 4], OBLIQUE[:3, 3])
        @ OBLIQUE
        @ np.diag([1.3, 0.9, 1.4, 1]),
    )
    for how in (
        {"blur_voxels": np.array([0.8, 0, 1.7]), "outside": -1000.0},
        {"nearest": True},
        {"outside": -1000.0},
    ):
        at_once = resampling.resample(made, *grid, **how).data
        monkeypatch.setattr(resampling, "SLAB_VOXELS", 31 * 34 * 5)
        np.testing.assert_array_equal(resampling.resample(made, *grid, **how).data, at_once)
        monkeypatch.undo()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("backwards", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_part_in_its_own_box_is_found_on_the_whole_grid_whichever_way_its_axes_run(
    order, backwards
):
    rng = np.random.default_rng(0)
    whole = np.zeros((9, 8, 7), np.uint8)
    whole[2:6, 3:8, 1:4] = rng.integers(1, 9, (4, 5, 3))
    like = Volume(np.zeros(whole.shape, np.int16), OBLIQUE, Lineage())
    # the box, with its axes flipped and then reordered
    flip = np.eye(4)
    for axis in backwards:
        flip[axis, axis], flip[axis, 3] = -1, whole[2:6, 3:8, 1:4].shape[axis] - 1
    swap = np.eye(4)[:, [*order, 3]]
    part = np.flip(whole[2:6, 3:8, 1:4], backwards).transpose(order)
    box = OBLIQUE @ translation(np.array([2.0, 3, 1])) @ flip @ swap
    found = embedded(Volume(part, box, Lineage()), like)
    assert found is not None
    np.testing.assert_array_equal(found.data, whole)
    moved = translation(OBLIQUE[:3, 0] / 2) @ box  # between the voxels
    assert embedded(Volume(part, moved, Lineage()), like) is None
    beyond = translation(OBLIQUE[:3, :3] @ [9.0, 0, 0]) @ box
    assert embedded(Volume(part, beyond, Lineage()), like) is None
