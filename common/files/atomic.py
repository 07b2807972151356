"""Files that are whole or absent: written under a hidden name, flushed, renamed. Standard library only."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import MACHINE, InputError
from common.files import locks


def unwritable(path: str | Path, error: OSError) -> InputError:
    return InputError(
        path,
        f"cannot be written ({error.strerror})",
        "room and permission there; free some space or choose another folder",
        "what was there before is intact",
    )


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` with the same ending; on success flush it and rename it to ``path``. InputError where the disk is full or not writable."""
    path = Path(path)
    partial = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=locks.PARTIAL, suffix=locks.tail(path), dir=path.parent
        )
        os.close(handle)
        partial = Path(name)
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        raise unwritable(path, error) from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[io.BytesIO]:
    """Yield a stream in memory; on success its content becomes the file, whole. For libraries that do not notice a disk that fills up while they write."""
    with atomic(path) as partial:
        stream = io.BytesIO()
        yield stream
        partial.write_bytes(stream.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )  # bytes of a file name that are no text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
