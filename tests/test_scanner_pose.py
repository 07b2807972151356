"""Source and bones from a result and the original CT alone, by the code of docs/slicer.md."""

import re
from dataclasses import dataclass
from pathlib import Path

import helpers
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import registration
from common import files, geometry
from common.drr import joseph
from common.geometry import Detector
from common.results import parameters_file
from common.volume import attenuation, hounsfield, lineage, nifti, volume
from common.volume.volume import Volume

CODE = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).resolve().parents[1] / "docs" / "slicer.md").read_text(),
    re.DOTALL,
)
DETECTOR = Detector(120, 140, 900.0, (1.3, 1.1), (52.0, 71.5))
BEAD_HU = 6000


def code_with(word: str) -> str:
    (block,) = [block for block in CODE if word in block]
    return block


def run(block: str, folder: Path, monkeypatch, **names) -> dict:
    """Run a code block of the page in a folder, and return the names that it defines."""
    monkeypatch.chdir(folder)
    exec(compile(block, "docs/slicer.md", "exec"), names)
    return names


def render(
    ct: Volume, camera: np.ndarray, detector: Detector, above_hu: float = -1000.0
) -> np.ndarray:
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, above_hu), ct.isocentre_mm
    )
    return renderer.render(camera[None], detector)[0]


def save_xray(path: Path, image: np.ndarray) -> None:
    noisy = image / image.max() + np.random.default_rng(1).normal(0, 0.004, image.shape)
    # noise in the open field too: a constant grey value there is a collimator
    Image.fromarray((30 + 200 * noisy).round().astype(np.uint8)).save(path)


def flags(detector: Detector) -> list[str]:
    numbers = [detector.sdd_mm, *detector.pixel_mm, *detector.principal_px]
    sdd, *rest = map(str, numbers)
    return ["--sdd", sdd, "--pixel_spacing", *rest[:2], "--principal_point", *rest[2:]]


@dataclass(frozen=True)
class Scene:
    """A registered patient: P01_ct.nii.gz and results/, true camera, and pixel of the bead."""

    folder: Path
    camera: np.ndarray
    seen_px: np.ndarray


@pytest.fixture(scope="module", params=["left", "right"])
def scene(request, tmp_path_factory) -> Scene:
    """A bead in an oblique CT.

    The registered volume is cropped, mirrored for a right bone, and centred.
    """
    folder = tmp_path_factory.mktemp(request.param)
    ct = helpers.small_ct(2.0, helpers.oblique_affine((2.0, 2.0, 2.0), origin=(80, 40, -300)))
    bead = np.array([29, 22, 16])
    beaded = ct.data.astype(np.int32)
    beaded[tuple(bead)] = BEAD_HU
    nibabel.save(nibabel.Nifti1Image(beaded.astype(np.int16), ct.affine), folder / "P01_ct.nii.gz")

    box = (slice(1, -1),) * 3  # only air is outside
    mirror = geometry.MIRROR if request.param == "right" else np.eye(4)
    affine = mirror @ volume.affine_of_box(ct.affine, box)
    record = lineage.original(folder / "P01_ct.nii.gz").then(
        "crop_cts", {}, mirror, side=request.param
    )
    cropped = Volume(ct.data[box], affine, record)
    shift = geometry.translation(cropped.isocentre_mm)
    centred = Volume(
        cropped.data, geometry.invert(shift) @ affine, record.then("center_isometric", {}, shift)
    )
    nifti.save(folder / "volume.nii.gz", centred)

    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )
    clean = render(ct, camera, DETECTOR)
    marked = render(Volume(beaded, ct.affine, ct.lineage), camera, DETECTOR)
    save_xray(folder / "xray.png", clean)
    spot = marked - clean
    spot[spot < 0.05 * spot.max()] = 0  # voxels are stored in 16 bits, rounded by their range
    rows, columns = np.indices(spot.shape)
    seen = np.array([(columns * spot).sum(), (rows * spot).sum()]) / spot.sum()

    off = geometry.twist(np.r_[0.05, -0.06, 0.04, 5, -6, 4], ct.isocentre_mm) @ camera
    files.write_json(folder / "start.json", {"camera": off.tolist()})
    words = [
        str(folder / "xray.png"),
        "-v",
        str(folder / "volume.nii.gz"),
        "--bone",
        "bright",
        "-o",
        str(folder / "results"),
        *flags(DETECTOR),
    ]
    fixed = ["--init", "fixed", "--init_pose", str(folder / "start.json")]
    assert registration.main([*words, *fixed]) == 0
    return Scene(folder, camera, seen)


def test_the_bead_in_the_original_ct_is_projected_to_its_pixel_in_the_x_ray(scene, monkeypatch):
    block = code_with("torch.load")
    assert set(re.findall(r"^import (\w+)", block, re.MULTILINE)) == {"nibabel", "numpy", "torch"}
    found = run(block, scene.folder, monkeypatch)
    np.testing.assert_allclose([found["column"], found["row"]], scene.seen_px, atol=0.5)


def test_source_and_detector_are_at_their_true_positions(scene, monkeypatch):
    found = run(code_with("torch.load"), scene.folder, monkeypatch)
    # of 620 mm: one small view gives half a degree and 1 % of depth
    assert np.linalg.norm(found["source_mm"] - scene.camera[:3, 3]) < 10
    assert np.degrees(np.arccos(found["camera"][:3, 2] @ scene.camera[:3, 2])) < 0.6
    assert np.linalg.det(found["camera"][:3, :3]) == pytest.approx(1)
    corners = nibabel.affines.apply_affine(found["ct"].affine, found["detector_corners_voxel"])
    np.testing.assert_allclose(
        (corners - found["source_mm"]) @ found["camera"][:3, 2], DETECTOR.sdd_mm, atol=1e-3
    )
    np.testing.assert_allclose(
        nibabel.affines.apply_affine(found["ct"].affine, found["source_voxel"]),
        found["source_mm"],
        atol=1e-6,
    )


def test_the_files_for_slicer_give_the_same_projection_in_simpleitk(scene, monkeypatch):
    projection = torch.load(scene.folder / "results" / "parameters.pt", weights_only=True)[
        "scanner_pose"
    ][0]["projection"].numpy()
    pixel_of = run(code_with("sitk.ReadTransform"), scene.folder, monkeypatch)["pixel_of"]
    ct = nibabel.load(scene.folder / "P01_ct.nii.gz")
    for index in ([29, 22, 16], [4, 30, 50], [40, 8, 9]):
        point = nibabel.affines.apply_affine(ct.affine, index)
        x, y, w = projection @ [*point, 1]
        np.testing.assert_allclose(pixel_of(point), [x / w, y / w], atol=0.05)


# ----------------------------------------------------------------------------- two bones, two views


def bone(upper: bool) -> Volume:
    """Return one of two bones above each other in one CT, the lower one rotated by 180 degrees."""
    ct = helpers.small_ct(2.0, helpers.oblique_affine((1.2, 1.2, 1.2), origin=(10, -30, 60)))
    data = np.where(ct.data > 40, ct.data, 40).astype(np.int16)
    return (
        Volume(data, ct.affine, ct.lineage)
        if upper
        else Volume(
            data[::-1, :, ::-1].copy(), ct.affine @ geometry.translation([2, -3, -45]), ct.lineage
        )
    )


@pytest.mark.slow
def test_two_right_bones_in_two_views_are_registered_with_the_motion_of_the_second_one(tmp_path):
    """Both are mirrored volumes; X-rays, rig and motion are those of the patient, unmirrored."""
    first, second = bone(upper=True), bone(upper=False)
    motion = geometry.twist(np.array([0.05, -0.04, 0.06, 3, -2, 2.5]), second.isocentre_mm)
    detectors = (
        Detector(140, 130, 900.0, (1.4, 1.35), (58.0, 73.5)),
        Detector(150, 140, 950.0, (1.3, 1.3), (72.0, 70.5)),
    )
    between = geometry.translation((first.isocentre_mm + second.isocentre_mm) / 2)
    cameras = [
        between @ geometry.camera_from_pose(geometry.pose_from_angles(angles, offset))
        for angles, offset in (([12, -4, 3], [3, 640, 2]), ([80, 5, -4], [-4, 660, 5]))
    ]
    for index, (detector, camera) in enumerate(zip(detectors, cameras, strict=True)):
        moved = Volume(second.data, motion @ second.affine, second.lineage)
        save_xray(
            tmp_path / f"cam{index}.png",
            sum(
                render(each, camera, detector, hounsfield.SOFT_TISSUE_HU) for each in (first, moved)
            ),
        )
        inverse = geometry.invert(camera)
        content = {
            "K": detector.intrinsics.tolist(),
            "R": inverse[:3, :3].tolist(),
            "t": inverse[:3, 3].tolist(),
            "image_size": [detector.width, detector.height],
        }
        files.write_json(tmp_path / f"cam{index}_calibration.json", content)
    for name, each in (("upper", first), ("lower", second)):
        nifti.save(
            tmp_path / f"{name}.nii.gz",
            Volume(
                each.data,
                geometry.MIRROR @ each.affine,
                each.lineage.then("crop_cts", {}, geometry.MIRROR),
            ),
        )
    off = geometry.twist(np.r_[0.02, -0.03, 0.02, 2, -1, 2], first.isocentre_mm) @ cameras[0]
    files.write_json(tmp_path / "start.json", {"camera": off.tolist()})
    words = [
        *(str(tmp_path / f"cam{i}.png") for i in (0, 1)),
        "--views",
        "--calibration",
        *(str(tmp_path / f"cam{i}_calibration.json") for i in (0, 1)),
    ]
    words += [
        "-v",
        str(tmp_path / "upper.nii.gz"),
        str(tmp_path / "lower.nii.gz"),
        "--attenuation",
        "excess",
        "--bone",
        "bright",
        "-o",
        str(tmp_path / "out"),
    ]
    fixed = ["--init", "fixed", "--init_pose", str(tmp_path / "start.json")]
    assert registration.main([*words, *fixed]) == 0

    views = parameters_file.load(tmp_path / "out" / "upper" / "parameters.pt").scanner_pose
    point = geometry.apply(second.affine, np.array(second.shape) / 3)
    assert [bone.name for bone in views[0].bones] == ["upper", "lower"]
    for view, camera, detector in zip(views, cameras, detectors, strict=True):
        found = view.bones[1].motion
        np.testing.assert_allclose(
            geometry.apply(found, point), geometry.apply(motion, point), atol=0.5
        )
        assert geometry.rotation_angle_deg(found[:3, :3].T @ motion[:3, :3]) < 0.5
        x, y, w = view.projection @ [*geometry.apply(found, point), 1]
        np.testing.assert_allclose(
            [x / w, y / w],
            geometry.project(geometry.apply(motion, point)[None], detector, camera)[0],
            atol=0.3,
        )
    for name in (
        "view1_camera_LPS.tfm",
        "view2_camera_LPS.tfm",
        "view1_outline.png",
        "view2_outline.mrk.json",
        "lower_motion_LPS.tfm",
    ):
        assert (tmp_path / "out" / "upper" / "slicer" / name).exists()
