"""Small charts as SVG for a page: line charts and histograms. Standard library and numpy.

They print and scale, and follow the light or dark colours of the page: lines and bars take their
colours from its classes ``c0``, ``c1``, ... To a screen reader a chart is one image with a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 12, 36
# so that colour is not the only difference
DASHES = ("", "7 3", "2 3", "9 3 2 3")
# lowest value of a logarithmic axis
FLOOR = 1e-3
# times the 95th percentile: larger values would squeeze all others into one bar
FAR = 3.0

Scale = Callable[[float], float]


def lines(
    series: Mapping[str, np.ndarray],
    x_title: str,
    y_title: str,
    label: str,
    log: bool = False,
    marks: Sequence[int] = (),
) -> str:
    """Return curves over their index, with a legend below.

    ``series`` are values (N,) by name; ``marks`` are indices of thin vertical lines.
    """
    floor = FLOOR if log else -np.inf
    values = {name: np.maximum(np.asarray(y, float), floor) for name, y in series.items()}
    stacked = np.concatenate(list(values.values()))
    make_ticks = _log_ticks if log else nice_ticks
    ticks = make_ticks(float(stacked.min()), float(stacked.max()))
    last = max(len(y) for y in values.values()) - 1
    across = _scale(0, max(last, 1), LEFT, WIDTH - RIGHT)
    up = _y_scale(ticks[0], ticks[-1], log)
    parts = [_y_axis(ticks, up), *(_mark(across(i)) for i in marks)]
    for number, y in enumerate(values.values()):
        points = " ".join(f"{across(i):.1f},{up(v):.1f}" for i, v in enumerate(y))
        parts.append(
            f'<polyline class="line c{number}" stroke-dasharray="{DASHES[number % 4]}"'
            f' points="{points}"/>'
        )
    parts += [_x_label(across(0), "0"), _x_label(across(last), str(last))]
    parts.append(_titles(x_title, y_title))
    return _figure(parts, label, list(series) if len(series) > 1 else [])


@dataclass(frozen=True)
class Curve:
    """A curve with gaps (NaN), and half the width of its band if it has one; both (N,)."""

    values: np.ndarray
    half: np.ndarray | None = None


def banded(
    across: np.ndarray,
    curves: Mapping[str, Curve],
    x_title: str,
    y_title: str,
    label: str,
    suspect: Sequence[int] = (),
) -> str:
    """Return curves with bands over ``across`` (N,), with a legend if there are several.

    Gaps stay open. The points of the first curve at the indices ``suspect`` are ringed. A line of
    the class ``cursor`` has the positions of all points in ``data-at``, for a script to move it.
    """
    low, high = _extent(curves.values())
    ticks = nice_ticks(low, high)
    last = float(across[-1]) if across[-1] > across[0] else float(across[0]) + 1
    right = _scale(float(across[0]), last, LEFT, WIDTH - RIGHT)
    up = _y_scale(ticks[0], ticks[-1], log=False)
    parts = [_y_axis(ticks, up)]
    for number, curve in enumerate(curves.values()):
        for run in _runs(curve.values):
            x, y = [right(float(v)) for v in across[run]], curve.values[run]
            if curve.half is not None:
                edges = [*zip(x, y + curve.half[run], strict=True)]
                edges += [*zip(x, y - curve.half[run], strict=True)][::-1]
                points = " ".join(f"{a:.1f},{up(float(b)):.1f}" for a, b in edges)
                parts.append(f'<polygon class="band c{number}" points="{points}"/>')
            points = " ".join(f"{a:.1f},{up(float(b)):.1f}" for a, b in zip(x, y, strict=True))
            parts.append(
                f'<polyline class="line c{number}" stroke-dasharray="{DASHES[number % 4]}"'
                f' points="{points}"/>'
            )
    first = next(iter(curves.values())).values
    parts += [
        f'<circle class="suspect" cx="{right(float(across[i])):.1f}" cy="{up(float(first[i])):.1f}"'
        ' r="4"/>'
        for i in suspect
        if np.isfinite(first[i])
    ]
    at = " ".join(f"{right(float(x)):.1f}" for x in across)
    parts.append(
        f'<line class="cursor" data-at="{at}" x1="{LEFT}" x2="{LEFT}" y1="{TOP}"'
        f' y2="{HEIGHT - BOTTOM}"/>'
    )
    parts += [_x_label(right(float(x)), f"{x:g}") for x in (across[0], last)]
    parts.append(_titles(x_title, y_title))
    return _figure(parts, label, list(curves) if len(curves) > 1 else [])


def _extent(curves: Iterable[Curve]) -> tuple[float, float]:
    """Return the lowest and highest value of curves with their bands; 0 and 1 if all are gaps."""
    edges = [
        each.values + sign * (0 if each.half is None else each.half)
        for each in curves
        for sign in (-1, 1)
    ]
    known = np.concatenate(edges)
    known = known[np.isfinite(known)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _runs(values: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each stretch without a gap."""
    known = np.flatnonzero(np.isfinite(values))
    return [run for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(run)]


def histogram(series: Mapping[str, np.ndarray], x_title: str, label: str, bins: int = 12) -> str:
    """Return how often values occur, groups stacked; ``series`` are values (N,) by group.

    Values far above all others are counted in the last bar, whose label begins with "≥".
    """
    groups = {name: np.asarray(y, float) for name, y in series.items() if len(y)}
    every = np.concatenate(list(groups.values()))
    usual = float(np.percentile(every, 95))
    beyond = every.max() > FAR * usual > 0
    ticks = nice_ticks(0, usual if beyond else float(every.max()))
    edges = np.linspace(ticks[0], ticks[-1], bins + 1)
    counts = [np.histogram(np.minimum(y, ticks[-1]), edges)[0] for y in groups.values()]
    # at least 4, so that ticks are whole numbers
    y_ticks = nice_ticks(0, max(int(np.sum(counts, axis=0).max()), 4))
    across = _scale(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT)
    up = _y_scale(0, y_ticks[-1], log=False)
    parts, below = [_y_axis(y_ticks, up)], np.zeros(bins)
    for number, amount in enumerate(counts):
        for i in np.flatnonzero(amount):
            left, right = across(edges[i]) + 1, across(edges[i + 1]) - 1
            parts.append(_bar(number, left, right, up(below[i] + amount[i]), up(below[i])))
        below = below + amount
    parts += [_x_label(across(tick), f"{tick:g}") for tick in ticks[:-1]]
    parts.append(_x_label(across(ticks[-1]), f"{'≥ ' if beyond else ''}{ticks[-1]:g}"))
    parts.append(_titles(x_title, "registrations"))
    return _figure(parts, label, list(groups) if len(groups) > 1 else [])


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that cover low to high, at about ``count`` steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    power = 10.0 ** np.floor(np.log10((high - low) / count))
    step = next(s * power for s in (1, 2, 5, 10) if (high - low) / (s * power) <= count + 1e-9)
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [round(float(step * k), 10) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    return [10.0**k for k in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, stop: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _y_scale(low: float, high: float, log: bool) -> Scale:
    if not log:
        return _scale(low, high, HEIGHT - BOTTOM, TOP)
    linear = _scale(float(np.log10(low)), float(np.log10(high)), HEIGHT - BOTTOM, TOP)
    return lambda value: linear(float(np.log10(value)))


def _y_axis(ticks: Sequence[float], up: Scale) -> str:
    rows = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(t):.1f}" y2="{up(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{up(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks
    ]
    return "".join(rows)


def _mark(x: float) -> str:
    return f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _bar(number: int, left: float, right: float, top: float, bottom: float) -> str:
    return (
        f'<rect class="bar c{number}" x="{left:.1f}" width="{right - left:.1f}" y="{top:.1f}"'
        f' height="{bottom - top:.1f}"/>'
    )


def _x_label(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>'


def _titles(x_title: str, y_title: str) -> str:
    across, down = (LEFT + WIDTH - RIGHT) / 2, (HEIGHT - BOTTOM + TOP) / 2
    return (
        f'<text x="{across}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text transform="translate(11 {down}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )


def _figure(parts: Sequence[str], label: str, legend: Sequence[str]) -> str:
    keys = [
        '<span class="key"><svg width="30" height="10" aria-hidden="true">'
        f'<line class="line c{n}" stroke-dasharray="{DASHES[n % 4]}" x1="0" x2="30" y1="5" y2="5"/>'
        f"</svg>{escape(name)}</span>"
        for n, name in enumerate(legend)
    ]
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
    return svg + (f'<p class="legend">{"".join(keys)}</p>' if keys else "")
