# PYTHON_ARGCOMPLETE_OK
"""Write a report of registrations as one web page that needs no network: for a patient, or for a whole cohort.

Of a patient: every registration with a slider between X-ray and DRR, its verdict and uncertainties, the way to the final pose, an interactive scene,
and where everything came from. Of a cohort: a sortable table of all registrations with failures first, and distributions.

reads   FOLDER: results of registration.py (step 7) in it or in folders below it, with the numbers of evaluation.py where it ran
        --patients: the table of the cohort, as workflow/Snakefile takes it; FOLDER is then the workflow's output folder, and registrations that
        are missing are listed with the reason
writes  one HTML file with everything inside. Nothing of a DICOM header goes into it; names of patients and X-rays are those of folders and files,
        and what is burnt into a picture stays in the picture
units   millimetres and degrees; scale bars are at the bone's distance

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

logger = logging.getLogger("common.script")


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="results folder, a folder of them, or the workflow's output",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="PAGE", help="page to write, .html"
    )
    parser.add_argument(
        "--patients",
        type=Path,
        metavar="CSV",
        help="the cohort's table: write the page of the whole cohort",
    )
    parser.add_argument(
        "--bones",
        nargs="+",
        metavar="NAME",
        default=["femur", "tibia"],
        help="the bones of the cohort (default: femur tibia)",
    )
    parser.add_argument(
        "--name", help="name of the patient or cohort in the title (default: FOLDER's)"
    )
    return parser


def run(args: argparse.Namespace) -> int | None:
    if not args.folder.is_dir():
        raise InputError(
            args.folder, "is no folder", "results of registration.py", "check the path"
        )
    if args.output.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            args.output, f"ends in {args.output.suffix or 'nothing'}", ".html", "rename --output"
        )
    files.check_outputs([args.output], args.overwrite)
    from common.reports import pages, registered
    from common.results import cohort

    name = args.name or args.folder.resolve().name
    if args.patients:
        page = pages.cohort_page(
            name, args.folder, cohort.read_table(args.patients), args.bones, args.output.parent
        )
    else:
        folders = registered.find(args.folder)
        if not folders:
            raise InputError(
                args.folder,
                "no parameters.pt in or below it",
                "results of registration.py",
                "run it first",
            )
        found = [
            registered.load(folder) for folder in track(folders, what="reading", unit="result")
        ]
        page = pages.patient_page(name, args.folder, found)
    files.write_text(args.output, page)
    logger.info(f"{len(page) / 1e6:.1f} MB")
    print(args.output)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
