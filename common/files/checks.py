"""Checks before slow work: inputs that can be read, outputs that may be written. Standard library only."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from common.errors import InputError
from common.files import locks
from common.files.atomic import unwritable
from common.files.names import stem

DEFLATE_RATIO = 1032  # the most that zlib can shrink anything


def existing_file(path: str | Path, what: str) -> Path:
    """``path`` as a Path, or InputError where no readable file is there."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        found = (
            "not found"
            if error.errno in (errno.ENOENT, errno.ENOTDIR)
            else f"not readable ({error.strerror})"
        )
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


def check_claim(path: str | Path, size: int, compressed: bool, what: str) -> None:
    """InputError where a header claims ``size`` bytes of pixels or voxels that the file cannot hold, or this machine not store. To be asked before they are read."""
    held = os.stat(path).st_size * (DEFLATE_RATIO if compressed else 1)
    if size > held:
        raise InputError(
            path,
            f"its header claims {size:.3g} bytes, the file can hold {held:.3g}",
            what,
            "the file is truncated or damaged, copy it again",
        )
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if hasattr(os, "sysconf")
        else sys.maxsize
    )  # Windows does not say
    if size > memory:
        raise InputError(
            path,
            f"its header claims {size:.3g} bytes, this machine has {memory:.3g}",
            what,
            "crop it on a larger machine, or the header is damaged",
        )


def output_folder(path: str | Path) -> Path:
    """Make the folder; InputError where it cannot be made or written to."""
    path = Path(path)
    try:
        locks.make(path)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            path, "a file has this name", "an output folder", "choose another name"
        ) from None
    except OSError as error:
        raise InputError(
            path,
            f"cannot be made ({error.strerror})",
            "an output folder",
            "choose a writable place",
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(
            path, "not writable", "an output folder", "choose another or change its permissions"
        )
    return path


def check_outputs(
    paths: Iterable[str | Path], overwrite: bool, inputs: Iterable[str | Path] = ()
) -> None:
    """Before slow work: refuse to replace an existing file without --overwrite, or an input ever, or to write what another run is writing.

    A volume's lineage, the JSON beside it, counts with it, among outputs and inputs. The outputs are this run's own until the script ends.
    """
    sources = {path.resolve() for path in with_lineages(inputs)}
    for path in with_lineages(paths):
        try:
            there = os.path.lexists(path)
        except OSError as error:
            raise InputError(
                path.name, error.strerror, "an output name", "choose a shorter one"
            ) from None
        if path.resolve() in sources:
            raise InputError(
                path, "is also an input", "another output name", "inputs are never changed"
            )
        if there and path.is_dir() and path.suffix:
            raise InputError(path, "is a folder", "the name of an output file", "choose another")
        if there and not overwrite:
            raise InputError(path, "exists already", "a new name", "give `overwrite` to replace it")
        output_folder(path.parent)
        try:
            free = locks.claim(path)
        except OSError as error:
            raise unwritable(path, error) from None
        if not free:
            raise InputError(
                path,
                "another run is writing it",
                "one run an output",
                "wait for that run, or choose another folder",
            )


def with_lineages(paths: Iterable[str | Path]) -> list[Path]:
    """The paths, each NIfTI followed by the JSON that belongs to it."""
    found = []
    for path in map(Path, paths):
        found += (
            [path, path.with_name(stem(path) + ".json")]
            if path.name.lower().endswith((".nii.gz", ".nii"))
            else [path]
        )
    return found
