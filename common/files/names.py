"""File names, hashes and versions. Standard library only."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path


def sha256(path: str | Path) -> str:
    """Return the SHA-256 hash of a file in hexadecimal digits.

    That of a folder, as of DICOM slices, is the hash of the names and hashes of its files.
    """
    if Path(path).is_dir():
        inside = sorted(each for each in Path(path).rglob("*") if each.is_file())
        lines = [f"{each.relative_to(path).as_posix()} {sha256(each)}" for each in inside]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stem(path: str | Path) -> str:
    """Return the file name without its ending; ``.nii.gz`` is one ending.

    Digits after the last dot are no ending: a DICOM file is often named by its UID.
    """
    name = Path(path).name
    for ending in (".nii.gz", ".nii"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name if Path(name).suffix[1:].isdigit() else Path(name).stem


def natural(path: str | Path) -> list[tuple[int, str]]:
    """Return a sorting key that counts: frame 2 comes before frame 10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


# names of devices on Windows, also with an ending
RESERVED = {"CON", "PRN", "AUX", "NUL"} | {
    f"{port}{n}" for port in ("COM", "LPT") for n in "123456789"
}


def is_plain_name(name: str) -> bool:
    """Return whether a name can be part of a file name and does not refer to another folder.

    The name can be used on Linux, macOS and Windows, where a dot or space at the end is lost.
    """
    return (
        0 < len(name) <= 100
        and name.isprintable()
        and not name.startswith(".")
        and not name.endswith((".", " "))
        and not set(name) & set('/\\:*?"<>|')
        and name.split(".")[0].rstrip().upper() not in RESERVED
    )


def alike(names: Iterable[str]) -> list[str]:
    """Return the first names that differ in upper and lower case alone, else nothing.

    They are one file on Windows and macOS.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            return [other, name]
    return []


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of distributions, for lineage and results."""
    return {name: _version(name) for name in packages}


@functools.cache  # reading it takes as long as a fifth of a frame's refinement
def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
