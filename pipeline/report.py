# PYTHON_ARGCOMPLETE_OK
"""Write a report of registrations as one web page that needs no network.

A patient's page shows every registration with a slider between X-ray and DRR, its verdict and
uncertainties, its convergence, an interactive 3D view, and the origin of all data. A cohort's page
is a sortable table of all registrations, failures first, with distributions.

reads   FOLDER: results of registration.py (step 7) in it or in folders below it, with the numbers
        of evaluation.py and the decisions of review.py, if present: the verdict is then as people
        decided
        --patients: the table of the cohort, as for workflow/Snakefile; FOLDER is then the output
        folder of the workflow. Missing registrations are listed with the reason.
writes  one HTML file that contains everything. No entry of a DICOM header is written. Names of
        patients and X-rays are those of folders and files; text burnt into an image remains in it.
units   millimetres and degrees; scale bars apply at the distance of the bone

example
  python pipeline/report.py results -o report.html
  python pipeline/report.py cohort --patients patients.csv -o cohort/index.html
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError
from common.progress import track
from common.results import names

logger = logging.getLogger("common.script")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="results folder, a folder of results, or the output folder of the workflow",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="PAGE", help="page to write, .html"
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="table of the cohort: write the page of the whole cohort",
    )
    parser.add_argument(
        "--bones",
        nargs="+",
        metavar="NAME",
        default=["femur", "tibia"],
        help="bones of the cohort (default: femur tibia)",
    )
    parser.add_argument(
        "--name",
        help="name of the patient or cohort in the title (default: the name of FOLDER)",
    )
    return parser


def page_of_folder(name: str, folder: Path) -> str:
    """Return the page of all registrations below a folder."""
    from common.reports import registered
    from common.reports.patient_page import patient_page
    from common.results.folders import find_results

    folders = find_results(folder)
    if not folders:
        raise InputError(
            folder,
            f"no {names.PARAMETERS} in this folder or below",
            "results of registration.py",
            "run registration.py first",
        )
    found = [
        registered.load_registered(path) for path in track(folders, what="reading", unit="result")
    ]
    return patient_page(name, folder, found)


def page_of_table(name: str, output: Path, table: Path, bones: list[str], page_folder: Path) -> str:
    """Return the page of all registrations of a table."""
    from common.reports.cohort_page import cohort_page
    from common.results import cohort

    return cohort_page(name, output, cohort.read_table(table), bones, page_folder)


def run(args: argparse.Namespace) -> int | None:
    if not args.folder.is_dir():
        raise InputError(
            args.folder, "not a folder", "results of registration.py", "check the path"
        )
    if args.output.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            args.output,
            f"ends in {args.output.suffix or 'nothing'}",
            "a name ending in .html",
            "change --output",
        )
    files.check_outputs([args.output], args.overwrite)
    name = args.name or args.folder.resolve().name
    if args.patients:
        page = page_of_table(name, args.folder, args.patients, args.bones, args.output.parent)
    else:
        page = page_of_folder(name, args.folder)
    files.write_text(args.output, page)
    logger.info(f"{len(page) / 1e6:.1f} MB")
    print(args.output)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
