"""The figure of evaluation.py: X-ray and DRRs, an overlay, and maps of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.reports import figures, overlays
from common.reports.comparison import ComparedDrr
from common.reports.evaluation_file import POSE_ERRORS
from common.xray import similarity

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

OverlayKind = Literal["red-cyan", "checkerboard"]
# kind of overlay: title
OVERLAYS: dict[OverlayKind, str] = {
    "red-cyan": "X-ray red, DRR cyan",
    "checkerboard": "X-ray and DRR alternate",
}
ARROWS = {"lower": "↓", "higher": "↑"}
# pixels outside the valid field: in grey images, in colour maps, in overlays
OUTSIDE_GREY, OUTSIDE_MAP, OUTSIDE_OVERLAY = "#7a8796", "#e6e6e6", 0.5
# of the differences: the colour scale ends there
TOP_PERCENTILE = 99.8


@dataclass(frozen=True)
class Notes:
    """Content of the figure besides the images."""

    pixel_mm: float | None = None  # width of a pixel at the bone; None if unknown
    outline: Sequence[np.ndarray] = ()  # closed curves (N, 2) around the bone, (column, row)
    overlay: OverlayKind = "red-cyan"
    points_from: str | None = None  # origin of the points of the pose errors


def draw_comparison(
    xray: np.ndarray,
    drrs: Sequence[ComparedDrr],
    field: np.ndarray,
    title: str,
    notes: Notes,
) -> Figure:
    """Draw the images above, and below them the overlay and the maps of absolute differences.

    ``xray`` and ``field``, the valid field, are (H, W); all images have one grey scale and all maps
    one colour scale.
    """
    figure = _new_figure(xray.shape, drrs, title, explain(field, notes))
    axes = figure.subplots(2, 1 + len(drrs), squeeze=False)
    reference = similarity.normalise(xray, field)
    stretched = [similarity.normalise(drr.image, field) for drr in drrs]
    titles = ["X-ray", *(drr.title for drr in drrs)]
    for axis, name, image in zip(axes[0], titles, [reference, *stretched], strict=True):
        figures.show_image(
            axis, np.where(field, image, np.nan), name, _with_outside("gray", OUTSIDE_GREY)
        )
    figures.draw_outline(axes[0, 0], notes.outline)
    figures.show_image(
        axes[1, 0],
        overlay(reference, stretched[-1], field, notes.overlay),
        OVERLAYS[notes.overlay],
    )
    if notes.pixel_mm:
        for axis in (*axes[0], axes[1, 0]):
            figures.draw_scale_bar(axis, xray.shape, notes.pixel_mm)
    differences = [np.where(field, np.abs(image - reference), np.nan) for image in stretched]
    _draw_differences(figure, axes[1], differences, [_caption(drr) for drr in drrs])
    return figure


def _new_figure(
    shape: tuple[int, ...], drrs: Sequence[ComparedDrr], title: str, footer: str
) -> Figure:
    """An empty figure with title and footer, large enough for its images and captions."""
    width = figures.COLUMN_IN * (1 + len(drrs)) + 0.5
    title = figures.wrapped(title, width, figures.TITLE_PT)
    footer = figures.wrapped(footer, width, figures.SMALL_PT)
    image_height = float(np.clip(figures.COLUMN_IN * shape[0] / shape[1], 0.9, 2.8))
    breaks = title.count("\n") + footer.count("\n")
    breaks += max(_caption(drr).count("\n") for drr in drrs)
    figure = figures.new(width, 2 * image_height + 0.9 + 0.12 * breaks)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03)
    figure.suptitle(title, fontsize=figures.TITLE_PT, parse_math=False)
    figure.supxlabel(footer, fontsize=figures.SMALL_PT, x=0.01, ha="left", linespacing=1.3)
    return figure


def _draw_differences(
    figure: Figure,
    axes: np.ndarray,
    differences: Sequence[np.ndarray],
    captions: Sequence[str],
) -> None:
    """Maps on all axes (1 + N) but the first, with the measures of each DRR below."""
    top = max(float(np.nanpercentile(differences, TOP_PERCENTILE)), 1e-6)
    colours = _with_outside("viridis", OUTSIDE_MAP)
    for axis, difference, caption in zip(axes[1:], differences, captions, strict=True):
        shown = figures.show_image(axis, difference, "absolute difference", colours, top)
        axis.set_xlabel(caption, linespacing=1.3, labelpad=3)
    bar = figure.colorbar(shown, ax=list(axes), fraction=0.025, pad=0.01, extend="max")
    bar.set_label("|DRR - X-ray|, fraction of the grey range")


def overlay(xray: np.ndarray, drr: np.ndarray, field: np.ndarray, kind: OverlayKind) -> np.ndarray:
    """Return both images in one, (H, W, 3) in 0..1; grey outside the valid field.

    The grey values of the DRR are matched to those of the X-ray; both are (H, W) in 0..1.
    """
    inside = np.where(field, drr, 0)
    if inside.any():
        tone = overlays.match_tone(inside, np.where(field, xray, 0))
        inside = np.clip(tone(inside), 0, 1)
    if kind == "red-cyan":
        both = overlays.red_cyan(xray, inside)
    else:
        both = np.repeat(overlays.checkerboard(xray, inside)[..., None], 3, -1)
    return np.where(field[..., None], np.clip(both, 0, 1), OUTSIDE_OVERLAY)


def _with_outside(colours: str, outside: str) -> Colormap:
    """A colour map that shows pixels outside the valid field (NaN) in one colour."""
    import matplotlib

    return matplotlib.colormaps[colours].with_extremes(bad=outside)


def measures(drr: ComparedDrr) -> list[str]:
    """Return the pose errors, if known, and the metrics of a DRR as lines of text."""
    return [*_pose_error_lines(drr), *_metric_lines(drr)]


def _pose_error_lines(drr: ComparedDrr) -> list[str]:
    if drr.pose_error is None:
        return []
    texts = [
        f"{title} {getattr(drr.pose_error, name):.2f}{'°' if name == 'rotation_deg' else ' mm'}"
        for name, title in POSE_ERRORS.items()
    ]
    return ["   ".join(texts[:2]), "   ".join(texts[2:4]), texts[4]]


def _metric_lines(drr: ComparedDrr) -> list[str]:
    texts = [
        f"{name} {ARROWS[similarity.BETTER[name]]}"
        f" {value:{'.1e' if 0 < abs(value) < 1e-3 else '.4f'}}"
        for name, value in drr.metrics.items()
    ]
    return ["   ".join(texts[:2]), "   ".join(texts[2:])]


def _caption(drr: ComparedDrr) -> str:
    return "\n".join(measures(drr))


def explain(field: np.ndarray, notes: Notes) -> str:
    """Return the footer of the figure."""
    sentences = [
        "All images are stretched to 0..1 over the field; one colour scale for all maps."
        " ↓ lower is better, ↑ higher is better."
    ]
    if notes.outline:
        sentences.append("Outline: the bone at the final pose.")
    if notes.pixel_mm:
        sentences.append("Scale bars: at the distance of the bone from the source.")
    if not field.all():
        outside = 100 * (1 - field.mean())
        sentences.append(f"Grey: outside the field, excluded ({outside:.0f} %).")
    if notes.points_from:
        sentences.append(
            f"Pose errors: in the camera frame, over points of the {notes.points_from};"
            " projection at the detector."
        )
    return " ".join(sentences)
