"""A biplane trial as laboratories store it, from multi-page TIFFs to a pose per frame."""

import json
import os
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import tifffile
from PIL import Image

from common import files, geometry
from common.command_line.script import EXIT_BAD_INPUT
from common.drr import joseph
from common.geometry import Detector
from common.results import parameters_file
from common.volume import attenuation, nifti
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.lineage import Lineage
from common.volume.volume import Volume
from pipeline import import_autoscoper

ROOT = Path(__file__).resolve().parents[1]
VOXEL = (2.0, 2.0, 2.5)
DETECTORS = (
    Detector(150, 160, 1400.0, (1.0, 1.02), (84.0, 70.5)),
    Detector(150, 160, 1300.0, (1.1, 1.08), (73.0, 79.0)),
)


def write_tiff(path, pages):
    """Pages (N, H, W) of grey values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=rest)
    return path


def bone_pages(seed=0):
    """A single bone of 48 x 40 x 40 voxels, (pages, rows, columns), grey = HU + 1024, 0 outside."""
    ct = helpers.small_ct(2.0)
    hu = np.where(ct.data > 250, ct.data, -1024)[:, :, 8:48]
    return (hu + 1024).astype(np.uint16).transpose(2, 1, 0)


def imported(tmp_path, pages, *flags):
    tiff = write_tiff(tmp_path / "rad_cropped.tif", pages)
    assert (
        import_autoscoper.main(
            [
                "-i",
                str(tiff),
                "--bones",
                "radius",
                "--voxel_mm",
                *map(str, VOXEL),
                "-o",
                str(tmp_path / "out"),
                *flags,
            ]
        )
        == 0
    )
    return nifti.load_ct(tmp_path / "out" / "radius.nii.gz")


def test_column_row_and_page_give_the_position_of_each_voxel_in_hounsfield_units(tmp_path):
    pages = bone_pages()
    pages[3, 5, 7] = 4095
    bone = imported(tmp_path, pages, "--side", "right")
    assert bone.shape == pages.shape[::-1]
    assert bone.data[7, 5, 3] == 4095 - 1024
    assert bone.data[0, 0, 0] == -1024
    np.testing.assert_allclose(geometry.apply(bone.affine, np.array([7, 5, 3])), [14, 10, 7.5])
    assert (bone.lineage.bone, bone.lineage.side, bone.lineage.mirrored) == (
        "radius",
        "right",
        False,
    )
    assert bone.lineage.source == {
        "name": "rad_cropped.tif",
        "sha256": files.sha256(tmp_path / "rad_cropped.tif"),
    }


def test_slope_and_intercept_convert_grey_values_to_hounsfield_units(tmp_path):
    bone = imported(
        tmp_path, (bone_pages() // 16).astype(np.uint8), "--slope", "16", "--intercept", "-1000"
    )
    assert bone.data.min() == -1024  # air outside the bone, whatever grey value 0 is
    assert bone.data.max() == (bone_pages().max() // 16) * 16 - 1000


def hu_pages():
    """The bone of `bone_pages` in HU, with marrow of 0 HU in it, and its mask."""
    hu = bone_pages().astype(np.int32) - 1024
    inside = hu > -1024
    hu[20, 18:20, 20:22] = 0
    return np.where(inside, hu, 0), inside


@pytest.mark.parametrize(
    ("stored", "suits"),
    [
        (lambda hu, inside: np.where(inside, hu, -1000).astype(np.int16), "--intercept 0 suits"),
        (lambda hu, inside: (hu + 32768).astype(np.uint16), "--intercept -32768 suits"),
        (lambda hu, inside: np.where(inside, hu - hu[inside].min(), 0).astype(np.uint16), "state"),
    ],
    ids=["signed HU", "HU + 32768", "HU minus the lowest of the bone"],
)
def test_grey_values_that_do_not_suit_a_bone_are_refused_with_the_flag_that_does(
    tmp_path, capsys, stored, suits
):
    path = tmp_path / "b.tif"
    tifffile.imwrite(path, stored(*hu_pages()), photometric="minisblack")
    flags = ["-i", str(path), "--bones", "radius", "--voxel_mm", "1", "1", "1"]
    assert import_autoscoper.main([*flags, "-o", str(tmp_path / "out")]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "as HU + 1024, its bone would have" in error
    assert suits in error


@pytest.mark.parametrize("intercept", [0, -32768])
def test_a_stated_intercept_keeps_marrow_and_makes_air_outside(tmp_path, intercept):
    hu, inside = hu_pages()
    outside = -1000 if intercept == 0 else 0
    grey = np.where(inside, hu - intercept, outside)
    path = tmp_path / "b.tif"
    kind = np.int16 if intercept == 0 else np.uint16
    tifffile.imwrite(path, grey.astype(kind), photometric="minisblack")
    bone = import_autoscoper.read_bone(path, "radius", None, list(VOXEL), 1.0, float(intercept))
    np.testing.assert_array_equal(bone.data, np.where(inside, hu, -1024).transpose(2, 1, 0))


def test_a_volume_that_says_min_is_white_is_exchanged(tmp_path):
    path = tmp_path / "b.tif"
    tifffile.imwrite(path, 65535 - bone_pages(), photometric="miniswhite")
    bone = import_autoscoper.read_bone(path, "radius", None, list(VOXEL), 1.0, None)
    expected = np.where(bone_pages() > 0, bone_pages().astype(int) - 1024, -1024)
    np.testing.assert_array_equal(bone.data, expected.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("pages", "flags", "message"),
    [
        (bone_pages()[:1], [], "number of pages: 1"),
        (bone_pages() // 8, ["--intercept", "-1024"], "correct --slope and --intercept"),
        (bone_pages() // 8, [], "state --intercept"),
        (bone_pages(), ["--voxel_mm", "0.39", "0.39", "0"], "expected 0.01 to 20 mm"),
        (bone_pages(), ["--bones", "radius", "ulna"], "expected a different name for each"),
    ],
)
def test_invalid_bone_volumes_are_rejected(tmp_path, capsys, pages, flags, message):
    tiff = write_tiff(tmp_path / "b.tif", pages)
    assert (
        import_autoscoper.main(
            [
                "-i",
                str(tiff),
                "--bones",
                "radius",
                "--voxel_mm",
                "1",
                "1",
                "1",
                "-o",
                str(tmp_path / "out"),
                *flags,
            ]
        )
        == EXIT_BAD_INPUT
    )
    assert message in capsys.readouterr().err


def mayacam(path, detector, camera):
    """XMALab's text of a camera (rig_from_camera)."""
    matrix, inverse = detector.intrinsics, geometry.invert(camera)
    rows = lambda a: "\n".join(",".join(f"{v:.12g}" for v in np.atleast_1d(row)) for row in a)  # noqa: E731
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"image size\n{detector.width},{detector.height}\n\n"
        f"camera matrix\n{rows(matrix)}\n\n"
        f"rotation\n{rows(inverse[:3, :3])}\n\n"
        f"translation\n{rows(inverse[:3, 3])}\n"
    )


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Two frames of a moving bone, two cameras: folder, rig_from_volume per frame, cameras."""
    folder = tmp_path_factory.mktemp("trial")
    pages = bone_pages()
    write_tiff(folder / "volumes" / "rad_cropped.tif", pages)
    bone = Volume(
        (pages.transpose(2, 1, 0).astype(np.int16) - 1024), np.diag([*VOXEL, 1.0]), Lineage()
    )
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(bone, None, None, SOFT_TISSUE_HU),
        bone.isocentre_mm,
    )
    cameras = [
        geometry.translation([40, -30, 20])
        @ geometry.camera_from_pose(geometry.pose_from_angles([turn, tilt, 8], [5, 860, -6]))
        for turn, tilt in ((-35, 4), (45, -6))
    ]
    poses = []
    for number, (frame, twist) in enumerate(
        (("0002", [0.1, -0.2, 0.15, 3, -2, 5]), ("0099", [0.3, -0.1, 0.05, -4, 6, 1]))
    ):
        rig_from_volume = (
            geometry.translation([40, -30, 20])
            @ geometry.twist(np.array(twist), np.zeros(3))
            @ geometry.translation(-bone.isocentre_mm)
        )
        poses.append(rig_from_volume)
        for index, (detector, camera) in enumerate(zip(DETECTORS, cameras, strict=True), start=1):
            mayacam(folder / "calibration" / f"cam0{index}.txt", detector, camera)
            image = renderer.render((geometry.invert(rig_from_volume) @ camera)[None], detector)[0]
            image = image / image.max() + np.random.default_rng(number).normal(
                0, 0.004, image.shape
            )
            (folder / "xrays").mkdir(exist_ok=True)
            Image.fromarray((40 + np.clip(image, 0, 1) * 200).round().astype(np.uint8)).save(
                folder / "xrays" / f"cam0{index}_UND.{frame}.tif", compression="tiff_lzw"
            )
    off = (
        geometry.twist(np.array([0.06, -0.05, 0.04, 4, -5, 3]), bone.isocentre_mm)
        @ geometry.invert(poses[0])
        @ cameras[0]
    )
    (folder / "start.json").write_text(json.dumps({"camera": off.tolist()}))
    return folder, poses, cameras


def run(*words):
    script = str(ROOT / "pipeline" / "register_trial.sh")
    return subprocess.run(
        ["bash", script, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )


@pytest.mark.slow
def test_one_run_registers_a_frame_and_a_second_run_skips_it(trial, tmp_path):
    folder, (rig_from_volume, _), cameras = trial
    # a known start pose, for speed; the frames and the bone come from the folder
    call = [
        "--trial",
        folder,
        "--out",
        tmp_path,
        "--bones",
        "rad=radius",
        "--voxel",
        " ".join(map(str, VOXEL)),
        "--side",
        "right",
        "--frames",
        "0002",
    ]
    call += ["--register", f"--bone bright --init fixed --init_pose {folder / 'start.json'}"]
    first = run(*call)
    assert first.returncode == 0, first.stderr
    result = parameters_file.load(tmp_path / "frames" / "cam01_UND.0002" / "parameters.pt")
    points = np.array(result.drr["points_mm"])
    for view, camera, detector in zip(result.scanner_pose, cameras, DETECTORS, strict=True):
        error = geometry.pose_error(
            view.camera,
            geometry.invert(rig_from_volume) @ camera,
            points,
            detector,
        )
        assert error.mtre_mm < 0.3
    assert (tmp_path / "frames" / "cam01_UND.0002" / "slicer" / "view2_outline.png").exists()
    assert "done already" in run(*call).stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bones", "ulna=ulna"], "files begin with 'ulna'"),
        (["--bones", "radius"], "expected PREFIX=NAME"),
        (["--trial", "/nowhere"], "has no folder xrays"),
        (["--frames", "0003"], "frame 0003: 0 images for 2 calibrations"),
        (["--frames"], "no value"),
        (["--speed", "high"], "unknown argument"),
    ],
)
def test_a_trial_with_another_layout_is_an_error_of_one_line(trial, tmp_path, flags, message):
    folder, _, _ = trial
    done = run(
        "--trial", folder, "--out", tmp_path, "--bones", "rad=radius", "--voxel", "2 2 2.5", *flags
    )
    assert done.returncode == EXIT_BAD_INPUT
    assert message in done.stderr
