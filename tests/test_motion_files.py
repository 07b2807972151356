"""Files of a movement for other tools: each read back, by another tool's reader where there is one.

The scene is that of test_kinematics.py: three frames of a left knee whose six numbers are known.
"""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from scipy.spatial.transform import Rotation
from test_kinematics import ANATOMY, CAMERA, SIX, command, save, scene, template, tibia_camera

from common import geometry
from common.errors import InputError
from common.kinematics.joint_coordinates import knee_coordinates
from common.kinematics.pose_files import world_from_model
from common.xray.frame_times import read_frame_times
from pipeline import kinematics

__all__ = ["scene", "template"]  # fixtures
UPRIGHT = np.diag([1.0, -1, -1, 1])


def written(scene: Path, *more: str) -> Path:
    """Write formats of the three frames at 10 Hz, and return their folder."""
    assert kinematics.main([*command(scene), "--fps", "10", "--overwrite", *more]) == 0
    return scene / "knee"


def gap(scene: Path, template) -> tuple[str, ...]:
    """Add a frame without a pose, and return the names of all four."""
    save(template, scene / "f11/femur", "femur", CAMERA, "x11", code="failed")
    save(template, scene / "f11/tibia", "tibia", CAMERA, "x11")
    return "f1", "f2", "f10", "f11"


def six_of(world_from_frames: np.ndarray) -> np.ndarray:
    return knee_coordinates(world_from_frames[:, 0], world_from_frames[:, 1], "left")


def axes_of(markers: np.ndarray) -> np.ndarray:
    """Return frames (N, 2, 4, 4) of markers (N, 8, 3): origin and points on X, Y, Z, per bone."""
    origin, tips = markers[:, 0::4], np.stack([markers[:, k::4] for k in (1, 2, 3)], axis=-1)
    found = np.tile(np.eye(4), (len(markers), 2, 1, 1))
    found[..., :3, :3] = (tips - origin[..., None]) / 100
    found[..., :3, 3] = origin
    return found


# ------------------------------------------------------------------------------------------- poses


def test_a_table_of_poses_gives_the_six_numbers_and_empty_cells_without_a_pose(scene, template):
    lists = gap(scene, template)
    assert kinematics.main([*command(scene, lists, lists), "--format", "csv", "json"]) == 0
    lines = (scene / "knee/poses.csv").read_text().splitlines()
    head, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    assert head[:3] == ["frame", "time_s", "femur_11"]
    poses = np.array([row[2:] for row in rows[:3]], float).reshape(3, 2, 4, 4)
    np.testing.assert_allclose(six_of(poses), SIX, atol=1e-5)
    np.testing.assert_allclose(poses[0, 0], geometry.invert(CAMERA) @ ANATOMY, atol=1e-5)
    assert set(rows[3][2:18]) == {""}
    content = json.loads((scene / "knee/poses.json").read_text())
    stored = np.array(
        [[each[bone]["world_from_frame"] for bone in ("femur", "tibia")]
         for each in content["frames"][:3]]
    )  # fmt: skip
    np.testing.assert_allclose(stored, poses, atol=1e-5)
    assert content["frames"][3]["femur"]["world_from_scanner"] is None


def test_xmalab_has_each_matrix_column_by_column(scene, template):
    lists = gap(scene, template)
    assert kinematics.main([*command(scene, lists, lists), "--format", "xmalab"]) == 0
    lines = (scene / "knee/rigid_bodies.csv").read_text().splitlines()
    assert lines[0].startswith("femur_R11,femur_R12,femur_R13,femur_01,femur_R21")
    assert lines[4].split(",")[0] == "NaN"
    first = np.array(lines[1].split(","), float).reshape(2, 4, 4)
    # Maya multiplies rows by the matrix: point @ M
    point = np.array([3.0, -7, 11, 1])
    moved = geometry.apply(geometry.invert(CAMERA), point[:3])
    np.testing.assert_allclose((point @ first[0])[:3], moved, atol=1e-8)
    np.testing.assert_allclose(first[0, 3, :3], geometry.invert(CAMERA)[:3, 3], atol=1e-8)


def test_jointtrack_has_the_angles_about_z_x_and_y_of_an_upright_camera(scene):
    lines = (written(scene, "--format", "jts") / "tibia.jts").read_text().splitlines()
    assert lines[0] == "JT_EULER_312"
    assert [word.strip() for word in lines[1].split(",")][3:] == ["z_rot", "x_rot", "y_rot"]
    for line, six in zip(lines[2:], SIX, strict=True):
        x, y, z, *angles = map(float, line.split(","))
        about_z, about_x, about_y = (
            Rotation.from_euler(axis, angle, degrees=True)
            for axis, angle in zip("zxy", angles, strict=True)
        )
        found = UPRIGHT @ geometry.invert(tibia_camera(six))
        turned = (about_z * about_x * about_y).as_matrix()
        np.testing.assert_allclose(turned, found[:3, :3], atol=1e-7)
        np.testing.assert_allclose((x, y, z), found[:3, 3], atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_autoscopers_model_puts_every_voxel_where_the_volume_has_it(mirrored):
    shape, spacing = (30, 20, 10), np.array([0.5, 0.7, 1.2])
    affine = geometry.twist(np.array([0.2, 0.5, -0.3, 7, 8, 9]), np.zeros(3)) @ np.diag(
        [*spacing, 1]
    )
    scanner_from_volume = geometry.MIRROR if mirrored else np.eye(4)
    pose = geometry.twist(np.array([1.0, 0.2, 0.1, 5, 6, 700]), np.zeros(3))
    model = world_from_model(pose[None], affine, shape, scanner_from_volume)[0]
    column, row, page = 4, 15, 7  # of the stack; read with VolumeFlip 1 0 0 if mirrored
    at = shape[0] - 1 - column if mirrored else column
    # columns along x, rows against y, pages against z, from the corner of the box
    point = spacing * [at + 0.5, shape[1] - row - 0.5, -(page + 0.5)]
    expected = geometry.apply(pose @ scanner_from_volume @ affine, [column, row, page])
    np.testing.assert_allclose(geometry.apply(model, point), expected, atol=1e-9)
    assert np.linalg.det(model[:3, :3]) == pytest.approx(1)


def with_volumes(scene: Path, template) -> None:
    """Add frame v1, whose results name volumes that exist."""
    (scene / "volumes").mkdir()
    for bone, camera in (("femur", CAMERA), ("tibia", tibia_camera(SIX[0]))):
        path = scene / "volumes" / f"{bone}.nii.gz"
        data = np.zeros((8, 6, 4), np.int16)
        data[2:5, 2:5, 1:3] = 900
        nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2, 3, 1])), path)
        save(template, scene / f"v1/{bone}", bone, camera, "v1", volume=path)


def test_autoscoper_gets_a_row_per_frame_in_row_order(scene, template, capsys):
    with_volumes(scene, template)
    assert kinematics.main([*command(scene, ("v1",), ("v1",)), "--format", "tra"]) == 0
    row = np.loadtxt(scene / "knee/femur.tra", delimiter=",").reshape(4, 4)
    # the centre of the first voxel
    point = np.array([1.0, 11, -1.5])
    expected = geometry.apply(geometry.invert(CAMERA), [0, 0, 0])
    np.testing.assert_allclose(geometry.apply(row, point), expected, atol=1e-6)
    assert kinematics.main([*command(scene), "--format", "tra", "--overwrite"]) == 2
    assert "femur.nii.gz" in capsys.readouterr().err


def test_slicer_gets_the_motion_of_the_tibia_past_a_femur_at_rest(scene, template):
    lists = gap(scene, template)
    assert kinematics.main([*command(scene, lists, lists), "--format", "slicer"]) == 0
    fields = dict(
        line.split(" = ", 1)
        for line in (scene / "knee/tibia_motion.seq.mha").read_text().splitlines()
    )
    for number, six in enumerate(SIX):
        values = np.array(fields[f"Seq_Frame{number:04d}_tibiaToFemurTransform"].split(), float)
        motion = values.reshape(4, 4)
        found = knee_coordinates(ANATOMY, motion @ ANATOMY, "left")
        np.testing.assert_allclose(found, six, atol=1e-5)
    assert fields["Seq_Frame0003_tibiaToFemurTransformStatus"] == "INVALID"
    assert fields["DimSize"] == "0 0 4"
    assert list(fields)[-1] == "ElementDataFile"


def test_poses_are_in_the_world_of_a_calibration_if_one_is_stated(scene):
    turn = geometry.twist(np.array([0.3, -0.2, 0.9, 40, 50, 60]), np.zeros(3))
    camera = {
        "K": [[3000, 0, 256], [0, 3000, 256], [0, 0, 1]],
        "R": turn[:3, :3].tolist(),
        "t": turn[:3, 3].tolist(),
        "image_size": [512, 512],
    }
    (scene / "camera.json").write_text(json.dumps(camera))
    flags = ["--format", "json", "--calibration", str(scene / "camera.json")]
    content = json.loads((written(scene, *flags) / "poses.json").read_text())
    found = np.array(content["frames"][0]["femur"]["world_from_scanner"])
    np.testing.assert_allclose(turn @ found, geometry.invert(CAMERA), atol=1e-6)
    assert "calibration" in content["world"]


# ----------------------------------------------------------------------------------------- markers


def test_markers_of_a_trc_file_give_the_six_numbers(scene):
    lines = (written(scene, "--format", "trc") / "bones.trc").read_text().splitlines()
    assert lines[2].split("\t")[2:5] == ["3", "8", "mm"]
    values = np.array([line.split("\t")[2:] for line in lines[6:]], float).reshape(3, 8, 3)
    np.testing.assert_allclose(six_of(axes_of(values)), SIX, atol=1e-3)
    # y points up in the image, whose rows run downwards
    camera_from_femur = geometry.invert(CAMERA) @ ANATOMY
    np.testing.assert_allclose(values[0, 0], (UPRIGHT @ camera_from_femur)[:3, 3], atol=1e-4)


def test_opensim_reads_storage_and_marker_files(scene):
    opensim = pytest.importorskip("opensim")
    folder = written(scene, "--format", "trc", "mot", "sto")
    table = opensim.TimeSeriesTableVec3(str(folder / "bones.trc"))
    assert table.getNumRows() == 3
    assert list(table.getColumnLabels())[:2] == ["femur_O", "femur_X"]
    rows = [table.getRowAtIndex(number) for number in range(3)]
    values = np.array([[[row[k][axis] for axis in range(3)] for k in range(8)] for row in rows])
    np.testing.assert_allclose(six_of(axes_of(values)), SIX, atol=1e-3)
    for name in ("kinematics.mot", "kinematics.sto"):
        stored = opensim.TimeSeriesTable(str(folder / name))
        assert stored.getTableMetaDataAsString("inDegrees") == "yes"
        np.testing.assert_allclose(stored.getDependentColumn("FE").to_numpy(), SIX[:, 0], atol=1e-6)


def test_c3d_reads_back_with_gaps(scene, template):
    ezc3d = pytest.importorskip("ezc3d")
    lists = gap(scene, template)
    flags = ["--format", "c3d", "--fps", "10"]
    assert kinematics.main([*command(scene, lists, lists), *flags]) == 0
    stored = ezc3d.c3d(str(scene / "knee/bones.c3d"))
    point = stored["parameters"]["POINT"]
    assert point["RATE"]["value"][0] == 10
    assert point["UNITS"]["value"] == ["mm"]
    assert point["LABELS"]["value"][4] == "tibia_O"
    values = stored["data"]["points"][:3].transpose(2, 1, 0)
    np.testing.assert_allclose(six_of(axes_of(values[:3])), SIX, atol=2e-3)
    assert np.isnan(values[3]).all()


def test_c3d_without_its_package_is_one_line(scene, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ezc3d", None)
    assert kinematics.main([*command(scene), "--format", "c3d", "--fps", "10"]) == 2
    assert "pip install ezc3d" in capsys.readouterr().err
    assert not (scene / "knee").exists()


@pytest.mark.parametrize("form", ["trc", "bids"])
def test_an_uneven_rate_is_refused_where_a_format_has_none(scene, capsys, form):
    (scene / "times.txt").write_text("0 0.1 0.3")
    flags = ["--format", form, "--time", str(scene / "times.txt")]
    assert kinematics.main([*command(scene), *flags]) == 2
    assert "the frames are 0.1 to 0.2 s apart" in capsys.readouterr().err
    assert not (scene / "knee").exists()


# -------------------------------------------------------------------------------------------- BIDS


def test_a_data_set_in_bids_has_a_channel_per_number(scene, template):
    lists = gap(scene, template)
    flags = ["--format", "bids", "--fps", "10", "--subject", "P01", "--task", "squat"]
    assert kinematics.main([*command(scene, lists, lists), *flags]) == 0
    name = scene / "knee/bids/sub-P01/motion/sub-P01_task-squat_tracksys-xray"
    rows = [line.split("\t") for line in Path(f"{name}_motion.tsv").read_text().splitlines()]
    np.testing.assert_allclose(np.array(rows[:3], float), SIX, atol=1e-5)
    assert set(rows[3]) == {"n/a"}
    channels = Path(f"{name}_channels.tsv").read_text().splitlines()
    assert channels[1].split("\t")[:5] == ["FE", "n/a", "JNTANG", "femur_tibia", "deg"]
    assert json.loads(Path(f"{name}_motion.json").read_text())["SamplingFrequency"] == 10


def test_a_label_of_bids_is_letters_and_digits(scene, capsys):
    flags = ["--format", "bids", "--fps", "10", "--subject", "P_01"]
    assert kinematics.main([*command(scene), *flags]) == 2
    assert "letters and digits" in capsys.readouterr().err


def test_the_validator_of_bids_finds_no_error(scene, template):
    validator = Path(sys.executable).parent / "bids-validator-deno"
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    folder = written(scene, "--format", "bids") / "bids"
    done = subprocess.run(
        [validator, folder, "--json"], capture_output=True, text=True, timeout=120
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue.get("severity") == "error"] == []


# ------------------------------------------------------------------------------------------- times


def run_of(folder: Path, frames: int, **tags) -> Path:
    """Write a DICOM file of several frames with tags of their times."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = FileDataset(str(folder / "run.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.NumberOfFrames = frames
    dataset.Rows = dataset.Columns = 2
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(folder / "run.dcm", enforce_file_format=True)
    return folder / "run.dcm"


@pytest.mark.parametrize(
    ("tags", "expected", "tag"),
    [
        ({"FrameTimeVector": [0, 40, 50]}, [0, 0.04, 0.09], "FrameTimeVector"),
        ({"FrameTime": 33, "CineRate": 15}, [0, 0.033, 0.066], "FrameTime"),
        ({"CineRate": 20}, [0, 0.05, 0.1], "CineRate"),
    ],
)
def test_times_of_frames_come_from_the_header(tmp_path, tags, expected, tag):
    times, said = read_frame_times(run_of(tmp_path, 3, **tags))
    np.testing.assert_allclose(times, expected)
    assert said == tag


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({}, "states no times"),
        ({"FrameTimeVector": [0, 40]}, "2 intervals for 3 frames"),
        ({"FrameTimeVector": [0, 40, 0]}, "not all positive"),
    ],
)
def test_headers_without_usable_times_are_refused(tmp_path, tags, error):
    with pytest.raises(InputError, match=error):
        read_frame_times(run_of(tmp_path, 3, **tags))


def test_frames_of_a_run_have_the_times_of_their_numbers(scene, capsys):
    path = run_of(scene, 12, FrameTime=20)
    assert kinematics.main([*command(scene), "--time", str(path)]) == 0
    lines = (scene / "knee/kinematics.csv").read_text().splitlines()
    assert [float(line.split(",")[1]) for line in lines[1:]] == [0.02, 0.04, 0.2]
    short = run_of(scene, 5, FrameTime=20)
    assert kinematics.main([*command(scene), "--time", str(short), "--overwrite"]) == 2
    assert "has 5 frames, the movement 3" in capsys.readouterr().err
