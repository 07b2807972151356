"""The table of a cohort: its patients and their X-rays. Standard library only.

The table is CSV with one row per X-ray. A patient without X-rays has one row with an empty ``xray``
and is used only to train the patient-agnostic model.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path

from common import files
from common.errors import InputError
from common.files import existing_file, is_plain_name, stem

REQUIRED = ("patient", "ct", "segmentation")
OPTIONAL = ("xray", "side", "sdd_mm", "pixel_spacing_mm", "truth", "flags")
# of a patient and of an X-ray: both become file names
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
CHARACTERS = "letters, digits, dots, dashes and underscores"
SIDES = ("left", "right")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
MAX_LISTED = 5  # files in an error text


@dataclass(frozen=True)
class CohortXray:
    """One X-ray of the table."""

    path: Path
    side: str
    sdd_mm: float | None = None
    pixel_spacing_mm: float | None = None
    truth: Path | None = None
    flags: str = ""  # further flags of registration.py, for this X-ray

    @property
    def view(self) -> str:
        """Name of the X-ray in results."""
        return stem(self.path)

    @property
    def gets_header(self) -> bool:
        """Whether the SDD of the table is written into a copy of the DICOM file."""
        return self.path.suffix.lower() in DICOM_ENDINGS and bool(self.sdd_mm)


@dataclass(frozen=True)
class CohortPatient:
    """A patient of the table with all X-rays."""

    name: str
    ct: Path
    segmentation: Path
    xrays: tuple[CohortXray, ...] = ()

    @property
    def files(self) -> list[Path]:
        """All files that the table names for this patient."""
        of_xrays = [file for xray in self.xrays for file in (xray.path, xray.truth) if file]
        return [self.ct, self.segmentation, *of_xrays]


def read_table(path: str | Path) -> list[CohortPatient]:
    """Return the patients of a table in its order. Paths are relative to the folder of the table.

    Raises InputError for an invalid row, or if files are missing (all of them in one message).
    """
    path = existing_file(path, "the table of patients (CSV)")
    patients: dict[str, CohortPatient] = {}
    for number, row in enumerate(_rows(path), 2):
        _add(patients, row, path.parent, f"{path}: line {number}")
    if not patients:
        raise InputError(path, "no patients", "one row per X-ray", "add rows")
    named = [file for patient in patients.values() for file in patient.files]
    missing = sorted({str(file) for file in named if not file.exists()})
    if missing:
        listed = ", ".join([*missing[:MAX_LISTED], *["..."] * (len(missing) > MAX_LISTED)])
        raise InputError(
            path, f"{len(missing)} files not found ({listed})", "all files", "correct the table"
        )
    return list(patients.values())


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows by column name. Raises InputError for anything but a table with known columns."""
    try:
        text = files.read_text(path, "a table in CSV")
        reader = csv.DictReader(text.splitlines(keepends=True))
        rows = [
            {key: (value or "").strip() for key, value in row.items() if key is not None}
            for row in reader
        ]
        columns = reader.fieldnames or []
    except csv.Error as error:
        raise InputError(
            path, f"cannot be read ({error})", "a table in CSV, UTF-8", "save it in this format"
        ) from None
    if not set(REQUIRED) <= set(columns) <= {*REQUIRED, *OPTIONAL}:
        raise InputError(
            path,
            f"has the columns {', '.join(columns)}",
            f"{', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)}",
            "correct the first line",
        )
    return rows


def _add(patients: dict[str, CohortPatient], row: dict[str, str], folder: Path, where: str) -> None:
    """Add one row to the patients by name. Raises InputError."""
    patient = _patient(row, folder, where)
    if patient.name not in patients and (same := files.alike([*patients, patient.name])):
        raise InputError(
            where,
            f"patients {' and '.join(same)}",
            "names that differ in more than upper and lower case",
            "rename one",
        )
    known = patients.setdefault(patient.name, patient)
    if (known.ct, known.segmentation) != (patient.ct, patient.segmentation):
        raise InputError(
            where,
            f"patient {known.name} has another CT or segmentation than in an earlier row",
            "one CT and one segmentation per patient",
            "give the other CT a different patient name",
        )
    if not row.get("xray"):
        return
    xray = _xray(row, folder, where)
    if same := files.alike([*(other.view for other in known.xrays), xray.view]):
        raise InputError(
            where,
            f"patient {known.name} has the X-rays {' and '.join(same)}",
            "names that differ in more than upper and lower case",
            "rename one",
        )
    if xray.view in {other.view for other in known.xrays}:
        raise InputError(
            where,
            f"patient {known.name} has two X-rays called {xray.view}",
            "different file names",
            "rename one",
        )
    patients[known.name] = replace(known, xrays=(*known.xrays, xray))


def _patient(row: dict[str, str], folder: Path, where: str) -> CohortPatient:
    name = row["patient"]
    if not (re.fullmatch(NAME, name) and is_plain_name(name)):
        raise InputError(
            where, f"patient {name!r}", f"{CHARACTERS}; the name becomes a file name", "rename"
        )
    for column in ("ct", "segmentation"):
        if not row[column]:
            raise InputError(where, f"no {column}", "its path", "add it")
    return CohortPatient(name, folder / row["ct"], folder / row["segmentation"])


def _xray(row: dict[str, str], folder: Path, where: str) -> CohortXray:
    side, truth = row.get("side", ""), row.get("truth")
    if side not in SIDES:
        raise InputError(
            where, f"side {side!r}", "left or right, the side that the X-ray shows", "add it"
        )
    xray = CohortXray(
        folder / row["xray"],
        side,
        _millimetres(row, "sdd_mm", where),
        _millimetres(row, "pixel_spacing_mm", where),
        folder / truth if truth else None,
        row.get("flags", ""),
    )
    if not (re.fullmatch(NAME, xray.view) and is_plain_name(xray.view)):
        raise InputError(
            where,
            f"X-ray {xray.path.name!r}",
            f"{CHARACTERS}; the name becomes a folder",
            "rename it",
        )
    return xray


def _millimetres(row: dict[str, str], column: str, where: str) -> float | None:
    """A length above 0, or None if the column is empty."""
    text = row.get(column, "")
    try:
        value = float(text) if text else None
    except ValueError:
        value = -1.0
    if value is not None and not value > 0:
        raise InputError(
            where,
            f"{column} {text!r}",
            "millimetres, or nothing if the DICOM header has it",
            "correct it",
        )
    return value
