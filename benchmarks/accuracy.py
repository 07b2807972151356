"""Measure how often and how accurately registration finds a bone whose pose is known.

X-rays are NAME.dcm or NAME.png, each with a file NAME<SUFFIX> next to it as evaluation.py --truth
reads it. Start poses are off by up to --deg about a random axis, --mm in a random direction
parallel to the detector, and --depth_mm along the principal ray. With --search there is no start
pose: a pose range as wide as the knee's default is placed at random around the true pose, and the
search has to find the bone in it.

writes  OUT.csv, one row per registration; medians on standard output: in plane and depth in mm,
        rotation in degrees, and the share that ends within 1 mm in plane
example
  python benchmarks/accuracy.py --ct ct.nii.gz --seg seg.nii.gz --label 2 --xrays xrays/*.dcm \\
    --suffix .json -o femur.csv
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.geometry import PoseError
from common.geometry.pose_range import NAMES, PoseRange

if TYPE_CHECKING:
    from common.registration.competition import Solution
    from common.registration.scene import Body, Structure, View

CONVERGED_MM = 1.0

Row = dict[str, Any]


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="CT in Hounsfield units")
    parser.add_argument(
        "--seg", type=Path, help="labelmap on its grid (default: register the whole CT)"
    )
    parser.add_argument("--label", type=int, help="label of the bone")
    parser.add_argument(
        "--xrays", required=True, nargs="+", type=Path, help="X-rays with their ground truth"
    )
    parser.add_argument(
        "--suffix",
        default="_truth.json",
        help="ending of the ground truth's file name (default: %(default)s)",
    )
    parser.add_argument(
        "--starts", type=int, default=3, help="start poses per X-ray (default: %(default)s)"
    )
    parser.add_argument(
        "--deg",
        type=float,
        default=8.0,
        help="largest rotation of a start pose, degrees (default: %(default)g)",
    )
    parser.add_argument(
        "--mm",
        type=float,
        default=10.0,
        help="largest translation in plane, mm (default: %(default)g)",
    )
    parser.add_argument(
        "--depth_mm",
        type=float,
        default=25.0,
        help="largest translation in depth, mm (default: %(default)g)",
    )
    parser.add_argument(
        "--search", action="store_true", help="no start pose: search a range around the true pose"
    )
    parser.add_argument(
        "--anywhere",
        action="store_true",
        help="no start pose and no range: register as registration.py does without flags",
    )
    parser.add_argument(
        "--azimuth",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="with --search: this range of r1 instead of 60 degrees around the true pose",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the start poses (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="table, .csv")
    return parser


def range_around(
    truth: np.ndarray,
    centre: np.ndarray,
    azimuth: tuple[float, float] | None,
    rng: np.random.Generator,
) -> PoseRange:
    """Return the knee's range, moved so that the true pose is anywhere in it."""
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


def found_by_search(view: View, structure: Structure, ranges: PoseRange) -> Solution | None:
    """Return the solution of a search over the range."""
    from common.registration import competition
    from common.registration.starts import Starter

    starts = Starter("search", ranges)([view], structure)
    return competition.compete_from([view], structure.body, starts)


def found_anywhere(view: View, structure: Structure, seed: int) -> Solution:
    """Return the solution of a registration without a start pose and without a range."""
    from common.registration.register import register
    from common.registration.starts import Starter

    (found,) = register([view], [structure], Starter("search", mirrored=False), seed)
    return found.solution


def measured(
    solution: Solution | None, truth: np.ndarray, body: Body, view: View, seconds: float
) -> Row:
    """Return the errors of a solution, infinite without one, and its similarity and time."""
    if solution is None:
        errors = {field.name: float("inf") for field in fields(PoseError)}
    else:
        pose, detector = solution.fit.poses[0], view.xray.detector
        errors = geometry.pose_error(pose, truth, body.points, detector).as_dict()
    similarity = solution.fit.similarity if solution else 0.0
    return {**errors, "similarity": similarity, "seconds": seconds}


def summary(rows: list[Row]) -> str:
    """Return the share that converged and the medians."""
    keys = ("in_plane_mm", "depth_mm", "rotation_deg", "seconds")
    table = np.array([[row[key] for key in keys] for row in rows])
    in_plane, depth, rotation, seconds = np.median(table, axis=0)
    converged = (table[:, 0] < CONVERGED_MM).mean()
    return (
        f"{len(rows)} registrations, {100 * converged:.1f} % within {CONVERGED_MM:g} mm in plane;"
        f" medians {in_plane:.3f} mm in plane, {depth:.2f} mm in depth, {rotation:.3f} deg,"
        f" {seconds:.1f} s"
    )


def run(args: argparse.Namespace) -> None:
    from common.registration import competition
    from common.registration.scene import View
    from common.registration.structures import load_structure
    from common.results.truth import read_truth
    from common.xray import reading

    files.check_outputs([args.output], args.overwrite, [args.ct, *args.xrays])
    structure = load_structure(args.ct, args.seg, [args.label] if args.label else None)
    body, rows = structure.body, []
    volume_from_scanner = geometry.invert(structure.ct.lineage.scanner_from_volume)
    for path in args.xrays:
        view = View(reading.read(path))
        true = read_truth(path.with_name(path.stem + args.suffix), args.label)
        truth = volume_from_scanner @ true.camera
        for number in range(args.starts):
            rng = np.random.default_rng([args.seed, number, len(rows)])
            began = time.perf_counter()
            if args.anywhere:
                solution = found_anywhere(view, structure, args.seed)
            elif args.search:
                ranges = range_around(truth, body.centre_mm, args.azimuth, rng)
                solution = found_by_search(view, structure, ranges)
            else:
                spread = args.deg, args.mm, args.depth_mm
                start = geometry.displaced(truth, body.centre_mm, *spread, rng)
                solution = competition.compete([view], body, [start])
            row = measured(solution, truth, body, view, time.perf_counter() - began)
            rows.append({"xray": path.name, "start": number, **row})
            print(
                f"{path.name} {number}: in plane {row['in_plane_mm']:.3f} mm, depth"
                f" {row['depth_mm']:.2f} mm, {row['rotation_deg']:.2f} deg,"
                f" {row['seconds']:.1f} s",
                flush=True,
            )
    files.write_text(args.output, files.as_csv(rows))
    print(summary(rows))
    print(args.output)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
