"""Files that are complete or absent: written under a hidden name, flushed, renamed.

Standard library only.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

from common.errors import MACHINE, InputError
from common.files import locks


def unwritable(path: str | Path, error: OSError) -> InputError:
    """Return the error of a file that the operating system refuses to write."""
    return InputError(
        path,
        f"cannot be written ({error.strerror})",
        "free space and permission to write",
        "free some space or choose another folder, the previous file is unchanged",
    )


@contextlib.contextmanager
def atomic(path: str | Path) -> Generator[Path]:
    """Yield a hidden name in the folder of ``path``, with the same ending, to write to.

    On success the file is flushed to disk and renamed to ``path``, on failure it is removed.
    Raises InputError if the disk is full or not writable.
    """
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
def writing(path: str | Path) -> Generator[io.BytesIO]:
    """Yield a stream in memory whose content is written to ``path`` on success.

    For libraries that do not notice a disk that becomes full while they write. Raises as `atomic`.
    """
    with atomic(path) as partial:
        stream = io.BytesIO()
        yield stream
        partial.write_bytes(stream.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text; undecodable bytes of file names are escaped. Raises as `atomic`."""
    with atomic(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))  # line ends as they are


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
