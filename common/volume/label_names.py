"""Names of the labels of a labelmap: from its header, a table beside it, or an earlier step."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from common import files
from common.errors import InputError, reading
from common.volume import foreign

TABLES = (".ctbl", ".csv", ".tsv", ".txt")


def names_of(path: Path) -> dict[str, int]:
    """Return the labels by name that a labelmap states; empty if it states none.

    Sources: the segments of a .seg.nrrd, DICOM SEG, RTSTRUCT or folder of masks, the label table in
    a NIfTI file (TotalSegmentator), the lineage of steps 1 and 2, and NAME.ctbl, .csv, .tsv or .txt
    beside it.
    """
    if foreign.is_foreign(path):
        found = foreign.segment_names(path)
    else:
        found = _nifti_table(path) or _lineage_names(path)
    if found:
        return found
    stem = files.stem(path).removesuffix(".seg")
    for ending in TABLES:
        table = path.with_name(stem + ending)
        if table.is_file():
            return _table(table)
    return {}


def resolve(labels: Sequence[str | int], path: Path) -> list[int]:
    """Return labels as numbers; names are those of `names_of`, in any case.

    Raises InputError if a name is not stated.
    """
    if all(isinstance(label, int) for label in labels):
        return [int(label) for label in labels]
    path = files.existing_input(path, "a labelmap")
    known = {name.lower(): number for name, number in names_of(path).items()}
    found = []
    for label in labels:
        number = label if isinstance(label, int) else known.get(label.lower())
        if number is None:
            listed = ", ".join(sorted(known)) or "no names"
            raise InputError(
                path,
                f"has no label named {label!r}",
                f"one of its names ({listed[:300]}), or a number",
                f"correct `labels`, or put a table of numbers and names beside it"
                f" ({files.stem(path)}.csv)",
            )
        found.append(number)
    return found


def number_or_name(text: str) -> int | str:
    """Return a label of a command line: a number, or a name."""
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else text


def _nifti_table(path: Path) -> dict[str, int]:
    """Return the label table in the header extensions of a NIfTI file."""
    import nibabel

    with reading(path, "a labelmap", "convert it again"):
        image = nibabel.load(path)
        extensions = getattr(image.header, "extensions", [])
        contents = [bytes(each.get_content()) for each in extensions if each.get_code() in (0, 30)]
    for content in contents:
        start = content.find(b"<")
        try:
            tree = ElementTree.fromstring(content[start:].rstrip(b"\0 \n").decode())
        except (ElementTree.ParseError, UnicodeDecodeError):
            continue  # an extension of another program
        labels = tree.iter("Label")
        found = {str(each.text).strip(): int(each.get("Key", 0)) for each in labels}
        if found:
            return found
    return {}


def _lineage_names(path: Path) -> dict[str, int]:
    """Return the names that steps 1 and 2 recorded in the lineage."""
    beside = path.with_name(files.stem(path) + ".json")
    if not beside.is_file():
        return {}
    with reading(beside, "the lineage of a labelmap", "run the step again"):
        history = json.loads(files.read_text(beside, "a lineage")).get("history", [])
        found = [entry["settings"].get("names") or {} for entry in history]
        return {str(name): int(label) for names in found for name, label in names.items()}


def _table(path: Path) -> dict[str, int]:
    """Return the names of a table: a number and a name per line, in either order."""
    text = files.read_text(path, "a table of labels: a number and a name per line")
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            fields = next(csv.reader([re.sub(r"[;\t]|(?<=\S)\s+(?=\S)", ",", line.strip())]))
            numbers = [field for field in fields[:2] if re.fullmatch(r"\d+", field.strip())]
            words = [field for field in fields[:2] if field not in numbers]
            if numbers and words:
                found[words[0].strip()] = int(numbers[0])
    return found
