"""Put the verdict to the test, and make the numbers that it rests on, from fits with known truth.

The fits are those of `fits.py`. Patients are split: those with even numbers make the model, those
with odd numbers test it. The numbers in use are then made from all of them.

reads   WORK/fits*.jsonl
writes  with --write: common/registration/trust.json, the numbers of the verdict
        on standard output, the tables of benchmarks/README.md, 'The verdict put to the test'
example
  python benchmarks/calibrate.py -w calibration --write
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script

if TYPE_CHECKING:
    from common.registration.trust import Model

HOPELESS = ("other_patient", "other_leg", "flipped", "absent", "search_absent")
DIRECTIONS = {"in_plane": "in_plane_mm", "depth": "depth_mm", "rotation": "rotation_deg"}
# how far surfaces are off, in half voxels: with these, bones refined alone and together have the
# same quantiles (benchmarks/README.md, 'The verdict put to the test')
SURFACE = {"in_plane": 0.2, "depth": 0.2, "rotation": 0.15}
LEAST_FITS = 20  # of a kind, for its quantile to count
RIDGE = 1.0
WRONG_SHARE = 0.1  # of the poses of a user, before the X-ray is looked at
# a cue that speaks against a pose raises the chance, whatever the fits it is learned from
SIGNS = {
    "unexplained": 1,
    "rise": -1,
    "least rise": -1,
    "poor": 1,
    "weakest": -1,
    "flipped": 1,
    "rival": -1,
}
TRUST = Path(__file__).resolve().parents[1] / "common" / "registration" / "trust.json"
OTHER = -1  # number of the patient of other X-rays

Row = dict[str, Any]


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("-w", "--work", required=True, type=Path, help="folder of the fits")
    parser.add_argument(
        "--write", action="store_true", help="replace the numbers in common/registration/"
    )
    return parser


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of fits, none if it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_wrong(row: Row) -> bool:
    """Return whether the pose of a fit is wrong; every fit of a hopeless kind is."""
    from common.registration import trust

    errors = row["in_plane_mm"], row["depth_mm"], row["rotation_deg"]
    return row["kind"] in HOPELESS or trust.is_wrong(*errors, row["views"])


def is_other(row: Row) -> bool:
    """Return whether a fit is in an X-ray of `--also`."""
    return row["patient"] == OTHER


def is_bone(row: Row) -> bool:
    """Return whether a fit is of a bone: only for those is there a chance of a wrong pose."""
    return row["bounds_of"].startswith("bone")


def factors(rows: Sequence[Row], kind: str) -> dict[str, float]:
    """Return the 95 % quantile of the error over its standard deviation, by direction.

    ``kind`` is one of `trust.KINDS`. Phantoms and other X-rays differ; the larger quantile of the
    two counts.
    """
    chosen = [row for row in rows if row["bounds_of"] == kind]
    found = {}
    for name, error in DIRECTIONS.items():
        ratios = [
            [
                row[error]
                / np.hypot(row["deviations"][name], SURFACE[name] * row["half_voxel"][name])
                for row in chosen
                if is_other(row) == other
            ]
            for other in (False, True)
        ]
        # split conformal prediction: the quantile of n values is that of n + 1
        found[name] = max(
            float(np.quantile(each, min(1.0, 0.95 * (1 + 1 / len(each)))))
            for each in ratios
            if len(each) >= LEAST_FITS
        )
    return found


def logistic(rows: Sequence[Row]) -> dict[str, Any]:
    """Return weights and intercept of the chance of a wrong pose, by ridge logistic regression.

    Weights have the signs of `SIGNS`. The intercept is for `WRONG_SHARE` of wrong poses instead of
    the share in these fits.
    """
    from scipy.optimize import minimize

    from common.registration import trust
    from common.registration.cues import Cues

    table = np.array([trust.features(Cues(**row["cues"]), row["views"]) for row in rows])
    wrong = np.array([is_wrong(row) for row in rows], float)
    middle, width = table.mean(0), table.std(0) + 1e-9
    scaled = (table - middle) / width

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = parameters[0] + scaled @ parameters[1:]
        excess = 1 / (1 + np.exp(-score)) - wrong
        value = (np.logaddexp(0, score) - wrong * score).sum() + RIDGE * (parameters[1:] ** 2).sum()
        return value, np.r_[excess.sum(), scaled.T @ excess + 2 * RIDGE * parameters[1:]]

    limits = {1: (0.0, None), -1: (None, 0.0), 0: (None, None)}
    signed = [limits[SIGNS.get(name, 0)] for name in trust.FEATURES]
    start = np.zeros(1 + table.shape[1])
    found = minimize(loss, start, jac=True, bounds=[(None, None), *signed]).x
    weights = found[1:] / width
    share = float(wrong.mean())
    shift = np.log(WRONG_SHARE / (1 - WRONG_SHARE)) - np.log(share / (1 - share))
    return {
        "weights": dict(zip(trust.FEATURES, weights.tolist(), strict=True)),
        "intercept": float(found[0] - weights @ middle + shift),
    }


def is_sure(row: Row) -> bool:
    """Return whether the bounds are made from a fit: one from a far start is only half refined."""
    return not is_wrong(row) and row["kind"] != "far"


def make_model(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the content of ``trust.json``."""
    from common.registration import trust

    right = [row for row in rows if is_sure(row)]
    learned = [row for row in rows if not is_other(row) and is_bone(row)]
    return {
        "made_by": "python benchmarks/fits.py, python benchmarks/calibrate.py",
        "fits": len(rows),
        "bounds": {
            "surface": SURFACE,
            **{kind: factors(right, kind) for kind in trust.KINDS},
        },
        "wrong": logistic(learned),
    }


def covered(model: Model, rows: Sequence[Row]) -> str:
    """Return how many errors of right poses are inside their bounds, with medians."""
    from common.registration.trust import Directions

    bounds = [
        model.bounds(Directions(**row["deviations"]), Directions(**row["half_voxel"]), kind)
        for row in rows
        for kind in [row["bounds_of"]]
    ]
    cells = [str(len(rows))]
    for name, error in DIRECTIONS.items():
        limits = np.array([getattr(bound, name) for bound in bounds])
        errors = np.array([row[error] for row in rows])
        inside = 100 * np.mean(errors <= limits)
        cells.append(f"{inside:.0f} % ({np.median(limits):.2f}, {np.median(errors):.2f})")
    return " | ".join(cells)


def tested(rows: Sequence[Row]) -> str:
    """Return tables of a model made from even patients, tested on odd ones and on other X-rays."""
    from common.registration import trust
    from common.registration.cues import Cues

    even = [row for row in rows if row["patient"] % 2 == 0]
    rest = [row for row in rows if row["patient"] % 2 == 1 or is_other(row)]
    model = trust.Model.from_entries(make_model([*even, *filter(is_other, rows)]))
    groups = {
        (trust_kind, origin, row_kind)
        for row in rest
        if is_sure(row)
        for trust_kind, origin, row_kind in [(row["bounds_of"], is_other(row), row["kind"])]
    }
    lines = ["| bounds of | X-rays | fits | number | in plane | depth | rotation |"]
    for bounds_of, other, kind in sorted(groups):
        chosen = [
            row
            for row in rest
            if is_sure(row)
            and (row["bounds_of"], is_other(row), row["kind"]) == (bounds_of, other, kind)
        ]
        where = "other" if other else "phantoms"
        lines.append(f"| {bounds_of} | {where} | {kind} | {covered(model, chosen)} |")
    judged = [row for row in rest if is_bone(row)]
    chances = np.array([model.wrong(Cues(**row["cues"]), row["views"]) for row in judged])
    wrong = np.array([is_wrong(row) for row in judged])
    lines += ["", "| stated chance | mean | fits | wrong | kinds of the wrong |"]
    for low, high in itertools.pairwise((0.0, 0.003, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.3, 1.0)):
        within = (chances >= low) & (chances < high)
        kinds = Counter(judged[index]["kind"] for index in np.flatnonzero(within & wrong))
        lines.append(
            f"| {low:g} to {high:g} | {chances[within].mean() if within.any() else 0:.4f}"
            f" | {within.sum()} | {(within & wrong).sum()} | {dict(kinds)} |"
        )
    return "\n".join([*lines, "", *searches(rows)])


def searches(rows: Sequence[Row]) -> list[str]:
    """Return the verdicts of registrations with nothing known, by whether the pose is right."""
    made = [row for row in rows if row["kind"] in ("search", "search_absent")]
    counts = Counter(
        (row["kind"], "wrong" if is_wrong(row) else "right", row["code"]) for row in made
    )
    return [f"| {' | '.join(what)} | {number} |" for what, number in sorted(counts.items())]


def run(args: argparse.Namespace) -> None:
    rows = [row for path in sorted(args.work.glob("fits_*.jsonl")) for row in read_rows(path)]
    rows = [row for row in rows if "cues" in row]
    print(tested(rows))
    if args.write:
        files.write_json(TRUST, make_model(rows))
        print(TRUST)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
