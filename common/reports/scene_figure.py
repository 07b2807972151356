"""A 3D scene as a printed figure: two views (matplotlib, no display needed)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common.reports import figures
from common.reports.scene_3d import BONE, SOURCE, Scene, image_grid, limits, lines_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# longest side of the image on the detector, pixels
TEXTURE_PX = 110
# of a page with two columns
WIDTH_IN, HEIGHT_IN = 7.1, 3.7
LINE_IN = 0.13
# degrees of elevation, and of rotation away from the source: from the side, and from behind the
# source
VIEWS = ((15, 62), (25, 18))


def draw_figure(scene: Scene, title: str) -> Figure:
    """Draw the scene from two sides."""
    from matplotlib.figure import Figure

    heading = figures.wrapped(title, WIDTH_IN, figures.TITLE_PT)
    height = HEIGHT_IN + LINE_IN * heading.count("\n")
    top = 1 - LINE_IN * (heading.count("\n") + 1) / height
    figure = Figure(figsize=(WIDTH_IN, height))
    figure.subplots_adjust(left=0.06, right=0.95, bottom=0.09, top=top, wspace=0.12)
    figure.suptitle(
        heading, y=1 - 0.05 / height, va="top", fontsize=figures.TITLE_PT, parse_math=False
    )
    axes = [_draw_view(figure, number, scene) for number in range(len(VIEWS))]
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=figures.TEXT_PT,
    )
    return figure


def _draw_view(figure: Figure, number: int, scene: Scene) -> Any:
    """Draw the scene from one of the `VIEWS`; returns its axes (mpl_toolkits.mplot3d.Axes3D)."""
    elevation, rotation = VIEWS[number]
    towards_source = scene.source - scene.foot
    azimuth = np.degrees(np.arctan2(towards_source[1], towards_source[0])) + rotation
    axis: Any = figure.add_subplot(
        1, len(VIEWS), number + 1, projection="3d", computed_zorder=False
    )
    axis.view_init(elevation, azimuth)
    axis.patch.set_visible(False)  # it would hide the labels of the other view
    _set_axes(axis, scene)
    _draw_detector(axis, scene)
    axis.plot_trisurf(
        *scene.vertices.T,
        triangles=scene.triangles,
        color=BONE,
        linewidth=0,
        antialiased=False,
        shade=True,
        rasterized=True,
        zorder=2,
    )
    for name, (line, colour) in lines_of(scene).items():
        width = 1.2 if name == "principal ray" else 0.5
        axis.plot(*line.T, color=colour, linewidth=width, label=name, zorder=4)
    axis.scatter(*scene.source[:, None], color=SOURCE, s=14, label="X-ray source", zorder=5)
    return axis


def _set_axes(axis: Any, scene: Scene) -> None:
    """Equal millimetres on all axes, limited to the scene."""
    from matplotlib.ticker import MultipleLocator

    low, high = limits(scene)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axis.set_box_aspect(high - low, zoom=0.92)
    every_mm = 100 if (high - low).max() < 800 else 200
    for name, text in zip("xyz", "RAS", strict=True):
        getattr(axis, f"set_{name}label")(f"{text} / mm", fontsize=figures.SMALL_PT, labelpad=1)
        getattr(axis, f"{name}axis").set_major_locator(MultipleLocator(every_mm))
    axis.tick_params(labelsize=figures.SMALL_PT, pad=-2)


def _draw_detector(axis: Any, scene: Scene) -> None:
    """Draw the image on the detector, in front of the bone or behind it."""
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    image, corners = image_grid(scene, TEXTURE_PX)
    detector_from_bone = scene.corners.mean(axis=0) - scene.vertices.mean(axis=0)
    in_front = float(detector_from_bone @ _towards_viewer(axis)) > 0
    ring = (corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:])
    # an array of colours: plot_surface makes a list of them, which takes three times as long
    colours = np.repeat(image.reshape(-1, 1), 3, axis=1)
    pixels = Poly3DCollection(
        np.stack(ring, axis=2).reshape(-1, len(ring), 3),
        facecolors=colours,
        edgecolors=colours,
        antialiased=False,
        rasterized=True,
        zorder=3 if in_front else 1,
    )
    axis.add_collection3d(pixels, autolim=False)


def _towards_viewer(axis: Any) -> np.ndarray:
    elevation, azimuth = np.radians([axis.elev, axis.azim])
    return np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
