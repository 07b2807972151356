"""Joint coordinates of a movement: bands against sampling, gaps, and lists that do not fit."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import save_registration

from common import files, geometry
from common.kinematics import frame_file
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.joint_coordinates import knee_coordinates, tibia_from_coordinates
from common.kinematics.movement import BonePose, JointPose, movement, placed
from common.kinematics.movement_summary import passes
from common.results import decisions, parameters_file
from common.results.decisions import Decision
from common.results.pose_uncertainty import PoseUncertainty
from common.results.result import Result
from common.results.scanner_view import BoneMotion
from pipeline import kinematics

ANATOMY = np.array([[0.0, 0, 1, 30], [1, 0, 0, -40], [0, 1, 0, 500], [0, 0, 0, 1]])
CAMERA = geometry.twist(np.array([0.4, -0.8, 0.3, 20, -30, 900]), np.zeros(3))
SOURCE = {"name": "ct.nii.gz", "sha256": "ab" * 32}
SIX = np.array([[5.0, 1, 2, 3, 4, 5], [25, 2, 4, 3, 6, 5], [50, 1, 8, 2, 8, 4]])


def frame(bone: str, side="left", covariance=None, source=None) -> AnatomicalFrame:
    return AnatomicalFrame(
        bone,
        side,
        "landmarks",
        ANATOMY,
        np.eye(4),
        np.zeros((6, 6)) if covariance is None else covariance,
        source=source or SOURCE,
    )


def covariance(bones: int, scale: float = 1.0) -> np.ndarray:
    root = np.random.default_rng(4).normal(size=(6 * bones, 6 * bones))
    deviations = np.tile([3e-3, 3e-3, 3e-3, 0.2, 0.2, 1.0], bones) * scale
    root = root / np.linalg.norm(root, axis=1, keepdims=True) * deviations[:, None]
    return root @ root.T


def tibia_camera(six: np.ndarray) -> np.ndarray:
    """scanner_from_camera of a tibia that shows six numbers next to a femur seen by CAMERA."""
    camera_from_femur = geometry.invert(CAMERA) @ ANATOMY
    camera_from_tibia = tibia_from_coordinates(camera_from_femur, six, "left")
    return ANATOMY @ geometry.invert(camera_from_tibia)


def joint(six: np.ndarray, spread: np.ndarray, verdict="ok") -> JointPose:
    femur = BonePose(CAMERA, np.array([30.0, -30, 540]), verdict)
    tibia = BonePose(tibia_camera(six), np.array([30.0, -40, 460]), "ok")
    return JointPose("f", (femur, tibia), spread)


def left(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return knee_coordinates(a, b, "left")


def test_bands_agree_with_sampling_also_for_correlated_bones():
    spread, frames = covariance(2), (frame("femur"), frame("tibia"))
    found = movement([joint(SIX[1], spread)], frames, left)
    np.testing.assert_allclose(found.values[0], SIX[1], atol=1e-9)
    twists = np.random.default_rng(0).multivariate_normal(np.zeros(12), spread, 20_000)
    sampled = np.array(
        [left(*placed(joint(SIX[1], spread), frames, each)) for each in twists[:4000]]
    )
    np.testing.assert_allclose(
        1.959964 * sampled.std(axis=0), found.band()[0], rtol=0.06, atol=1e-9
    )
    inside = np.abs(sampled - SIX[1]) < found.band()[0]
    assert 0.935 < inside.mean() < 0.965
    apart = spread.copy()
    apart[:6, 6:] = apart[6:, :6] = 0
    alone = movement([joint(SIX[1], apart)], frames, left)
    assert not np.allclose(alone.band(), found.band(), rtol=0.05)


def test_the_band_of_the_anatomical_frames_is_apart_from_that_of_the_poses():
    about_z = np.zeros((6, 6))
    about_z[2, 2] = np.radians(0.5) ** 2
    frames = frame("femur", covariance=about_z), frame("tibia")
    found = movement([joint(SIX[0], np.zeros((12, 12)))], frames, left)
    np.testing.assert_allclose(found.band(), 0, atol=1e-9)
    assert found.frame_band()[0, 0] == pytest.approx(0.5 * 1.959964, rel=1e-3)


def test_derivatives_are_those_of_moving_each_bone_by_itself():
    """Bands of twists of one pose or frame, against numbers of poses and frames moved that way."""
    six = np.array([178.0, 4, 9, 3, 6, 5])  # near the seam of the flexion angle
    frames = frame("femur"), frame("tibia")
    for which in range(24):
        step = np.zeros(24)
        step[which] = 1e-6 if which % 6 < 3 else 1e-4
        poses, in_frames = step[:12], step[12:]
        ends = [
            left(*placed(joint(six, np.zeros((12, 12))), frames, sign * poses, sign * in_frames))
            for sign in (1, -1)
        ]
        moved = (ends[0] - ends[1]) / 2
        spread = np.outer(poses, poses)
        blocks = [np.outer(part, part) for part in (in_frames[:6], in_frames[6:])]
        turned = frame("femur", covariance=blocks[0]), frame("tibia", covariance=blocks[1])
        found = movement([joint(six, spread)], turned, left)
        stated = (found.band() if which < 12 else found.frame_band())[0] / 1.959964
        np.testing.assert_allclose(stated, np.abs(moved), rtol=1e-4, atol=2e-9)


def test_a_failed_pose_is_a_gap_between_its_neighbours():
    spread = covariance(2)
    joints = [joint(SIX[0], spread), joint(SIX[1], spread, "failed"), joint(SIX[2], spread)]
    found = movement(joints, (frame("femur"), frame("tibia")), left)
    assert np.isnan(found.values[1]).all()
    np.testing.assert_allclose(found.values[[0, 2]], SIX[[0, 2]], atol=1e-9)


# ------------------------------------------------------------------------------------------- script


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Result:
    return save_registration(tmp_path_factory.mktemp("template"))[1]


def save(template: Result, folder: Path, bone: str, camera: np.ndarray, name: str, **changes):
    """Write a result of a bone into ``folder``."""
    side = changes.pop("side", "left")
    motion = BoneMotion(bone, side, np.eye(4), np.eye(4))
    view = dataclasses.replace(template.scanner_pose[0], camera=camera, bones=(motion,))
    uncertainty = PoseUncertainty(covariance(1), np.array([[30.0, -40, 500]]), (bone,))
    code = changes.pop("code", "ok")
    result = dataclasses.replace(
        template,
        drr={
            **template.drr,
            "volume": str(changes.pop("volume", f"{bone}.nii.gz")),
            "source": changes.pop("source", SOURCE),
        },
        xray={**template.xray, "file": name, "sha256": name},
        scanner_pose=[view],
        verdict=dataclasses.replace(template.verdict, code=code),
        pose_uncertainty=changes.pop("pose_uncertainty", uncertainty),
    )
    folder.mkdir(parents=True)
    parameters_file.save(folder / "parameters.pt", result)


@pytest.fixture
def scene(tmp_path, template):
    """Three frames of a knee in f1, f2, f10, and both anatomical frames."""
    for number, six in zip((1, 2, 10), SIX, strict=True):
        save(template, tmp_path / f"f{number}/femur", "femur", CAMERA, f"x{number}")
        save(template, tmp_path / f"f{number}/tibia", "tibia", tibia_camera(six), f"x{number}")
    for bone in ("femur", "tibia"):
        frame_file.save(tmp_path / f"{bone}.json", frame(bone))
    return tmp_path


def command(folder: Path, femur=("f1", "f2", "f10"), tibia=("f1", "f2", "f10"), *more) -> list[str]:
    frames = [str(folder / "femur.json"), str(folder / "tibia.json")]
    return [
        "--femur", *(str(folder / f / "femur") for f in femur),
        "--tibia", *(str(folder / f / "tibia") for f in tibia),
        "--frames", *frames, "-o", str(folder / "knee"), *more,
    ]  # fmt: skip


def test_the_table_has_the_numbers_of_every_frame(scene, capsys):
    assert (
        kinematics.main(command(scene, ("f1", "f2", "f10"), ("f1", "f2", "f10"), "--fps", "10"))
        == 0
    )
    path = scene / "knee/kinematics.csv"
    assert capsys.readouterr().out.strip() == str(path)
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:5] == ["frame", "time_s", "FE_deg", "FE_deg_low", "FE_deg_high"]
    assert list(rows[0])[-2:] == ["femur_verdict", "tibia_verdict"]
    assert [row["frame"] for row in rows] == ["f1", "f2", "f10"]
    assert [float(row["time_s"]) for row in rows] == [0, 0.1, 0.2]
    np.testing.assert_allclose([float(row["FE_deg"]) for row in rows], SIX[:, 0], atol=1e-5)
    np.testing.assert_allclose([float(row["PD_mm"]) for row in rows], SIX[:, 5], atol=1e-5)
    assert float(rows[1]["VV_deg_low"]) < SIX[1, 1] < float(rows[1]["VV_deg_high"])
    beside = json.loads((scene / "knee/kinematics.json").read_text())
    assert [step["last"] for step in beside["helical_axes"]] == ["f2", "f10"]
    assert kinematics.main(command(scene)) == 2
    assert "already exists" in capsys.readouterr().err


def test_another_joint_has_the_angles_of_its_order(scene):
    assert kinematics.main([*command(scene), "--order", "ZXY", "--overwrite"]) == 0
    with open(scene / "knee/kinematics.csv", newline="") as stream:
        row = list(csv.DictReader(stream))[1]
    assert float(row["Z_deg"]) == pytest.approx(-SIX[1, 0], abs=1e-5)
    assert "Y_mm_high" in row


def test_a_failed_frame_has_empty_cells_and_its_verdict(scene, template):
    save(template, scene / "f11/femur", "femur", CAMERA, "x11", code="failed")
    save(template, scene / "f11/tibia", "tibia", CAMERA, "x11")
    lists = ("f1", "f11")
    assert kinematics.main(command(scene, lists, lists)) == 0
    with open(scene / "knee/kinematics.csv", newline="") as stream:
        row = list(csv.DictReader(stream))[1]
    assert (row["FE_deg"], row["femur_verdict"], row["tibia_verdict"]) == ("", "failed", "ok")


def test_a_frame_that_a_person_rejects_is_a_gap_and_one_that_is_accepted_counts(scene, template):
    save(template, scene / "f11/femur", "femur", CAMERA, "x11")
    save(template, scene / "f11/tibia", "tibia", CAMERA, "x11", code="failed")
    for number, bone, choice in ((2, "femur", "reject"), (11, "tibia", "accept")):
        folder = scene / f"f{number}/{bone}"
        sha256 = files.sha256(folder / "parameters.pt")
        camera = CAMERA.tolist()
        decided = Decision("ab", choice, "", decisions.now(), sha256, camera, "solver")
        decisions.append(folder, decided)
    lists = ("f1", "f2", "f11")
    assert kinematics.main(command(scene, lists, lists)) == 0
    with open(scene / "knee/kinematics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [bool(row["FE_deg"]) for row in rows] == [True, False, True]
    assert (rows[1]["femur_verdict"], rows[2]["tibia_verdict"]) == ("failed", "ok")


def test_frames_with_a_suspect_pose_are_named_and_kept(scene, template, capsys):
    save(template, scene / "f12/femur", "femur", CAMERA, "x12")
    save(template, scene / "f12/tibia", "tibia", CAMERA, "x12", code="suspect")
    lists = ("f1", "f12")
    assert kinematics.main([*command(scene, lists, lists), "--quiet"]) == 0
    assert "1 of 2 frames rest on a suspect pose and may be wrong by any" in capsys.readouterr().err
    with open(scene / "knee/kinematics.csv", newline="") as stream:
        row = list(csv.DictReader(stream))[1]
    assert row["tibia_verdict"] == "suspect"
    assert row["FE_deg"]


@pytest.mark.parametrize(
    ("femur", "tibia", "error"),
    [
        (("f1", "f2"), ("f1",), "frame f2 has no result of the other bone"),
        (("f2", "f1"), ("f2", "f1"), "frame f1 follows frame f2"),
        (("f1", "f1"), ("f1", "f1"), "frame f1 follows frame f1"),
        (("f1",), ("f2",), "the other bone x1"),
        (("f3",), ("f3",), "has no parameters.pt"),
    ],
)
def test_lists_that_do_not_fit_are_refused(scene, capsys, femur, tibia, error):
    assert kinematics.main(command(scene, femur, tibia)) == 2
    shown = capsys.readouterr().err
    assert error in shown
    assert shown.count("\n") == 1
    assert not (scene / "knee").exists()


@pytest.mark.parametrize(
    ("times", "error"),
    [("0 0.2 0.1", "time 0.1 s follows 0.2 s"), ("0 1", "has 2 times"), ("a", "cannot be read")],
)
def test_times_that_run_back_or_do_not_fit_are_refused(scene, capsys, times, error):
    (scene / "times.txt").write_text(times)
    assert kinematics.main([*command(scene), "--time", str(scene / "times.txt")]) == 2
    assert error in capsys.readouterr().err
    assert not (scene / "knee").exists()


def swap(scene: Path) -> None:
    (scene / "femur.json").rename(scene / "other.json")
    (scene / "tibia.json").rename(scene / "femur.json")
    (scene / "other.json").rename(scene / "tibia.json")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (swap, "exchange the frames"),
        (
            lambda scene: frame_file.save(scene / "tibia.json", frame("tibia", "right")),
            "two bones of one side",
        ),
        (
            lambda scene: frame_file.save(
                scene / "tibia.json", frame("tibia", source={"name": "b", "sha256": "cd"})
            ),
            "is of another CT (b)",
        ),
        (
            lambda scene: [
                frame_file.save(scene / f"{bone}.json", frame(bone, "right"))
                for bone in ("femur", "tibia")
            ],
            "is a result of a left bone",
        ),
        (
            lambda scene: [
                frame_file.save(
                    scene / f"{bone}.json", frame(bone, source={"name": "b", "sha256": "cd"})
                )
                for bone in ("femur", "tibia")
            ],
            "was registered with another CT (ct.nii.gz)",
        ),
    ],
)
def test_frames_that_do_not_fit_the_results_are_refused(scene, capsys, change, error):
    change(scene)
    assert kinematics.main(command(scene)) == 2
    assert error in capsys.readouterr().err
    assert not (scene / "knee").exists()


def test_bones_in_the_wrong_list_are_refused(scene, capsys):
    frames = [str(scene / "femur.json"), str(scene / "tibia.json")]
    lists = ["--femur", str(scene / "f1/tibia"), "--tibia", str(scene / "f1/femur")]
    assert kinematics.main([*lists, "--frames", *frames, "-o", str(scene / "knee")]) == 2
    assert "is a result of a tibia" in capsys.readouterr().err


def test_a_result_without_covariance_is_refused(scene, template, capsys):
    save(template, scene / "f12/femur", "femur", CAMERA, "x12", pose_uncertainty=None)
    save(template, scene / "f12/tibia", "tibia", CAMERA, "x12")
    assert kinematics.main(command(scene, ("f12",), ("f12",))) == 2
    assert "has no covariance of its pose" in capsys.readouterr().err


def test_smoothed_columns_stand_beside_the_raw_ones_and_need_times(scene, template, capsys):
    assert kinematics.main([*command(scene), "--smooth"]) == 2
    assert "--fps or --time" in capsys.readouterr().err
    assert kinematics.main([*command(scene), "--cutoff_hz", "3", "--fps", "10"]) == 2
    assert "with --smooth" in capsys.readouterr().err
    assert kinematics.main([*command(scene), "--smooth", "--fps", "10"]) == 2
    assert "has 3 frames with a pose" in capsys.readouterr().err
    lists = tuple(f"g{number}" for number in range(8))
    for number, name in enumerate(lists):
        six = SIX[0] + [3.0 * number, 0, 0, 0, 0, 0]
        save(template, scene / name / "femur", "femur", CAMERA, name)
        save(template, scene / name / "tibia", "tibia", tibia_camera(six), name)
    flags = ["--smooth", "--fps", "10", "--cutoff_hz", "2"]
    assert kinematics.main([*command(scene, lists, lists), *flags]) == 0
    with open(scene / "knee/kinematics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[-1] == "PD_mm_smooth_high"
    assert float(rows[4]["FE_deg"]) == pytest.approx(17, abs=1e-4)
    assert float(rows[4]["FE_deg_smooth"]) == pytest.approx(17, abs=0.1)
    settings = json.loads((scene / "knee/kinematics.json").read_text())["settings"]
    assert settings["cutoff_hz"] == 2


def test_other_formats_read_back_as_the_table(scene, capsys):
    flags = ["--fps", "10", "--format", "mot", "sto", "png", "pdf", "svg"]
    assert kinematics.main([*command(scene), *flags]) == 0
    for name in ("kinematics.mot", "kinematics.sto"):
        head, _, body = (scene / "knee" / name).read_text().partition("endheader\n")
        assert "inDegrees=yes" in head
        stored = np.genfromtxt(io.StringIO(body), delimiter="\t", names=True)
        assert (len(stored), len(stored.dtype)) == (3, 7)
        np.testing.assert_allclose(stored["FE"], SIX[:, 0], atol=1e-6)
        np.testing.assert_allclose(stored["PD"], SIX[:, 5] / 1000, atol=1e-8)
    assert (scene / "knee/kinematics.png").read_bytes().startswith(b"\x89PNG")
    assert (scene / "knee/kinematics.pdf").read_bytes().startswith(b"%PDF")
    assert "varus" in (scene / "knee/kinematics.svg").read_text()
    summary = json.loads((scene / "knee/kinematics.json").read_text())["summary"]
    assert summary["range"]["FE_deg"] == [5, 50]
    assert list(summary["at_flexion"]) == ["30"]
    assert summary["at_flexion"]["30"]["IE_deg"] == pytest.approx(4.8, abs=1e-3)
    assert kinematics.main([*command(scene), "--format", "mot", "--overwrite"]) == 2
    assert "no times of the frames" in capsys.readouterr().err


def test_values_at_an_angle_are_not_taken_across_a_gap():
    rows = np.zeros((5, 6))
    rows[:, 0] = [0, 20, np.nan, 40, 70]
    rows[:, 1] = [0, 2, np.nan, 4, 7]
    assert len(passes(rows, 0, 30)) == 0
    np.testing.assert_allclose(passes(rows, 0, 60)[:, 1], [6])
