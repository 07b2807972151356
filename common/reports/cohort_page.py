"""The page of a cohort: a table of all its registrations, failures first, and distributions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.progress import track
from common.reports import charts
from common.reports.pages import (
    SEVERITY,
    Column,
    Row,
    columns_of,
    counted,
    markup,
    render,
    row_of,
)
from common.reports.registered import NUMBERS, load_registered
from common.results import workflow_files
from common.results.cohort import CohortPatient, CohortXray

if TYPE_CHECKING:
    from markupsafe import Markup


def cohort_page(
    name: str,
    output: Path,
    patients: Sequence[CohortPatient],
    bones: Sequence[str],
    page_folder: Path,
) -> str:
    """Return the page of all registrations of a table, including those that are missing.

    ``output`` is the output folder of the workflow; links are relative to ``page_folder``.
    """
    expected = [
        (patient, xray, bone) for patient in patients for xray in patient.xrays for bone in bones
    ]
    rows = [
        _row(output, patient, xray, bone, page_folder)
        for patient, xray, bone in track(expected, what="reading", unit="registration")
    ]
    rows.sort(key=lambda row: row.doubt)
    counts = [(verdict, sum(row.verdict == verdict for row in rows)) for verdict in SEVERITY]
    content = {
        "rows": rows,
        "columns": {**columns_of(rows), "side": Column("side")},
        "counts": [(verdict, count) for verdict, count in counts if count],
        "charts": _distributions(rows, bones),
    }
    subtitle = f"{counted(len(patients), 'patient')}, {counted(len(rows), 'registration')}"
    return render("cohort.html", f"{name}: all registrations", subtitle, content)


def _row(
    output: Path, patient: CohortPatient, xray: CohortXray, bone: str, page_folder: Path
) -> Row:
    """The row of one X-ray and bone; ``page_folder`` is the folder of the page."""
    name = f"{patient.name}, {bone}, {xray.view}"
    cells = {"bone": bone, "side": xray.side}
    unfinished = workflow_files.unfinished_stage(output, patient.name, bone, xray)
    if unfinished:
        return Row(name, "", "missing", ": ".join(unfinished), dict(cells))
    folder = output / workflow_files.results_folder(patient.name, bone, xray.view)
    report = output / workflow_files.REPORT.format(patient=patient.name)
    link = os.path.relpath(report, page_folder) if report.exists() else ""
    return row_of(load_registered(folder), name, link, **cells)


def _distributions(rows: Sequence[Row], bones: Sequence[str]) -> list[tuple[str, Markup]]:
    """(title, chart) of each number that any registration has."""
    charted = []
    for key in NUMBERS:
        known = [row for row in rows if key in row.cells]
        values = {
            bone: np.array([row.cells[key] for row in known if row.cells["bone"] == bone], float)
            for bone in bones
        }
        if known:
            charted.append(_distribution(key, values))
    return charted


def _distribution(key: str, values: dict[str, np.ndarray]) -> tuple[str, Markup]:
    """Title and chart of a number, by bone."""
    title, unit = NUMBERS[key]
    every = np.concatenate(list(values.values()))
    # of the two tails, the one that is the worse
    percentile = 5 if key == "similarity" else 95
    median, tail = (f"{np.percentile(every, p):.2f} {unit}".strip() for p in (50, percentile))
    label = f"{title}: median {median}, {percentile} % below {tail}"
    chart = charts.histogram(values, f"{title} / {unit}" if unit else title, label)
    return label, markup(chart)
