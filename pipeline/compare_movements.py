# PYTHON_ARGCOMPLETE_OK
"""Compare movements in pairs: left against right, before against after, one method against another.

Frames of two movements do not correspond. By --by, both are compared at the same flexion,
separately while the knee flexes and extends, or at the same percentage of the time from the first
to the last pose. Numbers between frames are interpolated, never across a gap.

reads   --first, --second: folders of kinematics.py, one or more pairs in the same order
writes  OUT/comparison.csv       a row per pair and point: both movements and their difference
                                 (second less first) with its 95 % band from the poses
        OUT/comparison.json      bias and limits of agreement (Bland and Altman) of each number;
                                 share of the points that differ by more than their band; band of
                                 the anatomical frames
        OUT/comparison.png       both movements
        OUT/bland_altman.png     difference over mean, with bias and limits; or .pdf, .svg
limits  of agreement: 95 % of the differences are expected between them. For one pair they describe
        its points only; for several pairs, with the variances between and within pairs
units   degrees, millimetres, seconds

example
  python pipeline/compare_movements.py --first before --second after -o change
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError

if TYPE_CHECKING:
    from common.kinematics.comparison import Agreement, Points
    from common.kinematics.movement_table import Table

logger = logging.getLogger("common.script")

STEPS = (0.1, 20.0)


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    for which in ("first", "second"):
        parser.add_argument(
            f"--{which}",
            required=True,
            nargs="+",
            type=Path,
            metavar="FOLDER",
            help=f"{which} movement of each pair, a folder of kinematics.py",
        )
    parser.add_argument(
        "-o", "--output_dir", required=True, type=Path, metavar="OUT", help="folder to write into"
    )
    parser.add_argument(
        "--by",
        choices=("flexion", "percent"),
        default="flexion",
        help="what is the same at a point (default: %(default)s)",
    )
    parser.add_argument(
        "--step",
        type=float,
        default=1.0,
        metavar="X",
        help="degrees of flexion, or per cent, between points (default: %(default)g)",
    )
    parser.add_argument(
        "--smoothed", action="store_true", help="compare the smoothed numbers of kinematics.py"
    )
    parser.add_argument(
        "--labels",
        nargs=2,
        metavar=("FIRST", "SECOND"),
        help="names in the figures (default: the sides if they differ, else first and second)",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("png", "pdf", "svg"),
        default=["png"],
        metavar="NAME",
        help="of the figures: png, pdf, svg (default: png)",
    )
    return parser


def load_pairs(args: argparse.Namespace) -> list[tuple[Table, Table]]:
    """Return both movements of each pair. Raises InputError for lists that do not fit."""
    if len(args.first) != len(args.second):
        raise InputError(
            "--second",
            f"{len(args.second)} folders",
            f"{len(args.first)}, as many as --first",
            "pair the folders",
        )
    for first, second in zip(args.first, args.second, strict=True):
        if first.resolve() == second.resolve():
            raise InputError(
                first, "is both movements of a pair", "two movements", "choose another"
            )
    from common.kinematics import movement_table

    return [
        (movement_table.load(first, args.smoothed), movement_table.load(second, args.smoothed))
        for first, second in zip(args.first, args.second, strict=True)
    ]


def labels_of(pairs: list[tuple[Table, Table]]) -> tuple[str, str]:
    """Return the sides if they differ in the same way in all pairs, else first and second."""
    sides = {(first.side, second.side) for first, second in pairs}
    one = next(iter(sides))
    return one if len(sides) == 1 and one[0] != one[1] else ("first", "second")


def run(args: argparse.Namespace) -> int | None:
    low, high = STEPS
    if not low <= args.step <= high:
        raise InputError("--step", f"found {args.step:g}", f"{low:g} to {high:g}", "correct it")
    pairs = load_pairs(args)
    from common.kinematics import comparison
    from common.reports import agreement_figure

    table, beside = args.output_dir / "comparison.csv", args.output_dir / "comparison.json"
    forms = sorted(set(args.format))
    curves = [args.output_dir / f"comparison.{form}" for form in forms]
    plots = [args.output_dir / f"bland_altman.{form}" for form in forms]
    files.check_outputs([table, beside, *curves, *plots], args.overwrite)
    points = [comparison.align(first, second, args.by, args.step) for first, second in pairs]
    found = comparison.agreement(points)
    labels = labels_of(pairs) if args.labels is None else (args.labels[0], args.labels[1])
    files.write_text(table, comparison.as_table(points, args.by))
    stated = {
        "schema": comparison.SCHEMA,
        "difference": f"{labels[1]} less {labels[0]}",
        "by": args.by,
        "smoothed": args.smoothed,
        "pairs": [each.name for each in points],
        "agreement": {name: numbers.entries() for name, numbers in found.items()},
    }
    files.write_json(beside, stated)
    for path in curves:
        agreement_figure.write_curves(path, points, list(found), labels)
    for path in plots:
        agreement_figure.write_bland_altman(path, points, found, labels)
    for line in summary(found, points, labels):
        logger.info(line)
    print(table)
    return None


def summary(
    found: dict[str, Agreement], points: list[Points], labels: tuple[str, str]
) -> list[str]:
    """Return bias and limits of each number, in lines."""
    several = f"{len(points)} pairs" if len(points) > 1 else "one pair, its points only"
    lines = [f"{labels[1]} less {labels[0]}, {several}"]
    for name, numbers in found.items():
        low, high = numbers.limits
        lines.append(
            f"{name}: bias {numbers.bias:.2f}, limits of agreement {low:.2f} to {high:.2f};"
            f" {100 * numbers.beyond_band:.0f} % of {numbers.points} points beyond their band"
        )
    return lines


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
