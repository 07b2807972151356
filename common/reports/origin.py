"""The origin of a registration as text: lineage of the CT, geometry, settings, versions.

No text contains a folder or an entry of a DICOM header.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common import files
from common.reports.registered import Registered
from common.volume import lineage

PACKAGES = ("torch", "numpy", "scipy", "numba", "diffdrr")
# entries of the X-ray that state how it was read
XRAY_ENTRIES = ("geometry", "bone", "decided_by", "linearised")
MAX_ITEMS = 6  # of a list


def lineage_of(registered: Registered) -> list[tuple[str, str]]:
    """Return (step, settings) from the original CT to the registered one; empty if unknown."""
    record = lineage.sidecar(registered.volume_path)
    if not record.exists():
        return []
    history = files.read_json(record, "the lineage of a volume").get("history", ())
    return [(entry["step"], as_text(_without_matrices(entry["settings"]))) for entry in history]


def _without_matrices(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in settings.items()
        if not (isinstance(value, list) and value and isinstance(value[0], list))
    }


def settings_of(registered: Registered) -> list[tuple[str, str]]:
    """Return (name, value) of the geometry and the settings of a registration."""
    result, detector = registered.result, registered.result.detector
    geometry = {
        "volume": registered.volume_path.name,
        "source to detector": f"{detector.sdd_mm:g} mm",
        "pixel": f"{detector.pixel_mm[0]:.4g} x {detector.pixel_mm[1]:.4g} mm",
        "detector": f"{detector.width} x {detector.height} pixels",
    }
    how_read = {key: result.xray[key] for key in XRAY_ENTRIES if key in result.xray}
    every = {**geometry, **how_read, **result.settings}
    return [(key, as_text(value)) for key, value in every.items() if value is not None]


def versions_of(registered: Registered) -> list[tuple[str, str]]:
    """Return (package, version), sorted by name."""
    return sorted({**files.versions(*PACKAGES), **registered.result.versions}.items())


def as_text(value: Any) -> str:
    """Return a setting as text; long numbers are rounded, paths are without their folders."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        shown = [as_text(entry) for entry in value[:MAX_ITEMS]]
        return f"({'; '.join([*shown, '...'] if len(value) > MAX_ITEMS else shown)})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):  # a SHA-256
        return value[:12] + "..."
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)
