"""Summary of a movement: range of every number, and the others at round angles of flexion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FLEXION = "FE_deg"
AT_DEG = (0.0, 30.0, 60.0, 90.0)


def summary_of(values: np.ndarray, quantities: Sequence[str]) -> dict[str, Any]:
    """Return ranges and, for a knee, the numbers at `AT_DEG` of flexion.

    ``values`` are (N, 6), NaN in gaps. A number at an angle is interpolated between neighbouring
    frames on both sides of it, and averaged over all times the movement passes there; an angle that
    it does not pass, or passes within a gap only, is left out.
    """
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        return {}
    ends = zip(known.min(axis=0), known.max(axis=0), strict=True)
    found: dict[str, Any] = {
        "range": {
            name: [round(float(low), 4), round(float(high), 4)]
            for name, (low, high) in zip(quantities, ends, strict=True)
        }
    }
    if FLEXION in quantities:
        column = list(quantities).index(FLEXION)
        at = {angle: passes(values, column, angle) for angle in AT_DEG}
        found["at_flexion"] = {
            f"{angle:g}": {
                name: round(float(value), 4)
                for name, value in zip(quantities, rows.mean(axis=0), strict=True)
                if name != FLEXION
            }
            for angle, rows in at.items()
            if len(rows)
        }
    return found


def passes(values: np.ndarray, column: int, level: float) -> np.ndarray:
    """Return the values (K, 6) where a column passes a level between neighbouring frames."""
    before, after = values[:-1, column], values[1:, column]
    with np.errstate(invalid="ignore"):
        crossing = np.flatnonzero((before - level) * (after - level) <= 0)
    crossing = crossing[before[crossing] != after[crossing]]
    share = (level - before[crossing]) / (after[crossing] - before[crossing])
    return values[crossing] + share[:, None] * (values[crossing + 1] - values[crossing])
