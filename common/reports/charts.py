"""Small charts as SVG text for a page: they print, scale, and follow the page's light or dark colours. Standard library and numpy.

Lines and bars take their colours from the page's classes ``c0``, ``c1``, ...; a chart is one image to a screen reader, described by its label.
"""

from __future__ import annotations

from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 12, 36
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # so that colour is not the only difference
FLOOR = 1e-3  # of a logarithmic axis
FAR = 3.0  # times the 95th percentile: a value beyond would squeeze all others into one bar


def lines(
    series: dict[str, np.ndarray],
    x_title: str,
    y_title: str,
    label: str,
    log: bool = False,
    marks: list[int] | None = None,
) -> str:
    """Curves over their index, with a legend below; ``marks`` are indices of thin vertical lines."""
    values = {
        name: np.maximum(np.asarray(y, float), FLOOR if log else -np.inf)
        for name, y in series.items()
    }
    stacked = np.concatenate(list(values.values()))
    ticks = (
        _log_ticks(stacked.min(), stacked.max())
        if log
        else nice_ticks(stacked.min(), stacked.max())
    )
    count = max(len(y) for y in values.values())
    across = _scale(0, max(count - 1, 1), LEFT, WIDTH - RIGHT)
    up = _scale(
        *(np.log10([ticks[0], ticks[-1]]) if log else (ticks[0], ticks[-1])), HEIGHT - BOTTOM, TOP
    )
    parts = [_y_axis(ticks, (lambda v: up(np.log10(v))) if log else up)]
    parts += [
        f'<line class="mark" x1="{across(i):.1f}" x2="{across(i):.1f}" y1="{TOP}"'
        f' y2="{HEIGHT - BOTTOM}"/>'
        for i in marks or ()
    ]
    for number, y in enumerate(values.values()):
        points = " ".join(
            f"{across(i):.1f},{up(np.log10(v) if log else v):.1f}" for i, v in enumerate(y)
        )
        parts.append(
            f'<polyline class="line c{number}" stroke-dasharray="{DASHES[number % 4]}"'
            f' points="{points}"/>'
        )
    parts += [
        _x_label(across(0), "0"),
        _x_label(across(count - 1), str(count - 1)),
        _titles(x_title, y_title),
    ]
    return _figure(parts, label, list(series) if len(series) > 1 else [])


def histogram(series: dict[str, np.ndarray], x_title: str, label: str, bins: int = 12) -> str:
    """How often values occur, the groups stacked on each other. A few values far above all others go into the last bar, whose label says so."""
    filled = {name: np.asarray(y, float) for name, y in series.items() if len(y)}
    every = np.concatenate(list(filled.values()))
    usual = float(np.percentile(every, 95))
    beyond = every.max() > FAR * usual > 0
    ticks = nice_ticks(0, usual if beyond else float(every.max()))
    filled = {name: np.minimum(y, ticks[-1]) for name, y in filled.items()}
    edges = np.linspace(ticks[0], ticks[-1], bins + 1)
    counts = {name: np.histogram(y, edges)[0] for name, y in filled.items()}
    top = nice_ticks(0, max(int(sum(counts.values()).max()), 4))  # whole numbers
    across, up = (
        _scale(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT),
        _scale(0, top[-1], HEIGHT - BOTTOM, TOP),
    )
    parts, below = [_y_axis(top, up)], np.zeros(bins)
    for number, amount in enumerate(counts.values()):
        for i in np.flatnonzero(amount):
            y, height = up(below[i] + amount[i]), up(below[i]) - up(below[i] + amount[i])
            parts.append(
                f'<rect class="bar c{number}" x="{across(edges[i]) + 1:.1f}"'
                f' width="{across(edges[i + 1]) - across(edges[i]) - 2:.1f}" y="{y:.1f}"'
                f' height="{height:.1f}"/>'
            )
        below = below + amount
    parts += [
        _x_label(across(tick), f"{'≥ ' if beyond and tick == ticks[-1] else ''}{tick:g}")
        for tick in ticks
    ]
    return _figure(
        [*parts, _titles(x_title, "registrations")], label, list(filled) if len(filled) > 1 else []
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover low to high."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    power = 10.0 ** np.floor(np.log10((high - low) / count))
    step = next(s * power for s in (1, 2, 5, 10) if (high - low) / (s * power) <= count + 1e-9)
    return [
        round(float(step * k), 10)
        for k in range(int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9)) + 1)
    ]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    return [10.0**k for k in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, stop: float):
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _y_axis(ticks: list[float], up) -> str:
    rows = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(t):.1f}"'
        f' y2="{up(t):.1f}"/><text x="{LEFT - 6}" y="{up(t) + 4:.1f}"'
        f' text-anchor="end">{t:g}</text>'
        for t in ticks
    ]
    return "".join(rows)


def _x_label(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>'


def _titles(x_title: str, y_title: str) -> str:
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}"'
        f' text-anchor="middle">{escape(x_title)}</text><text transform="translate(11 {middle})'
        f' rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
    )


def _figure(parts: list[str], label: str, legend: list[str]) -> str:
    keys = [
        f'<span class="key"><svg width="30" height="10" aria-hidden="true"><line class="line c{n}"'
        f' stroke-dasharray="{DASHES[n % 4]}" x1="0" x2="30" y1="5"'
        f' y2="5"/></svg>{escape(name)}</span>'
        for n, name in enumerate(legend)
    ]
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
    return svg + (f'<p class="legend">{"".join(keys)}</p>' if keys else "")
