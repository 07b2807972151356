"""Measure the time per frame of a sequence: one bone of a phantom knee, with one or two cameras.

The left leg of a phantom turns and moves smoothly in front of a rig, is rendered with this
project's renderer, gets noise, scatter and a tone curve, and is written as one TIFF of 16 bits per
camera. The femur is then registered by `registration.py --sequence`, start-up and all results
included. Reported are the seconds of two frames with start-up, and of each frame after them, by
runs of different lengths: of the clock, and of the processors, which depend less on other work. The
poses are compared with the ground truth: errors in plane and in rotation.

writes  OUT/sequence.csv, one row per run
example
  python benchmarks/sequence.py -o benchmarks/results --frames 20
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry import Detector

SCRIPT = Path(__file__).resolve().parents[1] / "registration.py"
SDD_MM, DISTANCE_MM, FIELD_MM, BETWEEN_DEG = 1020.0, 760.0, 280.0, 70.0
BONE = "femur left"
CASES = ((1, 512), (1, 1024), (2, 1024))  # cameras, pixels per side
SPACING_MM = 0.9
FEW = 2  # frames of the shortest run: later ones follow a motion


@dataclass(frozen=True)
class Scene:
    """Files of a sequence, and where the bone truly is."""

    ct: Path
    mask: Path
    label: int
    xrays: list[Path]
    calibrations: list[Path]
    volume_from_rig: list[np.ndarray]  # (4, 4) per frame
    cameras: list[np.ndarray]  # (4, 4) rig_from_camera
    detector: Detector


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder (default: %(default)s)",
    )
    parser.add_argument(
        "--frames", type=int, default=20, help="of the longest run (default: %(default)s)"
    )
    return parser


def motion(frames: int, centre: np.ndarray) -> list[np.ndarray]:
    """Return rig_from_volume (4, 4) of a knee that turns, swings and shifts about ``centre``."""
    poses = []
    for t in np.arange(frames):
        turn = np.radians([6 * np.sin(t / 9), 8 * np.sin(t / 13), 1.2 * t - 10])
        shift = [0.8 * t - 6, 5 * np.sin(t / 7), 4 * np.cos(t / 11)]
        poses.append(
            geometry.twist(np.r_[turn, shift], np.zeros(3)) @ geometry.translation(-centre)
        )
    return poses


def prepare(folder: Path, cameras: int, pixels: int, frames: int) -> Scene:
    """Write CT, labelmap, calibrations and one multi-page TIFF per camera."""
    import tifffile

    from common.drr.joseph import FusedRenderer
    from common.synthetic import phantom, xray_simulation
    from common.volume.attenuation import WHOLE_ATTENUATION_HU, attenuation
    from common.volume.hounsfield import AIR_HU
    from common.volume.volume import Volume

    folder.mkdir(parents=True)
    made = phantom.make(seed=3, spacing_mm=SPACING_MM)
    ct, mask, *_ = phantom.write(made, folder, "P")
    label = phantom.LABELS[BONE]
    place = np.argwhere(made.segmentation.data == label).mean(0)
    centre = geometry.apply(made.ct.affine, place[None])[0]
    hu = made.ct.data.copy()
    middle = made.ct.shape[0] // 2  # only the leg of the bone is in the beam
    hu[slice(0, middle) if place[0] > middle else slice(middle, None)] = AIR_HU
    volume = Volume(attenuation(hu, WHOLE_ATTENUATION_HU), made.ct.affine, made.ct.lineage)
    renderer = FusedRenderer(volume, centre)
    detector = Detector.centred(pixels, pixels, SDD_MM, FIELD_MM / pixels)
    placed = [
        xray_simulation.view(np.zeros(3), (5.0 + turn, 4.0, -3.0), DISTANCE_MM, (0.0, 0.0))
        for turn in (0.0, BETWEEN_DEG)[:cameras]
    ]
    poses = motion(frames, centre)
    xrays, calibrations = [], []
    rng = np.random.default_rng(0)
    for number, camera in enumerate(placed):
        pages = [
            xray_simulation.simulate(
                renderer.render((geometry.invert(pose) @ camera)[None], detector)[0],
                detector.pixel_mm[0],
                xray_simulation.Effects(),
                rng,
            )
            for pose in poses
        ]
        xrays.append(folder / f"camera{number}.tif")
        tifffile.imwrite(xrays[-1], np.stack(pages), photometric="minisblack")
        world = geometry.invert(camera)
        calibrations.append(folder / f"camera{number}.json")
        files.write_json(
            calibrations[-1],
            {
                "K": detector.intrinsics.tolist(),
                "R": world[:3, :3].tolist(),
                "t": world[:3, 3].tolist(),
                "image_size": [pixels, pixels],
            },
        )
    inverse = [geometry.invert(pose) for pose in poses]
    return Scene(ct, mask, label, xrays, calibrations, inverse, placed, detector)


def call(scene: Scene, output: Path, frames: int) -> np.ndarray:
    """Register the first frames by the command, and return seconds and processor seconds."""
    import tifffile

    pages = [path.with_name(f"{path.stem}_{frames}.tif") for path in scene.xrays]
    for source, cut in zip(scene.xrays, pages, strict=True):
        tifffile.imwrite(cut, tifffile.imread(source, key=range(frames)), photometric="minisblack")
    start = output.with_suffix(".json")
    off = geometry.twist(np.array([0.03, -0.02, 0.04, 3.0, -2.0, 3.0]), np.zeros(3))
    camera = scene.volume_from_rig[0] @ off @ scene.cameras[0]
    files.write_json(start, {"camera": camera.tolist()})
    words = [
        *map(str, pages), "-v", str(scene.ct), "--mask", str(scene.mask),
        "--labels", str(scene.label), "--bone", "bright", "--sequence", "--init", "fixed",
        "--init_pose", str(start), "--flip", "no", "-o", str(output), "--quiet",
        "--pixel_spacing", str(scene.detector.pixel_mm[0]),
    ]  # fmt: skip
    if len(pages) > 1:
        words += ["--views", "--calibration", *map(str, scene.calibrations)]
    else:
        words += ["--sdd", str(SDD_MM)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return np.array([time.perf_counter() - began, spent])


def errors(scene: Scene, output: Path, frames: int) -> np.ndarray:
    """Return errors in plane (mm) and in rotation (degrees) of each frame, (N, 2)."""
    from common.results import parameters_file

    found = []
    for number in range(frames):
        result = parameters_file.load(output / f"frame_{number:04d}" / "parameters.pt")
        truth = scene.volume_from_rig[number] @ scene.cameras[0]
        points = np.array(result.drr["points_mm"])
        camera = result.scanner_pose[0].camera
        error = geometry.pose_error(camera, truth, points, scene.detector)
        found.append((error.in_plane_mm, error.rotation_deg))
    return np.array(found)


def measured(folder: Path, cameras: int, pixels: int, frames: int) -> list[dict[str, Any]]:
    """Return rows of runs of few, of half and of all frames: seconds, and errors so far."""
    scene = prepare(folder, cameras, pixels, frames)
    call(scene, folder / "warm", FEW)
    rows = []
    for count in sorted({FEW, max(FEW, frames // 2), frames}):
        output = folder / f"run{count}"
        wall, spent = call(scene, output, count)
        off = errors(scene, output, count)
        rows.append(
            {
                "cameras": cameras,
                "pixels": pixels,
                "frames": count,
                "seconds": wall,
                "processor_seconds": spent,
                "in_plane_mm": float(np.median(off[:, 0])),
                "worst_in_plane_mm": float(off[:, 0].max()),
                "rotation_deg": float(np.median(off[:, 1])),
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the cost of a frame after the first, from the shortest run and the longest."""
    short, long = rows[0], rows[-1]
    more = long["frames"] - short["frames"]
    wall, spent = ((long[key] - short[key]) / more for key in ("seconds", "processor_seconds"))
    return (
        f"{long['cameras']} camera(s), {long['pixels']} pixels: {wall:.2f} s per frame"
        f" ({spent:.2f} s of processors), {short['seconds']:.1f} s for {short['frames']} frames"
        f" with start-up; in plane {long['in_plane_mm']:.3f} mm (at most"
        f" {long['worst_in_plane_mm']:.3f}), {long['rotation_deg']:.2f} deg"
    )


def run(args: argparse.Namespace) -> None:
    target = files.output_folder(args.output) / "sequence.csv"
    files.check_outputs([target], args.overwrite)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for cameras, pixels in CASES:
            place = Path(folder) / f"{cameras}_{pixels}"
            found = measured(place, cameras, pixels, args.frames)
            rows += found
            print(summary(found), flush=True)
    files.write_text(target, files.as_csv(rows))
    print(target)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
