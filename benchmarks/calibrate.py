"""Put the verdict to the test, and make the numbers that it rests on.

Phantom patients are X-rayed from all sides (common/synthetic/legs.py). In each X-ray, bones are
registered in ways that have a right answer (from a near start pose, from a far one, in two views)
and in ways that have none: the bone of another patient, the
bone of the other leg, a flipped X-ray, a bone that is not there. What is kept of each fit is its
pose, its cues and its error. Patients are split: those with even numbers make the model, those with
odd numbers test it.

writes  WORK/            patients, X-rays and fits.jsonl, with which a run that was stopped goes on
        with --write: common/registration/trust.json, the numbers of the verdict
        on standard output, the tables of benchmarks/README.md, 'The verdict put to the test'
example
  python benchmarks/calibrate.py -w calibration --patients 12 --write
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.progress import track
from common.synthetic import legs

if TYPE_CHECKING:
    from common.registration.competition import Solution
    from common.registration.scene import Structure, View

logger = logging.getLogger("common.script")

# of start poses, at most: degrees, mm in plane, mm in depth
NEAR, FAR = (8.0, 10.0, 25.0), (60.0, 40.0, 60.0)
RIGHT = ("near", "far", "two_views")
HOPELESS = ("other_patient", "other_leg", "flipped", "absent")
PICTURES = 4  # of each leg
DIRECTIONS = {"in_plane": "in_plane_mm", "depth": "depth_mm", "rotation": "rotation_deg"}
# how far surfaces are off, in half voxels: with these, bones refined alone and together have the
# same quantiles (benchmarks/README.md, 'The verdict put to the test')
SURFACE = {"in_plane": 0.2, "depth": 0.2, "rotation": 0.15}
LEAST_FITS = 20  # of a kind, for its quantile to count
RIDGE = 1.0
WRONG_SHARE = 0.1  # of the poses of a user, before the X-ray is looked at
TRUST = Path(__file__).resolve().parents[1] / "common" / "registration" / "trust.json"
OTHER = -1  # number of the patient of other X-rays

Row = dict[str, Any]


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-w", "--work", required=True, type=Path, help="folder for patients, X-rays and fits"
    )
    parser.add_argument(
        "--patients", type=int, default=12, help="number of patients (default: %(default)s)"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first patient (default: %(default)s)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=[*RIGHT, *HOPELESS],
        default=[*RIGHT, *HOPELESS],
        metavar="KIND",
        help="kinds of fits to make (default: all)",
    )
    parser.add_argument(
        "--also",
        action="append",
        nargs="+",
        default=[],
        metavar="FILE",
        help="also fit a bone of a CT in X-rays with truth beside them (NAME.json, as for"
        " evaluation.py --truth): CT LABELMAP LABEL XRAY ...; bounds then suit both kinds",
    )
    parser.add_argument(
        "--write", action="store_true", help="replace the numbers in common/registration/"
    )
    return parser


# ---------------------------------------------------------------------------------------- fits


@dataclass(frozen=True)
class Attempt:
    """One fit to make: what is registered in which views, and from where."""

    kind: str
    bone: str
    structure: Structure
    views: tuple[View, ...]
    truth: np.ndarray  # (4, 4) volume_from_rig, of the bone if it were the right one
    near: np.ndarray  # (4, 4) the start pose is near to it

    @property
    def centre(self) -> np.ndarray:
        """Point (3,) about which the start pose is turned."""
        return self.structure.body.centre_mm


class Bones:
    """The loaded structures of the patients."""

    def __init__(self, work: Path):
        self._work = work
        self._loaded: dict[tuple[int, str, str], Structure] = {}

    def patient(self, number: int) -> legs.Patient:
        """Return a patient, made if it is not there."""
        return legs.make_patient(number, files.output_folder(self._work / f"patient_{number}"))

    def of(self, patient: legs.Patient, bone: str, side: str) -> Structure:
        """Return the structure of a bone."""
        from common.registration.structures import load_structure

        key = (patient.number, bone, side)
        if key not in self._loaded:
            ct, mask, label = patient.bones[bone, side]
            self._loaded[key] = load_structure(ct, mask, [label])
        return self._loaded[key]


def attempts(
    picture: legs.Picture, patient: legs.Patient, other: legs.Patient, bones: Bones
) -> Iterator[Attempt]:
    """Yield what is fitted in a picture; ``other`` is another patient."""
    from common.registration.scene import View
    from common.xray import reading

    side, wrong_side = picture.side, "left" if picture.side == "right" else "right"
    rig = geometry.invert(picture.cameras[0])
    views = tuple(
        View(reading.read(path, bone="bright"), rig @ camera)
        for path, camera in zip(picture.xrays, picture.cameras, strict=True)
    )
    one = views[:1]
    for bone in legs.BONES:
        own = bones.of(patient, bone, side)
        truth = geometry.invert(own.ct.lineage.scanner_from_volume) @ picture.truths[bone]
        if picture.absent == bone:
            yield Attempt("absent", bone, own, one, truth, truth)
            continue
        yield Attempt("near", bone, own, one, truth, truth)
        yield Attempt("far", bone, own, one, truth, truth)
        yield Attempt("two_views", bone, own, views, truth, truth)
        for kind, wrong in (
            ("other_patient", bones.of(other, bone, side)),
            ("other_leg", bones.of(patient, bone, wrong_side)),
        ):
            there = geometry.translation(wrong.body.centre_mm - own.body.centre_mm) @ truth
            yield Attempt(kind, bone, wrong, one, truth, there)
        behind = geometry.from_behind(truth, own.body.centre_mm)
        yield Attempt("flipped", bone, own, (one[0].flip(),), truth, behind)


def fit(attempt: Attempt, name: str) -> Solution | None:
    """Make a fit."""
    from common.registration.competition import compete

    rng = legs.rng_of(attempt.kind, attempt.bone, name)
    spread = FAR if attempt.kind == "far" else NEAR
    start = geometry.displaced(attempt.near, attempt.centre, *spread, rng)
    return compete(attempt.views, attempt.structure.body, [start])


def record(attempt: Attempt, solution: Solution | None, name: str, patient: int) -> Row:
    """Return what is kept of a fit: error, cues and what its bounds rest on."""
    from common.registration import cues, trust

    row: Row = {
        "patient": patient,
        "picture": name,
        "kind": attempt.kind,
        "bone": attempt.bone,
        "views": len(attempt.views),
    }
    if solution is None:
        return row
    rig, detector = attempt.views[0].rig_from_camera, attempt.views[0].xray.detector
    found, truth = solution.fit.poses[0] @ rig, attempt.truth @ rig
    error = geometry.pose_error(found, truth, attempt.structure.body.points, detector)
    return {
        **row,
        **error.as_dict(),
        "deviations": trust.deviations(solution, attempt.views, attempt.structure)._asdict(),
        "half_voxel": trust.surface_errors(solution, attempt.views, attempt.structure)._asdict(),
        "cues": asdict(cues.measure(solution, attempt.views, attempt.structure.body)),
    }


def joint_rows(
    attempts: Sequence[Attempt], solutions: Sequence[Solution], name: str, patient: int
) -> list[Row]:
    """Return what is kept of near fits of bones of one view that are refined together."""
    from common.registration.found import Found
    from common.registration.register import refine_together

    found = [Found(each.start, each) for each in solutions]
    structures = [attempt.structure for attempt in attempts]
    together = refine_together(attempts[0].views, structures, found)
    return [
        record(replace(attempt, kind="joint"), each.solution, name, patient)
        for attempt, each in zip(attempts, together, strict=True)
    ]


def make_fits(work: Path, numbers: range, kinds: Sequence[str], output: Path) -> None:
    """Make the fits of some patients, and append those that are not there yet."""
    bones = Bones(work)
    done = {(row["picture"], row["kind"], row["bone"]) for row in read_rows(output)}
    with open(output, "a", encoding="utf-8") as stream:
        for number in track(numbers, what="patients", unit="patient"):
            patient, other = bones.patient(number), bones.patient(number + 1)
            for posture, side in enumerate(("right", "left"), 1):
                folder = work / f"patient_{number}"
                for picture in legs.make_pictures(patient, posture, side, PICTURES, folder):
                    near: list[tuple[Attempt, Solution]] = []
                    for attempt in attempts(picture, patient, other, bones):
                        key = (picture.name, attempt.kind, attempt.bone)
                        if attempt.kind in kinds and key not in done:
                            solution = fit(attempt, picture.name)
                            row = record(attempt, solution, picture.name, number)
                            stream.write(json.dumps(row) + "\n")
                            if attempt.kind == "near" and solution:
                                near.append((attempt, solution))
                    if len(near) > 1:
                        for row in joint_rows(*zip(*near, strict=True), picture.name, number):
                            stream.write(json.dumps(row) + "\n")
                    stream.flush()


def make_other_fits(given: Sequence[str], output: Path) -> None:
    """Make near fits of one bone in X-rays of others, and append those that are not there yet."""
    from common.registration.scene import View
    from common.registration.structures import load_structure
    from common.results.truth import read_truth
    from common.xray import reading

    ct, mask, label, *xrays = given
    structure = load_structure(Path(ct), Path(mask), [int(label)])
    scanner_from_volume = structure.ct.lineage.scanner_from_volume
    done = {(row["picture"], row["bone"]) for row in read_rows(output)}
    with open(output, "a", encoding="utf-8") as stream:
        for path in map(Path, xrays):
            if (path.stem, label) in done:
                continue
            view = View(reading.read(path))
            camera = read_truth(path.with_suffix(".json"), int(label)).camera
            truth = geometry.invert(scanner_from_volume) @ camera
            if structure.ct.lineage.mirrored:
                view, truth = view.flip(), truth @ geometry.MIRROR
            attempt = Attempt("near", label, structure, (view,), truth, truth)
            row = record(attempt, fit(attempt, path.stem), path.stem, OTHER)
            stream.write(json.dumps(row) + "\n")
            stream.flush()


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of fits, none if it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --------------------------------------------------------------------------------------- model


def is_wrong(row: Row) -> bool:
    """Return whether the pose of a fit is wrong; every fit of a hopeless kind is."""
    from common.registration import trust

    errors = row["in_plane_mm"], row["depth_mm"], row["rotation_deg"]
    return row["kind"] in HOPELESS or trust.is_wrong(*errors, row["views"])


def is_other(row: Row) -> bool:
    """Return whether a fit is in an X-ray of `--also`."""
    return row["patient"] == OTHER


def factors(rows: Sequence[Row], views: int) -> dict[str, float]:
    """Return the 95 % quantile of the error over its standard deviation, by direction.

    Phantoms and other X-rays differ; the larger quantile of the two kinds counts.
    """
    found = {}
    for name, error in DIRECTIONS.items():
        ratios = [
            [
                row[error]
                / np.hypot(row["deviations"][name], SURFACE[name] * row["half_voxel"][name])
                for row in rows
                if (row["views"] > 1) == (views > 1) and is_other(row) == other
            ]
            for other in (False, True)
        ]
        # split conformal prediction: the quantile of n values is that of n + 1
        levels = [min(1.0, 0.95 * (1 + 1 / max(len(each), 1))) for each in ratios]
        found[name] = max(
            float(np.quantile(each, level))
            for each, level in zip(ratios, levels, strict=True)
            if len(each) >= LEAST_FITS
        )
    return found


def logistic(rows: Sequence[Row]) -> dict[str, Any]:
    """Return weights and intercept of the chance of a wrong pose, by ridge logistic regression.

    The intercept is for `WRONG_SHARE` of wrong poses instead of the share in these fits.
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

    found = minimize(loss, np.zeros(1 + table.shape[1]), jac=True).x
    weights = found[1:] / width
    share = float(wrong.mean())
    shift = np.log(WRONG_SHARE / (1 - WRONG_SHARE)) - np.log(share / (1 - share))
    return {
        "weights": dict(zip(trust.FEATURES, weights.tolist(), strict=True)),
        "intercept": float(found[0] - weights @ middle + shift),
    }


def make_model(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the content of ``trust.json``."""
    right = [row for row in rows if not is_wrong(row) and row["kind"] != "far"]
    learned = [row for row in rows if not is_other(row)]
    return {
        "made_by": "python benchmarks/calibrate.py",
        "fits": len(rows),
        "bounds": {"surface": SURFACE, "one": factors(right, 1), "several": factors(right, 2)},
        "wrong": logistic(learned),
    }


def tested(rows: Sequence[Row]) -> str:
    """Return a table of a model made from even patients, tested on odd ones and on other X-rays."""
    from common.registration.cues import Cues
    from common.registration.trust import Directions, Model

    even = [row for row in rows if row["patient"] % 2 == 0]
    rest = [row for row in rows if row["patient"] % 2 == 1]
    model = Model.from_entries(make_model([*even, *filter(is_other, rows)]))
    lines = []
    for title, other, views in (
        ("phantoms, one view", False, 1),
        ("phantoms, two views", False, 2),
        ("other X-rays, one view", True, 1),
    ):
        chosen = [
            row
            for row in rest
            if is_other(row) == other and row["views"] == views and row["kind"] != "far"
        ]
        right = [row for row in chosen if not is_wrong(row)]
        inside = {}
        for name, error in DIRECTIONS.items():
            bounds = [
                getattr(
                    model.bounds(
                        Directions(**row["deviations"]), Directions(**row["half_voxel"]), views
                    ),
                    name,
                )
                for row in right
            ]
            below = [row[error] <= bound for row, bound in zip(right, bounds, strict=True)]
            inside[name] = f"{100 * np.mean(below):.0f} % (median {np.median(bounds):.2f})"
        lines.append(f"{title}: {len(right)} right poses; inside the bounds {inside}")
    chances = np.array([model.wrong(Cues(**row["cues"]), row["views"]) for row in rest])
    wrong = np.array([is_wrong(row) for row in rest])
    for low, high in itertools.pairwise((0.0, 0.01, 0.03, 0.1, 0.3, 1.0)):
        within = (chances >= low) & (chances < high)
        lines.append(
            f"chance {low:g} to {high:g}: {within.sum()} fits, {(within & wrong).sum()} wrong"
        )
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    files.output_folder(args.work)
    numbers = range(args.first, args.first + args.patients)
    for number, given in enumerate(args.also):
        make_other_fits(given, args.work / f"fits_other_{number}.jsonl")
    make_fits(args.work, numbers, args.kinds, args.work / f"fits_{args.first}.jsonl")
    rows = [row for path in sorted(args.work.glob("fits_*.jsonl")) for row in read_rows(path)]
    rows = [row for row in rows if "cues" in row]
    if any(is_wrong(row) for row in rows):
        print(tested(rows))
        if args.write:
            files.write_json(TRUST, make_model(rows))
            print(TRUST)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
