"""The verdict: each reason against ok, and standard deviations in the camera frame."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_refinement import body, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.registration.competition import Solution
from common.registration.gauss_newton import Fit
from common.registration.scene import Body, View
from common.registration.verdict import Surroundings, judge, least_evidence
from common.results.result import Verdict
from common.volume.lineage import Lineage


def judged(
    solution: Solution,
    view: View,
    body: Body,
    lone_bone: bool = True,
    lineage: Lineage | None = None,
    around: Surroundings | None = None,
) -> Verdict:
    ct = SimpleNamespace(lineage=lineage or Lineage(), spacing_mm=np.ones(3))
    return judge(
        solution,
        [view],
        SimpleNamespace(body=body, excess=lone_bone, ct=ct, context=None),
        around or Surroundings(),
    )


@pytest.fixture
def winner(truth):
    fit = Fit([truth], 0.9, np.diag([1e-6] * 3 + [1e-3] * 3))
    return Solution(truth, fit, None, candidates=201, agreement=0.8, evidence=0.9)


@pytest.fixture
def view(body, truth):
    return View(take_xray([body], [truth]))


def test_a_well_determined_pose_is_ok_and_its_deviations_are_those_of_the_camera(
    winner, view, body, truth
):
    depth = truth[:3, 2]
    shift = 0.01 * np.eye(3) + 0.99 * np.outer(depth, depth)  # mm^2: 0.1 mm in plane, 1 mm in depth
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = np.radians(0.5) ** 2 * np.eye(3)
    covariance[3:, 3:] = shift
    verdict = judged(replace(winner, fit=replace(winner.fit, covariance=covariance)), view, body)
    assert (verdict.code, verdict.reasons, verdict.agreement) == ("ok", (), 0.8)
    assert verdict.in_plane_sd_mm == pytest.approx(0.1)
    assert verdict.depth_sd_mm == pytest.approx(1.0)
    assert verdict.rotation_sd_deg == pytest.approx(0.5)
    assert verdict.in_view == 1.0


def test_a_runner_up_makes_it_suspect_only_if_it_fits_as_well(winner, view, body, truth):
    other = moved(truth, body, (8, 0, 0), (0, 0, 0))
    rival = Fit([other], 0.89, winner.fit.covariance)
    verdict = judged(replace(winner, runner_up=rival), view, body)
    assert verdict.code == "suspect"
    assert "another pose" in verdict.reasons[0]
    assert verdict.rival.rotation_deg == pytest.approx(8, abs=0.01)
    assert (
        judged(replace(winner, runner_up=replace(rival, similarity=0.7)), view, body).code == "ok"
    )


def test_a_flat_objective_is_suspect(winner, view, body):
    flat = replace(winner.fit, covariance=np.diag([1e-6] * 3 + [9.0] * 3))
    assert judged(replace(winner, fit=flat), view, body).reasons == (
        "the image constrains the pose poorly (in plane 3.0 mm, rotation 0.1 deg)",
    )


@pytest.mark.parametrize(("similarity", "verdict"), [(0.5, "suspect"), (0.1, "failed")])
def test_a_low_similarity_is_not_ok(winner, view, body, similarity, verdict):
    assert (
        judged(replace(winner, fit=replace(winner.fit, similarity=similarity)), view, body).code
        == verdict
    )


def test_a_bone_outside_the_image_has_failed_and_half_outside_is_suspect_but_a_whole_ct_is_not(
    winner, view, body, truth
):
    def sideways(shift_mm):
        return replace(
            winner,
            fit=replace(winner.fit, poses=[geometry.translation(truth[:3, 0] * shift_mm) @ truth]),
        )

    assert judged(sideways(300), view, body).code == "failed"
    half = next(
        shift for shift in range(0, 300, 4) if judged(sideways(shift), view, body).in_view < 0.5
    )
    verdict = judged(sideways(half), view, body)
    assert verdict.code == "suspect"
    assert "inside the image" in verdict.reasons[0]
    assert judged(sideways(half), view, body, lone_bone=False).code == "ok"


@pytest.mark.parametrize(
    ("best", "least"),
    # of bones; of metal, which has 0.85 to 0.80 in correct frames; without a sequence
    [(0.98, 0.93), (0.92, 0.87), (0.85, 0.764), (0.0, -0.05)],
)
def test_a_frame_may_have_less_evidence_where_less_is_explained(best, least):
    assert least_evidence(best) == pytest.approx(least, abs=1e-3)


def test_a_geometry_from_the_checkpoint_makes_it_suspect(winner, view, body):
    assert judged(winner, view, body).code == "ok"
    assumed = replace(view.xray, reading={"assumed": ["pixel spacing of 0.5 mm"]})
    verdict = judged(winner, replace(view, xray=assumed), body)
    assert verdict.code == "suspect"
    assert verdict.reasons == (
        "the pixel spacing of 0.5 mm is taken from the checkpoint, not from the X-ray: depth and"
        " scale depend on it",
    )


@pytest.mark.parametrize(
    ("agreement", "similarity", "verdict"),
    [(0.0, 0.8, "suspect"), (0.0, 0.9, "ok"), (0.5, 0.8, "ok")],
)
def test_a_pose_that_no_other_candidate_reached_needs_a_higher_similarity(
    winner, view, body, agreement, similarity, verdict
):
    lonely = replace(
        winner, agreement=agreement, runner_up=None, fit=replace(winner.fit, similarity=similarity)
    )
    assert judged(lonely, view, body).code == verdict


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"patient_orientation": ["L", "F"]}, None),
        ({"patient_orientation": ["A", "F"]}, None),  # a lateral view is not opposite
        ({"patient_orientation": ["R", "F"]}, "columns run towards R; at this pose the opposite"),
        ({"patient_orientation": ["L", "H"]}, "rows run towards H"),
        ({"patient_orientation": ["R", "H"]}, "turned by 180 degrees"),
        ({"view_position": "AP"}, None),
        ({"view_position": "PA"}, "the beam runs PA; at this pose it runs the opposite way"),
        ({"laterality": "left"}, None),
        ({"laterality": "right"}, "states the right side"),
    ],
)
def test_a_pose_against_what_the_header_says_is_suspect_and_says_so(
    winner, view, body, truth, said, reason
):
    """In an antero-posterior view, columns run to the patient's left and rows to the foot."""
    view = replace(view, xray=replace(view.xray, reading=said))
    verdict = judged(winner, view, body, lineage=Lineage(side="left"))
    assert verdict.code == ("suspect" if reason else "ok")
    assert any(reason in each for each in verdict.reasons) if reason else not verdict.reasons


def test_a_flipped_xray_lies_as_its_header_says(winner, view, body, truth):
    mirrored = replace(view.xray, reading={"patient_orientation": ["R", "F"]}).flip()
    verdict = judged(winner, replace(view, xray=mirrored), body)
    assert verdict.code == "ok"


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ({}, None),
        ({"patient_orientation": ["L", "F"]}, None),
        ({"patient_orientation": ["R", "F"]}, "as its header states (PatientOrientation R/F)"),
        ({"flipped_after_detector": True}, "as its header states (FieldOfViewHorizontalFlip YES)"),
    ],
)
def test_a_pose_that_was_found_flipped_names_the_tags_that_state_it(winner, view, body, said, tags):
    mirrored = replace(view, xray=replace(view.xray, reading=said).flip())
    verdict = judged(winner, mirrored, body, around=Surroundings(mirrored=True))
    assert verdict.code == "suspect"
    (reason,) = [each for each in verdict.reasons if "fits only if it is flipped" in each]
    assert (tags in reason) if tags else ("header" not in reason)


@pytest.mark.parametrize("views", [1, 2])
def test_the_surface_of_a_masked_bone_adds_to_the_depth_of_one_view_only(
    winner, view, body, truth, views
):
    masked = replace(body, surface_sd_mm=0.1)
    depth_mm = geometry.apply(geometry.invert(truth), body.centre_mm)[2]
    ct = SimpleNamespace(lineage=Lineage(), spacing_mm=np.ones(3))
    structure = SimpleNamespace(body=masked, excess=True, ct=ct, context=None)
    before = judge(
        winner, [view] * views, SimpleNamespace(body=body, excess=True, ct=ct, context=None)
    )
    after = judge(winner, [view] * views, structure)
    added = np.sqrt(after.depth_sd_mm**2 - before.depth_sd_mm**2)
    expected = 0.1 * depth_mm / body.half_width_mm if views == 1 else 0.0
    assert added == pytest.approx(expected, rel=1e-3)
