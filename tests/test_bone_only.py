"""CTs that hold only the bone: recognised, filled, and registered like the whole CT."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from test_refinement import DETECTOR, LEVELS, moved

from common import geometry
from common.drr import joseph
from common.registration.gauss_newton import refine
from common.registration.scene import View
from common.registration.structures import load_structure
from common.volume import bone_only, nifti
from common.volume.attenuation import select_structures
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.lineage import with_stated_side
from common.xray.xray import Xray

OUTSIDE = [0, -1000, -1024, -3024]


def masked(ct, labelmap, value):
    return replace(ct, data=np.where(labelmap.data > 0, ct.data, value).astype(np.int16))


def excess(ct, labelmap) -> float:
    return float(select_structures(ct, labelmap, None, SOFT_TISSUE_HU).data.sum())


@pytest.mark.parametrize("value", OUTSIDE)
def test_a_bone_with_one_value_around_it_is_recognised_and_a_whole_ct_is_not(femur, value):
    ct, labelmap = femur
    assert bone_only.outside_value(ct.data) is None
    assert bone_only.outside_value(masked(ct, labelmap, value).data) == value


@pytest.mark.parametrize("value", OUTSIDE)
def test_a_filled_bone_has_the_excess_attenuation_of_the_whole_ct(femur, value):
    ct, labelmap = femur
    true = excess(ct, labelmap)
    assert excess(masked(ct, labelmap, value), labelmap) == pytest.approx(0.91 * true, rel=0.01)
    filled = bone_only.fill_around_bone(masked(ct, labelmap, value))
    # muscle beside the bone is a little denser than the soft tissue that is filled in
    assert excess(filled, labelmap) == pytest.approx(true, rel=0.03)
    inside = labelmap.data > 0
    np.testing.assert_array_equal(filled.data[inside], ct.data[inside])


@pytest.mark.parametrize("grown", [1, 2])
def test_a_generous_mask_gives_the_bone_too(femur, grown):
    ct, labelmap = femur
    mask = ndimage.binary_dilation(labelmap.data > 0, iterations=grown)
    cut = replace(ct, data=np.where(mask, ct.data, -1000).astype(np.int16))
    filled = bone_only.fill_around_bone(cut)
    assert excess(filled, labelmap) == pytest.approx(excess(ct, labelmap), rel=0.01)


def test_every_outside_value_gives_the_same_bone(femur):
    first, *others = (
        np.maximum(bone_only.fill_around_bone(masked(*femur, value)).data, 0) for value in OUTSIDE
    )
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_filled_ct_is_not_filled_again_and_its_lineage_says_what_was_done(tmp_path, femur):
    path = nifti.save(tmp_path / "bone.nii.gz", masked(*femur, -1000))
    once = nifti.load_ct(path)
    assert bone_only.surface_sd_mm(once)
    assert once.lineage.history[-1]["settings"]["outside_hu"] == -1000
    twice = nifti.load_ct(nifti.save(tmp_path / "again.nii.gz", once))
    np.testing.assert_array_equal(twice.data, once.data)
    assert twice.lineage.history == once.lineage.history


def test_marrow_of_the_value_around_the_bone_stays_marrow(femur):
    ct, labelmap = femur
    hollow = masked(ct, labelmap, 0)
    middle = tuple(np.argwhere(labelmap.data > 0).mean(axis=0).astype(int))
    hollow.data[middle] = 0
    assert bone_only.fill_around_bone(hollow).data[middle] == 0


def test_a_filled_ct_without_lineage_may_still_be_stated_to_be_a_mirrored_right_bone(
    tmp_path, femur
):
    path = nifti.save(tmp_path / "bone.nii.gz", masked(*femur, -1000))
    path.with_name("bone.json").unlink()
    ct = nifti.load_ct(path)
    assert bone_only.surface_sd_mm(ct)
    assert with_stated_side(path, ct.lineage, "right").mirrored


@pytest.mark.parametrize("value", [0, -1000, -3024])
def test_the_pose_is_that_of_the_whole_ct_within_the_stated_deviation(tmp_path, femur, value):
    ct, labelmap = femur
    nifti.save(tmp_path / "mask.nii.gz", labelmap)
    poses, deviations = [], []
    whole = joseph.FusedRenderer(select_structures(ct, None, None, -1000.0), ct.isocentre_mm)
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles([10, 4, -5], [0, 700, 0])
    )
    image = whole.render(camera[None], DETECTOR)[0]
    noise = np.random.default_rng(0).normal(0, 0.003, image.shape)
    image = np.clip(image + noise, 0, None).astype(np.float32)
    xray = Xray(image, np.ones(image.shape, bool), DETECTOR, tmp_path / "xray.png")
    for volume in (ct, masked(ct, labelmap, value)):
        path = nifti.save(tmp_path / "ct.nii.gz", volume)
        body = load_structure(path, tmp_path / "mask.nii.gz").body
        fit = refine([View(xray)], [body], [moved(camera, body, (1, 1, 1), (1, 1, 1))], LEVELS)
        poses.append(fit.poses[0])
        deviations.append(body.surface_sd_mm / body.half_width_mm * 700)
    assert deviations[0] == 0
    error = geometry.pose_error(poses[1], poses[0], body.points, DETECTOR)
    # depth: the standard deviation that the masked surface adds is what the verdict states
    assert error.depth_mm < 2 * deviations[1]
    assert error.in_plane_mm < 0.1
    assert error.rotation_deg < 0.5
