"""Make fits with known truth, which `calibrate.py` makes the numbers of the verdict from.

Phantom patients are X-rayed from all sides (common/synthetic/legs.py). In each X-ray, bones are
registered in ways that have a right answer (from a near start pose, from a far one, in two views,
femur and tibia together with nothing known, a whole CT, an implant) and in ways that have none: the
bone of another patient, the bone of the other leg, a flipped X-ray, a bone that is not there. In
others, what is stated is false: the SDD, a detector that is tilted, a labelmap that is too large or
too small. What is kept of each fit is its error, its cues, its verdict and what its bounds rest on.
A stopped run goes on where it was.

writes  WORK/  patients, X-rays and fits*.jsonl, one line per fit
example
  python benchmarks/fits.py -w calibration --patients 12
"""

from __future__ import annotations

import argparse
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
from common.synthetic import falsities, legs

if TYPE_CHECKING:
    from common.registration.competition import Solution
    from common.registration.register import Registration
    from common.registration.scene import Structure, View
    from common.registration.search.anywhere import Banks
    from common.results.result import Verdict

logger = logging.getLogger("common.script")

# of start poses, at most: degrees, mm in plane, mm in depth
NEAR, FAR = (8.0, 10.0, 25.0), (60.0, 40.0, 60.0)
ALONE = ("near", "far", "two_views", "other_patient", "other_leg", "flipped", "absent")
FALSE = (*falsities.XRAYS, *falsities.LABELMAPS)
TOGETHER = ("joint", "search")  # of femur and tibia
WHOLE, METAL = "whole", "metal"  # a whole CT, also instead of a label; parts of an implant
KINDS = (*ALONE, *FALSE, *TOGETHER, WHOLE, METAL)
PICTURES, WHOLE_PICTURES, METAL_PICTURES = 4, 4, 2  # of each leg, a whole CT, an implant
SIDES = ("right", "left")
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
        choices=KINDS,
        default=KINDS,
        metavar="KIND",
        help="kinds of fits to make (default: all)",
    )
    parser.add_argument(
        "--also",
        action="append",
        nargs="+",
        default=[],
        metavar="FILE",
        help=(
            "also fit a bone of a CT in X-rays with truth beside them (NAME.json, as for"
            " evaluation.py --truth): CT LABELMAP LABEL XRAY ..., views of one instant joined by a"
            " comma; with `whole` or `metal` as LABEL, the whole CT or a surface, whatever the"
            " labelmap"
        ),
    )
    return parser


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
        self._loaded: dict[tuple[int, str, str, str], Structure] = {}

    def folder(self, number: int) -> Path:
        """Return the folder of a patient."""
        return files.output_folder(self._work / f"patient_{number}")

    def patient(self, number: int) -> legs.Patient:
        """Return a patient, made if it is not there."""
        return legs.make_patient(number, self.folder(number))

    def of(self, patient: legs.Patient, bone: str, side: str, shape: str = "") -> Structure:
        """Return the structure of a bone, of another ``shape`` than it has: "fat" or "thin"."""
        from common.registration.structures import load_structure

        key = (patient.number, bone, side, shape)
        if key not in self._loaded:
            ct, mask, label = patient.bones[bone, side]
            mask = falsities.reshaped(mask, label, shape) if shape else mask
            self._loaded[key] = load_structure(ct, mask, [label])
        return self._loaded[key]


def views_of(picture: legs.Picture) -> tuple[View, ...]:
    """Read the X-rays of a picture, in the rig of the first one."""
    from common.registration.scene import View
    from common.xray import reading

    rig = geometry.invert(picture.cameras[0])
    return tuple(
        View(reading.read(path, bone="bright"), rig @ camera)
        for path, camera in zip(picture.xrays, picture.cameras, strict=True)
    )


def falsified(view: View, kind: str) -> View:
    """Return a view whose X-ray is not as stated."""
    xray = view.xray
    image, valid, detector = falsities.falsified(xray.image, xray.valid, xray.detector, kind)
    return replace(view, xray=replace(xray, image=image, valid=valid, detector=detector))


def attempts(
    picture: legs.Picture, patient: legs.Patient, other: legs.Patient, bones: Bones
) -> Iterator[Attempt]:
    """Yield what is fitted alone in a picture; ``other`` is another patient."""
    side, wrong_side = picture.side, SIDES[1 - SIDES.index(picture.side)]
    views = views_of(picture)
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
        for kind in falsities.XRAYS:
            yield Attempt(kind, bone, own, (falsified(one[0], kind),), truth, truth)
        for kind in falsities.LABELMAPS:
            yield Attempt(kind, bone, bones.of(patient, bone, side, kind), one, truth, truth)


def fit(attempt: Attempt, name: str) -> Solution | None:
    """Make a fit."""
    from common.registration.competition import compete

    rng = legs.rng_of(attempt.kind, attempt.bone, name)
    spread = FAR if attempt.kind == "far" else NEAR
    start = geometry.displaced(attempt.near, attempt.centre, *spread, rng)
    return compete(attempt.views, attempt.structure.body, [start])


def record(
    attempt: Attempt,
    solution: Solution | None,
    name: str,
    patient: int,
    verdict: Verdict | None = None,
) -> Row:
    """Return what is kept of a fit: error, cues, what its bounds rest on, and its verdict."""
    from common.registration import cues, trust
    from common.registration.verdict import Surroundings, judge

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
    views, structure = attempt.views, attempt.structure
    measured = cues.measure(solution, views, structure.body)
    if verdict is None:
        known = measured if structure.excess else None
        verdict = judge(solution, views, structure, Surroundings(cues=known))
    return {
        **row,
        **error.as_dict(),
        "bounds_of": trust.kind_of(structure, views),
        "deviations": trust.deviations(solution, views, structure)._asdict(),
        "half_voxel": trust.surface_errors(solution, views, structure)._asdict(),
        "cues": asdict(measured),
        "code": verdict.code,
    }


def refined_together(attempts: Sequence[Attempt], solutions: Sequence[Solution]) -> list[Solution]:
    """Refine near fits of femur and tibia together."""
    from common.registration.found import Found
    from common.registration.together import refine_together

    found = [Found(each.start, each) for each in solutions]
    structures = [attempt.structure for attempt in attempts]
    together = refine_together(attempts[0].views, structures, found)
    return [each.solution for each in together]


def searched(attempts: Sequence[Attempt], banks: Banks) -> list[Registration]:
    """Register femur and tibia in one view with nothing known, as registration.py does."""
    from common.registration.register import register
    from common.registration.starts import Starter

    structures = [attempt.structure for attempt in attempts]
    return register(attempts[0].views, structures, Starter("search", banks=banks), 0)


def fits_of_picture(
    picture: legs.Picture, chosen: list[Attempt], number: int, kinds: Sequence[str], banks: Banks
) -> Iterator[Row]:
    """Make the fits of one picture."""
    near: list[tuple[Attempt, Solution]] = []
    for attempt in chosen:
        first = attempt.kind == "near" and "joint" in kinds  # of the fit of both
        if attempt.kind in kinds or first:
            solution = fit(attempt, picture.name)
            if attempt.kind in kinds:
                yield record(attempt, solution, picture.name, number)
            if first and solution:
                near.append((attempt, solution))
    if len(near) > 1:
        pair, alone = zip(*near, strict=True)
        for attempt, solution in zip(pair, refined_together(pair, alone), strict=True):
            yield record(replace(attempt, kind="joint"), solution, picture.name, number)
    if "search" in kinds:
        # a bone that is not there is searched for too: its pose is wrong wherever it is
        pair = [each for each in chosen if each.kind in ("near", "absent")]
        for attempt, found in zip(pair, searched(pair, banks), strict=True):
            kind = "search_absent" if attempt.kind == "absent" else "search"
            # where it was found only in the flipped X-ray, the cues are of that one
            made = replace(attempt, kind=kind, views=found.views)
            yield record(made, found.solution, picture.name, number, found.verdict)


def fits_of_whole(picture: legs.Picture, structure: Structure, number: int) -> Iterator[Row]:
    """Make the fit of a whole CT in one picture."""
    truth = geometry.invert(structure.ct.lineage.scanner_from_volume) @ picture.cameras[0]
    attempt = Attempt(WHOLE, WHOLE, structure, views_of(picture)[:1], truth, truth)
    yield record(attempt, fit(attempt, picture.name), picture.name, number)


def fits_of_metal(picture: legs.Picture, number: int) -> Iterator[Row]:
    """Make the fits of the parts of an implant in one picture, in one view and in two."""
    from common.registration.structures import load_structure

    views = views_of(picture)
    for part, path in picture.metal.items():
        structure = load_structure(path, material="metal")
        truth = geometry.invert(structure.ct.lineage.scanner_from_volume) @ picture.cameras[0]
        for some in (views[:1], views):
            attempt = Attempt(METAL, part, structure, some, truth, truth)
            yield record(attempt, fit(attempt, picture.name), picture.name, number)


def make_fits(work: Path, numbers: range, kinds: Sequence[str], output: Path) -> None:
    """Make the fits of some patients, and append those that are not there yet."""
    from common.registration.search.anywhere import Banks
    from common.registration.structures import load_structure

    bones = Bones(work)
    done = {(row["picture"], row["kind"]) for row in read_rows(output)}
    for number in track(numbers, what="patients", unit="patient"):
        patient, other = bones.patient(number), bones.patient(number + 1)
        folder, banks = bones.folder(number), Banks()
        for posture, side in enumerate(SIDES, 1):
            for picture in legs.make_pictures(patient, posture, side, PICTURES, folder):
                missing = [kind for kind in kinds if (picture.name, kind) not in done]
                if missing:
                    chosen = list(attempts(picture, patient, other, bones))
                    append(output, fits_of_picture(picture, chosen, number, missing, banks))
        if WHOLE in kinds:
            structure = load_structure(patient.ct)
            for picture in legs.make_whole_pictures(patient, WHOLE_PICTURES, folder):
                if (picture.name, WHOLE) not in done:
                    append(output, fits_of_whole(picture, structure, number))
        if METAL in kinds:
            for picture in legs.make_metal_pictures(patient, METAL_PICTURES, folder):
                if (picture.name, METAL) not in done:
                    append(output, fits_of_metal(picture, number))


def append(output: Path, rows: Iterator[Row]) -> None:
    """Append the fits of a picture, all at once: a stopped run then repeats only the last one."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with open(output, "a", encoding="utf-8") as stream:
        stream.write(text)


def make_other_fits(given: Sequence[str], output: Path) -> None:
    """Make near fits of one structure in X-rays of others, and append those not there yet."""
    from common.registration.scene import View
    from common.results.truth import read_truth
    from common.xray import reading

    ct, mask, label, *instants = given
    structure = load_other(Path(ct), Path(mask), label)
    scanner_from_volume = structure.ct.lineage.scanner_from_volume
    moved = None if label in (WHOLE, METAL) else int(label)
    done = {(row["picture"], row["bone"]) for row in read_rows(output)}
    for instant in instants:
        paths = [Path(name) for name in instant.split(",")]
        name = ",".join(path.stem for path in paths)
        if (name, label) in done:
            continue
        cameras = [read_truth(path.with_suffix(".json"), moved).camera for path in paths]
        rig = geometry.invert(cameras[0])
        views = tuple(
            View(reading.read(path), rig @ camera)
            for path, camera in zip(paths, cameras, strict=True)
        )
        truth = geometry.invert(scanner_from_volume) @ cameras[0]
        if structure.ct.lineage.mirrored:
            views, truth = tuple(view.flip() for view in views), truth @ geometry.MIRROR
        kind = "near" if moved else label
        attempt = Attempt(kind, label, structure, views, truth, truth)
        append(output, iter([record(attempt, fit(attempt, name), name, OTHER)]))


def load_other(ct: Path, mask: Path, label: str) -> Structure:
    """Return the structure of `--also`: a bone, a whole CT or a metal part."""
    from common.registration.structures import load_structure

    if label == WHOLE:
        return load_structure(ct)
    if label == METAL:
        return load_structure(ct, material="metal")
    return load_structure(ct, mask, [int(label)])


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of fits, none if it is not there."""
    return (
        [row for _, row in files.read_lines(path, "fits of this script")] if path.exists() else []
    )


def run(args: argparse.Namespace) -> None:
    files.output_folder(args.work)
    for number, given in enumerate(args.also):
        make_other_fits(given, args.work / f"fits_other_{number}.jsonl")
    numbers = range(args.first, args.first + args.patients)
    make_fits(args.work, numbers, args.kinds, args.work / f"fits_{args.first}.jsonl")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
