"""How often and how exactly registration finds a bone whose pose is known, from perturbed starts or from none.

For X-rays with truth: NAME.dcm or NAME.png and, beside it, NAME<SUFFIX> as evaluation.py --truth reads it. Starts are off by up to --deg about a random axis, --mm in a
random direction of the picture's plane, and --depth_mm along the axis. With --search there is no start: a pose range of the knee's default width is laid around the
truth at random, so that nothing about the pose is known but the range, and the search has to find the bone in it.

writes  OUT.csv, a line a registration, and the medians on standard output: in plane and depth in mm, rotation in degrees, share that ends within 1 mm in plane
example
  python benchmarks/accuracy.py --ct ct.nii.gz --seg seg.nii.gz --label 2 --xrays xrays/*.dcm --suffix .json -o femur.csv
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry.pose_range import NAMES, PoseRange

CONVERGED_MM = 1.0


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="CT in Hounsfield units")
    parser.add_argument(
        "--seg", type=Path, help="labelmap on its grid (default: the whole CT is registered)"
    )
    parser.add_argument("--label", type=int, help="label of the bone")
    parser.add_argument(
        "--xrays", required=True, nargs="+", type=Path, help="X-rays with their truth beside them"
    )
    parser.add_argument(
        "--suffix",
        default="_truth.json",
        help="ending of the truth's file name (default: %(default)s)",
    )
    parser.add_argument(
        "--starts", type=int, default=3, help="starts an X-ray (default: %(default)s)"
    )
    parser.add_argument(
        "--deg", type=float, default=8.0, help="largest rotation of a start (default: %(default)g)"
    )
    parser.add_argument(
        "--mm", type=float, default=10.0, help="largest shift in plane (default: %(default)g)"
    )
    parser.add_argument(
        "--depth_mm", type=float, default=25.0, help="largest shift in depth (default: %(default)g)"
    )
    parser.add_argument(
        "--search", action="store_true", help="no start: search a range around the truth"
    )
    parser.add_argument(
        "--azimuth",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="with --search: this range of r1 instead of 60 degrees around the truth",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the starts (default: 0)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="table, .csv")
    return parser


def perturbed(
    truth: np.ndarray,
    centre: np.ndarray,
    deg: float,
    mm: float,
    depth_mm: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A camera (4, 4) near the truth, turned about ``centre``."""
    axis, plane = rng.normal(size=3), rng.normal(size=2)
    turn = np.radians(rng.uniform(0, deg)) * axis / np.linalg.norm(axis)
    shift = np.r_[
        rng.uniform(0, mm) * plane / np.linalg.norm(plane), rng.uniform(-depth_mm, depth_mm)
    ]
    return geometry.twist(np.r_[turn, truth[:3, :3] @ shift], centre) @ truth


def range_around(
    truth: np.ndarray,
    centre: np.ndarray,
    azimuth: tuple[float, float] | None,
    rng: np.random.Generator,
) -> PoseRange:
    """The knee's range, moved so that the truth lies anywhere in it."""
    angles, offset = geometry.angles_from_pose(
        geometry.pose_from_camera(geometry.translation(-centre) @ truth)
    )
    chosen = {}
    for name, value, (low, high) in zip(
        NAMES, [*angles, *offset], PoseRange().limits.T, strict=True
    ):
        below = rng.uniform(0, high - low)
        chosen[name] = (float(value - below), float(value - below + high - low))
    return replace(PoseRange(**chosen), r1=azimuth) if azimuth else PoseRange(**chosen)


def run(args: argparse.Namespace) -> None:
    from common.registration import competition
    from common.registration.pyramid import View
    from common.registration.scene import load_structure
    from common.registration.search.search import search
    from common.results.truth import read_truth
    from common.xray import reading

    files.check_outputs([args.output], args.overwrite, [args.ct, *args.xrays])
    structure = load_structure(
        args.ct, args.seg, [args.label] if args.label else None, "auto", None, "cpu"
    )
    body, rows = structure.body, []
    for path in args.xrays:
        xray = reading.read(path)
        truth = (
            geometry.invert(structure.ct.lineage.scanner_from_volume)
            @ read_truth(path.with_name(path.stem + args.suffix), args.label).camera
        )
        for number in range(args.starts):
            rng = np.random.default_rng([args.seed, number, len(rows)])
            began = time.perf_counter()
            if args.search:
                winner = competition.compete_from(
                    [View(xray)],
                    body,
                    search(
                        [View(xray)],
                        body,
                        range_around(truth, body.renderer.centre_mm, args.azimuth, rng),
                    ),
                )
            else:
                winner = competition.compete(
                    [View(xray)],
                    body,
                    [
                        perturbed(
                            truth, body.renderer.centre_mm, args.deg, args.mm, args.depth_mm, rng
                        )
                    ],
                )
            taken = time.perf_counter() - began
            error = (
                geometry.pose_error(winner.fit.poses[0], truth, body.points, xray.detector)
                if winner
                else None
            )
            values = (
                error.as_dict()
                if error
                else dict.fromkeys(
                    ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg", "projection_mm"),
                    float("inf"),
                )
            )
            rows.append(
                {
                    "xray": path.name,
                    "start": number,
                    **values,
                    "similarity": winner.fit.similarity if winner else 0.0,
                    "seconds": taken,
                }
            )
            print(
                f"{path.name} {number}: in plane {values['in_plane_mm']:.3f} mm, depth"
                f" {values['depth_mm']:.2f} mm, {values['rotation_deg']:.2f} deg, {taken:.1f} s",
                flush=True,
            )
    files.write_text(args.output, files.as_csv(rows))
    table = np.array(
        [
            [row[key] for key in ("in_plane_mm", "depth_mm", "rotation_deg", "seconds")]
            for row in rows
        ]
    )
    in_plane, depth, rotation, taken = np.median(table, axis=0)
    converged = (table[:, 0] < CONVERGED_MM).mean()
    print(
        f"{len(rows)} registrations, {100 * converged:.1f} % within {CONVERGED_MM:g} mm in plane;"
        f" medians {in_plane:.3f} mm in plane, {depth:.2f} mm in depth, {rotation:.3f} deg,"
        f" {taken:.1f} s"
    )
    print(args.output)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
