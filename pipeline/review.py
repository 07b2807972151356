# PYTHON_ARGCOMPLETE_OK
"""Look at every registered pose in the browser, correct it by hand, and accept or reject it.

Opens a page on this computer that shows each X-ray with its bones, the most doubtful first. A pose
can be dragged, refined from there by the solver of registration.py, searched again, or exchanged
for the other pose that fitted. In a sequence, poses set by hand at key frames lead those between.

reads   RESULTS: results of registration.py (step 7) in this folder or below, and the CTs and
        X-rays that they were registered from, unchanged and where they were
writes  into the folder of each result:
        review_NAME.jsonl     decisions of the reviewer NAME: accept, reject or second look, with
                              time, note and pose; lines are only added
        parameters.pt and the images beside it, if a corrected pose was accepted; its settings
                              say who set the start. The file before is kept in revisions/;
                              results of bones registered together get the bone's new place
        draft_NAME.jsonl      poses of NAME that are not decided on, so that none is lost
        with --table: the disagreement of all reviewers' accepted poses, as CSV; no page is opened
units   millimetres and degrees
use by  evaluation.py, pipeline/report.py and pipeline/kinematics.py: a rejected pose counts as
        failed, an accepted one as ok, one for a second look as suspect
access  only from this computer, at the address that is printed. No request leaves it
stop    Ctrl+C in the terminal; what was accepted is on the disk

example
  python pipeline/review.py results
  python pipeline/review.py results --table disagreement.csv
"""

from __future__ import annotations

import argparse
import functools
import getpass
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError

logger = logging.getLogger("common.script")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="RESULTS", help="folder of results")
    parser.add_argument(
        "--port", type=int, metavar="N", help="port of the page (default: any free one)"
    )
    parser.add_argument(
        "--no_browser", action="store_true", help="print the address and open no browser"
    )
    parser.add_argument(
        "--reviewer", metavar="NAME", help="who decides (default: the name of the user)"
    )
    parser.add_argument(
        "--blind",
        action="store_true",
        help="for observer studies: hide what others decided, and begin at the solver's poses",
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="CSV",
        help="write the disagreement of the reviewers instead of opening a page",
    )
    return parser


def write_table(folder: Path, path: Path, overwrite: bool) -> None:
    """Write the disagreement of all reviewers below a folder, and log its summary."""
    from common.review import disagreement

    files.check_outputs([path], overwrite)
    rows, problems = disagreement.table(folder)
    for problem in problems:
        logger.warning(problem)
    if not rows:
        raise InputError(
            folder,
            "no pose was accepted twice",
            "poses accepted by two reviewers, or by one of them twice",
            "review the folder again under another `reviewer`",
        )
    files.write_text(path, files.as_csv([row.entries() for row in rows]))
    for each in disagreement.summary(rows):
        numbers = ", ".join(
            f"{key.rsplit('_', 1)[0].replace('_', ' ')} {each[key]['mean']:.2f} ±"
            f" {each[key]['sd']:.2f} {'°' if key.endswith('deg') else 'mm'}"
            for key in disagreement.NUMBERS
        )
        pair = f"{each['first']} and {each['second']}"
        logger.info(f"{each['kind']}-observer, {pair}, {each['count']} poses: {numbers}")
    print(path)


def run(args: argparse.Namespace) -> int | None:
    if not args.folder.is_dir():
        raise InputError(
            args.folder, "not a folder", "results of registration.py", "check the path"
        )
    if args.table:
        write_table(args.folder, args.table, args.overwrite)
        return None
    if args.port is not None and not 0 <= args.port <= 65535:
        raise InputError("--port", f"found {args.port}", "0 to 65535", "choose another port")
    try:
        from common.review import serving
    except ModuleNotFoundError as error:
        raise InputError(
            None,
            f"{error.name} is not installed",
            "the packages of the review",
            "pip install aiohttp",
        ) from None

    reviewer = args.reviewer or getpass.getuser()
    with serving.listening(args.port or 0) as door:
        say = functools.partial(print, flush=True)
        session = serving.start(args.folder, reviewer, args.blind)
        serving.serve(session, door, say, open_browser=not args.no_browser)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
