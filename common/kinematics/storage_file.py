"""Joint coordinates as a storage file of OpenSim (.mot or .sto).

A header of ``key=value`` lines ends with ``endheader``; then come a line of column names and a row
per frame, separated by tabs: time in seconds, angles in degrees (``inDegrees=yes``), translations
in metres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MM_PER_M = 1000.0


def as_storage(name: str, times: np.ndarray, values: np.ndarray, quantities: Sequence[str]) -> str:
    """Return the file of values (N, 6) at times (N,), by their ``quantities`` (degrees, mm).

    Frames without a pose (NaN) are left out, since the format has no empty cells.
    """
    known = np.flatnonzero(np.isfinite(values).all(axis=1))
    scale = np.array([1 / MM_PER_M if each.endswith("_mm") else 1.0 for each in quantities])
    columns = ["time", *(each.removesuffix("_mm").removesuffix("_deg") for each in quantities)]
    header = [
        name,
        "version=1",
        f"nRows={len(known)}",
        f"nColumns={len(columns)}",
        "inDegrees=yes",
        "endheader",
        "\t".join(columns),
    ]
    rows = np.column_stack([times[known], values[known] * scale])
    return "\n".join([*header, *("\t".join(f"{x:.8f}" for x in row) for row in rows)]) + "\n"
