"""The phantom: its images agree with its truth, its bones are asymmetric, its patients differ."""

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from common.geometry import MIRROR, apply, invert
from common.synthetic import knee_shape, phantom
from common.volume.hounsfield import MUSCLE_HU
from pipeline import make_phantom


def value_at(volume, points):
    index = np.rint(apply(invert(volume.affine), np.array(points))).astype(int)
    return volume.data[tuple(index.T)]


def main_piece(knees, label):
    components, _ = ndimage.label(knees.segmentation.data == label)
    return components == 1 + np.bincount(components.ravel())[1:].argmax()


def test_landmarks_are_inside_their_bone_in_the_labelmap(knees):
    for name, points in knees.truth["landmarks"].items():
        assert (
            value_at(knees.segmentation, list(points.values())) == phantom.LABELS[name]
        ).all(), name


def test_air_soft_tissue_marrow_and_cortex_have_their_hounsfield_units(knees):
    data = knees.ct.data
    assert data.dtype == np.int16
    assert abs(np.percentile(data, 1) + 1000) < 50
    assert abs(np.median(data[(knees.segmentation.data == 0) & (data > 0)]) - MUSCLE_HU) < 10
    femur = data[main_piece(knees, 3)]
    assert femur.max() > 1000
    assert np.percentile(femur, 25) < 450


def test_the_right_knee_is_on_the_right_and_the_femur_above_the_tibia(knees):
    centre = {
        name: np.mean(list(points.values()), 0) for name, points in knees.truth["landmarks"].items()
    }
    assert centre["femur right"][0] > 50 > -50 > centre["femur left"][0]
    assert centre["femur right"][2] > centre["tibia right"][2]
    assert centre["fibula right"][0] > centre["tibia right"][0]
    assert centre["patella left"][1] > centre["femur left"][1] + 20


def test_left_bone_is_the_exact_mirror_image_of_the_right_one_in_another_pose(knees):
    right, left = (
        np.array(knees.truth["scanner_from_knee"][f"tibia {side}"]) for side in ("right", "left")
    )
    assert np.linalg.det(right[:3, :3]) == pytest.approx(1)
    assert np.linalg.det(left[:3, :3]) == pytest.approx(-1)
    points = knees.truth["landmarks"]
    moved = apply(left @ invert(right), np.array(list(points["tibia right"].values())))
    np.testing.assert_allclose(moved, list(points["tibia left"].values()), atol=1e-9)
    assert not np.allclose(MIRROR @ right, left, atol=1)


@pytest.mark.parametrize("bone", ["femur", "tibia"])
def test_bones_are_not_mirror_images_of_themselves(bone):
    """At every sideways shift, the reflection of an average bone leaves a part of it uncovered."""
    shape = knee_shape.sample_shape(np.random.default_rng(0), variation=0)
    axes = np.arange(-60, 60.1, 2), np.arange(-50, 50, 2), np.arange(-60, 60, 2)
    inside = (
        knee_shape.bone_distance(
            shape, bone, np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)
        )
        < 0
    )
    overlap = [
        (inside & np.roll(inside[::-1], shift, 0)).sum() / inside.sum() for shift in range(-5, 6)
    ]
    assert 0.8 < max(overlap) < 0.97


def test_islands_are_counted_in_the_truth(knees):
    for label, expected in knees.truth["islands"].items():
        components, count = ndimage.label(
            knees.segmentation.data == int(label), structure=np.ones((3, 3, 3))
        )
        sizes = np.sort(np.bincount(components.ravel())[1:])
        assert (count - 1, sizes[:-1].sum()) == (expected["islands"], expected["voxels"])


def test_the_same_seed_gives_the_same_patient_and_another_seed_another(knees):
    again = phantom.make(seed=1, spacing_mm=3.0, axes="LAS", tilt_deg=4.0)
    np.testing.assert_array_equal(again.ct.data, knees.ct.data)
    other = phantom.make(seed=2, spacing_mm=6.0).truth["landmarks"]["femur right"]
    here = knees.truth["landmarks"]["femur right"]
    breadth = [
        np.linalg.norm(np.subtract(p["medial condyle"], p["lateral condyle"]))
        for p in (here, other)
    ]
    assert abs(breadth[0] - breadth[1]) > 0.5


def test_landmarks_do_not_depend_on_the_grid():
    plain, tilted = phantom.make(3, 6.0), phantom.make(3, (4.0, 7.0, 5.0), "PIR", 5.0)
    assert plain.truth["landmarks"] == tilted.truth["landmarks"]
    np.testing.assert_allclose(tilted.ct.spacing_mm, [4, 7, 5], atol=1e-5)
    for name in ("tibia left", "femur right"):
        assert (
            value_at(tilted.segmentation, list(tilted.truth["landmarks"][name].values()))
            == phantom.LABELS[name]
        ).mean() > 0.7


def test_the_command_writes_patients_with_their_truth(tmp_path):
    assert make_phantom.main(["-o", str(tmp_path), "--patients", "2", "--spacing", "5"]) == 0
    orientations = set()
    for name in ("P01", "P02"):
        ct = nibabel.load(tmp_path / name / f"{name}_ct.nii.gz")
        seg = nibabel.load(tmp_path / name / "segmentations" / f"{name}_seg.nii.gz")
        np.testing.assert_array_equal(ct.affine, seg.affine)
        assert set(np.unique(seg.dataobj)) == set(range(9))
        truth = json.loads((tmp_path / name / "truth.json").read_text())
        assert set(truth["landmarks"]) == set(phantom.LABELS)
        orientations.add(nibabel.aff2axcodes(ct.affine))
    assert len(orientations) == 2
    assert make_phantom.main(["-o", str(tmp_path), "--patients", "2", "--spacing", "5"]) == 2


@pytest.mark.parametrize("flags", [("--patients", "0"), ("--spacing", "20"), ("--seed", "-1")])
def test_impossible_numbers_are_rejected(tmp_path, flags):
    assert make_phantom.main(["-o", str(tmp_path), *flags]) == 2
