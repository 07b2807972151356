"""Runs of X-rays: a folder of them, or the pictures that a DICOMDIR lists, in their order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, reading
from common.files.pydicom_quiet import quiet
from common.xray.dicom import is_dicom
from common.xray.tags import number

PICTURES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".jp2", ".avi", ".mp4", ".mov", ".mkv",
)  # fmt: skip
DICOMDIR = "DICOMDIR"


def expanded(paths: Sequence[Path], together: int = 1) -> list[Path]:
    """Return the X-rays of each instant one after the other, ``together`` for each.

    A folder or a DICOMDIR stands for its pictures; of several cameras, the first pictures come
    first. Any other path stands for itself. Raises InputError if a folder has no picture, or the
    runs of cameras have different lengths.
    """
    if not any(path.is_dir() or path.name == DICOMDIR for path in paths):
        return list(paths)
    runs = [run_of(path) for path in paths]
    found = []
    for first in range(0, len(runs), together):
        cameras = runs[first : first + together]
        if len({len(run) for run in cameras}) > 1:
            lengths = " and ".join(str(len(run)) for run in cameras)
            raise InputError(
                paths[first],
                f"the runs of the cameras have {lengths} pictures",
                "one picture per camera and instant",
                "cut the runs to the same instants",
            )
        found += [path for instant in zip(*cameras, strict=True) for path in instant]
    return found


def run_of(path: Path) -> list[Path]:
    """Return the pictures that a path stands for, in their order. Raises as `expanded`."""
    if path.name == DICOMDIR and path.is_file():
        return _listed(path)
    if not path.is_dir():
        return [path]
    files = [each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")]
    dicoms = [each for each in files if each.name != DICOMDIR and is_dicom(each)]
    pictures = [each for each in files if each.suffix.lower() in PICTURES and each not in dicoms]
    if bool(dicoms) == bool(pictures):
        what = "both DICOM files and pictures" if dicoms else "no X-ray"
        raise InputError(path, f"contains {what}", "the X-rays of one run", "name the files")
    return sorted(pictures, key=_natural) if pictures else _by_instance(dicoms)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which x2 comes before x10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _by_instance(paths: Sequence[Path]) -> list[Path]:
    """Return DICOM files of one series by InstanceNumber. Raises InputError for several series."""
    import pydicom

    found = []
    for path in paths:
        with reading(path, "a DICOM image", "move it away"), quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            series = str(header.get("SeriesInstanceUID", ""))
            found.append((series, number(header, "InstanceNumber") or 0, _natural(path), path))
    series = {entry[0] for entry in found}
    if len(series) > 1:
        raise InputError(
            paths[0].parent,
            f"contains {len(series)} series",
            "the X-rays of one run",
            "name the files, or put each series into its own folder",
        )
    return [entry[-1] for entry in sorted(found)]


def _listed(path: Path) -> list[Path]:
    """Return the images that a DICOMDIR lists, in its order."""
    import pydicom

    with reading(path, "a DICOMDIR with images", "name the image files"), quiet():
        records = pydicom.dcmread(path, force=True).DirectoryRecordSequence
        named = [r.ReferencedFileID for r in records if r.DirectoryRecordType == "IMAGE"]
        parts = [[name] if isinstance(name, str) else list(name) for name in named]
        found = [path.parent.joinpath(*each) for each in parts]
        inside = all(path.parent.resolve() in each.resolve().parents for each in found)
    missing = [each.name for each in found if not each.is_file()]
    if missing or not found or not inside:
        raise InputError(
            path,
            f"lists {missing[0]}, which is missing" if missing else "lists no image of its folder",
            "a DICOMDIR with its files",
            "copy the whole folder, or name the image files",
        )
    return found
