"""One writer per output: files and folders that a run has claimed until it ends. Standard library only.

A folder with outputs gets a hidden file, and each output one byte of it, held by a record lock, which the kernel drops when
the process ends, however it ends. Runs that write different files into one folder do not block each other. The lock file is
removed with the last run that uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no record locks of this kind; two runs are not kept apart there
    fcntl = None

LOCK = ".writing"
PARTIAL = ".partial-"
ATTEMPTS, WAIT_S = 5, 0.05  # another run may just be ending


class Claims:
    """The outputs and new folders of one run."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}  # folder -> descriptor of its lock file
        self._made: list[Path] = []  # folders, outermost first

    def make(self, folder: Path) -> None:
        """Make a folder and its parents; those that stay empty are removed by `release`."""
        missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
        folder.mkdir(parents=True, exist_ok=True)
        self._made.extend(reversed(missing))

    def claim(self, path: Path) -> bool:
        """Whether ``path`` is this run's to write; leftovers of a killed run are then removed.

        Raises OSError where its folder cannot be written to.
        """
        folder = path.parent.resolve()
        if os.environ.get("RANK", "0") != "0":  # torchrun's further processes write nothing
            return True
        for attempt in range(ATTEMPTS):
            time.sleep(WAIT_S * bool(attempt))
            if self._lock(folder, path.name):
                for stale in folder.glob(f"{PARTIAL}*"):
                    if stale.name.endswith(tail(path)):
                        stale.unlink(missing_ok=True)
                return True
        return False

    def release(self) -> None:
        """Give up all claims, and remove folders that this run has made and left empty."""
        for folder, descriptor in self._held.items():
            if _alone(descriptor) and _is_current(folder, descriptor):
                (folder / LOCK).unlink()
            os.close(descriptor)
        self._held.clear()
        for folder in reversed(self._made):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._made.clear()

    def _lock(self, folder: Path, name: str) -> bool:
        if folder not in self._held:
            self._held[folder] = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            os.write(self._held[folder], b"in use\n")  # fails here on a full disk
        if fcntl is None:
            return True
        byte = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:7])
        try:
            fcntl.lockf(self._held[folder], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        if _is_current(folder, self._held[folder]):
            return True
        os.close(self._held.pop(folder))  # the previous run has removed it since we opened it
        return False


_current: ContextVar[Claims | None] = ContextVar("claims", default=None)


@contextlib.contextmanager
def claiming() -> Iterator[Claims]:
    """A run with its own claims, released at its end. Runs of other threads and tasks do not see them."""
    claims = Claims()
    token = _current.set(claims)
    try:
        yield claims
    finally:
        _current.reset(token)
        claims.release()


def claim(path: Path) -> bool:
    """`Claims.claim` for the current run; without one, every path is free."""
    claims = _current.get()
    return claims is None or claims.claim(path)


def make(folder: Path) -> None:
    """`Claims.make` for the current run; without one, the folder stays."""
    claims = _current.get()
    if claims is None:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        claims.make(folder)


def tail(path: Path) -> str:
    """The ending of the names of partial files, short enough for a file name."""
    return "-" + os.fsencode(path.name)[-80:].decode(errors="ignore")


def _is_current(folder: Path, descriptor: int) -> bool:
    try:
        return os.stat(folder / LOCK).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _alone(descriptor: int) -> bool:
    """Whether no other process holds a byte of the lock file; then it is ours as a whole."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
