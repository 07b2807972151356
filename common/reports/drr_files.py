"""DRRs of create_drr.py in a results folder, recognised by name or by their text entries."""

from __future__ import annotations

from pathlib import Path

from common.results import names

# text entries of the PNG: line integrals (no unit) of the lowest and the highest grey value
LINE_INTEGRALS = ("line integral at 0", "line integral at 65535")


def high_quality_drrs(folder: Path) -> list[Path]:
    """Return the DRRs of create_drr.py in a folder: those with a usual name first, then by name."""
    images = sorted(
        folder.glob("*.png"), key=lambda path: (path.name not in names.DRR_NAMES, path.name)
    )
    return [path for path in images if path.name in names.DRR_NAMES or _has_line_integrals(path)]


def _has_line_integrals(path: Path) -> bool:
    # the text entries of a PNG precede its pixels
    with open(path, "rb") as stream:
        return LINE_INTEGRALS[1].encode() in stream.read(4096)
