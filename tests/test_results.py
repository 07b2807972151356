"""parameters.pt: what is saved is loaded, no code is executed, and frames are those documented."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import save_registration, small_ct

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.results import parameters_file
from common.results.result import (
    DETECTOR_KEYS,
    TRAJECTORY_COLUMNS,
    Result,
    Rival,
    Verdict,
    detector_entries,
    world_from_registered,
)
from common.results.scanner_view import BoneMotion, ScannerView
from common.volume.lineage import Lineage

VERDICT = Verdict("suspect", ("a reason",), 0.1, 2.0, 0.3, 0.9, 0.7, 0.4, Rival(1.2, 3.0, 0.69))


@pytest.fixture(scope="module")
def registration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registration")
    return folder, save_registration(folder)[1]


def test_what_is_saved_is_loaded(registration):
    folder, saved = registration
    loaded = parameters_file.load(folder / "parameters.pt")
    np.testing.assert_array_equal(loaded.final_pose, saved.final_pose)
    np.testing.assert_array_equal(loaded.init_pose, saved.init_pose)
    np.testing.assert_array_equal(loaded.image, saved.image)
    assert loaded.image.dtype == np.uint8
    assert loaded.trajectory == saved.trajectory
    assert loaded.drr == saved.drr
    assert loaded.verdict == saved.verdict
    np.testing.assert_allclose(loaded.scanner_pose[0].projection, saved.scanner_pose[0].projection)


def test_a_verdict_and_a_view_survive_their_stored_entries(registration):
    assert Verdict.from_entries(VERDICT.entries()) == VERDICT
    assert VERDICT.entries()["other_start"]["rotation_deg"] == 3.0
    trusted = replace(VERDICT, in_plane_95_mm=0.3, rotation_95_deg=0.9, wrong_probability=0.02)
    assert Verdict.from_entries(trusted.entries()) == trusted
    assert trusted.bounds_95 == {"in_plane_mm": 0.3, "rotation_deg": 0.9}
    assert VERDICT.bounds_95 == {}  # as in files of earlier versions
    bone = BoneMotion("tibia", "left", geometry.translation([1.0, 2, 3]), np.eye(4))
    view = dataclasses.replace(registration[1].scanner_pose[0], bones=(bone,), xray="knee.dcm")
    again = ScannerView.from_entries(view.entries())
    np.testing.assert_array_equal(again.bones[0].motion, bone.motion)
    np.testing.assert_array_equal(again.camera, view.camera)
    assert (again.xray, again.size_px, again.detector) == ("knee.dcm", view.size_px, view.detector)
    with pytest.raises(ValueError, match="verdict 'certain'"):
        Verdict.from_entries({**VERDICT.entries(), "verdict": "certain"})


def test_only_plain_types_and_tensors_are_in_the_file(registration):
    folder, _ = registration
    content = torch.load(folder / "parameters.pt", weights_only=True)
    assert content["schema"] == parameters_file.SCHEMA
    assert content["final_pose"].shape == (1, 4, 4)
    assert set(content["trajectory"]) == set(TRAJECTORY_COLUMNS)


def test_the_detector_survives_diffdrrs_arguments():
    detector = Detector(90, 111, 1020.0, (0.31, 0.43), (20.25, 70.5))
    entries = detector_entries(detector, np.array([1.0, 2, 3]))
    result = Result(entries, {}, np.eye(4), np.eye(4), {}, VERDICT, {}, [], {}, {}, {})
    assert result.detector.height == 90
    assert result.detector.width == 111
    np.testing.assert_allclose(result.detector.principal_px, detector.principal_px)
    np.testing.assert_allclose(result.detector.pixel_mm, detector.pixel_mm)
    assert entries["isocentre_mm"] == [1, 2, 3]


def test_the_trajectory_ends_at_the_final_pose(registration):
    _, result = registration
    poses = result.trajectory_poses()
    np.testing.assert_allclose(poses[0], result.init_pose, atol=1e-9)
    np.testing.assert_allclose(poses[-1], result.final_pose, atol=1e-9)


def test_source_and_pixels_are_where_diffdrr_puts_them(registration):
    from diffdrr.detector import Detector as DiffdrrDetector
    from diffdrr.pose import RigidTransform

    _, result = registration
    stored = {key: result.drr[key] for key in DETECTOR_KEYS}
    theirs = DiffdrrDetector(
        **stored,
        reorient=torch.tensor(geometry.REORIENT["AP"], dtype=torch.float32),
        reverse_x_axis=True,
    )
    source, target = theirs(
        RigidTransform(torch.as_tensor(result.final_pose, dtype=torch.float32)[None]), None
    )
    ours = result.volume_from_camera()
    isocentre = np.array(result.drr["isocentre_mm"])
    np.testing.assert_allclose(source[0, 0].numpy() + isocentre, ours[:3, 3], atol=1e-3)
    targets = (
        target[0].numpy().reshape(result.detector.height, result.detector.width, 3) + isocentre
    )
    for row, column in ((0, 0), (0, 109), (89, 0), (50, 30)):
        np.testing.assert_allclose(
            geometry.project(targets[row, column][None], result.detector, ours)[0],
            [column, row],
            atol=2e-3,
        )


def test_the_projection_in_scanner_space_sees_what_the_registration_saw(registration):
    _, result = registration
    point = np.array(result.drr["isocentre_mm"]) + np.array([10, -7, 4])
    expected = geometry.project(point[None], result.detector, result.volume_from_camera())[0]
    scanner_from_volume = geometry.twist(np.array([0.1, 0.2, -0.3, 40, 50, 60]), np.zeros(3))
    view = ScannerView.of(
        result.detector,
        result.volume_from_camera(),
        result.volume_from_camera(result.init_pose),
        scanner_from_volume,
        flipped=False,
    )
    seen = view.projection @ [*geometry.apply(scanner_from_volume, point), 1]
    np.testing.assert_allclose(seen[:2] / seen[2], expected)
    np.testing.assert_allclose(
        view.source_mm, geometry.apply(scanner_from_volume, result.volume_from_camera()[:3, 3])
    )
    corners = np.c_[view.detector_corners_mm, np.ones(4)] @ view.projection.T
    np.testing.assert_allclose(
        corners[:, :2] / corners[:, 2:], [(0, 0), (109, 0), (0, 89), (109, 89)], atol=1e-9
    )


def test_mirror_and_flip_together_give_a_proper_camera_of_the_x_ray_on_disk(registration):
    _, result = registration
    mirror, camera = geometry.MIRROR, result.volume_from_camera()
    view = ScannerView.of(result.detector, camera, camera, mirror, flipped=True)
    assert np.linalg.det(view.camera[:3, :3]) == pytest.approx(1)
    point = np.array(result.drr["isocentre_mm"]) + np.array([10, -7, 4])
    column, row = geometry.project(point[None], result.detector, result.volume_from_camera())[0]
    seen = view.projection @ [*(mirror[:3, :3] @ point), 1]
    np.testing.assert_allclose(seen[:2] / seen[2], [109 - column, row])
    assert view.principal_point_px == pytest.approx([109 - 57.0, 41.0])


def test_a_trajectory_with_columns_of_unequal_lengths_is_not_written(registration, tmp_path):
    _, result = registration
    broken = dataclasses.replace(result, trajectory={**result.trajectory, "scale": [1.0]})
    with pytest.raises(ValueError, match="differ in length"):
        parameters_file.save(tmp_path / "p.pt", broken)
    assert not (tmp_path / "p.pt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_state_dict": {}}, "is a model checkpoint"),
        ({"schema": "registration/9"}, "schema 'registration/9'"),
        (torch.zeros(3), "schema 'Tensor'"),
        ({"schema": "registration/1"}, "incomplete"),
        ({"schema": "registration/1", "trajectory": 3}, "incomplete"),
    ],
)
def test_other_files_are_rejected(tmp_path, content, message):
    torch.save(content, tmp_path / "p.pt")
    with pytest.raises(InputError, match=message):
        parameters_file.load(tmp_path / "p.pt")


def test_a_file_with_an_extra_or_missing_entry_is_rejected(registration, tmp_path):
    folder, _ = registration
    content = torch.load(folder / "parameters.pt", weights_only=True)
    for changed in (
        {**content, "extra": 1},
        {key: value for key, value in content.items() if key != "metrics"},
    ):
        torch.save(changed, tmp_path / "p.pt")
        with pytest.raises(InputError, match="incomplete"):
            parameters_file.load(tmp_path / "p.pt")


def test_code_in_a_file_is_not_executed(tmp_path):
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"schema": "registration/1", "drr": Evil()}, tmp_path / "p.pt")
    with pytest.raises(InputError, match="run code on loading"):
        parameters_file.load(tmp_path / "p.pt")
    assert not (tmp_path / "ran").exists()


def test_truncated_and_missing_files_are_rejected(registration, tmp_path):
    folder, _ = registration
    (tmp_path / "p.pt").write_bytes((folder / "parameters.pt").read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read"):
        parameters_file.load(tmp_path / "p.pt")
    with pytest.raises(InputError, match="not found"):
        parameters_file.load(tmp_path / "absent.pt")


# -------------------------------------------------------------------------- frames of other volumes


def test_a_volume_without_lineage_is_in_the_same_frame(registration):
    _, result = registration
    np.testing.assert_array_equal(world_from_registered(result, small_ct()), np.eye(4))


def test_a_volume_with_lineage_is_placed_by_it(registration):
    _, result = registration
    ct = small_ct()
    moved = geometry.twist(np.array([0.3, -0.2, 0.5, 80, -60, 20]), np.zeros(3))
    lineage = Lineage(geometry.invert(moved)).then("center_isometric", {})
    placed = dataclasses.replace(ct, affine=moved @ ct.affine, lineage=lineage)
    np.testing.assert_allclose(world_from_registered(result, placed), moved, atol=1e-9)


def test_the_original_ct_is_recognised_by_its_hash(registration):
    _, result = registration
    scanner_from_volume = geometry.translation([20, 30, 40])
    drr = {
        **result.drr,
        "scanner_from_volume": scanner_from_volume.tolist(),
        "source": {"name": "ct.nii.gz", "sha256": "abc"},
    }
    ct = small_ct()
    original = dataclasses.replace(
        ct,
        affine=scanner_from_volume @ ct.affine,
        lineage=Lineage(source={"name": "ct.nii.gz", "sha256": "abc"}),
    )
    np.testing.assert_allclose(
        world_from_registered(dataclasses.replace(result, drr=drr), original), scanner_from_volume
    )


def test_a_volume_without_the_registered_structure_is_rejected(registration):
    _, result = registration
    ct = small_ct()
    with pytest.raises(InputError, match="contains 0 % of the registered structure"):
        world_from_registered(
            result, dataclasses.replace(ct, affine=geometry.translation([500, 0, 0]) @ ct.affine)
        )
