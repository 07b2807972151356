"""How far a pose can be trusted: its cues, 95 % bounds, and the chance that it is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from test_refinement import body, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.registration import cues, finding, trust, verdict
from common.registration.competition import Solution
from common.registration.gauss_newton import Fit
from common.registration.scene import View
from common.registration.trust import Directions, Model
from common.registration.verdict import Surroundings, judge
from common.volume.lineage import Lineage

SURE = cues.Cues(
    similarity=0.96,
    rival_gap=1.0,
    least_rise=0.08,
    moved=0.005,
    flipped=-0.4,
)
UNSURE = replace(SURE, least_rise=0.001, moved=0.15, rival_gap=0.06, flipped=-0.03)


def solution_at(pose: np.ndarray, similarity: float = 0.9) -> Solution:
    fit = Fit([pose], similarity, np.diag([1e-6] * 3 + [1e-2] * 3))
    return Solution(pose, fit, None, 200, 1.0, similarity)


def structure_of(body):
    ct = SimpleNamespace(lineage=Lineage(), spacing_mm=np.array([1.0, 1.0, 2.5]), name="bone")
    return SimpleNamespace(body=body, excess=True, ct=ct, context=None)


def test_cues_tell_the_true_pose_from_others(body, truth):
    views = [View(take_xray([body], [truth]))]
    right = cues.measure(solution_at(truth), views, body)
    assert right.moved < 0.005
    assert right.least_rise > 0
    for wrong in (
        moved(truth, body, (0, 0, 0), (25, 10, 0)),
        moved(truth, body, (12, 5, 0), (0, 0, 40)),
    ):
        there = cues.measure(solution_at(wrong), views, body)
        assert there.moved > 5 * right.moved
        assert there.least_rise < right.least_rise


def test_a_bone_of_another_shape_is_told_by_what_only_its_moved_parts_explain(body, truth):
    xray = take_xray([body], [truth])
    rows, columns = np.indices(xray.image.shape, float)
    bent = columns + np.sin(rows / 6)  # by a pixel of 1.2 mm, to both sides
    image = map_coordinates(xray.image, [rows, bent], order=1, mode="nearest")
    plain, other = (
        cues.measure(solution_at(truth), [View(replace(xray, image=each))], body)
        for each in (xray.image, image.astype(np.float32))
    )
    assert other.moved > 4 * plain.moved
    assert trust.model().wrong(other, 1) > 5 * trust.model().wrong(plain, 1)


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_moved_parts_explain_what_a_shift_of_each_block_changes_and_nothing_of_its_gain(gain):
    side, pixel_mm = 24, (0.5, 0.5)
    down, across = np.indices((side, 2 * side)) * 0.5

    def bumps(shift_mm):
        return np.exp(-(((across - 4) % 4 - 2 - shift_mm) ** 2 + (down - 6) ** 2) / 2)

    zone, numbers = np.ones((side, 2 * side)), (across >= side / 2).astype(int).ravel()
    shift_mm = np.where(across < side / 2, 0.2, -0.2)
    per_block = np.where(across < side / 2, gain, 1.0)
    still, shifted = (
        cues._by_moving(*cues._products(bumps(0), per_block * bumps(by), zone, numbers, pixel_mm))
        for by in (0, shift_mm)
    )
    np.testing.assert_allclose(still, 0, atol=1e-6)
    for number, (one, other) in enumerate(
        zip(*(np.split(bumps(by), 2, axis=1) for by in (0, shift_mm)), strict=True)
    ):
        lost = 1 - np.corrcoef(one.ravel(), other.ravel())[0, 1] ** 2
        assert lost > 0.005
        assert shifted[number] == pytest.approx(lost, rel=0.1)


def test_a_bone_that_fits_the_flipped_xray_better_is_told_by_its_cue(body, truth):
    view = View(take_xray([body], [truth]))
    plain = cues.measure(solution_at(truth), [view], body)
    behind = geometry.from_behind(truth, body.centre_mm)
    flipped = cues.measure(solution_at(behind), [view.flip()], body)
    assert plain.flipped < 0 < flipped.flipped
    both = cues.measure(solution_at(truth), [view, view], body)
    assert both.flipped is None


def test_more_noise_than_usual_hardly_changes_the_chance_of_a_right_pose(body, truth):
    usual, noisy = (
        cues.measure(solution_at(truth), [View(take_xray([body], [truth], noise))], body)
        for noise in (0.014, 0.03)
    )
    assert usual.noise == pytest.approx(trust.USUAL_NOISE, abs=0.02)
    assert 0.3 < noisy.noise < 0.5
    least_rise, moved = trust.features(noisy, 1)[:2]
    assert least_rise > np.log(noisy.least_rise) + 0.2
    assert moved > np.log(noisy.moved) + 0.2


@pytest.fixture
def faint(monkeypatch, body, truth):
    """What makes a pose of low similarity that few candidates reached, with cues of its own."""
    known = {}
    monkeypatch.setattr(verdict, "of_bone", lambda solution, *_: known[id(solution)])

    def make(measured, similarity=0.7):
        solution = replace(solution_at(truth, similarity), agreement=0.05)
        known[id(solution)] = measured
        return solution

    return make


def test_a_faint_pose_ends_a_search_only_if_its_cues_speak_for_it(faint, body, truth):
    views, structure = [View(take_xray([body], [truth]))], structure_of(body)
    for similarity, measured, ends in ((0.7, SURE, True), (0.7, UNSURE, False), (0.6, SURE, False)):
        solution = faint(measured, similarity)
        assert verdict.is_found(solution, views, structure) == ends
        assert verdict.is_trusted(solution, views, structure) == ends
    solution = faint(SURE)
    rival = replace(solution, runner_up=Fit([moved(truth, body)], 0.7, solution.fit.covariance))
    assert not verdict.is_found(rival, views, structure)


def test_of_several_faint_bones_all_must_be_trusted_for_a_search_to_end(faint, body, truth):
    views, structures = [View(take_xray([body], [truth]))], [structure_of(body)] * 2

    def ends(*measured):
        found = [SimpleNamespace(solution=faint(each)) for each in measured]
        return finding.is_enough(views, structures, found)

    assert ends(SURE, SURE)
    assert not ends(SURE, UNSURE)


def test_poses_around_are_turned_and_shifted_along_the_axes_of_the_camera(body, truth):
    view = View(take_xray([body], [truth]))
    there = cues._around(truth, view, body)
    centre = geometry.apply(geometry.invert(truth), body.centre_mm)
    moved_centres = np.array(
        [geometry.apply(geometry.invert(pose), body.centre_mm) for pose in there]
    )
    np.testing.assert_allclose(moved_centres[:6], np.tile(centre, (6, 1)), atol=1e-9)
    shift = centre - moved_centres[6:]
    steps = np.repeat(cues.SHIFT_MM * np.eye(2, 3), 2, axis=0)  # not in depth
    np.testing.assert_allclose(shift, steps * np.array([1, -1] * 2)[:, None], atol=1e-9)
    turns = [geometry.rotation_angle_deg(pose[:3, :3] @ truth[:3, :3].T) for pose in there[:6]]
    np.testing.assert_allclose(turns, cues.TURN_DEG)


def test_a_bound_adds_noise_and_the_surface():
    factors = {"bone": Directions(2.0, 1.0, 3.0), "bone_several": Directions(1, 1, 1)}
    model = Model(Directions(0.5, 0.5, 0.0), factors, *np.zeros((2, len(trust.FEATURES))), 0.0)
    noise, surface = Directions(0.3, 6.0, 0.2), Directions(0.8, 16.0, 9.0)
    assert model.bounds(noise, surface, "bone") == pytest.approx((2 * 0.5, 10.0, 0.6))
    assert model.bounds(noise, trust.EXACT, "bone_several") == pytest.approx((0.3, 6.0, 0.2))
    # an SDD off by a standard deviation of 3 mm in depth is not scaled by the factor of the fits
    bounds = model.bounds(noise, trust.EXACT, "bone", Directions(0, 3.0, 0))
    assert bounds.depth == pytest.approx(np.hypot(6.0, 1.96 * 3.0))


@pytest.mark.parametrize(("views", "sd"), [(1, 0.5), (2, 0.0)])
def test_an_uncertain_sdd_is_an_uncertain_depth_of_a_single_view(body, truth, views, sd):
    xray = take_xray([body], [truth])
    view = View(replace(xray, reading={"sdd_sd_percent": 0.5}))
    errors = trust.detector_errors(solution_at(truth), [view] * views, structure_of(body))
    depth = geometry.apply(geometry.invert(truth), body.centre_mm)[2]
    assert errors == pytest.approx((0.0, depth * sd / 100, 0.0))


def test_bounds_depend_on_what_is_registered_and_in_how_many_views(body, truth):
    views, bone = [View(take_xray([body], [truth]))] * 2, structure_of(body)
    whole = structure_of(replace(body, complete=True))
    assert trust.kind_of(bone, views[:1]) == "bone"
    assert trust.kind_of(bone, views) == "bone_several"
    assert trust.kind_of(whole, views) == "whole"
    metal = structure_of(replace(body, metal=True))
    assert trust.kind_of(metal, views[:1]) == "metal"
    assert trust.kind_of(metal, views) == "metal_several"


@pytest.mark.parametrize("views", [1, 2])
def test_a_surface_off_by_half_a_voxel_changes_the_size_and_so_the_depth_of_one_view(
    body, truth, views
):
    view = View(take_xray([body], [truth]))
    errors = trust.surface_errors(solution_at(truth), [view] * views, structure_of(body))
    depth = geometry.apply(geometry.invert(truth), body.centre_mm)[2]
    assert errors.in_plane == pytest.approx(0.75)  # half the mean of 1, 1 and 2.5 mm
    expected = 0.75 * depth / body.half_width_mm if views == 1 else 0.75
    assert errors.depth == pytest.approx(expected)
    assert errors.rotation == pytest.approx(np.degrees(0.75 / body.half_width_mm))


def test_the_chance_of_a_wrong_pose_is_a_reason_and_is_said_with_what_speaks_for_it(body, truth):
    views, structure = [View(take_xray([body], [truth]))], structure_of(body)
    solution = solution_at(truth)
    sure = judge(solution, views, structure, Surroundings(cues=SURE))
    assert (sure.code, sure.reasons) == ("ok", ())
    assert sure.wrong_probability is not None
    assert sure.wrong_probability < 0.01
    assert 0 < sure.in_plane_sd_mm < sure.in_plane_95_mm < 1
    wrong = judge(solution, views, structure, Surroundings(cues=UNSURE))
    assert wrong.code == "failed"
    assert "parts of the bone fit better if each is moved by itself" in wrong.reasons[-1]
    assert judge(solution, views, structure).wrong_probability is None
    # the model knows knees: a small chance does not outweigh a very low similarity
    low = judge(solution_at(truth, 0.55), views, structure, Surroundings(cues=SURE))
    assert (low.code, low.reasons) == (
        "suspect",
        ("the DRR matches the X-ray poorly (similarity 0.55)",),
    )
    assert low.wrong_probability is None, "a chance of 0.1 % would contradict the verdict"


def test_a_small_chance_outweighs_similarity_few_candidates_and_a_lost_partner(body, truth):
    views, structure = [View(take_xray([body], [truth]))], structure_of(body)

    def code(similarity, agreement, measured, alone=False):
        solution = replace(solution_at(truth, similarity), agreement=agreement)
        around = Surroundings(cues=measured, alone=alone)  # without the other bone of the joint
        return judge(solution, views, structure, around).code

    larger = replace(SURE, moved=0.015)
    chances = [trust.model().wrong(each, 1) for each in (SURE, larger)]
    assert chances[0] < verdict.SURE_BELOW < chances[1] < verdict.OK_BELOW
    for *rest, alone in ((0.7, 1.0, False), (0.8, 0.02, False), (0.8, 1.0, True)):
        assert code(*rest, SURE, alone) == "ok"
        assert code(*rest, larger, alone) == "suspect"
        assert code(*rest, None, alone) == "suspect"
    structure.context = structure_of(body)
    assert code(0.7, 1.0, SURE) == "suspect"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("moved", 0.1),
        ("least_rise", 0.002),
        ("flipped", 0.1),
        ("rival_gap", 0.0),
    ],
)
def test_the_chance_of_the_model_rises_with_every_cue_against_a_pose(better, worse):
    model = trust.model()
    assert model.wrong(replace(SURE, **{better: worse}), 1) > model.wrong(SURE, 1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"flipped": 0.1}, "fits the X-ray about as well if it is flipped"),
        ({"moved": 0.05}, "parts of the bone fit better if each is moved by itself"),
        ({"least_rise": 0.002}, "poses around it fit nearly as well"),
        ({"rival_gap": 0.02}, "another pose fits nearly as well"),
        # what only one view tells is not said of several
        ({"flipped": None, "rival_gap": 0.03}, "another pose fits nearly as well"),
        ({"flipped": 0.1, "moved": 0.2}, "parts of the bone fit better"),
    ],
)
def test_what_speaks_most_against_a_pose_is_said(changed, words):
    assert words in trust.leading_doubt(replace(SURE, **changed))


def test_errors_are_wrong_beyond_2_mm_or_3_degrees_and_in_depth_with_several_views():
    assert not trust.is_wrong(1.9, 40.0, 2.9, views=1)
    assert trust.is_wrong(2.1, 0.0, 0.0, views=1)
    assert trust.is_wrong(0.0, 0.0, 3.1, views=1)
    assert trust.is_wrong(0.0, 6.0, 0.0, views=2)


def test_a_covariance_is_widened_to_the_bounds_along_the_axes_of_the_camera(body, truth):
    axes = truth[:3, :3]
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = np.radians(0.1) ** 2 * np.eye(3)
    covariance[3:, 3:] = axes @ np.diag([0.04, 0.04, 1.0]) ** 2 @ axes.T
    fit = Fit([truth], 0.95, covariance)
    solution = Solution(truth, fit, None, 200, 1.0, 0.95)
    views = [View(take_xray([body], [truth]))]
    verdict = judge(solution, views, structure_of(body))
    widening = trust.widening(verdict, truth)
    wide = widening @ covariance @ widening
    shift = axes.T @ wide[3:, 3:] @ axes
    across, along = np.sqrt(shift[0, 0]), np.sqrt(shift[2, 2])
    assert 2.448 * across == pytest.approx(verdict.in_plane_95_mm)
    assert 1.960 * along == pytest.approx(verdict.depth_95_mm)
    turns = np.degrees(np.sqrt(np.diag(wide)[:3]))
    np.testing.assert_allclose(2.795 * turns, verdict.rotation_95_deg)
    unknown = replace(verdict, in_plane_95_mm=None, depth_95_mm=None, rotation_95_deg=None)
    np.testing.assert_array_equal(trust.widening(unknown, truth), np.eye(6))
