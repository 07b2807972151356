"""Expected errors: fields that programs can read, and one line of text for people.

Standard library only. Every message has one order: ``path: found; expected ...; remedy``. Settings
are written in backticks (`sdd`); a command line shows them as its flags (``--sdd``).
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Generator, Sequence
from pathlib import Path

# the operating system refuses although program and file are correct: full or failing disk, missing
# permission, name too long, too many open files
MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
OUT_OF_MEMORY = re.compile(r"alloc|out of memory|can't start new thread")


class InputError(Exception):
    """An expected problem with the user's input.

    ``path`` is the file, folder or setting concerned (None for a request as a whole), ``found``
    what is wrong with it, ``expected`` what would be right, and ``remedy`` what to do.
    """

    def __init__(self, path: str | Path | None, found: str, expected: str, remedy: str):
        super().__init__(path, found, expected, remedy)
        self.path, self.found, self.expected, self.remedy = path, found, expected, remedy

    def __str__(self) -> str:
        subject = "" if self.path is None else f"{self.path}: "
        return f"{subject}{self.found}; expected {self.expected}; {self.remedy}"


class SeveralErrors(InputError):
    """Errors of the files that a step skipped (``errors``); the fields are those of the first."""

    def __init__(self, errors: Sequence[InputError]):
        first = errors[0]
        super().__init__(first.path, first.found, first.expected, first.remedy)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


def as_input_error(error: Exception) -> InputError | None:
    """Return an expected error as `InputError`, or None if ``error`` is a bug.

    A lack of memory, disk space or permission counts as expected.
    """
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    ):
        return InputError(
            "memory",
            f"ran out ({one_line(error)})",
            "enough for this step's volumes",
            "close other programs, crop the CT (crop_cts.py) or use a larger machine",
        )
    if isinstance(error, OSError) and error.errno in MACHINE:
        return InputError(
            error.filename or "output",
            str(error.strerror),
            "a readable and writable location",
            "free some space or choose another path",
        )
    return None


@contextlib.contextmanager
def reading(
    path: str | Path, expected: str, remedy: str, found: str = "cannot be read"
) -> Generator[None]:
    """Turn any exception that a library raises for a damaged file into an `InputError`.

    The exception stays available as its ``__cause__``. A lack of memory is raised unchanged.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(path, f"{found} ({one_line(error)})", expected, remedy) from error


@contextlib.contextmanager
def going_on(problems: list[InputError]) -> Generator[None]:
    """Collect the InputError of one file in ``problems``; the step continues with the next."""
    try:
        yield
    except InputError as error:
        problems.append(error)


def raise_all(problems: Sequence[InputError]) -> None:
    """Raise the collected errors, if any."""
    if problems:
        raise problems[0] if len(problems) == 1 else SeveralErrors(problems)


def one_line(error: Exception) -> str:
    """Text of an exception on one line, at most 160 characters; its type if it has no text."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def printable(text: str) -> str:
    """Escape line breaks, terminal codes and undecodable bytes, which file names may contain."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
