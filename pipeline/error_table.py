# PYTHON_ARGCOMPLETE_OK
"""Print a table of the pose errors of all evaluations below a folder, and how many of them are
inside the 95 % bounds that the verdicts state.

reads   evaluation.json of evaluation.py, under any name. Registrations without ground truth are
        listed without errors.
writes  nothing; the table goes to standard output
units   millimetres and degrees at the bone; projection errors at the detector

example
  python pipeline/error_table.py demo_output
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import script
from common.errors import InputError
from common.reports import evaluation_file
from common.results import names

COLUMNS = {
    "in_plane_mm": "in plane mm",
    "depth_mm": "depth mm",
    "rotation_deg": "rotation deg",
    "mtre_mm": "mTRE mm",
    "projection_mm": "projection mm",
}
START_COLUMN = "start mTRE mm"
WIDTH = max(map(len, (*COLUMNS.values(), START_COLUMN)))


@dataclass(frozen=True)
class Row:
    """Pose errors of one evaluation by `COLUMNS`; empty if unknown."""

    name: str
    final: dict[str, float]
    start: dict[str, float]
    within: dict[str, bool]  # whether the error is inside its stated 95 % bound, by name


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with results below it")
    return parser


def collect(folder: Path) -> list[Row]:
    """Return the rows of all evaluations below a folder.

    A row has the name of the results folder; if the evaluation is not called evaluation.json, its
    name is appended.
    """
    rows = []
    for results in sorted({path.parent for path in folder.rglob("*.json")}):
        for path, evaluation in evaluation_file.find_evaluations(results):
            name = results.relative_to(folder)
            if path.name != names.EVALUATION:
                name /= path.stem
            final, start = (evaluation.pose_error(key) for key in ("final", "initial"))
            rows.append(Row(str(name), final, start, evaluation.within()))
    return rows


def as_text(rows: Sequence[Row]) -> str:
    """Return the table with aligned columns."""
    width = max(len(row.name) for row in rows)
    titles = [f"{title:>{WIDTH}}" for title in (*COLUMNS.values(), START_COLUMN)]
    lines = ["  ".join([f"{'registration':{width}}", *titles])]
    for row in rows:
        cells = [_cell(row.final.get(key), 2) for key in COLUMNS]
        start = _cell(row.start.get("mtre_mm"), 1)
        lines.append("  ".join([f"{row.name:{width}}", *cells, start]))
    return "\n".join(lines)


def coverage(rows: Sequence[Row]) -> str:
    """Return how many errors are inside their 95 % bounds, or nothing if none is known."""
    counts = []
    for key, name in evaluation_file.POSE_ERRORS.items():
        known = [row.within[key] for row in rows if key in row.within]
        if known:
            share = 100 * sum(known) / len(known)
            counts.append(f"{name} {sum(known)} of {len(known)} ({share:.0f} %)")
    return "inside the 95 % bounds: " + ", ".join(counts) if counts else ""


def _cell(value: float | None, decimals: int) -> str:
    return f"{'-':>{WIDTH}}" if value is None else f"{value:{WIDTH}.{decimals}f}"


def run(args: argparse.Namespace) -> int | None:
    rows = collect(args.folder)
    if not rows:
        raise InputError(
            args.folder,
            "no evaluations below this folder",
            "results of evaluation.py",
            "run evaluation.py first",
        )
    print(as_text(rows))
    if counted := coverage(rows):
        print(counted)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
