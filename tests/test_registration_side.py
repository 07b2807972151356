"""The side of a bone: from its lineage or --side, with an off-centre principal point."""

import helpers
import numpy as np
import pytest
from PIL import Image

import registration
from common import files, geometry
from common.command_line import script
from common.drr import joseph
from common.errors import InputError
from common.geometry import Detector
from common.results import parameters_file
from common.results.result import world_from_registered
from common.volume import attenuation, lineage, nifti
from common.volume.volume import Volume

# the principal point is 17 pixels to the left of the centre
DETECTOR = Detector(120, 140, 900.0, (1.3, 1.1), (52.0, 71.5))
FLAGS = "--sdd 900 --pixel_spacing 1.3 1.1 --principal_point 52 71.5 --bone bright"
GEOMETRY = FLAGS.split()


@pytest.fixture(scope="module")
def right_knee(tmp_path_factory):
    """CT and X-ray of a right knee, mirrored volumes with and without lineage, the true camera."""
    folder = tmp_path_factory.mktemp("right")
    ct = helpers.small_ct()
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, -1000.0), ct.isocentre_mm
    )
    image = renderer.render(camera[None], DETECTOR)[0]
    image += np.random.default_rng(1).normal(0, 0.01, image.shape)
    grey = (np.clip(image / image.max(), 0, 1) * 250).round().astype(np.uint8)
    Image.fromarray(grey).save(folder / "xray.png")
    nifti.save(folder / "right.nii.gz", ct)
    off = geometry.twist(np.r_[0.05, -0.06, 0.04, 5, -6, 4], ct.isocentre_mm) @ camera
    files.write_json(folder / "start.json", {"camera": off.tolist()})
    mirrored = Volume(
        ct.data,
        geometry.MIRROR @ ct.affine,
        ct.lineage.then("crop_cts", {}, geometry.MIRROR, side="right"),
    )
    nifti.save(folder / "mirrored.nii.gz", mirrored)
    nifti.save(folder / "bare.nii.gz", mirrored)
    lineage.sidecar(folder / "bare.nii.gz").unlink()
    return folder, camera


def register(folder, out, volume, *more):
    return registration.main(
        [
            str(folder / "xray.png"),
            "-v",
            str(folder / volume),
            "-o",
            str(out),
            "--init",
            "fixed",
            "--init_pose",
            str(folder / "start.json"),
            *GEOMETRY,
            *more,
        ]
    )


def camera_of(out):
    return np.array(parameters_file.load(out / "parameters.pt").scanner_pose[0].camera)


@pytest.mark.parametrize(
    ("volume", "flags"),
    [
        ("mirrored.nii.gz", []),
        ("mirrored.nii.gz", ["--side", "right"]),
        ("bare.nii.gz", ["--side", "right"]),
    ],
)
@pytest.mark.slow
def test_a_mirrored_right_bone_gives_the_pose_of_the_unmirrored_one(
    right_knee, tmp_path, volume, flags
):
    folder, truth = right_knee
    assert register(folder, tmp_path / "plain", "right.nii.gz") == 0
    assert register(folder, tmp_path / "mirrored", volume, *flags) == 0
    result = parameters_file.load(tmp_path / "mirrored" / "parameters.pt")
    assert result.xray["flipped"]
    assert result.detector.principal_px == pytest.approx((DETECTOR.width - 1 - 52.0, 71.5))
    # of the X-ray on disk
    assert result.scanner_pose[0].principal_point_px == pytest.approx([52.0, 71.5])
    camera = camera_of(tmp_path / "mirrored")
    assert np.linalg.det(camera[:3, :3]) == pytest.approx(1, abs=1e-6)
    points = np.array(parameters_file.load(tmp_path / "plain" / "parameters.pt").drr["points_mm"])
    apart = geometry.pose_error(camera, camera_of(tmp_path / "plain"), points, DETECTOR)
    assert apart.in_plane_mm < 0.1
    assert apart.depth_mm < 0.5
    assert apart.rotation_deg < 0.2
    assert geometry.pose_error(camera, truth, points, DETECTOR).in_plane_mm < 0.2


def test_a_side_that_contradicts_the_lineage_is_rejected(right_knee, tmp_path, capsys):
    folder, _ = right_knee
    assert register(folder, tmp_path, "mirrored.nii.gz", "--side", "left") == script.EXIT_BAD_INPUT
    assert "is a right bone by its lineage, but --side is left" in capsys.readouterr().err


def test_the_right_side_of_a_volume_that_was_cropped_without_mirroring_is_rejected():
    cropped = lineage.Lineage().then("crop_cts", {})
    with pytest.raises(InputError, match="is not mirrored by its lineage"):
        lineage.with_stated_side("a.nii.gz", cropped, "right")


def test_stating_the_left_side_of_an_original_ct_does_not_move_it():
    stated = lineage.with_stated_side("a.nii.gz", lineage.Lineage(), "left")
    assert stated.side == "left"
    np.testing.assert_array_equal(stated.scanner_from_volume, np.eye(4))


def test_the_registered_file_is_in_the_frame_of_its_pose_for_any_side(right_knee, tmp_path):
    """A later step that loads the same file, still without lineage, must not mirror it."""
    folder, _ = right_knee
    assert register(folder, tmp_path, "bare.nii.gz", "--side", "right") == 0
    moved = world_from_registered(
        parameters_file.load(tmp_path / "parameters.pt"), nifti.load_ct(folder / "bare.nii.gz")
    )
    np.testing.assert_array_equal(moved, np.eye(4))


@pytest.mark.slow
def test_a_right_knee_and_its_mirror_image_as_a_left_knee_give_mirrored_poses(right_knee, tmp_path):
    """Volume and X-ray are both mirrored beforehand, without lineage."""
    folder, _ = right_knee
    assert register(folder, tmp_path / "right", "right.nii.gz") == 0
    Image.fromarray(np.asarray(Image.open(folder / "xray.png"))[:, ::-1]).save(
        tmp_path / "left.png"
    )
    start = np.array(files.read_json(folder / "start.json", "")["camera"])
    files.write_json(
        tmp_path / "start.json", {"camera": (geometry.MIRROR @ start @ geometry.MIRROR).tolist()}
    )
    words = [
        str(tmp_path / "left.png"),
        "-v",
        str(folder / "bare.nii.gz"),
        "--side",
        "left",
        "-o",
        str(tmp_path / "left"),
        "--init",
        "fixed",
        "--init_pose",
        str(tmp_path / "start.json"),
    ]
    mirrored_geometry = [*GEOMETRY]
    mirrored_geometry[mirrored_geometry.index("52")] = str(DETECTOR.width - 1 - 52.0)
    assert registration.main([*words, *mirrored_geometry]) == 0
    result = parameters_file.load(tmp_path / "left" / "parameters.pt")
    assert not result.xray["flipped"]
    points = np.array(parameters_file.load(tmp_path / "right" / "parameters.pt").drr["points_mm"])
    apart = geometry.pose_error(
        geometry.MIRROR @ camera_of(tmp_path / "left") @ geometry.MIRROR,
        camera_of(tmp_path / "right"),
        points,
        DETECTOR,
    )
    assert apart.in_plane_mm < 0.1
    assert apart.depth_mm < 0.5
    assert apart.rotation_deg < 0.2
