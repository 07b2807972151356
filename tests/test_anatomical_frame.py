"""Anatomical frames: analytic bones, whichever way they lie; bones that determine none; files."""

import json
from dataclasses import replace

import bones
import numpy as np
import pytest

from common import geometry
from common.errors import InputError
from common.kinematics import frame_file
from common.kinematics.anatomical_frames import frame_by_shape, frame_of_axes, side_of
from common.kinematics.bone_surface import bone_mask, bone_surface
from common.kinematics.femur_frame import femur_frame
from common.kinematics.frame_file import Repeat
from common.kinematics.landmarks import frame_by_landmarks, read_landmarks
from common.kinematics.tibia_frame import tibia_frame
from common.volume import nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume
from pipeline import anatomical_frame

# X, Y, Z of the frame along anterior, superior and right of the scanner
UPRIGHT = np.array([[0.0, 0, 1, 30], [1, 0, 0, -40], [0, 1, 0, 500], [0, 0, 0, 1]])
TURNS = [(0.0, 0, 0), (12.0, -20, 8), (170.0, 20, 60)]


def turned(rotation_deg) -> np.ndarray:
    return geometry.twist(np.array([*np.radians(rotation_deg), 0, 0, 0]), np.zeros(3)) @ UPRIGHT


def difference(found: np.ndarray, expected: np.ndarray) -> Repeat:
    return Repeat.between("", expected, found)


def degrees_between(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def of(labelmap: Volume):
    return bone_surface(bone_mask(labelmap))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", TURNS)
def test_the_axis_of_a_cylinder_is_found_whichever_way_the_bone_lies(turn, mirrored):
    frame = turned(turn)
    fit = femur_frame(of(bones.femur_labelmap(frame, mirrored=mirrored)))
    assert degrees_between(fit.frame[:3, 2], frame[:3, 2]) < 0.1
    assert degrees_between(fit.frame[:3, 1], frame[:3, 1]) < 0.3
    assert np.linalg.det(fit.frame[:3, :3]) == pytest.approx(1)
    middle = np.mean(bones.EPICONDYLES_MM, axis=0)
    np.testing.assert_allclose(difference(fit.frame, frame).translation_mm, middle, atol=0.5)
    assert fit.radii_mm[0] == pytest.approx(bones.RADIUS_MM, abs=0.5)


def test_the_origin_can_be_the_middle_of_the_axis():
    fit = femur_frame(of(bones.femur_labelmap(UPRIGHT)), origin="axis")
    # the condyles reach from -32 to 33 mm
    np.testing.assert_allclose(difference(fit.frame, UPRIGHT).translation_mm, [0, 0, 0.5], atol=0.5)


@pytest.mark.parametrize("turn", TURNS[1:])
def test_the_line_through_two_spheres_is_found(turn):
    frame = turned(turn)
    labelmap = bones.femur_labelmap(frame, spacing=0.7, spheres=True)
    fit = femur_frame(of(labelmap), "spheres")
    assert degrees_between(fit.frame[:3, 2], frame[:3, 2]) < 0.1
    np.testing.assert_allclose(fit.radii_mm, bones.RADIUS_MM, atol=0.2)


@pytest.mark.parametrize("method", ["plateau", "section"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", TURNS)
def test_the_axes_of_a_tibia_are_found_whichever_way_it_lies(turn, mirrored, method):
    frame = turned(turn)
    fit = tibia_frame(of(bones.tibia_labelmap(frame, mirrored=mirrored)), method)
    found = difference(fit.frame, frame)
    assert np.abs(found.rotation_deg).max() < 0.5
    np.testing.assert_allclose(found.translation_mm[[0, 2]], 0, atol=0.5)
    assert fit.width_mm == pytest.approx(72, abs=1.5)


def test_debris_a_patella_and_a_fibula_do_not_move_the_axes():
    labelmap = bones.femur_labelmap(UPRIGHT)
    data = np.pad(labelmap.data, 12)
    data[:6, :8, -30:] = 1  # a piece apart from the bone
    affine = labelmap.affine @ geometry.translation(np.full(3, -12.0))
    clean, dirty = of(labelmap), of(replace(labelmap, data=data, affine=affine))
    np.testing.assert_allclose(femur_frame(dirty).frame, femur_frame(clean).frame, atol=1e-6)


def test_a_fibula_that_is_attached_to_the_tibia_does_not_move_the_axes():
    labelmap = bones.tibia_labelmap(turned(TURNS[1]))
    data = labelmap.data.copy()
    beside = np.roll(data > 0, 6, axis=0) & (data == 0)  # touches the tibia all along
    data[beside] = 5
    lineage = replace(labelmap.lineage, label=1)
    both = replace(labelmap, data=data, lineage=lineage)
    np.testing.assert_allclose(tibia_frame(of(both)).frame, tibia_frame(of(labelmap)).frame)


def test_a_shorter_shaft_keeps_the_flexion_axis_and_the_origin():
    long, short = (
        femur_frame(of(bones.femur_labelmap(turned(TURNS[1]), shaft_mm=length))).frame
        for length in (140.0, 62.0)
    )
    assert degrees_between(long[:3, 2], short[:3, 2]) < 0.05
    assert np.linalg.norm(long[:3, 3] - short[:3, 3]) < 0.3


# -------------------------------------------------------------------- bones that determine no frame


def test_a_stump_is_refused():
    with pytest.raises(InputError, match="or state `landmarks`"):
        femur_frame(of(bones.femur_labelmap(UPRIGHT, shaft_mm=40.0)))


def test_a_plateau_that_is_cut_is_refused():
    tibia = bones.tibia_labelmap(UPRIGHT)
    data = tibia.data.copy()
    top = np.flatnonzero(data.any(axis=(0, 1))).max()
    data[:, :, top - 12 :] = 0
    with pytest.raises(InputError, match="is cut at the joint"):
        tibia_frame(of(replace(tibia, data=data)))


def test_a_mask_with_both_legs_is_refused():
    femur = bones.femur_labelmap(UPRIGHT)
    both = np.concatenate([femur.data, femur.data], axis=0)
    with pytest.raises(InputError, match="two large pieces"):
        bone_mask(replace(femur, data=both))


def test_a_round_plateau_determines_no_axis():
    index = np.stack(np.meshgrid(*map(np.arange, (90, 90, 120)), indexing="ij"), -1) - [45, 45, 110]
    radius = np.where(index[..., 2] > -25, 35, 14)
    shape = np.hypot(index[..., 0], index[..., 1]) < radius
    shape &= (index[..., 2] < 0) & ~((index[..., 2] > -6) & (np.hypot(*index[..., :2].T).T > 20))
    with pytest.raises(InputError, match="times as wide as deep"):
        tibia_frame(of(Volume(shape.astype(np.uint8), np.eye(4), Lineage())))


def test_a_missing_label_is_named():
    with pytest.raises(InputError, match="has 0 voxels of the bone"):
        bone_mask(bones.femur_labelmap(UPRIGHT), [7])


def test_a_method_of_another_bone_is_refused():
    with pytest.raises(InputError, match="plateau is no method of a femur"):
        frame_by_shape(bones.femur_labelmap(UPRIGHT), "femur", "left", "plateau")


def test_a_bone_of_unknown_side_is_refused():
    volume = bones.femur_labelmap(UPRIGHT)
    assert side_of(volume, None) == "left"
    with pytest.raises(InputError, match="left bone by its lineage"):
        side_of(volume, "right")
    with pytest.raises(InputError, match="does not state the side"):
        side_of(replace(volume, lineage=Lineage()), None)


# ---------------------------------------------------------------------------------- other sources


def test_landmarks_of_slicer_and_csv_give_the_frame_they_were_placed_in(tmp_path):
    volume = bones.femur_labelmap(UPRIGHT, mirrored=True)  # a right bone, shown mirrored
    place = geometry.invert(volume.lineage.scanner_from_volume) @ UPRIGHT
    in_frame = {"medial": [0, 0, -40], "lateral": [0, 0, 40], "distal": [0, 0, 0],
                "proximal": [5, 90, 12], "origin": [0, 0, 3]}  # fmt: skip
    points = {name: geometry.apply(place, point) for name, point in in_frame.items()}
    table = tmp_path / "points.csv"
    rows = [f"{name},{x},{y},{z}" for name, (x, y, z) in points.items()]
    table.write_text("\n".join(["name,x,y,z", *rows]) + "\n")
    markups = tmp_path / "points.mrk.json"
    controls = [
        {"label": name, "position": (point * [-1, -1, 1]).tolist()}
        for name, point in points.items()
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": controls}
    markups.write_text(json.dumps({"markups": [markup]}))
    for path in (table, markups):
        found = frame_by_landmarks(path, read_landmarks(path), volume, "femur", "right")
        assert found.scanner_from_frame[:3, 2] @ UPRIGHT[:3, 2] == pytest.approx(1)
        np.testing.assert_allclose(
            found.scanner_from_frame[:3, 3], geometry.apply(UPRIGHT, in_frame["origin"])
        )
        tilt = difference(found.scanner_from_frame, UPRIGHT).rotation_deg
        np.testing.assert_allclose(tilt, [0, 0, -np.degrees(np.arctan2(5, 90))], atol=1e-6)


def test_planes_of_slicer_give_their_normals(tmp_path):
    path = tmp_path / "planes.mrk.json"
    planes = [
        {"type": "Plane", "name": name, "coordinateSystem": "RAS", "controlPoints": [],
         "normal": normal, "center": [1, 2, 3]}
        for name, normal in (("sagittal", [-1, 0, 0]), ("axial", [0, 0.1, 1]))
    ]  # fmt: skip
    path.write_text(json.dumps({"markups": planes}))
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4), Lineage())
    found = frame_by_landmarks(path, read_landmarks(path), volume, "femur", "left")
    np.testing.assert_allclose(found.scanner_from_frame[:3, 2], [1, 0, 0])
    np.testing.assert_allclose(found.scanner_from_frame[:3, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name,x,y,z\nmedial,0,0,0\n", "names medial"),
        ("name,x,y\nmedial,0,0\n", "cannot be read"),
        ("name,x,y,z\nmedial,nan,0,0\n", "not finite"),
        (
            "name,x,y,z\nmedial,0,0,0\nlateral,40,0,0\nproximal,50,0,1\ndistal,0,0,0\n",
            "degrees apart",
        ),
    ],
)
def test_landmarks_that_define_no_frame_are_refused(tmp_path, text, found):
    path = tmp_path / "points.csv"
    path.write_text(text)
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4), Lineage())
    with pytest.raises(InputError, match=found):
        frame_by_landmarks(path, read_landmarks(path), volume, "femur", "left")


def test_the_axes_of_an_implant_are_those_that_are_named():
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4), Lineage())
    found = frame_of_axes(volume, "femur", "right", "y,z,x")
    np.testing.assert_allclose(found.scanner_from_frame[:3, :3], UPRIGHT[:3, :3])
    for axes, what in (("y,z,-x", "mirrors"), ("y,y,x", "twice"), ("y,z", "three axes")):
        with pytest.raises(InputError, match=what):
            frame_of_axes(volume, "femur", "right", axes)


# ---------------------------------------------------------------------------------- file and script


@pytest.mark.slow
def test_the_script_writes_frame_picture_and_markups_of_a_mirrored_bone(tmp_path, capsys):
    labelmap = bones.femur_labelmap(turned(TURNS[1]), spacing=1.2, mirrored=True)
    lineage = replace(labelmap.lineage, bone="femur").then("crop_cts.py", {})
    ct = Volume((labelmap.data * 900.0 - 100).astype(np.int16), labelmap.affine, lineage)
    nifti.save(tmp_path / "ct.nii.gz", ct)
    nifti.save(tmp_path / "mask.nii.gz", replace(labelmap, lineage=lineage))
    flags = ["-v", str(tmp_path / "ct.nii.gz"), "--mask", str(tmp_path / "mask.nii.gz")]
    output = tmp_path / "femur.json"
    assert anatomical_frame.main([*flags, "--bone", "femur", "-o", str(output)]) == 0
    loaded = frame_file.load(output)
    assert (loaded.bone, loaded.side, loaded.method) == ("femur", "right", "cylinder")
    np.testing.assert_allclose(
        loaded.scanner_from_volume @ loaded.volume_from_frame, loaded.scanner_from_frame
    )
    assert np.linalg.det(loaded.volume_from_frame[:3, :3]) == pytest.approx(-1)
    assert 0 < loaded.rotation_sd_deg[0] < 0.5
    assert [each.change for each in loaded.other_methods] == ["spheres"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    lines = json.loads(output.with_suffix(".mrk.json").read_text())["markups"]
    start = np.array(lines[0]["controlPoints"][0]["position"]) * [-1, -1, 1]
    np.testing.assert_allclose(start, loaded.volume_from_frame[:3, 3])
    capsys.readouterr()
    assert anatomical_frame.main([*flags, "--bone", "femur", "-o", str(output)]) == 2
    assert "already exists" in capsys.readouterr().err
    again = tmp_path / "again.json"
    assert anatomical_frame.main([*flags, "--bone", "tibia", "-o", str(again)]) == 2
    assert "is a femur by its lineage" in capsys.readouterr().err
    assert anatomical_frame.main(["-v", flags[1], "--bone", "femur", "-o", str(again)]) == 2
    assert "one of --mask, --landmarks and --axes" in capsys.readouterr().err
    assert not again.exists()


@pytest.mark.parametrize(
    ("entry", "value", "found"),
    [
        ("schema", "frame/9", "schema is 'frame/9'"),
        ("side", "L", "side is 'L'"),
        ("scanner_from_frame", np.diag([1.0, 1, -1, 1]).tolist(), "right-handed"),
        ("uncertainty", {}, "incomplete"),
    ],
)
def test_a_damaged_frame_is_refused(tmp_path, entry, value, found):
    path = tmp_path / "frame.json"
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4), Lineage())
    frame_file.save(path, frame_of_axes(volume, "femur", "right", "y,z,x"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, entry: value}))
    with pytest.raises(InputError, match=found):
        frame_file.load(path)
