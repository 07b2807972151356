from dataclasses import replace

import numpy as np
from test_refinement import body, error, moved, take_xray, truth  # noqa: F401

from common import geometry
from common.registration import competition
from common.registration.gauss_newton import Fit, Trace
from common.registration.pyramid import View


def test_starts_scattered_around_a_poor_one_find_the_truth(body, truth):
    poor = moved(truth, body, (9, -9, 8), (10, 12, -9))
    winner = competition.compete([View(take_xray([body], [truth]))], body, [poor])
    assert error(winner.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert winner.candidates == competition.SCATTER_COUNT + 1
    assert winner.agreement > 0.3


def test_the_same_seed_gives_the_same_pose(body, truth):
    view = View(take_xray([body], [truth]))
    first, second = (
        competition.compete([view], body, [moved(truth, body)], seed=3).fit.poses[0]
        for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_no_candidate_in_the_picture_gives_no_winner(body, truth):
    away = geometry.translation(truth[:3, 0] * 2000) @ truth
    assert competition.compete([View(take_xray([body], [truth]))], body, [away]) is None


def test_the_true_pose_scores_best(body, truth):
    poses = [
        truth,
        moved(truth, body, (5, 0, 0), (0, 0, 0)),
        moved(truth, body, (0, 0, 0), (6, 0, 4)),
    ]
    scores = competition.score(
        [View(take_xray([body], [truth]))], body, poses, competition.COARSE[1], poses[:1]
    )
    assert scores.argmax() == 0
    assert scores[0] > 0.98


def test_near_duplicates_are_dropped_but_depth_separates_little(body, truth):
    turned = moved(truth, body, (0, 10, 0), (0, 0, 0))
    nudged = moved(truth, body, (1, 0, 0), (1, 1, 0))
    deeper = geometry.translation(truth[:3, 2] * 20) @ truth
    assert [
        np.allclose(pose, kept)
        for pose, kept in zip(
            competition.distinct([truth, nudged, deeper, turned], np.eye(4), body, 5),
            (truth, turned),
            strict=True,
        )
    ] == [True, True]


def test_runs_that_come_together_go_on_as_the_best_of_them_and_keep_their_number(body, truth):
    def run(pose, evidence):
        return competition.Run(pose, Fit([pose], evidence, np.eye(6)), Trace(), evidence)

    nudged, turned = (
        moved(truth, body, (1, 0, 0), (1, 1, 0)),
        moved(truth, body, (0, 10, 0), (0, 0, 0)),
    )
    merged = competition.merge(
        [run(truth, 0.9), run(turned, 0.8), run(nudged, 0.7)], np.eye(4), body
    )
    assert [(each.evidence, each.starts) for each in merged] == [(0.9, 2), (0.8, 1)]


def test_a_list_of_starts_ends_at_the_truth_where_only_the_last_is_near(body, truth):
    starts = [
        moved(truth, body, (40, 0, 0), (0, 0, 0)),
        moved(truth, body, (0, -50, 0), (30, 0, 0)),
        moved(truth, body, (6, -4, 3), (6, 4, 8)),
    ]
    winner = competition.compete_from([View(take_xray([body], [truth]))], body, starts)
    assert error(winner.fit.poses[0], truth, body).in_plane_mm < 0.1


def test_a_whole_ct_comes_back_from_far_by_itself(body, truth):
    whole = replace(body, complete=True)
    winner = competition.compete(
        [View(take_xray([body], [truth]))], whole, [moved(truth, body, (9, -9, 8), (18, 15, 30))]
    )
    assert error(winner.fit.poses[0], truth, body).in_plane_mm < 0.1
    assert winner.candidates == 1


def test_a_whole_ct_that_does_not_come_back_by_itself_competes(body, truth):
    view, whole = View(take_xray([body], [truth])), replace(body, complete=True)
    winner = competition.compete([view], whole, [moved(truth, body, (0, 100, 0), (0, 0, 0))])
    assert winner.candidates > 1
