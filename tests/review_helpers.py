"""A small study with known poses for the tests of the review: one X-ray, biplane, a sequence."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: F401  (before a thread of registration.py imports it)
from PIL import Image

import crop_cts
import registration
import segmentation_preprocessing
from common import files, geometry
from common.drr import joseph
from common.geometry import Detector, PoseError
from common.registration import recording
from common.results import names, parameters_file
from common.review import reopening, solving
from common.synthetic import phantom, xray_simulation
from common.volume import attenuation, nifti
from common.volume.volume import Volume, points_of

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = Detector.centred(208, 224, 1020.0, 1.2)
DISTANCE_MM = 850.0
BESIDE = (  # of the second camera, which is turned about the knee
    geometry.translation([0, 0, DISTANCE_MM])
    @ geometry.twist(np.r_[0, 1.2, 0, 0, 0, 0], np.zeros(3))
    @ geometry.translation([0, 0, -DISTANCE_MM])
)
BONES = {"femur": 4, "tibia": 2}  # labels of the left ones
FRAMES = 5
# mm and radians about the centre of the bone: far enough to be seen, near enough to be corrected
WRONG = np.r_[np.radians([3.0, -4, 5]), 9.0, 12, -7]


@dataclass(frozen=True)
class Study:
    """Results below ``root``, and the true volume_from_camera (4, 4) of each by its folder."""

    root: Path
    truth: dict[str, np.ndarray]

    def error(self, name: str) -> PoseError:
        """How far the stored pose is from the truth."""
        result = parameters_file.load(self.root / name / names.PARAMETERS)
        return geometry.pose_error(
            result.volume_from_camera(), self.truth[name], result.points_mm, result.detector
        )


def write_xray(path: Path, whole: joseph.FusedRenderer, camera: np.ndarray) -> None:
    """A 16-bit picture of a CT, with its geometry beside it."""
    drr = whole.render(camera[None], DETECTOR)[0]
    noise = np.random.default_rng(0).normal(0, 0.002 * drr.max(), drr.shape)
    grey = np.clip((drr + noise) / drr.max(), 0, 1) * 60_000
    Image.fromarray(grey.astype(np.uint16)).save(path)
    geometry_beside = {
        "sdd_mm": DETECTOR.sdd_mm,
        "pixel_spacing_mm": list(DETECTOR.pixel_mm),
        "principal_point_px": list(DETECTOR.principal_px),
    }
    files.write_json(path.with_suffix(".json"), geometry_beside)


def write_bones(folder: Path, knees: phantom.Phantom) -> tuple[list[Path], list[Path], np.ndarray]:
    """CTs and labelmaps of the bones, and the point between them, RAS mm."""
    volumes, masks, ends = [], [], []
    for name, label in BONES.items():
        bone = Volume(
            (knees.segmentation.data == label).astype(np.uint8), knees.ct.affine, knees.ct.lineage
        )
        volumes.append(nifti.save(folder / f"{name}.nii.gz", knees.ct))
        masks.append(nifti.save(folder / f"{name}_mask.nii.gz", bone))
        ends.append(points_of(bone, bone.data > 0).mean(axis=0))
    return volumes, masks, np.mean(ends, axis=0)


def make_study(folder: Path, mirrored: bool = False) -> Study:
    """Register small X-rays of a knee from the true pose of the first, and spoil one femur.

    With ``mirrored``, there is a right femur too; its truth is scanner_from_camera.
    """
    knees = phantom.make(seed=3, spacing_mm=2.0)
    segmentation_preprocessing.keep_largest_components(knees.segmentation.data)
    volumes, masks, middle = write_bones(folder, knees)
    cameras = [
        xray_simulation.view(middle, [10 + 3 * step, 4 - 2 * step, -5], DISTANCE_MM, [2 * step, 0])
        for step in range(FRAMES)
    ]
    files.write_json(folder / "start.json", {"camera": cameras[0].tolist()})
    xrays = folder / "xrays"
    xrays.mkdir()
    shown = attenuation.select_structures(knees.ct, None, None, attenuation.WHOLE_ATTENUATION_HU)
    whole = joseph.FusedRenderer(shown, knees.ct.isocentre_mm)
    write_xray(xrays / "ap.png", whole, cameras[0])
    for number, camera in enumerate(cameras):
        write_xray(xrays / f"f{number}.png", whole, camera)
    for number, rig in enumerate((np.eye(4), BESIDE)):
        write_xray(xrays / f"cam{number}.png", whole, cameras[0] @ rig)
        inverse = geometry.invert(rig)
        calibration = {
            "K": DETECTOR.intrinsics.tolist(),
            "R": inverse[:3, :3].tolist(),
            "t": inverse[:3, 3].tolist(),
            "image_size": [DETECTOR.width, DETECTOR.height],
        }
        files.write_json(folder / f"cam{number}.json", calibration)
    root = folder / "results"
    words = ["--bone", "bright", "--init", "fixed", "--init_pose", folder / "start.json"]
    words += ["--device", "cpu", "--quiet"]

    def register(pictures: list[str], output: str, *flags: str | Path, bones: int = 1) -> None:
        chosen = ["-v", *volumes[:bones], "--mask", *masks[:bones]]
        every = [*(xrays / name for name in pictures), *chosen, *words, *flags, "-o", root / output]
        assert registration.main([str(word) for word in every]) == 0

    register(["ap.png"], "ap", bones=2)
    register([f"f{number}.png" for number in range(FRAMES)], "walk", "--sequence")
    both = [folder / "cam0.json", folder / "cam1.json"]
    register(["cam0.png", "cam1.png"], "biplane", "--views", "--calibration", *both)
    truth = {"ap/femur": cameras[0], "ap/tibia": cameras[0], "biplane": cameras[0]}
    truth |= {f"walk/f{number}": camera for number, camera in enumerate(cameras)}
    spoil(root / "ap/femur")
    if mirrored:
        truth["right"] = register_right(folder, knees, whole)
    return Study(root, truth)


def register_right(folder: Path, knees: phantom.Phantom, whole: joseph.FusedRenderer) -> np.ndarray:
    """Register a right femur, mirrored as by crop_cts.py; return its scanner_from_camera."""
    target = crop_cts.Target(
        "femur", "right", 3, folder / "right.nii.gz", folder / "right_m.nii.gz"
    )
    crop_cts.crop_and_save(knees.ct, knees.segmentation, target, 7.0, folder / "seg.nii.gz", {})
    middle = points_of(knees.segmentation, knees.segmentation.data == 3).mean(axis=0)
    camera = xray_simulation.view(middle, [-8, 3, 4], DISTANCE_MM, [0, 0])
    write_xray(folder / "xrays/right.png", whole, camera)
    files.write_json(folder / "right_start.json", {"camera": camera.tolist()})
    words = [folder / "xrays/right.png", "-v", target.ct, "--mask", target.mask, "--quiet"]
    words += ["--bone", "bright", "--init", "fixed", "--init_pose", folder / "right_start.json"]
    words += ["-o", folder / "results/right", "--device", "cpu"]
    assert registration.main([str(word) for word in words]) == 0
    return camera


def spoil(folder: Path, twist: np.ndarray = WRONG) -> None:
    """Move the pose of a result, as if the solver had found another one."""
    opened = reopening.open_result(folder)
    pose = geometry.twist(twist, opened.structure.body.centre_mm) @ opened.pose
    found = solving.registration_at(opened, pose, pose)
    recording.save(folder, [found], 0, opened.stored_request)


@contextmanager
def serving(folder: Path, *flags: str, under: Sequence[str] = ()):
    """The address of a running review, and its process; ``under`` are words before its command."""
    command = [*under, sys.executable, ROOT / "pipeline/review.py", folder, "--no_browser", *flags]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        yield address, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        process.stdout.close()
        process.stderr.close()


def is_root() -> bool:
    """Whether this user may write everywhere."""
    return os.name != "nt" and os.geteuid() == 0


@contextmanager
def read_only(folder: Path) -> Generator[tuple[str, ...], None, None]:
    """A folder that nobody may write to; yields the words that bind root to that too."""
    every = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in every:
        path.chmod(0o555)
    rights = "-dac_override,-dac_read_search"
    under = ("setpriv", f"--bounding-set={rights}")
    try:
        yield under if is_root() else ()
    finally:
        for path in every:
            path.chmod(0o755)


def lines_of(folder: Path, reviewer: str) -> list[dict]:
    """The decisions of a reviewer in the folder of a result."""
    text = (folder / f"review_{reviewer}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
