"""How figures for print look: one size of type, one palette, scale bars, outlines; saved at 300 dpi or as vectors. matplotlib only when used."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.reports import overlays

FORMATS = (".png", ".pdf", ".svg")
DPI = 300
COLUMN_IN = 1.72  # of one picture: four fill the width of a page, 180 mm
TITLE_PT, TEXT_PT, SMALL_PT = 8.0, 6.5, 6.0
STYLE = {
    "font.family": "DejaVu Sans", "font.size": TEXT_PT, "axes.titlesize": TEXT_PT, "axes.labelsize": SMALL_PT, "xtick.labelsize": SMALL_PT, "ytick.labelsize": SMALL_PT,
    "axes.linewidth": 0.5, "grid.linewidth": 0.4, "savefig.facecolor": "white", "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip


def new(width_in: float, height_in: float) -> Any:
    """An empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def style() -> Any:
    """Context in which figures are drawn and saved."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def wrapped(text: str, width_in: float, points: float) -> str:
    """The text in lines that fit a width, however long or wide its words."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=STYLE["font.family"], size=points)
    characters = max(8, int(72 * width_in / (0.4 * points)))  # of the narrowest text
    while True:
        lines = textwrap.wrap(text, characters)
        widest = max(
            (
                text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
                for line in lines
            ),
            default=0,
        )
        if widest <= 0.97 * 72 * width_in or characters <= 8:
            return "\n".join(lines)
        characters -= max(1, characters // 20)


def save(figure: Any, path: str | Path) -> None:
    """Write a figure by the ending of its name, 300 dpi where it has pixels."""
    path = Path(path)
    with style(), files.writing(path) as stream:
        figure.savefig(stream, format=path.suffix[1:].lower(), dpi=DPI)


def show(
    axis: Any, picture: np.ndarray, title: str, colours: Any = "gray", top: float = 1.0
) -> Any:
    """A picture (H, W) in 0..top, or (H, W, 3), without ticks."""
    shown = axis.imshow(picture, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    axis.set_title(title, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    return shown


def outline(axis: Any, curves: Sequence[np.ndarray]) -> None:
    """Closed curves (N, 2), pixels (column, row), over a picture."""
    for curve in curves:
        axis.plot(*np.vstack([curve, curve[:1]]).T, color=overlays.OUTLINE, linewidth=0.8)


def scale_bar(axis: Any, shape: tuple[int, int], pixel_mm: float) -> None:
    """A bar of round length at the lower left, white on black so that it shows on any picture."""
    import matplotlib.patheffects as effects

    height, width = shape[:2]
    length = overlays.scale_bar(width * pixel_mm)
    left, bottom = 0.05 * width, height - 0.05 * height
    black = [effects.withStroke(linewidth=2.6, foreground="black")]
    axis.plot(
        [left, left + length / pixel_mm],
        [bottom, bottom],
        color="white",
        linewidth=1.4,
        solid_capstyle="butt",
        path_effects=black,
    )
    axis.text(
        left,
        bottom - 0.025 * height,
        f"{length:g} mm",
        color="white",
        fontsize=SMALL_PT,
        va="bottom",
        path_effects=[effects.withStroke(linewidth=1.4, foreground="black")],
    )
