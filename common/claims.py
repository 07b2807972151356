"""One writer an output: files and folders that a run has claimed until its script ends. Standard library only.

A folder with outputs gets a hidden file, and each output one byte of it, held by a record lock, which the kernel drops when the process ends, however it ends. Runs that write
different files into one folder do not meet. The file goes with the last run that uses it.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no record locks of this kind; there two runs are not kept apart
    fcntl = None

LOCK = ".writing"
PARTIAL = ".partial-"
ATTEMPTS, WAIT_S = 5, 0.05  # another run may just be leaving

_held: dict[Path, int] = {}  # folder -> descriptor of its lock file
_made: list[Path] = []  # folders, outermost first


def make(folder: Path) -> None:
    """Make a folder and its parents; those that stay empty go again with `release`."""
    missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    folder.mkdir(parents=True, exist_ok=True)
    _made.extend(reversed(missing))


def claim(path: Path) -> bool:
    """Whether ``path`` is ours to write now; what a killed run has left of it is then removed. Raises OSError where its folder cannot be written to."""
    folder = path.parent.resolve()
    if os.environ.get("RANK", "0") != "0":  # torchrun's further processes write nothing
        return True
    for attempt in range(ATTEMPTS):
        time.sleep(WAIT_S * bool(attempt))
        if _lock(folder, path.name):
            for stale in folder.glob(f"{PARTIAL}*"):
                if stale.name.endswith(tail(path)):
                    stale.unlink(missing_ok=True)
            return True
    return False


def tail(path: Path) -> str:
    """What names of partial files end in, short enough for a file name."""
    return "-" + os.fsencode(path.name)[-80:].decode(errors="ignore")


def _lock(folder: Path, name: str) -> bool:
    if folder not in _held:
        _held[folder] = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        os.write(_held[folder], b"in use\n")  # a full disk is told here
    if fcntl is None:
        return True
    byte = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:7])
    try:
        fcntl.lockf(_held[folder], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    if _is_current(folder):
        return True
    os.close(_held.pop(folder))  # the run before has removed it since we opened it
    return False


def _is_current(folder: Path) -> bool:
    try:
        return os.stat(folder / LOCK).st_ino == os.fstat(_held[folder]).st_ino
    except FileNotFoundError:
        return False


def release() -> None:
    """Give up all claims, and remove folders that this run has made and left empty."""
    for folder, descriptor in _held.items():
        if _alone(descriptor) and _is_current(folder):
            (folder / LOCK).unlink()
        os.close(descriptor)
    _held.clear()
    for folder in reversed(_made):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    _made.clear()


def _alone(descriptor: int) -> bool:
    """Whether no other process holds a byte of the lock file; then it is ours as a whole."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
