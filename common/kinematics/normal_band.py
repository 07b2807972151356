"""A band of normal movement over a cycle, such as one of gait, from a table of the user's.

The table has the columns ``percent`` and, for each joint coordinate that it knows, ``NAME_low`` and
``NAME_high`` as in ``kinematics.csv`` (``FE_deg_low``), and optionally their middle ``NAME``. What
the bounds are, such as two standard deviations of healthy adults, is the table's matter.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError

WHAT = "a table with the columns percent, NAME_low and NAME_high"
PERCENT = "percent"


@dataclass(frozen=True, eq=False)
class NormalBand:
    """Bounds of normal coordinates over a cycle."""

    name: str  # of the file
    percent: np.ndarray  # (M,) of the cycle, increasing
    low: Mapping[str, np.ndarray]  # (M,) by the name of the coordinate
    high: Mapping[str, np.ndarray]

    def bounds(self, quantity: str, percent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds (N,) of a coordinate, interpolated; NaN outside the table."""
        low, high = (
            np.interp(percent, self.percent, edge[quantity], left=np.nan, right=np.nan)
            for edge in (self.low, self.high)
        )
        return low, high


@dataclass(frozen=True, eq=False)
class Placed:
    """A normal band over the frames of a movement."""

    band: NormalBand
    percent: np.ndarray  # (N,) of the cycle; NaN outside it

    def bounds(self, quantity: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the bounds (N,) of a coordinate, or None if the table does not have it."""
        return self.band.bounds(quantity, self.percent) if quantity in self.band.low else None

    def entries(self, values: np.ndarray, quantities: Sequence[str]) -> dict[str, Any]:
        """Return how far values (N, 6) leave the band, as stored in ``kinematics.json``."""
        found: dict[str, Any] = {}
        for number, quantity in enumerate(quantities):
            bounds = self.bounds(quantity)
            if bounds is None:
                continue
            beyond = np.maximum(bounds[0] - values[:, number], values[:, number] - bounds[1])
            beyond = beyond[np.isfinite(beyond)]
            found[quantity] = {
                "frames": len(beyond),
                "outside": int((beyond > 0).sum()),
                "furthest": round(float(max(beyond.max(initial=0), 0)), 4),
            }
        return {
            "file": self.band.name,
            "meaning": "frames of the cycle, those outside the band, and by how much at most",
            **found,
        }


def read(path: Path, quantities: Sequence[str]) -> NormalBand:
    """Read a table. Raises InputError unless it has a band of one of the ``quantities``."""
    rows = list(csv.DictReader(files.read_text(path, WHAT).splitlines()))
    known = [
        name for name in quantities if rows and {f"{name}_low", f"{name}_high"} <= set(rows[0])
    ]
    if not known or PERCENT not in rows[0]:
        raise InputError(
            path,
            f"has the columns {', '.join(map(str, rows[0])) if rows else '(none)'}",
            f"{PERCENT}, and NAME_low and NAME_high of one of {', '.join(quantities)}",
            "name its columns so",
        )
    columns = [PERCENT, *(f"{name}{end}" for name in known for end in ("_low", "_high"))]
    try:
        numbers = np.array([[float(row[name]) for name in columns] for row in rows])
    except (TypeError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", "numbers", "correct the file") from None
    band = NormalBand(
        path.name,
        numbers[:, 0],
        {name: numbers[:, 1 + 2 * k] for k, name in enumerate(known)},
        {name: numbers[:, 2 + 2 * k] for k, name in enumerate(known)},
    )
    _check(path, numbers, band)
    return band


def _check(path: Path, numbers: np.ndarray, band: NormalBand) -> None:
    """Raise InputError for numbers that are no band over a cycle."""
    percent = band.percent
    if not np.isfinite(numbers).all() or len(percent) < 2 or (np.diff(percent) <= 0).any():
        raise InputError(
            path,
            f"{PERCENT} does not increase, or a number is not finite",
            f"rows of increasing {PERCENT}, two or more",
            "correct the file",
        )
    if percent[0] < 0 or percent[-1] > 100 or percent[-1] <= 1:
        raise InputError(
            path,
            f"{PERCENT} is from {percent[0]:g} to {percent[-1]:g}",
            "0 to 100",
            "give the percentage of the cycle",
        )
    for name in band.low:
        wrong = np.flatnonzero(band.low[name] > band.high[name])
        if len(wrong):
            raise InputError(
                path,
                f"{name}_low is above {name}_high at {percent[wrong[0]]:g} %",
                "bounds in this order",
                "correct the file",
            )


def place(
    band: NormalBand,
    names: Sequence[str],
    times: np.ndarray | None,
    cycle: tuple[str, str] | None = None,
) -> Placed:
    """Return a band over the frames ``names``, or over the ``cycle`` from one frame to another.

    The percentage is that of time, of frames where ``times`` (N,) are unknown. Raises InputError
    for a cycle whose frames are unknown or in the wrong order.
    """
    first, last = cycle or (names[0], names[-1])
    for name in (first, last):
        if name not in names:
            raise InputError(
                "cycle",
                f"names frame {name}",
                f"a frame of the movement, {names[0]} to {names[-1]}",
                "correct `cycle`",
            )
    ends = names.index(first), names.index(last)
    if ends[1] <= ends[0]:
        raise InputError(
            "cycle", f"is from {first} to {last}", "an earlier and a later frame", "correct `cycle`"
        )
    across = np.arange(len(names), dtype=float) if times is None else times
    percent = 100 * (across - across[ends[0]]) / (across[ends[1]] - across[ends[0]])
    return Placed(band, np.where((percent >= 0) & (percent <= 100), percent, np.nan))
