"""The search without a start pose: any side, position and turn, or flipped; banks, cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_refinement import error, take_xray
from test_register import bone_of

from common import geometry
from common.geometry import Detector
from common.geometry.pose_range import PoseRange
from common.registration import competition, finding, register
from common.registration.gauss_newton import Fit
from common.registration.scene import Structure, View
from common.registration.search import anywhere, bank_cache
from common.registration.search.anywhere import (
    EVERYTHING,
    STAGES,
    STATED,
    UPRIGHT_TILT_DEG,
    USUAL_DEPTHS,
    Banks,
    stage_starts,
)
from common.registration.search.bank import Bank, make_bank, viewing_rotations
from common.registration.search.limits import Limits, Near
from common.registration.search.matching import aim, camera_from_turned, small_image
from common.registration.starts import Starter
from common.registration.structures import load_structure
from common.registration.verdict import judge
from common.synthetic import phantom
from common.volume import nifti
from common.xray.xray import Xray, turned

UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("banks")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("BONE_CACHE", str(cache))


@pytest.fixture(scope="module")
def bone() -> Structure:
    return bone_of()


def wide_view(
    bone: Structure, camera: np.ndarray, sdd_mm: float = 1020.0, pixels: int = 120
) -> View:
    """What is rendered of a bone on a detector of 290 mm."""
    detector = Detector.centred(pixels, pixels, sdd_mm, 2.4)
    image = bone.body.renderer.render(camera[None], detector)[0]
    image = image + np.random.default_rng(0).normal(0, 0.01, image.shape).astype(np.float32)
    return View(Xray(image, np.ones(image.shape, bool), detector, Path("xray.png")))


def camera_at(bone: Structure, r1: float, r2: float = 5.0, r3: float = 10.0, offset=(0, 640, 0)):
    pose = geometry.pose_from_angles(np.array([r1, r2, r3]), np.array(offset, float))
    return geometry.translation(bone.body.centre_mm) @ geometry.camera_from_pose(pose)


def view_of(bone: Structure, camera: np.ndarray) -> View:
    return View(take_xray([bone.body], [camera]))


def nearest(starts, truth, bone) -> tuple[float, float]:
    """In-plane and rotation error of the start that is nearest to the truth."""
    errors = [error(start, truth, bone.body) for start in starts]
    best = min(errors, key=lambda each: each.rotation_deg + each.in_plane_mm)
    return best.in_plane_mm, best.rotation_deg


# ------------------------------------------------------------------------------------- orientations


@pytest.mark.parametrize("r1", [-160.0, -75, 20, 110])
@pytest.mark.slow
def test_a_bone_is_found_from_any_side_with_nothing_known(bone, r1):
    truth = camera_at(bone, r1)
    starts = stage_starts([view_of(bone, truth)], bone, STAGES[0], Banks())
    in_plane, rotation = nearest(starts[:24], truth, bone)
    assert in_plane < 8
    assert rotation < 14


@pytest.mark.slow
def test_a_bone_partly_outside_the_image_is_found(thigh):
    truth = camera_at(thigh, 30, offset=(82, 760, -76))
    view = wide_view(thigh, truth)
    assert 0.4 < view.share_in_view(thigh.body, truth) < 0.8
    starts = stage_starts([view], thigh, STAGES[0], Banks())
    starts += stage_starts([view], thigh, STAGES[-1], Banks())
    assert nearest(starts[:48], truth, thigh)[0] < 12


@pytest.mark.slow
def test_a_bone_with_a_ct_around_it_is_found_as_part_of_that_ct(tmp_path):
    knees = phantom.make(seed=5, spacing_mm=3.0, axes="LPS")
    tibia = (knees.segmentation.data == 2).astype(np.uint8)
    mask = nifti.save(tmp_path / "mask.nii.gz", replace(knees.segmentation, data=tibia))
    ct = nifti.save(tmp_path / "ct.nii.gz", knees.ct)
    bone = load_structure(ct, mask, context=ct)
    assert bone.drr is bone.body.alone  # not a second copy of the voxels
    truth = camera_at(bone, 25, offset=(0, 700, 0))
    views = [wide_view(bone, truth, pixels=210)]
    assert len(finding.starts_of(views, bone, Starter("search"), 0)) == 1
    (found,) = register.register(views, [bone], Starter("search"), 0)
    assert found.verdict.code == "ok"
    assert error(found.pose, truth, bone.body).in_plane_mm < 0.3
    # a stated range is that of the bone
    assert len(finding.starts_of(views, bone, Starter("search", ranges=PoseRange()), 0)) > 1


def test_a_bone_with_a_ct_around_it_must_fit_better_to_be_ok(bone):
    """Wrong ones in a CT of both legs had 0.83."""
    view, pose = view_of(bone, camera_at(bone, 20)), camera_at(bone, 20)
    fit = Fit([pose], 0.83, np.diag([1e-6] * 3 + [1e-3] * 3))
    solution = competition.Solution(pose, fit, None, 1, 1.0, 0.83)
    assert judge(solution, [view], bone).code == "ok"
    verdict = judge(solution, [view], replace(bone, context=bone))
    assert (verdict.code, len(verdict.reasons)) == ("suspect", 1)


@pytest.mark.slow
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_image_gives_the_turned_pose(bone, quarters):
    truth = camera_at(bone, 20)
    view = view_of(bone, truth)
    moved = replace(view, xray=turned(view.xray, quarters))
    pose = truth @ camera_from_turned(90.0 * quarters)
    points = bone.body.points
    expected = geometry.project(points, view.xray.detector, truth)
    again = geometry.project(points, moved.xray.detector, pose)
    width, height = view.xray.detector.width, view.xray.detector.height
    for _ in range(quarters):  # the definition of a quarter turn, anticlockwise
        expected = np.stack([expected[:, 1], width - 1 - expected[:, 0]], 1)
        width, height = height, width
    np.testing.assert_allclose(again, expected, atol=1e-6)
    starts = stage_starts([moved], bone, STAGES[1], Banks())
    assert min(error(start, pose, bone.body).rotation_deg for start in starts[:48]) < 14


@pytest.mark.slow
def test_a_bone_close_to_the_source_has_a_stage_of_its_own(bone):
    truth = camera_at(bone, 20, offset=(0, 400, 0))
    starts = stage_starts([view_of(bone, truth)], bone, STAGES[3], Banks())
    assert nearest(starts[:24], truth, bone)[1] < 14


@pytest.mark.slow
def test_a_stated_range_is_searched_from_end_to_end_and_nothing_else(bone):
    truth = camera_at(bone, 130, offset=(20, 640, -10))
    angles, offset = np.array([130.0, 5, 10]), np.array([20.0, 640, -10])
    low, high = np.r_[angles, offset] - 3, np.r_[angles, offset] + [30, 10, 10, 40, 60, 40]
    ranges = PoseRange(*((float(a), float(b)) for a, b in zip(low, high, strict=True)))
    starts = stage_starts([view_of(bone, truth)], bone, STATED, Banks(), Limits(ranges))
    in_plane, rotation = nearest(starts[:12], truth, bone)
    assert in_plane < 8
    assert rotation < 12
    assert (ranges.outside_deg(np.array(starts)[:, :3, :3]) < 25).all()  # aimed off the axis
    elsewhere = replace(ranges, r1=(20.0, 40.0), tx=(60.0, 90.0))
    for start in stage_starts([view_of(bone, truth)], bone, STATED, Banks(), Limits(elsewhere)):
        assert geometry.apply(geometry.invert(start), bone.body.centre_mm)[0] > 55


def test_the_distance_from_a_range_is_the_angle_to_its_nearest_rotation():
    ranges = PoseRange(r1=(150.0, 200.0), r2=(-10.0, 10.0), r3=(0.0, 5.0))

    def rotation(*angles: float) -> np.ndarray:
        pose = geometry.pose_from_angles(np.array(angles), np.zeros(3))
        return geometry.camera_from_pose(pose)[:3, :3]

    inside = [rotation(150, -10, 0), rotation(-165, 4, 3), rotation(200, 10, 5)]
    np.testing.assert_allclose(ranges.outside_deg(np.array(inside)), 0, atol=1e-4)
    outside = [rotation(140, 0, 0), rotation(-150, 0, 2), rotation(180, 25, 0)]
    np.testing.assert_allclose(ranges.outside_deg(np.array(outside)), [10, 10, 15], atol=1e-6)
    # the second triple of angles of the same rotation: beyond 90 degrees of tilt
    beyond = PoseRange(r1=(0.0, 10.0), r2=(100.0, 120.0), r3=(0.0, 10.0))
    np.testing.assert_allclose(beyond.outside_deg(rotation(5, 110, 5)[None]), 0, atol=1e-4)


@pytest.mark.slow
def test_two_views_find_a_bone_of_unknown_orientation(bone):
    truth = geometry.twist(np.r_[1.7, 1.2, -0.7, 0, 0, 0], bone.body.centre_mm) @ camera_at(bone, 0)
    centre = geometry.apply(geometry.invert(truth), bone.body.centre_mm)
    quarter = np.eye(4)
    quarter[:3, :3] = geometry.rotation_matrix([0, np.pi / 2, 0])
    second = geometry.translation(centre) @ quarter @ geometry.translation(-centre)
    images = [take_xray([bone.body], [truth]), take_xray([bone.body], [truth @ second])]
    views = [View(images[0]), View(images[1], second)]
    starts = stage_starts(views, bone, EVERYTHING, Banks())
    winner = competition.compete_from(views, bone.body, starts)
    assert error(winner.fit.poses[0], truth, bone.body).mtre_mm < 0.5


@pytest.mark.slow
def test_empty_air_is_no_bone(bone):
    """Stripes a hundred times fainter than the bone, where nothing else is."""
    truth = camera_at(bone, 20)
    xray = take_xray([bone.body], [truth], noise=0)
    xray.image[:] += 0.001 * (np.arange(xray.image.shape[1]) % 16 < 8)
    best = stage_starts([View(xray)], bone, STAGES[0], Banks())[0]
    assert error(best, truth, bone.body).in_plane_mm < 8


def test_viewing_directions_cover_the_sphere_and_show_the_head_up():
    upright, tilted = (viewing_rotations(UP, tilt) for tilt in ((0, 30.0), (30.0, 90.1)))
    assert (upright[:, 2, 1] < 0).all()  # rows run from head to foot
    axes = np.concatenate([upright, tilted])[:, :, 2]
    rng = np.random.default_rng(0)
    for wanted in rng.normal(size=(200, 3)):
        cosine = (axes @ wanted).max() / np.linalg.norm(wanted)
        assert np.degrees(np.arccos(min(1.0, cosine))) < 8
    assert np.allclose(np.linalg.det(upright), 1)


# ------------------------------------------------------------------------------------- registration


@pytest.mark.slow
def test_registration_without_any_range_finds_a_view_from_behind(bone):
    truth = camera_at(bone, 170)
    (found,) = register.register([view_of(bone, truth)], [bone], Starter("search"), 0)
    assert error(found.pose, truth, bone.body).in_plane_mm < 0.2
    assert error(found.start, truth, bone.body).rotation_deg < 15  # the one that won
    # without noise or other tissue, a pose is judged more strictly than in the X-ray of a patient
    assert (found.verdict.wrong_probability or 0.0) < 0.1


@pytest.mark.slow
def test_a_flipped_xray_is_found_and_never_ok(thigh):
    # a flipped X-ray equals one from behind but for the perspective, so that must be strong
    bone, truth = thigh, camera_at(thigh, 35, offset=(0, 290, 0))
    view = wide_view(bone, truth, sdd_mm=400.0)
    flipped = replace(view, xray=replace(view.xray.flip(), flipped=False))
    (found,) = register.register([flipped], [bone], Starter("search"), 0)
    assert found.views[0].xray.flipped
    assert error(found.pose, truth, bone.body).in_plane_mm < 0.5
    assert found.verdict.code == "suspect"
    assert "flipped left to right" in found.verdict.reasons[-1]
    stated = Starter("search", mirrored=False)
    (found,) = register.register([flipped], [bone], stated, 0)
    assert not found.views[0].xray.flipped


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["nothing", "another bone"])
def test_a_bone_that_is_not_in_the_image_is_never_ok(bone, thigh, shown):
    view = wide_view(bone, camera_at(bone, 30))
    if shown == "nothing":
        noise = np.random.default_rng(3).normal(1, 0.05, view.xray.image.shape)
        view = replace(view, xray=replace(view.xray, image=noise.astype(np.float32)))
    (found,) = register.register([view], [thigh], Starter("search"), 0)
    assert found.verdict.code in ("suspect", "failed")
    assert found.verdict.reasons


@pytest.mark.slow
def test_near_restricts_where_the_centre_is(bone):
    truth = camera_at(bone, 20)
    view = view_of(bone, truth)
    centre = geometry.apply(geometry.invert(truth), bone.body.centre_mm)
    starts = stage_starts([view], bone, STAGES[0], Banks(), Limits(near=Near(centre, 0, 60)))
    assert nearest(starts[:24], truth, bone)[0] < 8
    aside = Near(centre + np.array([50.0, 0, 0]), 0, 45)
    for start in stage_starts([view], bone, STAGES[0], Banks(), Limits(near=aside)):
        seen = geometry.apply(geometry.invert(start), bone.body.centre_mm)
        assert np.linalg.norm(seen - aside.point) < 52


# ------------------------------------------------------------------------------------ small images


def test_a_point_stays_at_its_place_in_the_small_image():
    """Pixels of 1.1 by 0.7 mm become square ones; a bright spot keeps its ray."""
    detector = Detector(160, 120, 900.0, (1.1, 0.7), (50.0, 90.0))
    rows, columns = np.indices((160, 120))
    image = np.exp(-(((columns - 70.0) * 1.1) ** 2 + ((rows - 60.0) * 0.7) ** 2) / (2 * 4.0**2))
    xray = Xray(image.astype(np.float32), np.ones(image.shape, bool), detector, Path("x.png"))
    small = small_image(xray, 3.2)
    assert small.detector.pixel_mm == (3.2, 3.2)
    weights = np.clip(small.contrast, 0, None) ** 4
    at = [(weights * axis).sum() / weights.sum() for axis in np.indices(weights.shape)[::-1]]
    mm = (np.array(at) - small.detector.principal_px) * 3.2
    np.testing.assert_allclose(mm, [(70 - 50) * 1.1, (60 - 90) * 0.7], atol=0.7)


@pytest.mark.parametrize("turn_deg", [-35.0, 0.0, 90.0, 170.0])
def test_a_turned_small_image_shows_a_point_where_its_turned_ray_is(turn_deg):
    detector = Detector(160, 120, 900.0, (1.1, 0.7), (50.0, 90.0))
    rows, columns = np.indices((160, 120))
    spot = ((columns - 70.0) * 1.1) ** 2 + ((rows - 60.0) * 0.7) ** 2
    image = np.exp(-spot / (2 * 4.0**2)).astype(np.float32)
    small = small_image(
        Xray(image, np.ones(image.shape, bool), detector, Path("x.png")), 3.2, turn_deg
    )
    place = np.argwhere(small.contrast == small.contrast.max())
    ray = np.array([(70 - 50) * 1.1, (60 - 90) * 0.7, 900.0])
    across = small.rays(place)[0] / small.rays(place)[0][2] * 900.0 - ray
    assert np.linalg.norm(across) < 3.2


@pytest.mark.parametrize(("column", "row"), [(75.0, 70.0), (20.0, 120.0)])
def test_aiming_turns_the_axis_to_the_pixel_and_keeps_the_source(column, row):
    detector = Detector(150, 140, 1000.0, (1.6, 1.8), (70.0, 80.0))
    camera = geometry.camera_from_pose(geometry.pose_from_angles([10, 20, -30], [0, 600, 0]))
    point = geometry.apply(camera, np.array([0, 0, 600.0]))
    (aimed,) = aim(camera[None], detector, column, row)
    seen = geometry.project(point[None], detector, aimed)[0]
    assert seen == pytest.approx([column, row], abs=1e-6)
    assert np.allclose(aimed[:3, 3], camera[:3, 3])
    assert np.linalg.det(aimed[:3, :3]) == pytest.approx(1)


# -------------------------------------------------------------------------------------- bank, cache


@pytest.mark.slow
def test_a_basis_keeps_most_of_each_template(bone):
    rotations = viewing_rotations(UP, UPRIGHT_TILT_DEG)
    bank = make_bank(bone.body, rotations, USUAL_DEPTHS, 1000.0)
    assert len(bank.own) == bank.pictures.shape[1] == len(rotations) * len(USUAL_DEPTHS)
    kept = (bank.weights**2).sum(axis=1)
    assert np.median(kept) > 0.8
    assert kept.max() < 1.01
    (camera,) = bank.cameras(np.array([len(bank.own) - 1]), 1000.0)
    depth = geometry.apply(geometry.invert(camera), bone.body.centre_mm)
    np.testing.assert_allclose(depth, [0, 0, 1000 * bank.depths[-1]], atol=1e-6)


def tiny_bank(value: float = 1.0) -> Bank:
    """A bank of two templates of 3 x 3 pixels."""
    rows = np.full((2, 4), value, np.float32)
    return Bank(
        3.2, np.zeros(3), np.array([0.7]), np.stack([np.eye(3)] * 2),
        np.full((2, 2, 3, 3), value, np.int16), np.ones(2, np.float32),
        np.ones(2), np.ones(2), np.ones((4, 9), np.float32), rows,
        np.ones((4, 9), np.float32), rows,
    )  # fmt: skip


def test_a_bank_is_made_once_and_anew_where_its_file_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("BONE_CACHE", str(tmp_path))
    made = []

    def make() -> Bank:
        made.append(1)
        return tiny_bank(len(made))

    assert bank_cache.cached("key", make).pictures[1, 1, 0, 0] == 1
    assert bank_cache.cached("key", make).pictures[1, 1, 0, 0] == 1
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:200])
    assert bank_cache.cached("key", make).pictures[1, 1, 0, 0] == 2
    assert bank_cache.cached("key", make).pictures[1, 1, 0, 0] == 2
    assert len(made) == 2
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:150])
    assert bank_cache.cached("key", make).pictures[1, 1, 0, 0] == 3


def test_the_cache_removes_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setenv("BONE_CACHE", str(tmp_path))
    bank_cache.cached("old", tiny_bank)
    size = sum(path.stat().st_size for path in tmp_path.glob("old.*"))
    monkeypatch.setattr(bank_cache, "LIMIT_BYTES", 2 * size)
    import os

    (tmp_path / "left.npy").write_bytes(bytes(2 * size))  # of a run that ended between both files
    for name in ("old.npz", "old.npy", "left.npy"):
        os.utime(tmp_path / name, (1, 1))
    bank_cache.cached("newer", tiny_bank)
    bank_cache.cached("newest", tiny_bank)
    for ending in ("npz", "npy"):
        assert sorted(path.stem for path in tmp_path.glob(f"*.{ending}")) == ["newer", "newest"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BONE_CACHE", str(tmp_path / "file"))
    assert bank_cache.cached("key", tiny_bank).pixel_mm == 3.2


def test_the_key_follows_the_content():
    volume = np.arange(8.0).reshape(2, 2, 2)
    keys = {
        bank_cache.content_key(volume, "a", 1),
        bank_cache.content_key(volume + 1, "a", 1),
        bank_cache.content_key(volume.reshape(4, 2), "a", 1),
        bank_cache.content_key(volume, "a", 2),
        bank_cache.content_key(volume, "a", None),
    }
    assert len(keys) == 5
    assert bank_cache.content_key(volume, "a", 1) in keys


def test_two_images_of_one_bone_share_its_bank(bone, monkeypatch):
    made = []
    monkeypatch.setattr(anywhere, "make_bank", lambda *given: made.append(given) or tiny_bank())
    banks = Banks(keep=False)
    first, other = (viewing_rotations(UP, tilt) for tilt in ((0, 30.0), (30.0, 90.1)))
    bank = banks.of(bone, first, USUAL_DEPTHS, 1000.0)
    assert banks.of(bone, first, USUAL_DEPTHS, 1000.0) is bank
    banks.of(bone, first, USUAL_DEPTHS, 1400.0)
    banks.of(bone, other, USUAL_DEPTHS, 1000.0)
    assert len(made) == 3


def test_of_many_banks_only_those_used_last_stay_in_memory(bone, monkeypatch):
    made = []
    monkeypatch.setattr(anywhere, "make_bank", lambda *given: made.append(given) or tiny_bank())
    monkeypatch.setattr(anywhere, "MOST_BANKS", 2)
    banks, directions = Banks(keep=False), viewing_rotations(UP, (0, 30.0))
    for sdd_mm in (1000.0, 1200.0, 1000.0, 1400.0, 1000.0):
        banks.of(bone, directions, USUAL_DEPTHS, sdd_mm)
    assert [given[3] for given in made] == [1000.0, 1200.0, 1400.0]
    banks.of(bone, directions, USUAL_DEPTHS, 1200.0)
    assert len(made) == 4
