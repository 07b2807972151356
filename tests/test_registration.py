"""registration.py: poses recovered from X-rays of a small CT, sequences, views, repetition."""

from dataclasses import replace

import helpers
import numpy as np
import pytest
from PIL import Image
from test_xrays import dicom as write_dicom

import registration
from common import files, geometry
from common.command_line import registration_inputs, script
from common.drr import joseph
from common.geometry import Detector
from common.results import parameters_file
from common.version import VERSION
from common.volume import attenuation, nifti
from common.volume.volume import Volume

DETECTOR = Detector(150, 140, 900.0, (1.2, 1.2), (75.0, 70.0))
GEOMETRY = ["--sdd", "900", "--pixel_spacing", "1.2", "--principal_point", "75", "70"]
TRUTH = geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)


def xray_of(ct: Volume, camera: np.ndarray) -> np.ndarray:
    """Return an 8-bit X-ray, bone bright, with noise and a tone curve."""
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, -1000.0), ct.isocentre_mm
    )
    image = renderer.render(camera[None], DETECTOR)[0]
    image += np.random.default_rng(1).normal(0, 0.01, image.shape)
    return (np.clip(image / image.max(), 0, 1) ** 0.85 * 250).round().astype(np.uint8)


def noise() -> np.ndarray:
    """Return an 8-bit image without anything in it."""
    grey = np.random.default_rng(0).normal(128, 30, (DETECTOR.height, DETECTOR.width))
    return grey.clip(0, 255).astype(np.uint8)


def start_json(path, camera):
    """Write a start pose about 9 mm and 5 degrees off."""
    centre = camera[:3, 3] + 620 * camera[:3, 2]
    off = geometry.twist(np.r_[0.05, -0.06, 0.04, 5, -6, 4], centre) @ camera
    files.write_json(path, {"camera": off.tolist()})


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Folder with ct.nii.gz, xray.png and start.json, and the true camera in the volume frame."""
    folder = tmp_path_factory.mktemp("patient")
    ct = helpers.small_ct()
    nifti.save(folder / "ct.nii.gz", ct)
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(TRUTH)
    Image.fromarray(xray_of(ct, camera)).save(folder / "xray.png")
    start_json(folder / "start.json", camera)
    return folder, camera


def register(folder, out, *more, xrays=("xray.png",)):
    fixed = (
        () if "--init" in more else ("--init", "fixed", "--init_pose", str(folder / "start.json"))
    )
    return registration.main(
        [
            *[str(folder / x) for x in xrays],
            "-v",
            str(folder / "ct.nii.gz"),
            "-o",
            str(out),
            "--bone",
            "bright",
            *GEOMETRY,
            *fixed,
            *more,
        ]
    )


def error(result, camera, points=None):
    points = (
        geometry.apply(
            np.array(result.drr["scanner_from_volume"]), np.array(result.drr["points_mm"])
        )
        if points is None
        else points
    )
    return geometry.pose_error(result.scanner_pose[0].camera, camera, points, DETECTOR)


def test_the_true_pose_is_found_and_exactly_the_documented_files_are_written(
    patient, tmp_path, capsys
):
    folder, camera = patient
    assert register(folder, tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "final_img.png",
        "gt.png",
        "init_image.png",
        "parameters.pt",
        "slicer",
    ]
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "out" / "parameters.pt")
    result = parameters_file.load(tmp_path / "out" / "parameters.pt")
    assert error(result, camera).in_plane_mm < 0.2
    assert error(result, camera).rotation_deg < 0.6
    assert result.verdict.code == "ok"
    # without lineage, the volume frame is the scanner frame
    assert np.allclose(result.volume_from_camera(), result.scanner_pose[0].camera, atol=1e-3)
    assert {len(column) for column in result.trajectory.values()} == {len(result.trajectory["r1"])}
    assert np.allclose(result.trajectory_poses()[0], result.init_pose, atol=1e-6)
    for name in ("gt.png", "init_image.png", "final_img.png"):
        assert np.asarray(Image.open(tmp_path / "out" / name)).shape == (
            DETECTOR.height,
            DETECTOR.width,
        )


@pytest.mark.slow
def test_without_a_checkpoint_the_start_pose_is_searched(patient, tmp_path):
    folder, camera = patient
    ranges = "--r1 -5 25 --r2 -20 5 --r3 -5 20 --tx -20 20 --ty 560 680 --tz -20 20"
    assert register(folder, tmp_path, "--init", "search", *ranges.split()) == 0
    assert error(parameters_file.load(tmp_path / "parameters.pt"), camera).in_plane_mm < 0.2


def frames_of(folder, motions):
    """Write X-rays frame1.png, ... after each motion (degrees, mm) of the camera."""
    ct = nifti.load_ct(folder / "ct.nii.gz")
    cameras = [
        geometry.twist(np.r_[np.radians(turn), shift], ct.isocentre_mm)
        @ geometry.translation(ct.isocentre_mm)
        @ geometry.camera_from_pose(TRUTH)
        for turn, shift in motions
    ]
    for number, camera in enumerate(cameras, start=1):
        Image.fromarray(xray_of(ct, camera)).save(folder / f"frame{number}.png")
    return [f"frame{number}.png" for number in range(1, len(cameras) + 1)], cameras


@pytest.mark.slow
def test_frames_of_a_motion_start_where_the_frames_before_lead_to(patient, tmp_path):
    folder, _ = patient
    names, cameras = frames_of(
        folder, [([2.0 * k, -1.5 * k, k], [1.5 * k, -2.0 * k, k]) for k in range(3)]
    )
    assert register(folder, tmp_path, "--sequence", xrays=names) == 0
    found = [
        parameters_file.load(tmp_path / f"frame{number}" / "parameters.pt") for number in (1, 2, 3)
    ]
    assert all(
        error(result, camera).in_plane_mm < 0.2
        for result, camera in zip(found, cameras, strict=True)
    )
    np.testing.assert_allclose(found[1].init_pose, found[0].final_pose, atol=1e-4)
    # then the motion so far leads to the start
    one, two = (geometry.camera_from_pose(result.final_pose) for result in found[:2])
    expected = geometry.pose_from_camera(two @ geometry.invert(one) @ two)
    np.testing.assert_allclose(found[2].init_pose, expected, atol=1e-3)


@pytest.mark.slow
def test_a_multi_frame_dicom_is_a_sequence_of_its_frames(patient, tmp_path, capsys):
    folder, _ = patient
    names, cameras = frames_of(
        folder, [([2.0 * k, -1.5 * k, k], [1.5 * k, -2.0 * k, k]) for k in range(2)]
    )
    frames = np.stack([np.asarray(Image.open(folder / name)) for name in names]).astype(np.uint16)
    write_dicom(
        folder / "cine.dcm",
        frames,
        PhotometricInterpretation="MONOCHROME2",
        PixelIntensityRelationship="LOG",
    )
    assert register(folder, tmp_path, "--sequence", xrays=["cine.dcm"]) == 0
    for number, camera in enumerate(cameras):
        result = parameters_file.load(tmp_path / f"frame_{number:04d}" / "parameters.pt")
        assert error(result, camera).in_plane_mm < 0.2
    assert "cine.dcm frame 1, ct.nii.gz: ok" in capsys.readouterr().err
    assert register(folder, tmp_path / "one", "--frame", "0", "--sequence", xrays=["cine.dcm"]) == 0
    assert (tmp_path / "one" / "parameters.pt").exists()


def test_cameras_with_different_numbers_of_frames_are_rejected(patient, tmp_path, capsys):
    folder, _ = patient
    frame = np.asarray(Image.open(folder / "xray.png")).astype(np.uint16)
    for name, count in (("cine1.dcm", 3), ("cine2.dcm", 2)):
        write_dicom(folder / name, np.stack([frame] * count))
    words = [
        str(folder / "cine1.dcm"),
        str(folder / "cine2.dcm"),
        "-v",
        str(folder / "ct.nii.gz"),
        "-o",
        str(tmp_path),
        "--views",
        "--sequence",
    ]
    calibrations = ["--calibration", str(folder / "start.json"), str(folder / "start.json")]
    assert registration.main([*words, *calibrations]) == script.EXIT_BAD_INPUT
    assert (
        "cine1.dcm: has 3 frames, cine2.dcm 2; expected the same number from each camera"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_several_instants_of_two_cameras_are_registered_in_one_call(patient, tmp_path, capsys):
    """The second camera is rotated by a quarter turn; X-rays are given instant by instant."""
    folder, camera = patient
    ct = nifti.load_ct(folder / "ct.nii.gz")
    quarter = (
        geometry.translation([0, 0, 620])
        @ geometry.twist(np.r_[0, np.pi / 2, 0, 0, 0, 0], np.zeros(3))
        @ geometry.translation([0, 0, -620])
    )
    names = []
    for index, rig_from_camera in enumerate((np.eye(4), quarter)):
        inverse = geometry.invert(rig_from_camera)
        content = {
            "K": DETECTOR.intrinsics.tolist(),
            "R": inverse[:3, :3].tolist(),
            "t": inverse[:3, 3].tolist(),
            "image_size": [DETECTOR.width, DETECTOR.height],
        }
        files.write_json(folder / f"cam{index}.json", content)
    motions = [np.eye(4), geometry.twist(np.r_[0.03, -0.04, 0.02, 2, -3, 2], ct.isocentre_mm)]
    for number, motion in enumerate(motions):
        for index, rig_from_camera in enumerate((np.eye(4), quarter)):
            names.append(f"instant{number}_cam{index}.png")
            Image.fromarray(xray_of(ct, motion @ camera @ rig_from_camera)).save(folder / names[-1])
    words = [
        *(str(folder / name) for name in names),
        "-v",
        str(folder / "ct.nii.gz"),
        "-o",
        str(tmp_path),
        "--bone",
        "bright",
        "--init",
        "fixed",
        "--init_pose",
        str(folder / "start.json"),
    ]
    words += ["--views", "--calibration", str(folder / "cam0.json"), str(folder / "cam1.json")]
    assert registration.main([*words, "--sequence"]) == 0
    for number, motion in enumerate(motions):
        found = error(
            parameters_file.load(tmp_path / f"instant{number}_cam0" / "parameters.pt"),
            motion @ camera,
        )
        assert found.in_plane_mm < 0.1
        assert found.depth_mm < 0.1
    capsys.readouterr()
    assert registration.main([*words[:3], *words[4:]]) == script.EXIT_BAD_INPUT
    assert "2 files for 3 X-rays" in capsys.readouterr().err


@pytest.mark.slow
def test_after_a_failed_frame_the_next_one_starts_at_the_last_pose_that_did_not_fail(
    patient, tmp_path, capsys
):
    folder, _ = patient
    names, cameras = frames_of(
        folder, [([0, 0, 0], [0, 0, 0]), ([0, 0, 0], [0, 0, 0]), ([3.0, -2, 2], [3, 3, -2])]
    )
    Image.fromarray(noise()).save(folder / names[1])
    assert register(folder, tmp_path, "--sequence", xrays=names) == script.EXIT_NOT_CONVERGED
    first, lost, third = (
        parameters_file.load(tmp_path / name.removesuffix(".png") / "parameters.pt")
        for name in names
    )
    assert lost.verdict.code == "failed"
    assert "frame2.png: ct.nii.gz was lost after the previous frame" in capsys.readouterr().err
    np.testing.assert_allclose(third.init_pose, first.final_pose, atol=1e-4)
    assert error(third, cameras[2]).in_plane_mm < 0.2


def test_each_of_several_bones_has_its_own_start_pose_or_all_have_the_same(patient, tmp_path):
    folder, _ = patient
    words = [
        str(folder / "xray.png"),
        "-v",
        *[str(folder / "ct.nii.gz")] * 2,
        "-o",
        str(tmp_path / "out"),
        "--labels",
        "1",
        "2",
        "--device",
        "cpu",
        "--init",
        "fixed",
        "--init_pose",
    ]
    for name, x in (("one.json", 1.0), ("two.json", 2.0)):
        camera = geometry.translation([x, 0, 0])
        files.write_json(tmp_path / name, {"camera": camera.tolist()})
    for names, x in ((["one.json", "two.json"], [1, 2]), (["one.json"], [1, 1])):
        given = [str(tmp_path / name) for name in names]
        args = registration.build_parser().parse_args([*words, *given])
        (planned,) = registration_inputs.plan(args, None)
        assert [each.start_camera[0, 3] for each in planned.request.structures] == x


@pytest.mark.slow
def test_the_first_order_optimiser_is_available_for_comparison(patient, tmp_path):
    folder, camera = patient
    assert register(folder, tmp_path, "--optimizer", "adam") == 0
    result = parameters_file.load(tmp_path / "parameters.pt")
    assert error(result, camera).in_plane_mm < 1.5
    assert len(result.trajectory["r1"]) > 20
    assert result.settings["optimizer"] == "adam"


def test_several_xrays_get_one_folder_each_and_an_invalid_one_does_not_stop_the_others(
    patient, tmp_path, capsys
):
    folder, _ = patient
    Image.fromarray(np.full((60, 60), 7, np.uint8)).save(folder / "blank.png")
    assert register(folder, tmp_path, xrays=("xray.png", "blank.png")) == script.EXIT_BAD_INPUT
    assert (tmp_path / "xray" / "parameters.pt").exists()
    assert not (tmp_path / "blank" / "parameters.pt").exists()
    assert "blank.png: has a single grey value" in capsys.readouterr().err


def test_existing_results_are_not_replaced(patient, tmp_path, capsys):
    folder, _ = patient
    (tmp_path / "gt.png").write_text("mine")
    assert register(folder, tmp_path) == script.EXIT_BAD_INPUT
    assert (tmp_path / "gt.png").read_text() == "mine"
    assert "already exists" in capsys.readouterr().err


@pytest.mark.slow
def test_an_image_without_the_bone_is_failed_with_exit_code_3(patient, tmp_path, capsys):
    folder, _ = patient
    Image.fromarray(noise()).save(folder / "noise.png")
    assert register(folder, tmp_path, xrays=("noise.png",)) == script.EXIT_NOT_CONVERGED
    assert parameters_file.load(tmp_path / "parameters.pt").verdict.code == "failed"
    assert "failed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_right_bone_and_its_mirrored_volume_give_the_same_pose(patient, tmp_path):
    folder, camera = patient
    ct = nifti.load_ct(folder / "ct.nii.gz")
    mirrored = Volume(
        ct.data, geometry.MIRROR @ ct.affine, ct.lineage.then("crop_cts", {}, geometry.MIRROR), None
    )
    nifti.save(tmp_path / "mirrored.nii.gz", mirrored)
    arguments = [
        str(folder / "xray.png"),
        "-v",
        str(tmp_path / "mirrored.nii.gz"),
        "--bone",
        "bright",
        *GEOMETRY,
        "--init",
        "fixed",
        "--init_pose",
        str(folder / "start.json"),
    ]
    assert registration.main([*arguments, "-o", str(tmp_path / "out")]) == 0
    assert register(folder, tmp_path / "plain") == 0
    result = parameters_file.load(tmp_path / "out" / "parameters.pt")
    plain = parameters_file.load(tmp_path / "plain" / "parameters.pt")
    assert result.xray["flipped"]
    view = result.scanner_pose[0].camera
    assert np.linalg.det(view[:3, :3]) == pytest.approx(1, abs=1e-6)
    assert error(result, camera).in_plane_mm < 0.2
    apart = geometry.pose_error(view, plain.scanner_pose[0].camera, plain.points_mm, DETECTOR)
    assert apart.mtre_mm < 1.0


@pytest.mark.slow
def test_the_stored_projection_maps_a_scanner_landmark_to_the_x_ray_on_disk(patient, tmp_path):
    folder, _ = patient
    register(folder, tmp_path)
    view = parameters_file.load(tmp_path / "parameters.pt").scanner_pose[0]
    landmark = np.array([100.0, -50, 260])
    homogeneous = view.projection @ np.r_[landmark, 1]
    in_camera = np.linalg.inv(view.camera) @ np.r_[landmark, 1]
    by_hand = (
        in_camera[:2] / in_camera[2] * view.sdd_mm / np.array(view.pixel_spacing_mm)
        + view.principal_point_px
    )
    assert homogeneous[:2] / homogeneous[2] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "model"], "expected -c"),
        (["--init", "fixed"], "expected both --init fixed and --init_pose"),
        (["--init", "fixed", "--init_pose", "one.json", "two.json"], "2 files for 1 volumes"),
        (["--labels", "1", "--init", "search"], "expected --mask"),
        (["--init", "dicom"], "PositionerPrimaryAngle"),
        (["--init", "search", "--r1", "10", "-10"], "expected a low and a higher end"),
        (["--init", "search", "--pixel_spacing", "1", "2", "3"], "expected one, or two"),
    ],
)
def test_invalid_flags_are_one_line_before_slow_work(patient, tmp_path, capsys, arguments, message):
    folder, _ = patient
    assert register(folder, tmp_path, *arguments) == script.EXIT_BAD_INPUT
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_the_error_for_an_xray_without_geometry_names_the_flags_to_give(patient, tmp_path, capsys):
    folder, _ = patient
    words = [str(folder / "xray.png"), "-v", str(folder / "ct.nii.gz"), "-o", str(tmp_path)]
    assert registration.main(words) == script.EXIT_BAD_INPUT
    assert "--sdd" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- repetition


@pytest.mark.slow
def test_a_result_is_repeated_from_its_own_file(patient, tmp_path, monkeypatch, capsys):
    folder, _ = patient
    assert register(folder, tmp_path / "first") == 0
    first = parameters_file.load(tmp_path / "first" / "parameters.pt")
    assert first.settings["request"]["seed"] == 0
    assert first.settings["pose_range"] is None
    assert first.versions["suite"] == VERSION
    monkeypatch.chdir(tmp_path)
    repeat = ["--repeat", str(tmp_path / "first" / "parameters.pt"), "-o", str(tmp_path / "again")]
    assert registration.main(repeat) == 0
    again = parameters_file.load(tmp_path / "again" / "parameters.pt")
    np.testing.assert_allclose(again.final_pose, first.final_pose, atol=1e-6)
    np.testing.assert_allclose(again.init_pose, first.init_pose, atol=1e-9)
    assert registration.main(["x.png", *repeat]) == script.EXIT_BAD_INPUT
    assert "--repeat: given with X-rays" in capsys.readouterr().err


@pytest.mark.slow
def test_a_frame_of_a_sequence_is_repeated_from_its_own_file(patient, tmp_path):
    folder, camera = patient
    moved = geometry.twist(np.r_[0.03, 0, 0.02, 2, -1, 3], camera[:3, 3]) @ camera
    for name, at in (("one.png", camera), ("two.png", moved)):
        Image.fromarray(xray_of(helpers.small_ct(), at)).save(folder / name)
    assert register(folder, tmp_path, "--sequence", xrays=("one.png", "two.png")) == 0
    second = tmp_path / "two" / "parameters.pt"
    assert registration.main(["--repeat", str(second), "-o", str(tmp_path / "again")]) == 0
    again = parameters_file.load(tmp_path / "again" / "parameters.pt")
    np.testing.assert_allclose(again.final_pose, parameters_file.load(second).final_pose, atol=1e-6)


@pytest.mark.slow
def test_a_result_whose_ct_has_changed_is_not_repeated(patient, tmp_path, capsys):
    folder, _ = patient
    register(folder, tmp_path / "first")
    parameters = tmp_path / "first" / "parameters.pt"
    result = parameters_file.load(parameters)
    parameters_file.save(parameters, replace(result, drr={**result.drr, "volume_sha256": "0"}))
    repeat = ["--repeat", str(parameters), "-o", str(tmp_path / "again")]
    assert registration.main(repeat) == script.EXIT_BAD_INPUT
    assert "ct.nii.gz: has changed since" in capsys.readouterr().err
    parameters_file.save(parameters, replace(result, settings={}))
    assert registration.main(repeat) == script.EXIT_BAD_INPUT
    assert "records no request" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
