"""One writer per output: files and folders locked by a run until it ends. Standard library only.

A folder with outputs contains a hidden lock file, and each output corresponds to one byte of it.
The byte is held by a record lock, which the kernel releases when the process ends, even after a
crash. Runs that write different files into one folder do not block each other. The last run that
uses a lock file removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import logging
import os
import time
from collections.abc import Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any


def _module(name: str) -> Any:
    """Return a module of the standard library, None if this system lacks it."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


fcntl, msvcrt = _module("fcntl"), _module("msvcrt")  # not on Windows, and only there

logger = logging.getLogger(__name__)

LOCK = ".writing"
PARTIAL = ".partial-"
# the other run may be about to end
ATTEMPTS, WAIT_S = 5, 0.05
# of a file system without record locks, such as NFS without its lock service
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
TEXT = b"in use\n"
WINDOWS_BYTES = 2**30  # msvcrt.locking has positions of 31 bits


class Claims:
    """The outputs and new folders of one run."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}  # folder -> descriptor of its lock file
        self._claimed: set[Path] = set()
        self._unlocked: set[Path] = set()  # folders whose file system has no locks
        self._made: list[Path] = []  # folders, outermost first

    def make(self, folder: Path) -> None:
        """Make a folder and its parents; `release` removes those that are still empty."""
        missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
        folder.mkdir(parents=True, exist_ok=True)
        self._made.extend(reversed(missing))

    def claim(self, path: Path) -> bool:
        """Lock ``path`` and return whether this run may write it.

        If so, partial files that a killed run left are removed. Where the file system has no locks,
        they stay, a warning says so, and every run may write. Raises OSError if the folder is not
        writable.
        """
        folder = path.parent.resolve()
        if os.environ.get("RANK", "0") != "0":  # only the first process of torchrun writes
            return True
        if folder / path.name in self._claimed:
            return True
        for attempt in range(ATTEMPTS):
            time.sleep(WAIT_S * bool(attempt))
            if self._lock(folder, path.name):
                self._claimed.add(folder / path.name)
                if folder in self._unlocked:  # another run may be writing them
                    return True
                for stale in folder.glob(f"{PARTIAL}*"):
                    if stale.name.endswith(tail(path)):
                        stale.unlink(missing_ok=True)
                return True
        return False

    def release(self) -> None:
        """Release all locks and remove empty folders that this run has made."""
        for folder, descriptor in self._held.items():
            if fcntl is None:  # Windows removes no file that a run has open, here or in another one
                self._unlock(folder)
                os.close(descriptor)
                with contextlib.suppress(PermissionError, FileNotFoundError):
                    (folder / LOCK).unlink()
                continue
            alone = folder in self._unlocked or _alone(descriptor)
            if alone and _is_current(folder, descriptor):
                (folder / LOCK).unlink()
            os.close(descriptor)
        self._held.clear()
        self._claimed.clear()
        for folder in reversed(self._made):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._made.clear()

    def _lock(self, folder: Path, name: str) -> bool:
        if folder not in self._held:
            self._held[folder] = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            os.write(self._held[folder], TEXT)  # a full disk raises here
        try:
            _lock_byte(self._held[folder], name)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if folder not in self._unlocked:
                self._unlocked.add(folder)
                logger.warning(
                    f"{folder}: its file system has no locks ({error.strerror}); do not write the"
                    " same results from two runs at once"
                )
            return True
        if fcntl is None or _is_current(folder, self._held[folder]):
            return True
        os.close(self._held.pop(folder))  # removed by its last run after it was opened
        return False

    def _unlock(self, folder: Path) -> None:
        """Release the locks of a folder on Windows, which closing its lock file does only later."""
        for path in self._claimed:
            if path.parent == folder and folder not in self._unlocked:
                _seek_byte(self._held[folder], path.name)
                msvcrt.locking(self._held[folder], msvcrt.LK_UNLCK, 1)


_current: ContextVar[Claims | None] = ContextVar("claims", default=None)


@contextlib.contextmanager
def claiming() -> Generator[Claims]:
    """Context of one run and its locks, which threads and tasks of other runs do not see."""
    claims = Claims()
    token = _current.set(claims)
    try:
        yield claims
    finally:
        _current.reset(token)
        claims.release()


def claim(path: Path) -> bool:
    """Call `Claims.claim` of the current run; outside a run, every path is free."""
    claims = _current.get()
    return claims is None or claims.claim(path)


def make(folder: Path) -> None:
    """Call `Claims.make` of the current run; outside a run, the folder is never removed."""
    claims = _current.get()
    if claims is None:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        claims.make(folder)


def tail(path: Path) -> str:
    """Return the ending of the names of partial files of ``path``, short enough for a name."""
    return "-" + os.fsencode(path.name)[-80:].decode(errors="ignore")


def _lock_byte(descriptor: int, name: str) -> None:
    """Lock the byte of a name in a lock file. Raises OSError if another process holds it."""
    if fcntl is None:
        _seek_byte(descriptor, name)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    byte = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:7])
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)


def _seek_byte(descriptor: int, name: str) -> None:
    """Go to the byte of a name on Windows, where no other process writes what is locked."""
    digest = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4])
    os.lseek(descriptor, len(TEXT) + digest % WINDOWS_BYTES, os.SEEK_SET)


def _is_current(folder: Path, descriptor: int) -> bool:
    """Return whether the open lock file is still the one in the folder."""
    try:
        return os.stat(folder / LOCK).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _alone(descriptor: int) -> bool:
    """Lock the whole lock file and return whether no other process holds a byte of it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
