"""Expected problems: what is wrong with a file or a setting, as fields that a program can read and a person too.

Standard library only. Every message has one order: ``path: found; expected ...; what to do``. Settings are written in
backticks (`sdd`); a command line shows them as its flags (``--sdd``).
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

# refused by the machine although program and files are right: full or failing disk, missing
# permission, a name that is too long
MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
OUT_OF_MEMORY = re.compile(r"alloc|out of memory|can't start new thread")


class InputError(Exception):
    """An expected problem with what the user gave.

    ``path`` is the file, the folder or the setting in question (None for a whole request); ``found`` is what is wrong
    with it, ``expected`` what would be right, and ``remedy`` what to do.
    """

    def __init__(self, path: str | Path | None, found: str, expected: str, remedy: str):
        super().__init__(path, found, expected, remedy)
        self.path, self.found, self.expected, self.remedy = path, found, expected, remedy

    def __str__(self) -> str:
        subject = "" if self.path is None else f"{self.path}: "
        return f"{subject}{self.found}; expected {self.expected}; {self.remedy}"


class SeveralErrors(InputError):
    """The problems of some files in a step that processed the others."""

    def __init__(self, errors: Sequence[InputError]):
        first = errors[0]
        super().__init__(first.path, first.found, first.expected, first.remedy)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


def as_input_error(error: Exception) -> InputError | None:
    """The `InputError` of an expected problem, including a lack of disk, memory or permission; None for a bug."""
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
            "a place to read and write",
            "free space, or choose another path",
        )
    return None


@contextlib.contextmanager
def reading(
    path: str | Path, expected: str, remedy: str, found: str = "cannot be read"
) -> Iterator[None]:
    """Turn whatever a library raises for a damaged or hostile file into `InputError` (its cause is kept)."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(path, f"{found} ({one_line(error)})", expected, remedy) from error


@contextlib.contextmanager
def going_on(problems: list[InputError]) -> Iterator[None]:
    """Collect the problem of one file among several in ``problems``, so that the step continues with the next."""
    try:
        yield
    except InputError as error:
        problems.append(error)


def raise_all(problems: Sequence[InputError]) -> None:
    """End a step of several files: raise every collected problem, or nothing."""
    if problems:
        raise problems[0] if len(problems) == 1 else SeveralErrors(problems)


def one_line(error: Exception) -> str:
    """A library's message, shortened to one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def printable(text: str) -> str:
    """The text with line breaks, terminal codes and undecodable bytes of file names and contents made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
