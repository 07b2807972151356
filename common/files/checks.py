"""Checks before slow work: inputs are readable, outputs may be written. Standard library only."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError
from common.files import locks
from common.files.atomic import unwritable
from common.files.names import alike, stem

DEFLATE_RATIO = 1032  # highest compression ratio of zlib


def existing_file(path: str | Path, what: str) -> Path:
    """Return ``path`` as a Path; ``what`` describes the file that is expected.

    Raises InputError unless it is a readable regular file with content.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        found = "not found" if missing else f"not readable ({error.strerror})"
        raise InputError(path, found, what, "check the path") from None
    if path.is_dir():
        raise InputError(path, "is a folder", what, "name one file")
    if not path.is_file():
        raise InputError(path, "is a device or a pipe", what, "name one file")
    if not os.access(path, os.R_OK):
        raise InputError(path, "not readable", what, "check the permissions")
    if size == 0:
        raise InputError(path, "is empty (0 bytes)", what, "make or copy the file again")
    return path


def existing_input(path: str | Path, what: str) -> Path:
    """Return ``path`` as a Path: a folder, or a file as in `existing_file`."""
    path = Path(path)
    return path if path.is_dir() else existing_file(path, what)


def check_claim(path: str | Path, size: int, compressed: bool, what: str) -> None:
    """Check the size of pixels or voxels in bytes that a header claims, before they are read.

    Raises InputError if the file cannot contain them, or the machine cannot store them.
    """
    held = os.stat(path).st_size * (DEFLATE_RATIO if compressed else 1)
    if size > held:
        raise InputError(
            path,
            f"header claims {size:.3g} bytes, the file can hold at most {held:.3g}",
            what,
            "copy it again, the file is truncated or damaged",
        )
    memory = _memory_bytes()
    if size > memory:
        raise InputError(
            path,
            f"header claims {size:.3g} bytes, this machine has {memory:.3g}",
            what,
            "crop it on a larger machine, or convert it again if the header is damaged",
        )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows; a system without these numbers
        return sys.maxsize


def output_folder(path: str | Path) -> Path:
    """Make a folder and its parents. Raises InputError if that fails or it is not writable."""
    path = Path(path)
    what = "an output folder"
    try:
        locks.make(path)
    except (FileExistsError, NotADirectoryError):
        raise InputError(path, "a file has this name", what, "choose another name") from None
    except OSError as error:
        raise InputError(
            path, f"cannot be made ({error.strerror})", what, "choose a writable location"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(
            path, "not writable", what, "choose another folder or change its permissions"
        )
    return path


def check_outputs(
    paths: Iterable[str | Path], overwrite: bool, inputs: Iterable[str | Path] = ()
) -> None:
    """Check the outputs of a run before slow work, make their folders, and lock them for the run.

    The lineage of a volume (``NAME.json``) is checked with the volume. Raises InputError if an
    output exists and ``overwrite`` is false, is also an input, is being written by another run, or
    differs from another output in upper and lower case alone.
    """
    paths = list(paths)
    sources = {path.resolve() for path in with_lineages(inputs)}
    if same := alike(str(path) for path in paths):
        raise InputError(
            same[1],
            f"differs from the output {same[0]} in upper and lower case alone",
            "names that are two files on every system",
            "rename one input, or choose another folder for it",
        )
    for path in with_lineages(paths):
        _check_output(path, overwrite, sources)
        output_folder(path.parent)
        try:
            free = locks.claim(path)
        except OSError as error:
            raise unwritable(path, error) from None
        if not free:
            raise InputError(
                path,
                "another run is writing it",
                "one run per output",
                "wait for that run, or choose another folder",
            )


def _check_output(path: Path, overwrite: bool, sources: set[Path]) -> None:
    """Raise InputError if the name cannot be used, is an input's, or must not be replaced."""
    try:
        exists = os.path.lexists(path)
    except OSError as error:
        raise InputError(
            path.name, str(error.strerror), "an output name", "choose a shorter one"
        ) from None
    if path.resolve() in sources:
        raise InputError(
            path,
            "is also an input",
            "another output name",
            "choose another folder, inputs are never changed",
        )
    if exists and path.is_dir() and path.suffix:
        raise InputError(path, "is a folder", "the name of an output file", "choose another name")
    if exists and not overwrite:
        raise InputError(path, "already exists", "a new file name", "use `overwrite` to replace it")


def with_lineages(paths: Iterable[str | Path]) -> list[Path]:
    """Return the paths with the lineage (``NAME.json``) inserted after each NIfTI file."""
    found = []
    for path in map(Path, paths):
        found.append(path)
        if path.name.lower().endswith((".nii.gz", ".nii")):
            found.append(path.with_name(stem(path) + ".json"))
    return found
