"""What one bone that is found says about another."""

from dataclasses import replace

import helpers
import numpy as np
import pytest
from test_refinement import DETECTOR, error, moved, take_xray

from common import geometry
from common.drr import joseph
from common.geometry.pose_range import PoseRange
from common.registration import competition, neighbours, register
from common.registration.competition import Solution
from common.registration.gauss_newton import Fit, Trace
from common.registration.pyramid import Body, View
from common.registration.neighbours import Found
from common.registration.request import Followed
from common.registration.scene import Structure
from common.registration.starts import Starter
from common.registration.verdict import judge
from common.volume import attenuation
from common.volume.attenuation import SOFT_TISSUE_HU
from common.volume.volume import points_of

RANGES = PoseRange(
    r1=(-20, 40), r2=(-25, 15), r3=(-15, 25), tx=(-60, 60), ty=(580, 660), tz=(-60, 60)
)


def bone_of(stretch: float = 1.0) -> Structure:
    """A lone bone as a structure; stretched along its second axis, it is another of like shape."""
    ct = helpers.small_ct(2.0)
    ct = replace(
        ct,
        data=np.where(ct.data > 250, ct.data, -1000).astype(np.int16),
        affine=ct.affine @ np.diag([1, stretch, 1, 1]),
    )
    whole = attenuation.select_structures(ct, None, None, attenuation.WHOLE_ATTENUATION_HU)
    shown = attenuation.select_structures(ct, None, None, SOFT_TISSUE_HU)
    return Structure(
        ct,
        whole,
        Body(joseph.FusedRenderer(shown, ct.isocentre_mm), points_of(shown, shown.data > 0)),
        True,
        None,
        None,
    )


@pytest.fixture(scope="module")
def pair() -> tuple[list[Structure], list[np.ndarray]]:
    """Two bones of like shape and where they are: side by side."""
    bones = [bone_of(), bone_of(1.25)]
    camera = geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )
    aside = [geometry.translation(np.array([shift, 0, 0])) for shift in (-28.0, 30.0)]
    return bones, [
        geometry.translation(bone.body.renderer.centre_mm) @ away @ camera
        for bone, away in zip(bones, aside, strict=True)
    ]


def winner_at(pose: np.ndarray, similarity: float) -> Solution:
    return Solution(
        pose,
        Fit([pose], similarity, np.diag([1e-6] * 3 + [1e-3] * 3)),
        Trace(),
        None,
        1,
        1.0,
        similarity,
    )


def test_bones_in_one_place_overlap_and_bones_side_by_side_do_not(pair):
    (one, other), (pose, beside) = pair
    there = geometry.translation(other.body.renderer.centre_mm - one.body.renderer.centre_mm) @ pose
    assert neighbours.overlap(one, pose, one, pose) > 0.95
    assert neighbours.overlap(one, pose, other, there) > 0.5
    assert neighbours.overlap(one, pose, other, beside) == 0


def test_a_picture_without_one_bone_shows_the_other_alone(pair):
    (one, other), poses = pair
    both = take_xray([one.body, other.body], poses, noise=0)
    alone = take_xray([other.body], poses[1:], noise=0)
    doubled = replace(both, image=2 * both.image)  # the picture's unit is nobody's
    left = neighbours.without(View(doubled), one.body, poses[0]).xray.image
    assert (
        np.abs(left - 2 * alone.image).max() < 0.1 * np.abs(doubled.image - 2 * alone.image).max()
    )


def test_a_bone_that_was_taken_for_its_neighbour_is_found_beside_it(pair):
    bones, poses = pair
    views = [View(take_xray([bone.body for bone in bones], poses))]
    wrong = (
        geometry.translation(bones[1].body.renderer.centre_mm - bones[0].body.renderer.centre_mm)
        @ poses[0]
    )
    found = [Found(poses[0], winner_at(poses[0], 0.95)), Found(wrong, winner_at(wrong, 0.9))]
    starter = Starter("search", RANGES, False, None, None)
    first, second = neighbours.search_beside(views, bones, starter, 0, found)
    assert first is found[0]
    assert error(second.solution.fit.poses[0], poses[1], bones[1].body).in_plane_mm < 0.5
    assert (
        neighbours.search_beside(views, bones, replace(starter, method="dicom"), 0, found) == found
    )  # a given start is not second-guessed


def test_a_bone_inside_another_is_suspect(pair):
    (bone, _), (pose, _) = pair
    view = View(take_xray([bone.body], [pose]))
    assert judge(winner_at(pose, 0.9), [view], bone).code == "ok"
    verdict = judge(winner_at(pose, 0.9), [view], bone, overlap=0.4)
    assert (verdict.code, verdict.reasons) == (
        "suspect",
        ("40 % of the bone lies inside another bone",),
    )


def test_a_shaft_half_outside_the_picture_counts_less(pair):
    (bone, _), (pose, _) = pair
    view = View(take_xray([bone.body], [pose]))
    camera = geometry.invert(pose)
    edge = (
        (75 * 1.2) * geometry.apply(camera, bone.body.renderer.centre_mm)[2] / DETECTOR.sdd_mm
    )  # the body's middle on the picture's left border
    column = geometry.apply(camera, bone.body.renderer.centre_mm)[0]
    aside = pose @ geometry.translation(np.array([column + edge, 0, 0]))
    assert competition.share_in_view(view, bone.body, pose) == 1
    assert 0.3 < competition.share_in_view(view, bone.body, aside) < 0.7
    covered = replace(view, xray=replace(view.xray, valid=np.zeros_like(view.xray.valid)))
    assert competition.share_in_view(covered, bone.body, pose) == 0


def test_a_bone_follows_its_neighbour_into_a_frame_where_both_have_moved_far(pair):
    bones, poses = pair
    far = geometry.twist(
        np.r_[np.radians([4, -6, 5]), 14.0, -9, 20], np.array([0.0, 0, 620])
    )  # in the rig's frame
    frame = [View(take_xray([bone.body for bone in bones], [pose @ far for pose in poses]))]
    starter = Starter("search", RANGES, False, None, None)
    found = register.register(frame, bones, starter, 0, [Followed(pose, 0.9) for pose in poses])
    for bone, pose, each in zip(bones, poses, found, strict=True):
        assert error(each.pose, pose @ far, bone.body).in_plane_mm < 0.3
        assert each.verdict.code == "ok"


def test_a_pose_that_slides_away_from_frame_to_frame_is_tried_from_further_starts_and_suspect_where_that_does_not_help(
    pair, monkeypatch
):
    (bone, _), (pose, _) = pair
    views = [View(take_xray([bone.body], [pose]))]
    starter = Starter("fixed", RANGES, False, None, None)
    tried = []
    monkeypatch.setattr(
        register,
        "compete",
        lambda *given, **more: tried.append(given) or competition.compete(*given, **more),
    )
    near = moved(pose, bone.body, (0, 4, 0), (1, 0, 0))
    (found,) = register.register(views, [bone], starter, 0, [Followed(near, 0.9)])
    assert (tried, found.verdict.code) == ([], "ok")
    assert error(found.pose, pose, bone.body).in_plane_mm < 0.2
    (found,) = register.register(
        views, [bone], starter, 0, [Followed(near, found.solution.evidence + 0.06)]
    )
    assert len(tried) == 1
    assert found.verdict.code == "suspect"
    assert "less of the image than in other frames" in found.verdict.reasons[0]
    assert found.followed(Followed(pose, 0.5)).evidence == found.solution.evidence


def test_a_bone_that_explains_much_less_than_its_neighbour_is_looked_for_again_and_one_that_explains_as_much_is_not(
    pair,
):
    bones, poses = pair
    views = [View(take_xray([bone.body for bone in bones], poses))]
    aside = geometry.translation([0.0, 0, 40]) @ poses[1]
    starter = Starter("search", RANGES, False, None, None)
    less, as_much = (
        [Found(poses[0], winner_at(poses[0], 0.95)), Found(aside, winner_at(aside, value))]
        for value in (0.8, 0.93)
    )
    assert neighbours.overlap(bones[1], aside, bones[0], poses[0]) < neighbours.OVERLAPPING
    assert (
        error(
            neighbours.search_beside(views, bones, starter, 0, less)[1].solution.fit.poses[0],
            poses[1],
            bones[1].body,
        ).in_plane_mm
        < 0.5
    )
    assert neighbours.search_beside(views, bones, starter, 0, as_much)[1] is as_much[1]
