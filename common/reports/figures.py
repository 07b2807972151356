"""Style of printed figures: type size, scale bars, outlines; 300 dpi or vector graphics.

matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.reports import overlays, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FORMATS = (".png", ".pdf", ".svg")
DPI = 300
# width of one image, inches: four fill a page of 180 mm
COLUMN_IN = 1.72
TITLE_PT, TEXT_PT, SMALL_PT = 8.0, 6.5, 6.0
FONT = "DejaVu Sans"
STYLE: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": TEXT_PT,
    "axes.titlesize": TEXT_PT,
    "axes.labelsize": SMALL_PT,
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
    "axes.linewidth": 0.5,
    "grid.linewidth": 0.4,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def new(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def wrapped(text: str, width_in: float, points: float) -> str:
    """Break the text into lines that fit a width in inches, measured in the font of the figures."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=FONT, size=points)

    def width_pt(line: str) -> float:
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]

    # at first as many characters as the narrowest text could have
    characters = max(8, int(72 * width_in / (0.4 * points)))
    while True:
        lines = textwrap.wrap(text, characters)
        widest = max(map(width_pt, lines), default=0)
        if widest <= 0.97 * 72 * width_in or characters <= 8:
            return "\n".join(lines)
        characters -= max(1, characters // 20)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the file name, at 300 dpi where it has pixels."""
    path = Path(path)
    with style(), files.writing(path) as stream:
        figure.savefig(stream, format=path.suffix[1:].lower(), dpi=DPI)


def show_image(
    axis: Axes,
    image: np.ndarray,
    title: str,
    colours: str | Colormap = "gray",
    top: float = 1.0,
) -> AxesImage:
    """Show an image (H, W) in 0..top, or (H, W, 3) in 0..1, without ticks."""
    shown = axis.imshow(image, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    axis.set_title(title, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    return shown


def draw_outline(axis: Axes, curves: Sequence[np.ndarray]) -> None:
    """Draw closed curves (N, 2), pixels (column, row), over an image."""
    for curve in curves:
        axis.plot(*np.vstack([curve, curve[:1]]).T, color=palette.OUTLINE, linewidth=0.8)


def draw_scale_bar(axis: Axes, shape: tuple[int, ...], pixel_mm: float) -> None:
    """Draw a bar of round length at the lower left of an image of ``shape`` (height, width).

    White with a black edge, so that it is visible on any image.
    """
    from matplotlib.patheffects import withStroke

    height, width = shape[:2]
    length_mm = overlays.scale_bar_mm(width * pixel_mm)
    left, bottom = 0.05 * width, height - 0.05 * height
    axis.plot(
        [left, left + length_mm / pixel_mm],
        [bottom, bottom],
        color="white",
        linewidth=1.4,
        solid_capstyle="butt",
        path_effects=[withStroke(linewidth=2.6, foreground="black")],
    )
    axis.text(
        left,
        bottom - 0.025 * height,
        f"{length_mm:g} mm",
        color="white",
        fontsize=SMALL_PT,
        va="bottom",
        path_effects=[withStroke(linewidth=1.4, foreground="black")],
    )
