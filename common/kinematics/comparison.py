"""Two movements compared point by point: left against right, before against after.

Frames do not correspond, so movements are aligned first: at the same flexion, separately while the
knee flexes and extends, or at the same percentage of the time. Agreement is stated as by Bland and
Altman (Lancet 327:307, 1986); for several pairs, whose points repeat within a pair, with the
variances between and within pairs (Bland and Altman, J Biopharm Stat 17:571, 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from common import files
from common.errors import InputError
from common.kinematics.movement import BAND
from common.kinematics.movement_summary import FLEXION
from common.kinematics.movement_table import Table

By: TypeAlias = Literal["flexion", "percent"]
SCHEMA = "comparison/1"
PHASES = ("flexing", "extending")
LEAST_POINTS = 5
PARTS = ("first", "second", "difference", "difference_low", "difference_high")
DIGITS = 4


@dataclass(frozen=True, eq=False)
class Points:
    """Two movements at P common points; NaN where one of them has a gap."""

    name: str
    quantities: tuple[str, ...]
    phases: tuple[str, ...]  # (P,) of `PHASES`; empty by percentage
    at: np.ndarray  # (P,) degrees of flexion, or per cent
    first: np.ndarray  # (P, 6)
    second: np.ndarray  # (P, 6)
    half: np.ndarray  # (P, 6) half the width of the 95 % band of the difference, from the poses
    systematic: np.ndarray  # (6,) the same from the anatomical frames, one error at all points

    @property
    def difference(self) -> np.ndarray:
        """Second less first (P, 6)."""
        return self.second - self.first


@dataclass(frozen=True)
class Agreement:
    """Bland and Altman's numbers of one coordinate, in its unit."""

    points: int
    bias: float  # mean difference, second less first
    sd: float  # of one difference
    band: float  # median half width of the 95 % bands of the differences, from the poses
    systematic: float  # half width of the 95 % band from the anatomical frames, largest of a pair
    beyond_band: float  # share of the points whose difference is larger than its band
    # 95 % confidence interval of the bias over the pairs; None for one pair
    interval: tuple[float, float] | None

    @property
    def limits(self) -> tuple[float, float]:
        """Limits of agreement, between which 95 % of the differences are expected."""
        return self.bias - BAND * self.sd, self.bias + BAND * self.sd

    def entries(self) -> dict[str, Any]:
        """Return the numbers as stored in ``comparison.json``."""
        return {
            "points": self.points,
            "bias": round(self.bias, DIGITS),
            "sd": round(self.sd, DIGITS),
            "limits": [round(each, DIGITS) for each in self.limits],
            "bias_95": None
            if self.interval is None
            else [round(each, DIGITS) for each in self.interval],
            "band_of_a_difference": round(self.band, DIGITS),
            "systematic_band": round(self.systematic, DIGITS),
            "share_beyond_band": round(self.beyond_band, DIGITS),
        }


def align(first: Table, second: Table, by: By, step: float) -> Points:
    """Return two movements at common points, every ``step`` of flexion (degrees) or per cent.

    Raises InputError if their columns differ or they have too few points in common.
    """
    if first.quantities != second.quantities:
        raise InputError(
            second.name,
            f"has the numbers {', '.join(second.quantities)}",
            f"those of {first.name}: {', '.join(first.quantities)}",
            "compare movements of one joint",
        )
    if by == "flexion" and FLEXION not in first.quantities:
        raise InputError(
            first.name, "is no knee", f"{FLEXION} among its numbers", "set `by` to percent"
        )
    at, phases, (one, other) = (
        _at_flexion((first, second), step) if by == "flexion" else _at_percent(first, second, step)
    )
    half = np.hypot(one[:, 1], other[:, 1])
    # the same frames have the same error in both movements
    shared = bool(first.frames) and first.frames == second.frames
    systematic = np.zeros(6) if shared else np.hypot(first.systematic, second.systematic)
    name = f"{first.name}, {second.name}"
    points = Points(name, first.quantities, phases, at, one[:, 0], other[:, 0], half, systematic)
    common = int(np.isfinite(points.difference).all(axis=1).sum())
    if common < LEAST_POINTS:
        raise InputError(
            name,
            f"have {common} points in common",
            f"at least {LEAST_POINTS}, at one {by} every {step:g}",
            "compare by percent, lower `step`, or choose other movements",
        )
    return points


def _at_flexion(
    tables: tuple[Table, Table], step: float
) -> tuple[np.ndarray, tuple[str, ...], list[np.ndarray]]:
    """Return flexion (P,), phases (P,), and numbers with half bands (P, 2, 6) of both."""
    column = tables[0].quantities.index(FLEXION)
    low = max(float(np.nanmin(each.values[:, column], initial=np.inf)) for each in tables)
    high = min(float(np.nanmax(each.values[:, column], initial=-np.inf)) for each in tables)
    angles = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1) if low < high else []
    rows, at, phases = ([], []), [], []
    for sign, phase in zip((1, -1), PHASES, strict=True):
        for angle in angles:
            at.append(float(angle))
            phases.append(phase)
            for each, kept in zip(tables, rows, strict=True):
                kept.append(_passing(each, column, float(angle), sign))
    numbers = [np.array(kept).reshape(-1, 2, 6) for kept in rows]
    return np.array(at), tuple(phases), numbers


def _passing(table: Table, column: int, level: float, sign: int) -> np.ndarray:
    """Return numbers and half bands (2, 6), mean over the times that a column passes a level.

    ``sign`` is 1 for passing it upwards, -1 downwards; NaN if it does not.
    """
    course = sign * (table.values[:, column] - level)
    with np.errstate(invalid="ignore"):
        where = np.flatnonzero((course[:-1] <= 0) & (course[1:] >= 0) & (course[:-1] < course[1:]))
    if not len(where):
        return np.full((2, 6), np.nan)
    share = course[where] / (course[where] - course[where + 1])
    both = np.stack([table.values, table.half], axis=1)
    return (both[where] + share[:, None, None] * (both[where + 1] - both[where])).mean(axis=0)


def _at_percent(
    first: Table, second: Table, step: float
) -> tuple[np.ndarray, tuple[str, ...], list[np.ndarray]]:
    """Return per cent (P,) of the time from the first to the last pose, and numbers of both."""
    at = np.arange(0, 100 + step / 2, step)
    return at, ("",) * len(at), [_of_time(each, at / 100) for each in (first, second)]


def _of_time(table: Table, share: np.ndarray) -> np.ndarray:
    """Return numbers and half bands (P, 2, 6) at shares of the time; NaN within gaps."""
    known = np.asarray(np.isfinite(table.values).all(axis=1))
    frames = np.arange(len(known), dtype=float)
    across = frames if table.times is None else table.times
    ends = np.flatnonzero(known)
    if len(ends) < 2:
        return np.full((len(share), 2, 6), np.nan)
    wanted = across[ends[0]] + share * (across[ends[-1]] - across[ends[0]])
    position = np.interp(wanted, across, frames)
    before = np.minimum(np.floor(position + 1e-9).astype(int), len(known) - 1)
    after = np.minimum(before + 1, len(known) - 1)
    part = np.clip(position - before, 0, 1)
    after = np.where(part < 1e-9, before, after)  # at a frame itself, its neighbour may be a gap
    both = np.stack([table.values, table.half], axis=1)
    return both[before] + part[:, None, None] * (both[after] - both[before])


def agreement(pairs: Sequence[Points]) -> dict[str, Agreement]:
    """Return Bland and Altman's numbers of each coordinate that the alignment leaves free."""
    found = {}
    for number, quantity in enumerate(pairs[0].quantities):
        if quantity == FLEXION and pairs[0].phases[0]:
            continue
        found[quantity] = _agreement(pairs, number)
    return found


def _agreement(pairs: Sequence[Points], number: int) -> Agreement:
    columns = [each.difference[:, number] for each in pairs]
    halves = [each.half[:, number] for each in pairs]
    known = [np.isfinite(column) for column in columns]
    groups = [column[mask] for column, mask in zip(columns, known, strict=True)]
    every = np.concatenate(groups)
    half = np.concatenate([each[mask] for each, mask in zip(halves, known, strict=True)])
    bias, interval = float(every.mean()), None
    if len(groups) == 1:
        sd = float(every.std(ddof=1))
    else:
        sd = float(np.sqrt(_variance_of_pairs(groups)))
        means = np.array([group.mean() for group in groups])
        from scipy.stats import t

        reach = float(t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
        interval = (bias - reach, bias + reach)
    return Agreement(
        len(every),
        bias,
        sd,
        float(np.median(half)),
        max(float(each.systematic[number]) for each in pairs),
        float((np.abs(every) > half).mean()),
        interval,
    )


def _variance_of_pairs(groups: Sequence[np.ndarray]) -> float:
    """Return the variance of one difference, between and within pairs (one-way analysis)."""
    sizes = np.array([len(group) for group in groups], float)
    total, count = sizes.sum(), len(groups)
    means = np.array([group.mean() for group in groups])
    grand = (sizes * means).sum() / total
    between = (sizes * (means - grand) ** 2).sum() / (count - 1)
    squares = sum(((group - mean) ** 2).sum() for group, mean in zip(groups, means, strict=True))
    within = squares / (total - count)
    usual = (total**2 - (sizes**2).sum()) / ((count - 1) * total)
    return float(max((between - within) / usual, 0) + within)


def columns_of(by: By, quantities: Sequence[str]) -> list[str]:
    """Return the columns of `as_table`."""
    at = ["phase", FLEXION] if by == "flexion" else ["percent"]
    return ["pair", *at, *(f"{name}_{part}" for name in quantities for part in PARTS)]


def as_table(pairs: Sequence[Points], by: By) -> str:
    """Return the CSV table, a row per pair and point; numbers at a gap are empty."""
    own = [
        (number, name)
        for number, name in enumerate(pairs[0].quantities)
        if by == "percent" or name != FLEXION
    ]
    columns = columns_of(by, [name for _, name in own])
    place = FLEXION if by == "flexion" else "percent"
    rows = []
    for pair, points in enumerate(pairs, 1):
        for row in range(len(points.at)):
            cells: dict[str, Any] = {"pair": pair, place: f"{points.at[row]:g}"}
            if by == "flexion":
                cells["phase"] = points.phases[row]
            for number, name in own:
                change, half = points.difference[row, number], points.half[row, number]
                numbers = (
                    points.first[row, number], points.second[row, number],
                    change, change - half, change + half,
                )  # fmt: skip
                for part, value in zip(PARTS, numbers, strict=True):
                    cells[f"{name}_{part}"] = f"{value:.{DIGITS}f}" if np.isfinite(value) else ""
            rows.append(cells)
    return files.as_csv(rows, columns)
