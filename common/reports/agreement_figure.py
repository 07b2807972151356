"""Figures of two movements: both curves with bands, and Bland and Altman's plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common import files
from common.kinematics.comparison import PHASES, Agreement, Points
from common.reports import figures, palette
from common.reports.kinematics_figure import TITLES

WIDTH_IN, HEIGHT_IN = 7.1, 3.8
COLOURS = (palette.BLUE, palette.VERMILLION)


def _label(quantity: str) -> str:
    title, _, unit = quantity.rpartition("_")
    return f"{TITLES.get(quantity, title)} ({'°' if unit == 'deg' else unit})"


def write_curves(
    path: Path, pairs: Sequence[Points], quantities: Sequence[str], labels: tuple[str, str]
) -> None:
    """Write both movements over their common points, as PNG, PDF or SVG by the ending.

    The band is that of a difference, around the second movement, of one pair only. While the knee
    extends, lines are dashed.
    """
    with figures.style():
        figure = figures.new(WIDTH_IN, HEIGHT_IN)
        panels = figure.subplots(2, 3).ravel()
        for panel, quantity in zip(panels, quantities, strict=False):
            number = pairs[0].quantities.index(quantity)
            for points in pairs:
                for phase in dict.fromkeys(points.phases):
                    _curves(panel, points, number, phase, len(pairs) == 1)
            panel.set_ylabel(_label(quantity))
            panel.set_xlabel("flexion (°)" if pairs[0].phases[0] else "time (%)")
            panel.grid(True, color="#dddddd")
        for panel in panels[len(quantities) :]:
            panel.set_axis_off()
        keys = panels[-1 if len(quantities) < len(panels) else 0]
        for colour, label in zip(COLOURS, labels, strict=True):
            keys.plot([], [], color=colour, label=label)
        if len({phase for points in pairs for phase in points.phases}) > 1:
            keys.plot([], [], "--", color="#555555", label=PHASES[1])
        keys.legend(frameon=False)
        with files.writing(path) as stream:
            figure.savefig(stream, format=path.suffix[1:].lower(), dpi=figures.DPI)


def _curves(panel, points: Points, number: int, phase: str, banded: bool) -> None:
    own = np.array([each == phase for each in points.phases])
    at, half = points.at[own], points.half[own, number]
    for curve, colour in zip((points.first, points.second), COLOURS, strict=True):
        dash = "--" if phase == PHASES[1] else "-"
        panel.plot(at, curve[own, number], dash, color=colour, linewidth=1.0)
    if banded:
        second = points.second[own, number]
        panel.fill_between(at, second - half, second + half, color=COLOURS[1], alpha=0.2,
                           linewidth=0)  # fmt: skip


def write_bland_altman(
    path: Path,
    pairs: Sequence[Points],
    found: Mapping[str, Agreement],
    labels: tuple[str, str],
) -> None:
    """Write a panel per coordinate: difference over mean, bias and limits of agreement.

    The bar of a point is the 95 % band of its difference from the poses; each pair has a colour.
    """
    with figures.style():
        figure = figures.new(WIDTH_IN, HEIGHT_IN)
        panels = figure.subplots(2, 3).ravel()
        for panel, (quantity, numbers) in zip(panels, found.items(), strict=False):
            column = pairs[0].quantities.index(quantity)
            for which, points in enumerate(pairs):
                mean = (points.first + points.second)[:, column] / 2
                panel.errorbar(mean, points.difference[:, column], yerr=points.half[:, column],
                               fmt=".", markersize=3, color=f"C{which}", ecolor=f"C{which}",
                               elinewidth=0.4, alpha=0.6)  # fmt: skip
            panel.axhline(0, color="#888888", linewidth=0.6)
            panel.axhline(numbers.bias, color="#000000", linewidth=1.0)
            for limit in numbers.limits:
                panel.axhline(limit, color="#000000", linewidth=0.8, linestyle="--")
            low, high = numbers.limits
            panel.set_title(f"bias {numbers.bias:.2f}, limits {low:.2f} to {high:.2f}")
            panel.set_xlabel(f"mean {_label(quantity)}")
            panel.set_ylabel(f"{labels[1]} less {labels[0]}")
            panel.grid(True, color="#dddddd")
        for panel in panels[len(found) :]:
            panel.set_axis_off()
        with files.writing(path) as stream:
            figure.savefig(stream, format=path.suffix[1:].lower(), dpi=figures.DPI)
