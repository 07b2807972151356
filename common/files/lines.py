"""Files of JSON lines that are only added to: what was added is on the disk. Standard library only.

A last line that a crash cut short is skipped by readers, and the next one begins a new line.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.files.atomic import unwritable
from common.files.tables import read_text

# Windows: leave line ends as they are; elsewhere: follow no link
FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add an object as a line of JSON, on the disk when this returns.

    Raises InputError if the file cannot be written, or is a link, which may lead elsewhere.
    """
    line = json.dumps(content, ensure_ascii=False) + "\n"
    try:
        new = not path.exists()
        whole = new or _last_byte(path) in (b"", b"\n")
        data = (line if whole else "\n" + line).encode()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | FLAGS, 0o666)
        try:
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 1))
        return stream.read(1)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_lines(path: Path, what: str) -> Iterator[tuple[int, Any]]:
    """Yield the lines of a file with their numbers, from 1, without those that were cut short.

    Raises InputError if the file is no text; ``what`` says what it should be.
    """
    text = read_text(path, what) if path.stat().st_size else ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield number, content
