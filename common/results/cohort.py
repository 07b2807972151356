"""A cohort: the table of its X-rays, and where the workflow puts what belongs to each. Standard library only.

The table is CSV, one row an X-ray; a patient without X-rays has one row with ``xray`` empty, and serves the patient-agnostic model alone.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import existing_file, stem

REQUIRED = ("patient", "ct", "segmentation")
OPTIONAL = ("xray", "side", "sdd_mm", "pixel_spacing_mm", "truth", "flags")
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of a patient and of an X-ray: they become file names
SIDES = ("left", "right")


@dataclass(frozen=True)
class Xray:
    """One X-ray of the table."""

    path: Path
    side: str
    sdd_mm: float | None = None
    pixel_spacing_mm: float | None = None
    truth: Path | None = None
    flags: str = ""  # further flags of registration.py, for this X-ray

    @property
    def view(self) -> str:
        return stem(self.path)

    @property
    def is_dicom(self) -> bool:
        return self.path.suffix.lower() in (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class Patient:
    name: str
    ct: Path
    segmentation: Path
    xrays: tuple[Xray, ...]


@dataclass(frozen=True)
class Stage:
    """A rule of the workflow: its main output and its log, below the output folder, as patterns."""

    output: str
    log: str


_RESULTS = "results/{patient}/{bone}/{view}"
# in the order of the work; what the patient's preparation writes is a text, "ok" or "failed", because the cohort goes on without him
STAGES = {
    "clean": Stage("patients/{patient}/clean.txt", "logs/clean/{patient}.log"),
    "crop": Stage("patients/{patient}/crop.txt", "logs/crop/{patient}.log"),
    "align": Stage("patients/{patient}/{bone}_align.txt", "logs/align/{patient}_{bone}.log"),
    "centre": Stage("patients/{patient}/{bone}_centre.txt", "logs/centre/{patient}_{bone}.log"),
    "agnostic": Stage("models/{bone}.pth", "logs/agnostic/{bone}.log"),
    "finetune": Stage(
        "models/{patient}_{bone}_{side}.pth", "logs/finetune/{patient}_{bone}_{side}.log"
    ),
    "header": Stage("xrays/{patient}/{view}.dcm", "logs/header/{patient}_{view}.log"),
    "register": Stage(_RESULTS + "/parameters.pt", "logs/register/{patient}_{bone}_{view}.log"),
    "drr": Stage(_RESULTS + "/drr.png", "logs/drr/{patient}_{bone}_{view}.log"),
    "evaluate": Stage(_RESULTS + "/evaluation.json", "logs/evaluate/{patient}_{bone}_{view}.log"),
}


def volume_name(patient: str, bone: str, side: str) -> str:
    """What crop_cts.py calls a bone's file, without the ending."""
    return f"{patient}_{bone}{'_mirrored' if side == 'right' else ''}"


def results_folder(patient: str, bone: str, view: str) -> str:
    """Where a registration's files lie below the output folder."""
    return _RESULTS.format(patient=patient, bone=bone, view=view)


def trouble(output: Path, patient: str, bone: str, xray: Xray) -> tuple[str, str] | None:
    """(rule, reason) of the first stage of a registration that is not done, None where all are; the reason is the last line of its log."""
    names = {"patient": patient, "bone": bone, "side": xray.side, "view": xray.view}
    for rule, stage in STAGES.items():
        if rule == "header" and not (xray.is_dicom and xray.sdd_mm):
            continue
        done = output / stage.output.format(**names)
        if done.exists() and not (
            done.suffix == ".txt" and done.read_text(encoding="utf-8").strip() != "ok"
        ):
            continue
        log = output / stage.log.format(**names)
        lines = (
            log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if log.exists()
            else []
        )
        return rule, lines[-1] if lines else "not run yet"
    return None


def read_table(path: str | Path) -> list[Patient]:
    """The patients of a table, in its order; paths are relative to the table's folder.

    Raises InputError for a row that cannot be, or for files that are not there (all of them in one message).
    """
    path = existing_file(path, "the table of patients (CSV)")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [
                {key: (value or "").strip() for key, value in row.items() if key is not None}
                for row in reader
            ]
            columns = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            path, f"cannot be read ({error})", "a table in CSV, UTF-8", "save it as such"
        ) from None
    unknown = [name for name in columns if name not in REQUIRED + OPTIONAL]
    if unknown or not set(REQUIRED) <= set(columns):
        raise InputError(
            path,
            f"has the columns {', '.join(columns)}",
            f"{', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)}",
            "correct the first line",
        )
    patients: dict[str, Patient] = {}
    for number, row in enumerate(rows, 2):
        _add(patients, row, path.parent, f"{path}: line {number}")
    if not patients:
        raise InputError(path, "lists no patient", "a row an X-ray", "fill it in")
    files = [
        file
        for p in patients.values()
        for file in (p.ct, p.segmentation, *(f for x in p.xrays for f in (x.path, x.truth) if f))
    ]
    absent = sorted({str(file) for file in files if not file.exists()})
    if absent:
        raise InputError(
            path,
            f"names {len(absent)} files that are not there"
            f" ({', '.join(absent[:5])}{(', ...' if len(absent) > 5 else '')})",
            "all",
            "correct the table",
        )
    return list(patients.values())


def _add(patients: dict[str, Patient], row: dict[str, str], folder: Path, where: str) -> None:
    """Put one row into the patients by name. Raises InputError."""
    name = row["patient"]
    if not re.fullmatch(NAME, name):
        raise InputError(
            where,
            f"patient {name!r}",
            "letters, digits, dots, dashes and underscores",
            "it becomes a file name",
        )
    if not row["ct"] or not row["segmentation"]:
        raise InputError(
            where, f"no {('segmentation' if row['ct'] else 'ct')}", "its path", "fill it in"
        )
    known = patients.get(name, Patient(name, folder / row["ct"], folder / row["segmentation"], ()))
    if (known.ct, known.segmentation) != (folder / row["ct"], folder / row["segmentation"]):
        raise InputError(
            where,
            f"patient {name} has another CT or segmentation than before",
            "one of each a patient",
            "give the other scan a name of its own",
        )
    xrays = known.xrays
    if row.get("xray"):
        xray = _xray(row, folder, where)
        if xray.view in {other.view for other in xrays}:
            raise InputError(
                where,
                f"patient {name} has two X-rays called {xray.view}",
                "different file names",
                "rename one",
            )
        xrays = (*xrays, xray)
    patients[name] = Patient(name, known.ct, known.segmentation, xrays)


def _xray(row: dict[str, str], folder: Path, where: str) -> Xray:
    side = row.get("side", "")
    if side not in SIDES:
        raise InputError(
            where, f"side {side!r}", "left or right, the side that the X-ray shows", "fill it in"
        )
    truth = row.get("truth")
    xray = Xray(
        folder / row["xray"], side, _number(row, "sdd_mm", where), _number(row, "pixel_spacing_mm", where), folder / truth if truth else None, row.get("flags", "")
    )  # fmt: skip
    if not re.fullmatch(NAME, xray.view):
        raise InputError(
            where,
            f"X-ray {xray.path.name!r}",
            "letters, digits, dots, dashes and underscores; its name becomes a folder",
            "rename it",
        )
    return xray


def _number(row: dict[str, str], column: str, where: str) -> float | None:
    text = row.get(column, "")
    try:
        value = float(text) if text else None
    except ValueError:
        value = -1.0
    if value is not None and not value > 0:
        raise InputError(
            where,
            f"{column} {text!r}",
            "millimetres, or nothing where the DICOM header has it",
            "correct it",
        )
    return value
