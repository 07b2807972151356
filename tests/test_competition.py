"""Competition of start poses: candidates, near-duplicates, merged fits and a whole CT."""

from dataclasses import replace

import numpy as np
import pytest
from test_refinement import body, error, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.registration import candidates, competition
from common.registration.gauss_newton import Fit
from common.registration.scene import View


@pytest.mark.slow
def test_candidates_around_a_poor_start_pose_find_the_truth(body, truth):
    poor = moved(truth, body, (9, -9, 8), (10, 12, -9))
    solution = competition.compete([View(take_xray([body], [truth]))], body, [poor])
    assert error(solution.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert solution.candidates == competition.SCATTER_COUNT + 1
    assert solution.agreement > 0.3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pose(body, truth):
    view = View(take_xray([body], [truth]))
    first, second = (
        competition.compete([view], body, [moved(truth, body)], seed=3).fit.poses[0]
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_candidates_outside_the_image_give_no_solution(body, truth):
    away = geometry.translation(truth[:3, 0] * 2000) @ truth
    assert competition.compete([View(take_xray([body], [truth]))], body, [away]) is None


def test_the_true_pose_scores_best(body, truth):
    poses = [
        truth,
        moved(truth, body, (5, 0, 0), (0, 0, 0)),
        moved(truth, body, (0, 0, 0), (6, 0, 4)),
    ]
    view = View(take_xray([body], [truth]))
    scores = candidates.score([view], body, poses, competition.COARSE[1], poses[:1])
    assert scores.argmax() == 0
    assert scores[0] > 0.98


def test_near_duplicates_are_dropped_and_depth_separates_little(body, truth):
    turned = moved(truth, body, (0, 10, 0), (0, 0, 0))
    nudged = moved(truth, body, (1, 0, 0), (1, 1, 0))
    deeper = geometry.translation(truth[:3, 2] * 20) @ truth
    kept = candidates.distinct([truth, nudged, deeper, turned], np.eye(4), body, 5)
    np.testing.assert_allclose(kept, [truth, turned])


def test_other_poses_are_kept_once_each_and_those_of_the_loser_too(body, truth):
    def solution(pose, evidence, *others):
        fit = Fit([pose], evidence, np.eye(6))
        return competition.Solution(pose, fit, None, 1, 1.0, evidence, others=others)

    turned = moved(truth, body, (0, 10, 0), (0, 0, 0))
    away = moved(truth, body, (0, 0, 0), (12, 0, 0))
    nudged = moved(truth, body, (1, 0, 0), (1, 1, 0))
    view = View(take_xray([body], [truth]))
    best, loser = solution(truth, 0.9, nudged, turned), solution(away, 0.7, turned)
    for pair in ((best, loser), (loser, best)):
        won = competition.better(*pair)
        assert np.array_equal(won.fit.poses[0], truth)
        np.testing.assert_allclose(competition.rivals([view], body, won), [turned, away])
    second = Fit([away], 0.8, np.eye(6))
    won = replace(competition.better(best, loser), runner_up=second)  # the runner-up comes first
    np.testing.assert_allclose(competition.rivals([view], body, won), [away, turned])
    far = [moved(truth, body, (0, 9 * n, 0), (0, 0, 0)) for n in range(1, 9)]
    many = solution(truth, 0.9, *far)
    assert len(competition.rivals([view], body, many)) == competition.KEPT_RIVALS


def test_runs_that_end_at_the_same_pose_are_merged_into_the_best_and_counted(body, truth):
    def run(pose, evidence):
        return competition.Run(pose, Fit([pose], evidence, np.eye(6)), evidence)

    nudged = moved(truth, body, (1, 0, 0), (1, 1, 0))
    turned = moved(truth, body, (0, 10, 0), (0, 0, 0))
    runs = [run(truth, 0.9), run(turned, 0.8), run(nudged, 0.7)]
    merged = competition.merge(runs, np.eye(4), body)
    assert [(each.evidence, each.merged) for each in merged] == [(0.9, 2), (0.8, 1)]


@pytest.mark.slow
def test_several_start_poses_lead_to_the_truth_if_only_the_last_is_near(body, truth):
    starts = [
        moved(truth, body, (40, 0, 0), (0, 0, 0)),
        moved(truth, body, (0, -50, 0), (30, 0, 0)),
        moved(truth, body, (6, -4, 3), (6, 4, 8)),
    ]
    solution = competition.compete_from([View(take_xray([body], [truth]))], body, starts)
    assert error(solution.fit.poses[0], truth, body).in_plane_mm < 0.1


def test_a_whole_ct_converges_from_a_distant_start_pose_without_other_candidates(body, truth):
    view, whole = View(take_xray([body], [truth])), replace(body, complete=True)
    far = moved(truth, body, (9, -9, 8), (18, 15, 30))
    solution = competition.compete([view], whole, [far])
    assert error(solution.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert solution.candidates == 1


@pytest.mark.slow
def test_a_whole_ct_whose_start_pose_does_not_converge_has_other_candidates(body, truth):
    view, whole = View(take_xray([body], [truth])), replace(body, complete=True)
    solution = competition.compete([view], whole, [moved(truth, body, (0, 100, 0), (0, 0, 0))])
    assert solution.candidates > 1


@pytest.mark.slow
def test_the_clock_of_a_trace_runs_through_all_levels(body, truth):
    view = View(take_xray([body], [truth]))
    trace = competition.compete([view], body, [moved(truth, body)]).fit.trace
    seconds = [each.seconds for each in trace]
    assert seconds == sorted(seconds)
    assert trace[0].pixel_mm > trace[-1].pixel_mm
