"""Files for 3D Slicer: read through SimpleITK, a landmark of the CT is projected to its pixel."""

import json

import helpers
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from common import geometry
from common.geometry import MIRROR, Detector
from common.results import scanner_view, slicer
from common.xray import outline

DETECTOR = Detector(90, 110, 900.0, (1.6, 1.8), (37.0, 41.0))
LANDMARKS = np.array([[10.0, -4, 22], [-31, 12, -17], [5, 40, 3]])  # RAS mm of the CT
MOTION = geometry.twist(np.array([0.1, -0.2, 0.3, 4, 5, -6]), np.array([1.0, 2, 3]))
LPS = np.array([-1.0, -1, 1])


def camera():
    return geometry.translation([3, -8, 12]) @ geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )


@pytest.fixture(params=[False, True], ids=["as it is", "mirrored and flipped"])
def exported(request, tmp_path):
    """Folder, view, X-ray, and the pixels of the outline."""
    scanner_from_volume = MIRROR if request.param else np.eye(4)
    flip = MIRROR if request.param else np.eye(4)
    volume_from_camera = scanner_from_volume @ camera() @ flip
    bones = [
        scanner_view.BoneMotion("femur", "left", np.eye(4), scanner_from_volume),
        scanner_view.BoneMotion("tibia", "left", MOTION, scanner_from_volume),
    ]
    seen = DETECTOR.flipped() if request.param else DETECTOR
    view = scanner_view.ScannerView.of(
        seen, volume_from_camera, volume_from_camera, scanner_from_volume, request.param, bones
    )
    xray = (
        np.random.default_rng(0)
        .integers(0, 255, (DETECTOR.height, DETECTOR.width))
        .astype(np.uint8)
    )
    curve = np.array([[20.0, 30.0], [60, 30], [60, 70], [20, 70], [20, 30]]).repeat(4, 0)
    slicer.export(tmp_path / "slicer", [view], [xray], [{"femur": [curve]}])
    return tmp_path / "slicer", view, xray, curve


def to_parent(path, points):
    """Return points under a transform node in the scene: the inverse of the ITK file, in LPS."""
    inverse = sitk.ReadTransform(str(path)).GetInverse()
    return np.array([inverse.TransformPoint((p * LPS).tolist()) for p in points]) * LPS


def test_the_camera_file_projects_a_landmark_onto_its_pixel(exported):
    folder, view, _, _ = exported
    transform = sitk.ReadTransform(str(folder / "camera_LPS.tfm"))
    in_camera = np.array([transform.TransformPoint((p * LPS).tolist()) for p in LANDMARKS]) * LPS
    pixels = (
        in_camera[:, :2] / in_camera[:, 2:] * view.sdd_mm / view.pixel_spacing_mm
        + view.principal_point_px
    )
    np.testing.assert_allclose(pixels, geometry.project(LANDMARKS, DETECTOR, camera()), atol=0.05)
    homogeneous = np.c_[LANDMARKS, np.ones(3)] @ np.array(view.projection).T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], pixels, atol=0.05)


def test_the_camera_node_puts_its_origin_at_the_source(exported):
    folder, view, _, _ = exported
    np.testing.assert_allclose(
        to_parent(folder / "camera_LPS.tfm", np.zeros((1, 3)))[0], view.source_mm, atol=1e-6
    )
    np.testing.assert_allclose(view.source_mm, camera()[:3, 3], atol=1e-6)


def test_each_bones_node_moves_the_ct_to_where_the_bone_was_seen(exported):
    folder, _, _, _ = exported
    np.testing.assert_allclose(
        to_parent(folder / "femur_motion_LPS.tfm", LANDMARKS), LANDMARKS, atol=1e-9
    )
    np.testing.assert_allclose(
        to_parent(folder / "tibia_motion_LPS.tfm", LANDMARKS),
        geometry.apply(MOTION, LANDMARKS),
        atol=1e-6,
    )


def test_the_volumes_node_puts_the_registered_file_into_the_ct(exported):
    folder, view, _, _ = exported
    expected = geometry.apply(view.bones[0].scanner_from_volume, LANDMARKS)
    np.testing.assert_allclose(
        to_parent(folder / "femur_volume_LPS.tfm", LANDMARKS), expected, atol=1e-6
    )


def test_a_pixel_of_the_x_ray_lies_on_the_ray_through_its_landmark(exported):
    folder, view, xray, _ = exported
    image = sitk.ReadImage(str(folder / "xray.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[0], xray)
    for landmark, pixel in zip(
        LANDMARKS, geometry.project(LANDMARKS, DETECTOR, camera()), strict=True
    ):
        on_plane = np.array(image.TransformContinuousIndexToPhysicalPoint([*pixel, 0.0])) * LPS
        source = np.array(view.source_mm)
        ray, to_landmark = on_plane - source, landmark - source
        assert np.linalg.norm(np.cross(ray, to_landmark)) / np.linalg.norm(ray) < 1e-3
        # the bone is between source and detector
        assert np.linalg.norm(ray) > np.linalg.norm(to_landmark)


def test_the_outline_lies_on_the_detector_where_it_was_drawn(exported):
    folder, view, _, curve = exported
    content = json.loads((folder / "outline.mrk.json").read_text())
    (markup,) = content["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == (
        "ClosedCurve",
        "LPS",
        "mm",
    )
    points = np.array([p["position"] for p in markup["controlPoints"]]) * LPS
    homogeneous = np.c_[points, np.ones(len(points))] @ np.array(view.projection).T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], curve, atol=1e-6)
    drawn = np.asarray(Image.open(folder / "outline.png")).astype(int)
    scale = drawn.shape[0] // DETECTOR.height
    row, column = int((30 + 0.5) * scale - 0.5), int((40 + 0.5) * scale - 0.5)
    assert np.ptp(drawn[row - 1 : row + 2, column], axis=-1).max() > 100  # coloured on the line
    assert np.ptp(drawn[50 * scale, 40 * scale]) == 0  # grey inside


def test_file_names_state_the_frame(exported):
    folder, _, _, _ = exported
    assert all("_LPS" in path.name for path in folder.glob("*.tfm"))


def test_a_discs_outline_is_its_circle():
    rows, columns = np.indices((80, 100))
    drr = np.clip(1 - np.hypot(columns - 45, rows - 33) / 20, 0, None)
    (curve,) = outline.outline(drr)
    # 5 % of the peak is reached at radius 19
    np.testing.assert_allclose(np.hypot(*(curve - [45, 33]).T), 19, atol=0.4)


def test_a_bone_cut_by_the_edge_is_closed_along_it():
    drr = np.zeros((40, 50))
    drr[10:30, 35:] = 1
    (curve,) = outline.outline(drr)
    np.testing.assert_array_equal(curve[0], curve[-1])
    assert curve[:, 0].max() == 49


def test_an_empty_drr_has_no_outline():
    assert outline.outline(np.zeros((20, 20))) == []


def test_the_motion_of_a_bone_maps_it_to_where_its_own_camera_saw_it():
    # the tibia moved by MOTION: relative to it, the camera moved in the opposite direction
    own = geometry.invert(MOTION) @ camera()
    np.testing.assert_allclose(scanner_view.bone_motion(camera(), own), MOTION, atol=1e-9)
