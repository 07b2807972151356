"""Headers of NRRD, MHA and MHD, looked at before ITK reads them: damaged ones can end the process.

Only the form is checked: lines of names and values, as many numbers as there are dimensions.
"""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import InputError

MOST_BYTES = 2_000_000  # of a header; a segmentation with many segments has some 100,000
MOST_DIMENSIONS = 8
DETACHED = (".nhdr", ".mhd")  # the header is a file by itself
REMEDY = "export it again, or as NIfTI"
META_LINE = re.compile(r"(\w+)\s*=\s*(.*)")
NRRD_LINE = re.compile(r"#.*|([^:=]+)(:=|: ?)(.*)")
# entries of MHA with one number per dimension, and with one for each pair of them
META_VECTORS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin")
META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")


def check_header(path: Path, what: str) -> None:
    """Raise InputError if the header of a NRRD, MHA or MHD file has not the form of one.

    ``what`` describes the file that is expected.
    """
    with open(path, "rb") as stream:
        start = stream.read(MOST_BYTES)
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    wrong = _wrong_nrrd(path, start) if nrrd else _wrong_meta(start)
    if wrong:
        raise InputError(path, f"its header {wrong}", what, REMEDY)


def _lines(header: bytes) -> list[str] | None:
    """Return the lines of a header, or None if they are no text."""
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        text = header.decode("latin-1")
    lines = text.splitlines()
    return lines if all(line.replace("\t", " ").isprintable() for line in lines) else None


def _wrong_nrrd(path: Path, start: bytes) -> str | None:
    """Return what is wrong with the header of a NRRD, in words, or None."""
    if not re.match(rb"NRRD000\d\r?\n", start):
        return "does not begin as NRRD"
    end = re.search(rb"\r?\n\r?\n", start)
    if not end and path.suffix.lower() not in DETACHED:
        return "has no end"
    lines = _lines(start[: end.start()] if end else start)
    if lines is None:
        return "is not text"
    found = {}
    for line in lines[1:]:
        entry = NRRD_LINE.fullmatch(line)
        if not entry:
            return f"has a line {line[:40]!r}"
        if entry[1]:
            found[entry[1].strip().lower()] = entry[3]
    dimensions = _dimensions(found.get("dimension", ""))
    if not dimensions:
        return "states no dimension"
    counts = {"sizes": len(found.get("sizes", "").split())}
    if "space directions" in found:
        counts["space directions"] = len(re.findall(r"\([^()]*\)|none", found["space directions"]))
    return _miscounted(counts, dict.fromkeys(counts, dimensions))


def _wrong_meta(start: bytes) -> str | None:
    """Return what is wrong with the header of a MHA or MHD, in words, or None."""
    end = re.search(rb"^ElementDataFile\s*=[^\n]*", start, re.MULTILINE)
    if not end:
        return "has no ElementDataFile"
    lines = _lines(start[: end.end()])
    if lines is None:
        return "is not text"
    found = {}
    for line in lines:
        entry = META_LINE.fullmatch(line.strip())
        if not entry:
            return f"has a line {line[:40]!r}"
        found[entry[1]] = entry[2]
    dimensions = _dimensions(found.get("NDims", ""))
    if not dimensions:
        return "states no NDims"
    counts = {
        key: len(found[key].split()) for key in (*META_VECTORS, *META_MATRICES) if key in found
    }
    if "DimSize" not in counts:
        return "states no DimSize"
    expected = {key: dimensions ** (2 if key in META_MATRICES else 1) for key in counts}
    return _miscounted(counts, expected)


def _dimensions(text: str) -> int:
    """Return a number of dimensions, 0 if it is none."""
    text = text.strip()
    return int(text) if re.fullmatch(r"\d{1,2}", text) and int(text) <= MOST_DIMENSIONS else 0


def _miscounted(counts: dict[str, int], expected: dict[str, int]) -> str | None:
    """Return which entry has another number of values than expected, in words, or None."""
    for key, count in counts.items():
        if count != expected[key]:
            return f"has {count} values of {key} instead of {expected[key]}"
    return None
