"""Put the verdict to the test, and make the numbers that it rests on, from fits with known truth.

The fits are those of `fits.py`. Each is tested by a model from other subjects: phantoms in five
groups, each by the other four, and the X-rays of others by all phantoms. The numbers in use are
made from all of them.

reads   WORK/fits*.jsonl
writes  WORK/reliability.png, the share of wrong poses over the stated chance
        with --write: common/registration/trust.json, the numbers of the verdict
        on standard output, the tables of benchmarks/README.md, 'The verdict put to the test'
example
  python benchmarks/calibrate.py -w calibration --write
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError

if TYPE_CHECKING:
    from common.registration.trust import Model

HOPELESS = ("other_patient", "other_leg", "flipped", "absent", "search_absent")
# what is stated is false, and nothing is learned from it
FALSE = ("wrong_sdd", "tilted", "fat", "thin")
DIRECTIONS = {"in_plane": "in_plane_mm", "depth": "depth_mm", "rotation": "rotation_deg"}
# how far surfaces are off, in half voxels: with these, bones refined alone and together have the
# same quantiles (benchmarks/README.md, 'The verdict put to the test')
SURFACE = {"in_plane": 0.2, "depth": 0.2, "rotation": 0.15}
FOLDS = 5  # groups of phantoms, each tested by a model from the others
# of a kind, for its quantile to count; of less than 20, that is the largest
LEAST_FITS = 7
RIDGE = 1.0
WRONG_SHARE = 0.1  # of the poses of a user, before the X-ray is looked at
STEPS = (0.0, 0.003, 0.01, 0.02, 0.04, 0.1, 0.3, 1.0)  # of the stated chance, in table and diagram
LEAST_SHOWN = 1e-4  # of the diagram
LABEL: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
# a cue that speaks against a pose raises the chance, whatever the fits it is learned from
SIGNS = {"least rise": -1, "moved": 1, "flipped": 1, "rival": -1}
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
    """Return weights and intercept of the chance of a wrong pose, by ridge logistic regression, and
    the features of usual right poses in one view.

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
    right = [not is_wrong(row) and row["views"] == 1 for row in rows]
    usual = np.median(table[right], axis=0)
    return {
        "weights": dict(zip(trust.FEATURES, weights.tolist(), strict=True)),
        "usual": dict(zip(trust.FEATURES, usual.tolist(), strict=True)),
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


def covered(tested: Sequence[tuple[Model, Row]]) -> str:
    """Return how many errors of right poses are inside their bounds, with medians."""
    from common.registration.trust import Directions

    bounds = [
        model.bounds(
            Directions(**row["deviations"]), Directions(**row["half_voxel"]), row["bounds_of"]
        )
        for model, row in tested
    ]
    cells = [str(len(tested))]
    for name, error in DIRECTIONS.items():
        limits = np.array([getattr(bound, name) for bound in bounds])
        errors = np.array([row[error] for _, row in tested])
        inside = 100 * np.mean(errors <= limits)
        cells.append(f"{inside:.0f} % ({np.median(limits):.2f}, {np.median(errors):.2f})")
    return " | ".join(cells)


def held_out(rows: Sequence[Row]) -> list[tuple[Model, list[Row]]]:
    """Return models with fits of subjects that they were not made from.

    Each of `FOLDS` groups of phantoms is tested by a model from the others and the X-rays of
    others, and these are tested by a model from all phantoms.
    """
    from common.registration.trust import Model

    others = [row for row in rows if is_other(row)]
    split = [([*learned, *others], rest) for learned, rest in _folds(rows)]
    split.append(([row for row in rows if not is_other(row)], others))
    return [(Model.from_entries(make_model(learned)), rest) for learned, rest in split if rest]


def _folds(rows: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
    """Return the fits of phantoms outside each group, and in it."""
    phantoms = [row for row in rows if not is_other(row)]
    numbers = sorted({row["patient"] for row in phantoms})
    groups = [set(numbers[fold::FOLDS]) for fold in range(min(FOLDS, len(numbers)))]
    return [
        (
            [row for row in phantoms if row["patient"] not in group],
            [row for row in phantoms if row["patient"] in group],
        )
        for group in groups
    ]


def coverage(tests: Sequence[tuple[Model, list[Row]]]) -> list[str]:
    """Return a table: errors inside their bounds, by what was registered, and how."""
    groups: dict[tuple[str, str, str], list[tuple[Model, Row]]] = {}
    for model, rest in tests:
        for row in filter(is_sure, rest):
            where = "other" if is_other(row) else "phantoms"
            groups.setdefault((where, row["bounds_of"], row["kind"]), []).append((model, row))
    lines = ["| X-rays | bounds of | fits | number | in plane | depth | rotation |"]
    for names, tested in sorted(groups.items(), reverse=True):
        lines.append(f"| {' | '.join(names)} | {covered(tested)} |")
    return lines


def chances(tests: Sequence[tuple[Model, list[Row]]]) -> list[tuple[float, bool, str]]:
    """Return the stated chance of each fit of a bone, whether it is wrong, and its kind."""
    from common.registration.cues import Cues

    return [
        (model.wrong(Cues(**row["cues"]), row["views"]), is_wrong(row), row["kind"])
        for model, rest in tests
        for row in filter(is_bone, rest)
    ]


def as_of_a_user(share: float, overall: float) -> float:
    """Return what a share of wrong fits would be if `WRONG_SHARE` of all were, not ``overall``."""
    wrong, right = share * WRONG_SHARE / overall, (1 - share) * (1 - WRONG_SHARE) / (1 - overall)
    return wrong / (wrong + right)


def reliability(stated: Sequence[tuple[float, bool, str]]) -> list[str]:
    """Return a table: how many fits are wrong, by the stated chance."""
    lines = [
        "| stated chance | mean | wrong, if one in ten is | fits | wrong | kinds of the wrong |"
    ]
    overall = np.mean([wrong for _, wrong, _ in stated])
    for low, high in itertools.pairwise(STEPS):
        within = [each for each in stated if low <= each[0] < high]
        if not within:
            continue
        kinds = Counter(kind for _, wrong, kind in within if wrong)
        mean, total = np.mean([chance for chance, *_ in within]), sum(kinds.values())
        share = as_of_a_user(total / len(within), overall)
        named = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        cells = f"{mean:.4f} | {share:.4f} | {len(within)} | {total} | {named}"
        lines.append(f"| {low:g} to {high:g} | {cells} |")
    return lines


def draw(stated: Sequence[tuple[float, bool, str]], path: Path) -> None:
    """Draw the reliability diagram: the share of wrong fits over the stated chance.

    Both are for a user of whose poses `WRONG_SHARE` are wrong; intervals of 95 % are those of
    Clopper and Pearson.
    """
    from matplotlib.figure import Figure
    from scipy.stats import beta

    from common.reports import palette

    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([LEAST_SHOWN, 1], [LEAST_SHOWN, 1], color=palette.FRAME, linewidth=0.8)
    overall = np.mean([wrong for _, wrong, _ in stated])
    for number, (low, high) in enumerate(itertools.pairwise(STEPS)):
        within = [(chance, wrong) for chance, wrong, _ in stated if low <= chance < high]
        if not within:
            continue
        mean, count = np.mean([chance for chance, _ in within]), sum(wrong for _, wrong in within)
        rest = len(within) - count
        shares = (
            beta.ppf(0.025, count, rest + 1) if count else 0.0,
            count / len(within),
            beta.ppf(0.975, count + 1, rest) if rest else 1.0,
        )
        bottom, middle, top = (max(as_of_a_user(each, overall), LEAST_SHOWN) for each in shares)
        bars = [[middle - bottom], [top - middle]]
        axes.errorbar(mean, middle, bars, fmt="o", color=palette.BLUE, capsize=3)
        place, offset = ((mean, top), 4) if number % 2 else ((mean, bottom), -11)
        axes.annotate(f"{count} of {len(within)}", place, (0, offset), **LABEL)
    axes.set(xscale="log", yscale="log", xlim=(3e-4, 2), ylim=(LEAST_SHOWN, 2))
    axes.set(xlabel="stated chance of a wrong pose", ylabel="share of wrong poses")
    figure.savefig(path, dpi=150)


def searches(rows: Sequence[Row]) -> list[str]:
    """Return the verdicts of registrations with nothing known, by whether the pose is right."""
    made = [row for row in rows if row["kind"] in ("search", "search_absent")]
    counts = Counter(
        (row["kind"], "wrong" if is_wrong(row) else "right", row["code"]) for row in made
    )
    return [f"| {' | '.join(what)} | {number} |" for what, number in sorted(counts.items())]


def falsities(model: Model, rows: Sequence[Row]) -> list[str]:
    """Return a table of fits where the geometry or the labelmap is not as stated.

    The verdicts are those that the fits were given.
    """
    from common.registration.trust import Directions

    lines = [
        "| stated wrong | fits | right | `ok` of them | `ok` of the wrong | in plane, mm"
        " | depth, mm | rotation, degrees |"
    ]
    for kind in FALSE:
        chosen = [row for row in rows if row["kind"] == kind]
        right = [row for row in chosen if not is_wrong(row)]
        if not right:
            continue
        ok = [sum(row["code"] == "ok" for row in some) for some in (right, chosen)]
        bounds = [
            model.bounds(
                Directions(**row["deviations"]), Directions(**row["half_voxel"]), row["bounds_of"]
            )
            for row in right
        ]
        cells = [kind, str(len(chosen)), str(len(right)), str(ok[0]), str(ok[1] - ok[0])]
        for name, error in DIRECTIONS.items():
            errors = np.array([row[error] for row in right])
            inside = errors <= [getattr(bound, name) for bound in bounds]
            cells.append(f"{np.median(errors):.2f} ({100 * np.mean(inside):.0f} % inside)")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def check(work: Path, rows: Sequence[Row]) -> None:
    """Raise InputError if a model of a test would have too few fits of a kind."""
    from common.registration import trust

    for learned, _ in _folds(rows):
        counts = Counter(row["bounds_of"] for row in learned if is_sure(row))
        for kind in trust.KINDS:
            if counts[kind] < LEAST_FITS:
                raise InputError(
                    work,
                    f"has {counts[kind]} right fits of `{kind}` without a fifth of the phantoms",
                    f"at least {LEAST_FITS}",
                    "let fits.py make those of more patients",
                )


def run(args: argparse.Namespace) -> None:
    from common.registration.trust import Model

    paths = sorted(args.work.glob("fits_*.jsonl"))
    lines = [row for path in paths for _, row in files.read_lines(path, "fits of fits.py")]
    made = [row for row in lines if "cues" in row]
    rows = [row for row in made if row["kind"] not in FALSE]
    check(args.work, rows)
    tests = held_out(rows)
    stated = chances(tests)
    entries = make_model(rows)
    false = falsities(Model.from_entries(entries), made)
    tables = [coverage(tests), reliability(stated), searches(rows), false]
    print("\n\n".join("\n".join(lines) for lines in tables))
    draw(stated, args.work / "reliability.png")
    if args.write:
        files.write_json(TRUST, entries)
        print(TRUST)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
