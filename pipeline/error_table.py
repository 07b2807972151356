# PYTHON_ARGCOMPLETE_OK
"""Print one table of pose errors from every evaluation below a folder.

Reads what evaluation.py --truth wrote; a registration without known truth is listed with its similarity alone. Millimetres and degrees, at the bone;
the projection error is at the detector.

Example:
  python pipeline/error_table.py demo_output
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import script
from common.errors import InputError
from common.reports import registered

COLUMNS = {
    "in_plane_mm": "in plane mm",
    "depth_mm": "depth mm",
    "rotation_deg": "rotation deg",
    "mtre_mm": "mTRE mm",
    "projection_mm": "projection mm",
}


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder with results below it")
    return parser


def collect(folder: Path) -> list[tuple[str, dict, dict]]:
    """(name of the results folder, and of the evaluation where it is not evaluation.json; final errors, start errors) of each evaluation."""
    rows = []
    for results in sorted({path.parent for path in folder.rglob("*.json")}):
        for path, content in registered.find_evaluations(results):
            name, errors = (
                results.relative_to(folder),
                [content["pictures"][key].get("pose_error", {}) for key in ("final", "initial")],
            )
            rows.append((str(name if path.stem == "evaluation" else name / path.stem), *errors))
    return rows


def run(args: argparse.Namespace) -> int | None:
    rows = collect(args.folder)
    if not rows:
        raise InputError(
            args.folder, "no evaluation below it", "results of evaluation.py", "run it first"
        )
    width = max(len(name) for name, _, _ in rows)
    print(
        "  ".join(
            [
                f"{'registration':{width}}",
                *[f"{title:>13}" for title in COLUMNS.values()],
                f"{'start mTRE mm':>13}",
            ]
        )
    )
    for name, final, start in rows:
        cells = [f"{final[key]:13.2f}" if key in final else f"{'-':>13}" for key in COLUMNS]
        print(
            "  ".join(
                [f"{name:{width}}", *cells, f"{start['mtre_mm']:13.1f}" if start else f"{'-':>13}"]
            )
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
