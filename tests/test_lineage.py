"""Lineage: a landmark at a known scanner position survives every step, and so does the image.

A lineage file that does not belong to its image is rejected.
"""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import center_isometric
import coregister_cts
import crop_cts
import segmentation_preprocessing
from common import files
from common.errors import InputError
from common.geometry import MIRROR, RAS_FROM_LPS, apply, rotation_matrix, twist
from common.version import VERSION
from common.volume import lineage, nifti
from common.volume.alignment import Alignment
from common.volume.volume import Volume, same_grid

OBLIQUE = rotation_matrix(np.radians([12, -18, 25]))
FILES = {
    "RAS": (np.eye(3), (1.0, 1.0, 1.0)),
    "LPS": (np.diag([-1.0, -1, 1]), (1.0, 1.0, 1.0)),
    "oblique": (OBLIQUE, (0.9, 1.0, 1.1)),
    "anisotropic": (np.diag([-1.0, -1, 1]), (0.7, 0.7, 2.0)),
    "left-handed": (np.diag([-1.0, 1, 1]), (0.8, 0.8, 1.3)),
    "oblique left-handed, sagittal": (
        OBLIQUE @ np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]) @ np.diag([1.0, 1, -1]),
        (0.8, 1.0, 1.4),
    ),
}
SHAPE = (70, 60, 50)


def make_patient(folder, directions, spacing):
    """A soft CT with two blocks of bone, right and left, and one bright voxel in each.

    Returns the positions of the bright voxels in the scanner, by side.
    """
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    affine[:3, 3] = [21.0, -33, 47] - affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    affine = affine.astype(np.float32).astype(float)
    data, seg = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.uint8)
    data[0, 0, 0] = -1000
    axis = int(np.abs(affine[0, :3]).argmax())
    bright = {}
    for side, label in (("right", 3), ("left", 4)):
        to_the_end = (side == "right") == (affine[0, axis] > 0)
        box = [slice(14, n - 14) for n in SHAPE]
        box[axis] = slice(SHAPE[axis] - 24, SHAPE[axis] - 6) if to_the_end else slice(6, 24)
        seg[tuple(box)] = label
        index = np.array([b.start + 7 for b in box])
        data[tuple(box)] = 300
        data[tuple(index)] = 3000
        bright[side] = apply(affine, index)
    seg[1, 1, 1] = 3  # an island, which step 1 removes
    nibabel.save(nibabel.Nifti1Image(data, affine), folder / "P01_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(seg, affine), folder / "P01_seg.nii.gz")
    return bright


def bright_spot(volume) -> np.ndarray:
    """World position of the bright spot's centre of mass."""
    weight = np.clip(volume.data.astype(float) - 400, 0, None)
    index = np.argwhere(weight)
    return apply(volume.affine, np.average(index, axis=0, weights=weight[tuple(index.T)]))


@pytest.mark.parametrize(("directions", "spacing"), FILES.values(), ids=FILES)
def test_landmark_and_image_keep_their_position_through_all_four_steps(
    tmp_path, monkeypatch, directions, spacing
):
    """With a known alignment in step 3; the recorded transforms map the landmark to 0.01 mm."""
    bright = make_patient(tmp_path, directions, spacing)
    assert (
        segmentation_preprocessing.main(
            ["-i", str(tmp_path / "P01_seg.nii.gz"), "-o", str(tmp_path / "clean")]
        )
        == 0
    )
    assert (
        crop_cts.main(
            [
                "--base_dir",
                str(tmp_path),
                "--ct_filename",
                "P01_ct.nii.gz",
                "--seg_filename",
                "clean/P01_seg_cleaned.nii.gz",
            ]
        )
        == 0
    )
    cropped = tmp_path / "femur_cts_cropped"

    # any motion: this tests that file and lineage move together
    motion = twist(np.array([0.2, -0.3, 0.25, 13, -9, 21]), np.array([21.0, -33, 47]))
    monkeypatch.setattr(
        "common.volume.alignment.align",
        lambda reference, moving: Alignment(motion, 0.0, 1.0, 1.0, 0.0),
    )
    aligned = tmp_path / "femur_cts_aligned"
    assert (
        coregister_cts.main(
            [
                "--input_dir",
                str(cropped),
                "--output_dir",
                str(aligned),
                "--reference_file",
                "P01_femur.nii.gz",
            ]
        )
        == 0
    )
    centred = tmp_path / "femur_cts_centred"
    assert center_isometric.main(["-i", str(aligned), "-o", str(centred), "--spacing", "0.7"]) == 0

    for name, side in (("P01_femur", "left"), ("P01_femur_mirrored", "right")):
        # the image follows: exactly if nothing is interpolated, else within half a voxel
        for folder, tolerance_mm in (
            (cropped, 1e-3),
            (aligned, 0.5 * max(spacing)),
            (centred, 0.5 * max(spacing)),
        ):
            volume = nifti.load_ct(folder / f"{name}.nii.gz")
            np.testing.assert_allclose(
                apply(volume.lineage.scanner_from_volume, bright_spot(volume)),
                bright[side],
                atol=tolerance_mm,
            )

        # forward by hand: mirror, the .tfm's inverse, the shift to the isocentre
        moved = bright[side] * ([-1, 1, 1] if side == "right" else [1, 1, 1])
        tfm = sitk.ReadTransform(str(aligned / f"{name}.tfm")).GetInverse()
        moved = RAS_FROM_LPS[:3, :3] @ np.array(
            tfm.TransformPoint((RAS_FROM_LPS[:3, :3] @ moved).tolist())
        )
        moved = moved - nifti.load_ct(aligned / f"{name}.nii.gz").isocentre_mm
        np.testing.assert_allclose(
            apply(volume.lineage.scanner_from_volume, moved), bright[side], atol=0.01
        )

        assert volume.lineage.mirrored == (side == "right")
        assert np.linalg.det(volume.lineage.scanner_from_volume) == pytest.approx(
            -1 if side == "right" else 1, abs=1e-6
        )
        assert [entry["step"] for entry in volume.lineage.history] == [
            "crop_cts",
            "fill_around_bone",  # this patient is bones in nothing but air
            "coregister_cts",
            "center_isometric",
        ]
        assert volume.lineage.source == {
            "name": "P01_ct.nii.gz",
            "sha256": files.sha256(tmp_path / "P01_ct.nii.gz"),
        }
        assert (volume.lineage.bone, volume.lineage.side) == ("femur", side)
        mask = nifti.load_labelmap(tmp_path / "femur_masks_centred" / f"{name}.nii.gz")
        assert same_grid(mask, volume)
        np.testing.assert_allclose(
            mask.lineage.scanner_from_volume, volume.lineage.scanner_from_volume, atol=1e-9
        )
        assert [entry["step"] for entry in mask.lineage.history] == [
            "segmentation_preprocessing",
            "crop_cts",
            "coregister_cts",
            "center_isometric",
        ]


def test_steps_compose_from_volume_to_scanner():
    first, second = twist(np.array([0.1, 0.2, 0.3, 4, 5, 6]), np.zeros(3)), MIRROR
    chain = lineage.Lineage().then("a", {}, first).then("b", {"n": 1}, second)
    point = np.array([1.0, 2, 3])
    np.testing.assert_allclose(
        apply(chain.scanner_from_volume, point), apply(first, apply(second, point))
    )
    assert chain.mirrored
    assert chain.history == ({"step": "a", "settings": {}}, {"step": "b", "settings": {"n": 1}})


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "v.nii.gz"
    made = lineage.Lineage(source={"name": "ct.nii.gz", "sha256": "0"}).then(
        "crop_cts", {"padding_mm": 5}, MIRROR, bone="femur", side="right", label=3
    )
    nifti.save(
        path,
        Volume(
            np.arange(0, 600, 10, dtype=np.int16).reshape(3, 4, 5), np.diag([1.0, 2, 3, 1]), made
        ),
    )
    return path


def test_a_lineage_records_the_version_of_the_suite_and_is_read_without_it_too(image):
    content = json.loads(lineage.sidecar(image).read_text())
    assert content["versions"].pop("suite") == VERSION
    lineage.sidecar(image).write_text(json.dumps(content))
    assert nifti.load_ct(image).lineage.bone == "femur"


def test_what_is_written_is_read_back(image):
    back = nifti.load_ct(image).lineage
    assert (back.bone, back.side, back.label, back.mirrored) == ("femur", "right", 3, True)
    assert back.source == {"name": "ct.nii.gz", "sha256": "0"}
    np.testing.assert_array_equal(back.scanner_from_volume, MIRROR)


def test_a_file_without_lineage_is_assumed_to_be_original_and_that_is_logged(image, caplog):
    caplog.set_level("INFO", logger="common")
    lineage.sidecar(image).unlink()
    back = nifti.load_ct(image).lineage
    assert "assumed to be an original CT" in caplog.text
    np.testing.assert_array_equal(back.scanner_from_volume, np.eye(4))
    assert back.source["name"] == "v.nii.gz"


def test_a_lineage_of_another_image_is_rejected(image):
    changed = nibabel.load(image)
    nibabel.save(
        nibabel.Nifti1Image(np.asanyarray(changed.dataobj) + np.int16(1), changed.affine), image
    )
    with pytest.raises(InputError, match="does not belong"):
        nifti.load_ct(image)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", "other/1", "schema"),
        ("scanner_from_volume", None, "incomplete|not rigid"),
        (
            "scanner_from_volume",
            [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            "not rigid",
        ),
        ("image", {"sha256": "0"}, "incomplete"),
        ("source", 3, "incomplete"),
    ],
)
def test_a_damaged_lineage_is_rejected(image, key, value, message):
    content = json.loads(lineage.sidecar(image).read_text())
    lineage.sidecar(image).write_text(json.dumps({**content, key: value}))
    with pytest.raises(InputError, match=message):
        nifti.load_ct(image)


def test_a_truncated_lineage_is_rejected(image):
    text = lineage.sidecar(image).read_text()
    lineage.sidecar(image).write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="not valid JSON"):
        nifti.load_ct(image)


def test_a_json_file_of_a_dicom_converter_is_not_a_lineage(image, caplog):
    """DICOM converters also write NAME.json next to NAME.nii.gz."""
    caplog.set_level("INFO", logger="common")
    lineage.sidecar(image).write_text(json.dumps({"Modality": "CT", "SliceThickness": 0.6}))
    np.testing.assert_array_equal(nifti.load_ct(image).lineage.scanner_from_volume, np.eye(4))
    assert "v.json next to it is not a lineage; assumed to be an original CT" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("shape", [3, 4, 6]), ("affine", np.eye(4).tolist()), ("sha256", "0" * 64)]
)
def test_a_lineage_with_another_hash_shape_or_affine_is_rejected(image, key, value):
    content = json.loads(lineage.sidecar(image).read_text())
    content["image"][key] = value
    lineage.sidecar(image).write_text(json.dumps(content))
    with pytest.raises(InputError, match="does not belong"):
        nifti.load_ct(image)


def test_a_mirrored_bone_without_lineage_is_a_warning(tmp_path, caplog):
    caplog.set_level("INFO", logger="common")
    for name, level in (("P01_femur.nii.gz", "INFO"), ("P01_femur_mirrored.nii.gz", "WARNING")):
        caplog.clear()
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / name)
        assert not lineage.read(tmp_path / name, (4, 4, 4), np.eye(4)).mirrored
        (record,) = caplog.records
        assert record.levelname == level
        assert record.getMessage().startswith(f"{name}: no lineage")
