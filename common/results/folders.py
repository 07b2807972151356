"""Results folders below a folder. Standard library only."""

from __future__ import annotations

from pathlib import Path

from common import files
from common.results import names


def find_results(folder: Path) -> list[Path]:
    """Return the results folders at or below a folder, in natural order.

    Hidden folders, which hold unfinished writes, are left out.
    """
    found = []
    for path in folder.rglob(names.PARAMETERS):
        inside = path.parent.relative_to(folder).parts
        if not any(part.startswith(".") for part in inside):
            found.append(path.parent)
    return sorted(found, key=files.natural)
