"""Several bones and frames: what a registered bone or frame tells about the next one."""

from dataclasses import replace

import helpers
import numpy as np
import pytest
from test_refinement import DETECTOR, error, moved, take_xray

from common import geometry
from common.drr import joseph
from common.geometry.pose_range import PoseRange
from common.registration import competition, following, joints, neighbours, register
from common.registration.competition import Solution
from common.registration.found import Found
from common.registration.gauss_newton import Fit
from common.registration.request import Followed
from common.registration.scene import Body, Structure, View
from common.registration.starts import Starter
from common.registration.verdict import Surroundings, judge
from common.volume import attenuation
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.volume import points_of

RANGES = PoseRange(
    r1=(-20, 40), r2=(-25, 15), r3=(-15, 25), tx=(-60, 60), ty=(580, 660), tz=(-60, 60)
)
SEARCH = Starter("search", RANGES)


def bone_of(stretch: float = 1.0) -> Structure:
    """A single bone as a structure; stretched along its second axis, it is a similar one."""
    ct = helpers.small_ct(2.0)
    ct = replace(
        ct,
        data=np.where(ct.data > 250, ct.data, -1000).astype(np.int16),
        affine=ct.affine @ np.diag([1, stretch, 1, 1]),
    )
    whole = attenuation.select_structures(ct, None, None, attenuation.WHOLE_ATTENUATION_HU)
    shown = attenuation.select_structures(ct, None, None, SOFT_TISSUE_HU)
    renderer = joseph.FusedRenderer(shown, ct.isocentre_mm)
    body = Body(renderer, points_of(shown, shown.data > 0))
    return Structure(ct, whole, body, excess=True, mask=None, labels=None)


@pytest.fixture(scope="module")
def pair() -> tuple[list[Structure], list[np.ndarray]]:
    """Two similar bones and their poses, side by side."""
    bones = [bone_of(), bone_of(1.25)]
    camera = geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )
    aside = [geometry.translation(np.array([shift, 0, 0])) for shift in (-28.0, 30.0)]
    return bones, [
        geometry.translation(bone.body.centre_mm) @ away @ camera
        for bone, away in zip(bones, aside, strict=True)
    ]


def solution_at(pose: np.ndarray, similarity: float) -> Solution:
    fit = Fit([pose], similarity, np.diag([1e-6] * 3 + [1e-3] * 3))
    return Solution(pose, fit, None, 1, 1.0, similarity)


def found_at(pose: np.ndarray, similarity: float) -> Found:
    return Found(pose, solution_at(pose, similarity))


# --------------------------------------------------------------------------------------- neighbours


@pytest.fixture(scope="module")
def joint() -> tuple[Structure, Structure]:
    """Two neighbours cut from one CT: the second lies 60 mm along z, with a gap between them."""
    one = bone_of()
    source = replace(one.ct.lineage, source={"sha256": "same CT"})
    one = replace(one, ct=replace(one.ct, lineage=source))
    extent = np.ptp(one.body.points[:, 2])
    shifted = replace(source, scanner_from_volume=geometry.translation((0, 0, extent + 5)))
    return one, replace(one, ct=replace(one.ct, lineage=shifted))


def test_a_bone_turned_in_its_joint_is_not_apart_and_one_far_away_is(pair, joint):
    (one, other), (_, (pose, _)) = joint, pair
    known_from_other = other.ct.lineage.scanner_from_volume
    as_in_ct = geometry.invert(known_from_other) @ pose
    assert joints.apart_mm(one, pose, other, as_in_ct) == 0
    near, _ = joints.joint_of(one, other)
    for degrees in (-120, 60, 150):
        flexed = geometry.twist(np.r_[np.radians(degrees), 0, 0, 0, 0, 0], near.point)
        turned = geometry.invert(flexed @ known_from_other) @ pose
        assert joints.apart_mm(one, pose, other, turned) == 0
    upside_down = geometry.twist(np.array([np.pi, 0, 0, 0, 0, 0]), near.point)
    turned = geometry.invert(upside_down @ known_from_other) @ pose
    assert joints.apart_mm(one, pose, other, turned) > 5
    away = geometry.invert(geometry.translation((100, 0, 0)) @ known_from_other) @ pose
    assert joints.apart_mm(one, pose, other, away) > 20
    assert joints.apart_mm(*[pair[0][0], pose, pair[0][1], away]) == 0  # of different CTs


@pytest.mark.parametrize(("similarity", "stands"), [(0.83, False), (0.93, True)])
def test_only_a_clear_fit_stands_against_a_joint_that_does_not_allow_it(
    pair, joint, similarity, stands
):
    (_, (pose, _)), known_from_other = pair, joint[1].ct.lineage.scanner_from_volume
    away = geometry.invert(geometry.translation((100, 0, 0)) @ known_from_other) @ pose
    found = [found_at(pose, similarity), found_at(away, 0.6)]
    apart = [joints.largest_apart_mm(number, joint, found) for number in (0, 1)]
    assert apart[1] > 20
    assert (apart[0] == 0) == stands


def test_a_bone_that_is_apart_from_its_joint_is_suspect(pair):
    (bone, _), (pose, _) = pair
    view = View(take_xray([bone.body], [pose]))
    verdict = judge(solution_at(pose, 0.9), [view], bone, Surroundings(apart_mm=90.0))
    assert (verdict.code, verdict.reasons) == (
        "suspect",
        (
            "it is 90 mm from where its joint with the other bone lets it be: one of the two poses"
            " is wrong",
        ),
    )


def test_a_bone_whose_partner_is_not_found_is_ok_only_as_a_clear_fit(pair, joint):
    """As in lateral X-rays of both legs, where a wrong tibia lay beside a wrong femur."""
    (_, (pose, _)), view = pair, View(take_xray([pair[0][0].body], [pair[1][0]]))
    lost, found = found_at(pose, 0.5), found_at(pose, 0.85)
    alone = [
        joints.is_alone(1, [view], joint, [partner, found_at(pose, similarity)])
        for partner, similarity in ((lost, 0.78), (lost, 0.93), (found, 0.78))
    ]
    assert alone == [True, False, False]
    other_ct = [pair[0][0], joint[1]]
    assert not joints.is_alone(1, [view], other_ct, [lost, found_at(pose, 0.78)])
    verdict = judge(solution_at(pose, 0.8), [view], joint[1], Surroundings(alone=True))
    assert (verdict.code, verdict.reasons) == (
        "suspect",
        ("the other bone of its joint is not found, and this is no clear fit (similarity 0.80)",),
    )


def test_a_bone_found_beside_an_uncertain_one_then_corrects_that_one(pair, monkeypatch):
    """As in X-rays upside down, where a tibia that lay on the femur led to the femur."""
    bones, poses = pair
    wrong = moved(poses[1], bones[1].body, (0, 0, 170), (20, 10, 0))
    right = iter((solution_at(poses[0], 0.95), solution_at(poses[1], 0.9)))
    monkeypatch.setattr(neighbours, "_search_near", lambda *given: next(right))
    monkeypatch.setattr(neighbours, "is_found", lambda one, *given: one.fit.similarity > 0.87)
    found = [found_at(moved(poses[0], bones[0].body, (90, 0, 0)), 0.5), found_at(wrong, 0.85)]
    view = View(take_xray([bone.body for bone in bones], poses))
    corrected = neighbours.search_beside([view], bones, SEARCH, 0, found)
    for one, pose in zip(corrected, poses, strict=True):
        np.testing.assert_allclose(one.solution.fit.poses[0], pose)


def test_a_displaced_bone_gives_way_to_the_first_one_that_is_found(pair, monkeypatch):
    """A worse pose of the stage before does not keep it."""
    bones, poses = pair
    far = moved(poses[1], bones[1].body, (0, 0, 0), (200, 0, 0))
    astray = moved(poses[1], bones[1].body, (60, 0, 0), (30, 0, 0))
    beside = iter((solution_at(astray, 0.5), solution_at(poses[1], 0.77)))
    monkeypatch.setattr(neighbours, "_search_near", lambda *given: next(beside))
    monkeypatch.setattr(neighbours, "apart_mm", lambda *given: 100.0)
    certain = {0.95, 0.77}
    monkeypatch.setattr(neighbours, "is_found", lambda one, *given: one.fit.similarity in certain)
    found = [found_at(poses[0], 0.95), found_at(far, 0.8)]
    view = View(take_xray([bone.body for bone in bones], poses))
    _, second = neighbours.search_beside([view], bones, Starter("search"), 0, found)
    np.testing.assert_allclose(second.solution.fit.poses[0], poses[1])


@pytest.mark.parametrize(
    ("evidence", "similarity", "alike"),
    [(0.79, 0.88, True), (0.73, 0.88, False), (0.75, 0.78, False), (0.85, 0.95, True)],
)
def test_a_bone_is_as_certain_as_the_best_by_its_evidence_and_its_similarity(
    pair, evidence, similarity, alike
):
    """The best one may be partly out of view, which lowers its evidence only."""
    _, (pose, _) = pair
    best = replace(solution_at(pose, 0.89), evidence=0.79)
    assert joints.is_alike(replace(solution_at(pose, similarity), evidence=evidence), best) == alike


def test_bones_at_one_position_overlap_and_bones_side_by_side_do_not(pair):
    (one, other), (pose, beside) = pair
    there = geometry.translation(other.body.centre_mm - one.body.centre_mm) @ pose
    assert joints.overlap(one, pose, one, pose) > 0.95
    assert joints.overlap(one, pose, other, there) > 0.5
    assert joints.overlap(one, pose, other, beside) == 0


def test_an_image_without_one_bone_shows_the_other_alone(pair):
    (one, other), poses = pair
    both = take_xray([one.body, other.body], poses, noise=0)
    alone = take_xray([other.body], poses[1:], noise=0)
    doubled = replace(both, image=2 * both.image)  # the scale of an X-ray is unknown
    left = neighbours.without(View(doubled), one.body, poses[0]).xray.image
    largest = np.abs(doubled.image - 2 * alone.image).max()
    assert np.abs(left - 2 * alone.image).max() < 0.1 * largest


@pytest.mark.slow
def test_a_bone_that_was_mistaken_for_its_neighbour_is_found_next_to_it(pair):
    bones, poses = pair
    views = [View(take_xray([bone.body for bone in bones], poses))]
    wrong = geometry.translation(bones[1].body.centre_mm - bones[0].body.centre_mm) @ poses[0]
    found = [found_at(poses[0], 0.95), found_at(wrong, 0.9)]
    first, second = neighbours.search_beside(views, bones, SEARCH, 0, found)
    assert first is found[0]
    assert error(second.solution.fit.poses[0], poses[1], bones[1].body).in_plane_mm < 0.5
    stated = replace(SEARCH, method="dicom")
    assert neighbours.search_beside(views, bones, stated, 0, found) == found


@pytest.mark.slow
def test_only_a_bone_with_much_less_evidence_than_its_neighbour_is_searched_for_again(pair):
    bones, poses = pair
    views = [View(take_xray([bone.body for bone in bones], poses))]
    aside = geometry.translation([0.0, 0, 40]) @ poses[1]
    assert joints.overlap(bones[1], aside, bones[0], poses[0]) < joints.OVERLAPPING
    less, as_much = (
        [found_at(poses[0], 0.95), found_at(aside, similarity)] for similarity in (0.8, 0.93)
    )
    again = neighbours.search_beside(views, bones, SEARCH, 0, less)[1].solution
    assert error(again.fit.poses[0], poses[1], bones[1].body).in_plane_mm < 0.5
    assert neighbours.search_beside(views, bones, SEARCH, 0, as_much)[1] is as_much[1]


def test_a_bone_inside_another_is_suspect(pair):
    (bone, _), (pose, _) = pair
    view = View(take_xray([bone.body], [pose]))
    assert judge(solution_at(pose, 0.9), [view], bone).code == "ok"
    verdict = judge(solution_at(pose, 0.9), [view], bone, Surroundings(overlap=0.4))
    assert (verdict.code, verdict.reasons) == (
        "suspect",
        ("40 % of the bone overlaps another bone",),
    )


def test_the_share_in_view_is_that_of_the_points_in_the_valid_field(pair):
    (bone, _), (pose, _) = pair
    view = View(take_xray([bone.body], [pose]))
    centre = geometry.apply(geometry.invert(pose), bone.body.centre_mm)
    # moves the centre of the body to the left border of the image
    across = centre[0] + (75 * 1.2) * centre[2] / DETECTOR.sdd_mm
    aside = pose @ geometry.translation(np.array([across, 0, 0]))
    assert view.share_in_view(bone.body, pose) == 1
    assert 0.3 < view.share_in_view(bone.body, aside) < 0.7
    covered = replace(view, xray=replace(view.xray, valid=np.zeros_like(view.xray.valid)))
    assert covered.share_in_view(bone.body, pose) == 0


# ------------------------------------------------------------------------------------------- frames


@pytest.mark.slow
def test_a_bone_follows_its_neighbour_into_a_frame_in_which_both_have_moved_far(pair):
    bones, poses = pair
    # in the frame of the rig
    far = geometry.twist(np.r_[np.radians([4, -6, 5]), 14.0, -9, 20], np.array([0.0, 0, 620]))
    frame = [View(take_xray([bone.body for bone in bones], [pose @ far for pose in poses]))]
    found = register.register(frame, bones, SEARCH, 0, [Followed(pose, 0.9) for pose in poses])
    for bone, pose, each in zip(bones, poses, found, strict=True):
        assert error(each.pose, pose @ far, bone.body).in_plane_mm < 0.3
        assert each.verdict.code == "ok"


@pytest.mark.slow
def test_a_bone_is_met_where_its_motion_leads(pair, monkeypatch):
    """By 40 mm and 12 degrees a frame, too far for a refinement from the pose before."""
    (bone, _), (pose, _) = pair
    step = geometry.twist(np.r_[0, 0, np.radians(12), 24.0, 8, 30], np.array([0.0, 0, 620]))
    poses = [pose @ np.linalg.matrix_power(step, number - 1) for number in range(3)]
    monkeypatch.setattr(following, "compete", lambda *given, **more: pytest.fail("searched"))
    frame = [View(take_xray([bone.body], [poses[2]]))]
    before = Followed(poses[1], 0.5, geometry.invert(poses[0]) @ poses[1])
    np.testing.assert_allclose(before.expected, poses[2], atol=1e-9)
    (found,) = register.register(frame, [bone], SEARCH, 0, [before])
    assert error(found.pose, poses[2], bone.body).in_plane_mm < 0.2
    after = found.followed(before)
    assert error(after.expected, poses[2] @ step, bone.body).in_plane_mm < 1
    np.testing.assert_array_equal(after.without_motion().expected, after.pose)


@pytest.mark.slow
def test_a_lost_bone_is_looked_for_beside_its_neighbour_before_everywhere(pair, monkeypatch):
    bones, poses = pair
    frame = [View(take_xray([bone.body for bone in bones], poses))]
    monkeypatch.setattr(register, "find", lambda *given: pytest.fail("searched everywhere"))
    lost = moved(poses[1], bones[1].body, (50, 0, 40), (35, 0, 0))
    last = [Followed(poses[0], 0.5), Followed(lost, 0.5)]
    found = register.register(frame, bones, Starter("search"), 0, last)
    for bone, pose, each in zip(bones, poses, found, strict=True):
        assert error(each.pose, pose, bone.body).in_plane_mm < 0.3
        assert each.verdict.code == "ok"


@pytest.fixture
def tried(monkeypatch) -> list:
    """The competitions of the frames so far."""
    calls = []

    def compete(*given, **more):
        calls.append(given)
        return competition.compete(*given, **more)

    monkeypatch.setattr(following, "compete", compete)
    return calls


@pytest.mark.slow
def test_a_pose_that_drifts_between_frames_gets_more_start_poses_and_is_suspect_if_they_fail(
    pair, tried
):
    (bone, _), (pose, _) = pair
    views = [View(take_xray([bone.body], [pose]))]
    starter = Starter("fixed", RANGES)
    near = moved(pose, bone.body, (0, 4, 0), (1, 0, 0))
    (found,) = register.register(views, [bone], starter, 0, [Followed(near, 0.9)])
    assert (tried, found.verdict.code) == ([], "ok")
    assert error(found.pose, pose, bone.body).in_plane_mm < 0.2
    before = Followed(near, found.solution.evidence + 0.06)
    (found,) = register.register(views, [bone], starter, 0, [before])
    assert len(tried) == 1
    assert found.verdict.code == "suspect"
    assert "evidence is lower than in the best frame" in found.verdict.reasons[0]
    assert found.followed(Followed(pose, 0.5)).evidence == found.solution.evidence


@pytest.mark.slow
def test_frames_after_one_in_which_candidates_found_no_better_pose_are_compared_with_it(
    pair, tried
):
    """A bone that shows less contrast from another side is not searched for in every frame."""
    (bone, _), (pose, _) = pair
    views = [View(take_xray([bone.body], [pose]))]
    starter = Starter("fixed", RANGES)
    near = moved(pose, bone.body, (0, 4, 0), (1, 0, 0))
    (found,) = register.register(views, [bone], starter, 0, [Followed(near, 0.9)])
    before = Followed(near, found.solution.evidence + 0.03)
    (found,) = register.register(views, [bone], starter, 0, [before])
    assert len(tried) == 1
    after = found.followed(before)
    assert after.evidence == before.evidence
    assert after.confirmed == found.solution.evidence
    (found,) = register.register(views, [bone], starter, 0, [after.without_motion()])
    assert len(tried) == 1
    assert found.followed(after).confirmed >= after.confirmed
