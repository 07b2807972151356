"""Step 2: boxes, padding and mirror against known voxels, for every kind of file orientation."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

import crop_cts
import segmentation_preprocessing
from common.geometry import apply, invert, rotation_matrix
from common.volume import nifti, volume

SPACING = np.array([0.8, 1.0, 1.5])
OBLIQUE = rotation_matrix(np.radians([10, -20, 15]))
DIRECTIONS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1, 1]),
    "left-handed LAS": np.diag([-1.0, 1, 1]),
    "sagittal slices": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "oblique": OBLIQUE,
    "oblique left-handed": OBLIQUE @ np.diag([1.0, -1, 1]),
}
SHAPE = (60, 50, 40)
FEMUR_RIGHT, FEMUR_LEFT, TIBIA_RIGHT, TIBIA_LEFT = 3, 4, 1, 2


def affine_of(directions: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * SPACING
    affine[:3, 3] = [3.0, -7, 11] - affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return affine


def write_patient(folder, affine, seg=None, ct=None, name="P01"):
    """Air with random bone at each label; labels keep the patient's sides for every affine."""
    rng = np.random.default_rng(0)
    if seg is None:
        seg = np.zeros(SHAPE, np.uint8)
        ends = apply(
            affine,
            np.array(
                [[0, 25, 20], [59, 25, 20], [30, 0, 20], [30, 49, 20], [30, 25, 0], [30, 25, 39]]
            ),
        )
        axis = int(np.argmax(np.abs(ends[1::2, 0] - ends[::2, 0])))
        grows_right = ends[2 * axis + 1, 0] > ends[2 * axis, 0]
        low, high = np.array(SHAPE) // 2 - 4, np.array(SHAPE) // 2 + 4
        for first, (right, left) in (
            (4, (FEMUR_RIGHT, FEMUR_LEFT)),
            (-4, (TIBIA_RIGHT, TIBIA_LEFT)),
        ):
            for label, to_right in ((right, True), (left, False)):
                box = [slice(a, b) for a, b in zip(low, high, strict=True)]
                other = (axis + 1) % 3
                box[other] = slice(low[other] + 2 * first, high[other] + 2 * first - 1)
                box[axis] = (
                    slice(SHAPE[axis] - 9, SHAPE[axis] - 4)
                    if to_right == grows_right
                    else slice(4, 11)
                )
                seg[tuple(box)] = label
    if ct is None:
        ct = np.where(seg > 0, rng.integers(200, 1500, seg.shape), -1000).astype(np.int16)
    (folder / "segmentations").mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(ct, affine), folder / f"{name}_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(seg, affine), folder / "segmentations" / f"{name}_seg.nii.gz")
    return ct, seg


def crop(folder, *flags, name="P01") -> int:
    return crop_cts.main(
        [
            "--base_dir",
            str(folder),
            "--ct_filename",
            f"{name}_ct.nii.gz",
            "--seg_filename",
            f"segmentations/{name}_seg.nii.gz",
            *flags,
        ]
    )


def test_files_have_the_documented_names(tmp_path, capsys):
    write_patient(tmp_path, affine_of(np.eye(3)))
    assert crop(tmp_path) == 0
    expected = [
        f"{bone}_{kind}_cropped/P01_{bone}{ending}.nii.gz"
        for bone in ("femur", "tibia")
        for ending in ("", "_mirrored")
        for kind in ("cts", "masks")
    ]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in expected]
    for name in expected:
        assert (tmp_path / name).exists()
        assert (tmp_path / name.replace(".nii.gz", ".json")).exists()


def test_the_box_is_the_label_and_its_padding_in_millimetres_rounded_up(tmp_path):
    affine = affine_of(np.eye(3))
    ct, seg = write_patient(tmp_path, affine)
    assert crop(tmp_path, "--padding", "2.1") == 0
    box = volume.index_box(seg == FEMUR_LEFT)
    grown = tuple(slice(b.start - pad, b.stop + pad) for b, pad in zip(box, (3, 3, 2), strict=True))
    left = nifti.load_ct(tmp_path / "femur_cts_cropped" / "P01_femur.nii.gz", fill=False)
    np.testing.assert_array_equal(left.data, ct[grown])
    np.testing.assert_allclose(
        apply(left.affine, np.zeros(3)),
        apply(affine, np.array([b.start for b in grown])),
        atol=1e-4,
    )
    assert left.data.dtype == np.int16


def test_padding_stops_at_the_edge_of_the_ct(tmp_path):
    ct, _ = write_patient(tmp_path, affine_of(np.eye(3)))
    assert crop(tmp_path, "--padding", "500") == 0
    np.testing.assert_array_equal(
        nifti.load_ct(tmp_path / "tibia_cts_cropped" / "P01_tibia.nii.gz", fill=False).data, ct
    )


def test_masks_are_on_the_grid_of_the_crop_and_contain_only_their_bone(tmp_path):
    _, seg = write_patient(tmp_path, affine_of(OBLIQUE))
    assert crop(tmp_path, "--padding", "40") == 0
    for bone, ending, label in (
        ("femur", "", 4),
        ("femur", "_mirrored", 3),
        ("tibia", "", 2),
        ("tibia", "_mirrored", 1),
    ):
        ct = nifti.load_ct(
            tmp_path / f"{bone}_cts_cropped" / f"P01_{bone}{ending}.nii.gz", fill=False
        )
        mask = nifti.load_labelmap(
            tmp_path / f"{bone}_masks_cropped" / f"P01_{bone}{ending}.nii.gz"
        )
        assert volume.same_grid(ct, mask)
        assert set(np.unique(mask.data)) == {0, label}
        assert (mask.data == label).sum() == (seg == label).sum()
        assert ct.data[mask.data > 0].min() >= 200
        assert (mask.lineage.bone, mask.lineage.side, mask.lineage.label) == (
            bone,
            "right" if ending else "left",
            label,
        )


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_right_bone_becomes_its_mirror_image_without_interpolation(tmp_path, directions):
    """Every voxel of the mirrored file, reflected about x = 0, is the voxel of the CT there."""
    affine = affine_of(directions)
    ct, _ = write_patient(tmp_path, affine)
    assert crop(tmp_path) == 0
    mirrored = nifti.load_ct(
        tmp_path / "femur_cts_cropped" / "P01_femur_mirrored.nii.gz", fill=False
    )
    index = np.stack(np.indices(mirrored.shape), -1).reshape(-1, 3)
    reflected = apply(mirrored.affine, index) * [-1, 1, 1]
    there = apply(invert(affine), reflected)
    assert np.abs(there - np.rint(there)).max() < 1e-3
    np.testing.assert_array_equal(
        mirrored.data.reshape(-1), ct[tuple(np.rint(there).astype(int).T)]
    )
    assert np.sign(np.linalg.det(mirrored.affine)) == np.sign(np.linalg.det(affine))
    assert mirrored.lineage.mirrored
    assert np.linalg.det(mirrored.lineage.scanner_from_volume) == pytest.approx(-1)


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
def test_the_lineage_maps_every_voxel_back_to_its_position_in_the_scanner(tmp_path, directions):
    affine = affine_of(directions)
    ct, seg = write_patient(tmp_path, affine)
    assert crop(tmp_path) == 0
    for name, label in (("P01_tibia", TIBIA_LEFT), ("P01_tibia_mirrored", TIBIA_RIGHT)):
        cropped = nifti.load_ct(tmp_path / "tibia_cts_cropped" / f"{name}.nii.gz", fill=False)
        brightest = np.array(np.unravel_index(np.where(seg == label, ct, -2000).argmax(), ct.shape))
        found = np.array(np.unravel_index(cropped.data.argmax(), cropped.shape))
        scanner = apply(cropped.lineage.scanner_from_volume, apply(cropped.affine, found))
        np.testing.assert_allclose(scanner, apply(affine, brightest), atol=1e-3)


def test_other_labels_and_other_bones(tmp_path):
    seg = np.zeros(SHAPE, np.uint8)
    for number, label in enumerate((11, 10, 21, 20)):  # left before right along x
        seg[
            6 + 30 * (number % 2) : 16 + 30 * (number % 2),
            5 + 22 * (number // 2) : 20 + 22 * (number // 2),
            10:20,
        ] = label
    write_patient(tmp_path, affine_of(np.eye(3)), seg)
    assert (
        crop(
            tmp_path,
            "--labels",
            "10",
            "11",
            "20",
            "21",
            "--padding",
            "10.0",
            "--bones",
            "scapula",
            "rib",
        )
        == 0
    )
    assert (
        nifti.load_labelmap(tmp_path / "rib_masks_cropped" / "P01_rib_mirrored.nii.gz").data.max()
        == 20
    )
    assert (
        nifti.load_labelmap(tmp_path / "scapula_masks_cropped" / "P01_scapula.nii.gz").data.max()
        == 11
    )


def test_labels_that_move_with_a_bone_are_in_its_box_and_its_mask(tmp_path, capsys):
    affine = affine_of(DIRECTIONS["RAS"])
    seg = np.zeros(SHAPE, np.uint8)
    seg[10:14, 20:24, 10:14], seg[40:44, 20:24, 10:14] = TIBIA_LEFT, TIBIA_RIGHT
    seg[10:12, 26:28, 6:12], seg[40:42, 26:28, 6:12] = 6, 5
    write_patient(tmp_path, affine, seg)
    flags = ["--bones", "tibia", "--labels", "1", "2", "--padding", "0", "--attached"]
    assert crop(tmp_path, *flags, "tibia=5,6") == 0
    for name, labels in (("P01_tibia", {0, 2, 6}), ("P01_tibia_mirrored", {0, 1, 5})):
        mask = nifti.load_labelmap(tmp_path / f"tibia_masks_cropped/{name}.nii.gz")
        assert set(np.unique(mask.data)) == labels
        assert mask.shape == (4, 8, 8)
        assert mask.lineage.label in labels
    for wrong in ("tibia=5", "femur=5,6", "tibia=5,2"):
        assert crop(tmp_path, *flags, wrong, "--overwrite") == 2
        assert "--attached: found" in capsys.readouterr().err


def test_a_segmentation_on_another_grid_is_resampled_and_that_is_logged(tmp_path, capsys):
    affine = affine_of(np.diag([-1.0, -1, 1]))
    _, seg = write_patient(tmp_path, affine)
    finer = affine.copy()
    finer[:3, :3] /= 2
    finer[:3, 3] = apply(affine, np.full(3, -0.25))
    nibabel.save(
        nibabel.Nifti1Image(seg.repeat(2, 0).repeat(2, 1).repeat(2, 2), finer),
        tmp_path / "segmentations" / "P01_seg.nii.gz",
    )
    assert crop(tmp_path, "--padding", "500") == 0
    assert "resampled onto it" in capsys.readouterr().err
    np.testing.assert_array_equal(
        nifti.load_labelmap(tmp_path / "femur_masks_cropped" / "P01_femur.nii.gz").data > 0,
        seg == FEMUR_LEFT,
    )


@pytest.mark.parametrize("shift_mm", [25, 1000])
def test_a_segmentation_that_extends_beyond_the_ct_is_rejected(tmp_path, capsys, shift_mm):
    affine = affine_of(np.eye(3))
    _, seg = write_patient(tmp_path, affine)
    moved = affine.copy()
    moved[0, 3] += shift_mm
    nibabel.save(nibabel.Nifti1Image(seg, moved), tmp_path / "segmentations" / "P01_seg.nii.gz")
    assert crop(tmp_path) == 2
    assert "are outside P01_ct.nii.gz" in capsys.readouterr().err


def test_a_missing_side_is_a_warning_and_the_others_are_written(tmp_path, capsys):
    _, seg = write_patient(tmp_path, affine_of(np.eye(3)))
    seg[seg == FEMUR_RIGHT] = 0
    write_patient(tmp_path, affine_of(np.eye(3)), seg)
    assert crop(tmp_path) == 0
    assert "right femur (label 3) is missing" in capsys.readouterr().err
    assert not (tmp_path / "femur_cts_cropped" / "P01_femur_mirrored.nii.gz").exists()
    assert (tmp_path / "femur_cts_cropped" / "P01_femur.nii.gz").exists()


def test_a_labelmap_with_none_of_the_labels_is_an_error_that_names_its_labels(tmp_path, capsys):
    write_patient(tmp_path, affine_of(np.eye(3)))
    assert crop(tmp_path, "--labels", "30", "31", "32", "33") == 2
    assert "labels in the file, [1, 2, 3, 4]" in capsys.readouterr().err


def test_swapped_sides_are_a_warning(tmp_path, capsys):
    write_patient(tmp_path, affine_of(np.eye(3)))
    assert crop(tmp_path, "--labels", "4", "3", "1", "2") == 0
    messages = [line for line in capsys.readouterr().err.splitlines() if "look swapped" in line]
    assert len(messages) == 1
    assert "femur" in messages[0]


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (("3", "4", "99", "98"), 0),
        (("99", "4", "97", "98"), 0),
        (("4", "99", "97", "98"), 1),
        (("97", "3", "98", "99"), 1),
    ],
)
def test_a_single_bone_on_the_wrong_side_of_the_body_is_a_warning(
    tmp_path, capsys, knees, labels, warned
):
    (tmp_path / "segmentations").mkdir()
    nifti.save(tmp_path / "P01_ct.nii.gz", knees.ct)
    nifti.save(tmp_path / "segmentations" / "P01_seg.nii.gz", knees.segmentation)
    assert crop(tmp_path, "--labels", *labels) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("of the middle of the body" in line for line in lines) == warned


@pytest.mark.parametrize(
    ("offset", "code", "said"), [(0, 0, False), (900, 0, True), (1024, 2, True)]
)
def test_a_ct_without_air_may_not_be_in_hounsfield_units_and_one_without_fat_is_rejected(
    tmp_path, capsys, offset, code, said
):
    ct, seg = write_patient(tmp_path, affine_of(np.eye(3)))
    write_patient(tmp_path, affine_of(np.eye(3)), seg, ct + np.int16(offset))
    assert crop(tmp_path) == code
    assert ("Hounsfield" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    "flags",
    [
        ("--labels", "1", "2", "3"),
        ("--labels", "1", "1", "2", "3"),
        ("--bones", "femur"),
        ("--bones", "femur", "../tibia"),
        ("--padding", "-1"),
        ("--padding", "nan"),
        ("--ct_filename", "missing.nii.gz"),
    ],
)
def test_invalid_flags_are_rejected_before_anything_is_written(tmp_path, flags):
    write_patient(tmp_path, affine_of(np.eye(3)))
    assert crop(tmp_path, *flags) == 2
    assert not list(tmp_path.glob("*_cropped/*.nii.gz"))


@pytest.mark.slow
def test_the_cleaned_labels_of_the_phantom_give_bones_at_their_true_positions(cohort, tmp_path):
    folder, name, truth = cohort[1]
    for source in (f"{name}_ct.nii.gz", f"segmentations/{name}_seg.nii.gz"):
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).symlink_to(folder / source)
    assert crop(tmp_path, name=name) == 0
    for side, ending in (("left", ""), ("right", "_mirrored")):
        mask = nifti.load_labelmap(
            tmp_path / "tibia_masks_cropped" / f"{name}_tibia{ending}.nii.gz"
        )
        landmarks = np.array(list(truth["landmarks"][f"tibia {side}"].values()))
        index = apply(invert(mask.lineage.scanner_from_volume @ mask.affine), landmarks)
        assert (mask.data[tuple(np.rint(index).astype(int).T)] > 0).all()


def test_an_uncleaned_labelmap_is_a_note_and_a_warning_if_the_cleaned_one_exists(tmp_path, capsys):
    write_patient(tmp_path, affine_of(np.eye(3)))
    assert crop(tmp_path) == 0
    assert "run segmentation_preprocessing.py" in capsys.readouterr().err
    folder = tmp_path / "segmentations"
    assert (
        segmentation_preprocessing.main(["-i", str(folder / "P01_seg.nii.gz"), "-o", str(folder)])
        == 0
    )
    capsys.readouterr()
    assert crop(tmp_path, "--overwrite") == 0
    assert (
        "warning: P01_seg.nii.gz: not cleaned by step 1; an island of a label enlarges the box of"
        " the bone; use P01_seg_cleaned.nii.gz" in capsys.readouterr().err
    )
    assert (
        crop_cts.main(
            [
                "--base_dir",
                str(tmp_path),
                "--ct_filename",
                "P01_ct.nii.gz",
                "--seg_filename",
                "segmentations/P01_seg_cleaned.nii.gz",
                "--overwrite",
            ]
        )
        == 0
    )
    assert "step 1" not in capsys.readouterr().err


def test_raw_values_of_a_scanner_are_refused_in_spite_of_their_padding(tmp_path, capsys, knees):
    ct = knees.ct.data.astype(np.int32)
    raw = np.where(ct < -900, 24, ct + 1024)
    raw[0], raw[-1] = -2000, -2000
    for folder, data in (("raw", raw), ("hounsfield", np.where(raw == -2000, -2000, ct))):
        (tmp_path / folder / "segmentations").mkdir(parents=True)
        volume_of = replace(knees.ct, data=data.astype(np.int16))
        nifti.save(tmp_path / folder / "P01_ct.nii.gz", volume_of)
        nifti.save(tmp_path / folder / "segmentations" / "P01_seg.nii.gz", knees.segmentation)
    assert crop(tmp_path / "hounsfield") == 0
    assert crop(tmp_path / "raw") == 2
    assert "raw values of the scanner are 1024 higher" in capsys.readouterr().err
