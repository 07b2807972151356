"""All files of a movement: tables, distances, figures, the page, and files for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common import files
from common.kinematics import contact, exports, movement_table
from common.kinematics.formats import FORMATS
from common.kinematics.functional_alignment import Alignment
from common.kinematics.movement import Movement
from common.kinematics.movement_summary import summary_of
from common.kinematics.smoother import Smoothed
from common.kinematics.study import Inputs, Study

ALIGNED = "kinematics_aligned.csv"
CONTACT = ("contact.csv", "contact.png")
FIGURES = ("png", "pdf", "svg")
PAGE = "html"


def file_names(
    forms: Sequence[str],
    bones: Sequence[str],
    subject: str,
    task: str,
    with_contact: bool = False,
    with_alignment: bool = False,
) -> list[PurePosixPath]:
    """Return the names of all files, the table first."""
    names = [PurePosixPath(movement_table.CSV), PurePosixPath(movement_table.JSON)]
    names += [PurePosixPath(name) for name in CONTACT] if with_contact else []
    names += [PurePosixPath(ALIGNED)] if with_alignment else []
    for form in dict.fromkeys(forms):
        own = form in (*FIGURES, PAGE)
        names += (
            [PurePosixPath(f"kinematics.{form}")]
            if own
            else exports.file_names(form, bones, subject, task)
        )
    return names


def write(folder: Path, forms: Sequence[str], study: Study, exported: exports.Exported) -> None:
    """Write the files of a movement into a folder, which exists. Raises as `files.atomic`."""
    inputs = study.inputs
    _write_tables(folder, study)
    exports.write(folder, [each for each in dict.fromkeys(forms) if each in FORMATS], exported)
    if study.distances is not None:
        from common.reports.contact_figure import write_contact_figure

        side = inputs.frames[0].side
        text = contact.as_table(study.distances, study.found.names, inputs.times, side)
        files.write_text(folder / CONTACT[0], text)
        write_contact_figure(folder / CONTACT[1], study.distances, inputs.times, side)
    for form in sorted(set(forms) & set(FIGURES)):
        from common.reports.kinematics_figure import write_figure

        write_figure(folder / f"kinematics.{form}", study)
    if PAGE in forms:
        from common.reports.movement_page import movement_page

        page = movement_page(study, _remarks(study.alignment))
        files.write_text(folder / f"kinematics.{PAGE}", page)


def _write_tables(folder: Path, study: Study) -> None:
    """Write ``kinematics.csv`` and ``.json``, and the table in aligned frames if there are."""
    inputs = study.inputs
    content = movement_table.as_content(
        study.found, inputs.quantities, inputs.stated_frames, study.settings
    )
    if study.alignment is not None and study.aligned is not None:
        content["functional_alignment"] = {
            **study.alignment.entries(),
            "summary": summary_of(study.aligned[0].values, inputs.quantities),
        }
        files.write_text(folder / ALIGNED, _table(inputs, *study.aligned))
    if inputs.normal is not None:
        content["normal_band"] = inputs.normal.entries(study.best, inputs.quantities)
    files.write_json(folder / movement_table.JSON, content)
    files.write_text(folder / movement_table.CSV, _table(inputs, study.found, study.smoothed))


def _table(inputs: Inputs, found: Movement, smoothed: Smoothed | None) -> str:
    curves = None if smoothed is None else (smoothed.values, smoothed.half)
    bones = [frame.bone for frame in inputs.frames]
    return movement_table.as_table(
        inputs.joints, found, inputs.times, inputs.quantities, bones, curves
    )


def _remarks(alignment: Alignment | None) -> tuple[str, ...]:
    """Return what a page says of the functional alignment."""
    if alignment is None:
        return ()
    return (
        f"{ALIGNED} has the numbers after functional alignment (REFRAME), which turns a frame by up"
        f" to {alignment.most_deg:.1f} degrees; this page has those before it.",
    )
