"""CSV and JSON files. Standard library only."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, one_line
from common.files.atomic import write_text
from common.files.checks import existing_file


def as_csv(rows: Sequence[dict], columns: Sequence[str] | None = None) -> str:
    """Return a CSV table with a header line.

    The columns are the keys of the first row, or ``columns``, of which a row may omit some.
    """
    import csv

    text = io.StringIO()
    writer = csv.DictWriter(text, columns or rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(content: dict, one_line: bool = False) -> str:
    """Return a dictionary as the text of a JSON file; long lists are faster in ``one_line``."""
    indent = None if one_line else 1
    return json.dumps(content, indent=indent, ensure_ascii=False) + "\n"


def write_json(path: str | Path, content: dict, one_line: bool = False) -> None:
    """Write a dictionary as JSON. Raises as `atomic.atomic`."""
    write_text(path, as_json(content, one_line))


def read_text(path: str | Path, what: str) -> str:
    """Return the text of a file in UTF-8 or, with a byte order mark, UTF-16.

    Editors on Windows write the mark, and line ends that become plain ones. Raises InputError if
    the file is not such a text.
    """
    path = existing_file(path, what)
    raw = path.read_bytes()
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(coding)
    except UnicodeDecodeError:
        raise InputError(path, "is not text", what, "choose another file") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, what: str) -> dict:
    """Return the JSON object in a file. Raises InputError if the file contains anything else."""
    text = read_text(path, what)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            path, f"not valid JSON ({one_line(error)})", what, "restore or delete the file"
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            path,
            f"contains a {type(content).__name__}",
            f"a JSON object with {what}",
            "restore or delete the file",
        )
    return content
