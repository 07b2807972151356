"""Figure of the distances between the bones: map of the plateau, course of the nearest points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files
from common.kinematics.contact import COMPARTMENTS, NEAR_MM, Contact
from common.kinematics.joint_coordinates import Side
from common.reports import figures, palette

WIDTH_IN, HEIGHT_IN = 7.1, 2.9
MOST_MM = 12.0  # end of the colour scale
COLOURS = (palette.BLUE, palette.VERMILLION)


def write_contact_figure(path: Path, found: Contact, times: np.ndarray | None, side: Side) -> None:
    """Write the figure as PNG, PDF or SVG, by the ending. Raises as `files.writing`.

    Left: the plateau from above (anterior up, the subject's right to the right), coloured by the
    least distance of the movement, with the course of the nearest points. Right: the least
    distances over the movement with their 95 % bands.
    """
    with figures.style():
        figure = figures.new(WIDTH_IN, HEIGHT_IN)
        plateau, course = figure.subplots(1, 2, width_ratios=[1.1, 1])
        points, places = found.plateau.points, found.places()
        known = np.isfinite(found.least[:, 0])
        nearest = found.distances[known].min(axis=0)
        drawn = plateau.scatter(points[:, 2], points[:, 0], c=nearest, s=3, cmap="viridis_r",
                                vmin=0, vmax=MOST_MM, linewidths=0, rasterized=True)  # fmt: skip
        figure.colorbar(drawn, ax=plateau, label="least distance of the movement (mm)")
        across = np.arange(len(found.least)) if times is None else times
        for which, (name, colour) in enumerate(zip(COMPARTMENTS, COLOURS, strict=True)):
            plateau.plot(places[known, which, 2], places[known, which, 0], "-", color=colour,
                         linewidth=0.8)  # fmt: skip
            first = np.flatnonzero(known)[:1]
            plateau.plot(places[first, which, 2], places[first, which, 0], "o", color=colour,
                         markersize=4)  # fmt: skip
            least, half = found.least[:, which], found.half[:, which]
            course.fill_between(across, least - half, least + half, color=colour, alpha=0.25,
                                linewidth=0)  # fmt: skip
            course.plot(across, least, color=colour, linewidth=1.0, label=name)
        plateau.set_aspect("equal")
        plateau.set_xlabel("to the subject's right (mm)")
        plateau.set_ylabel("anterior (mm)")
        plateau.set_title(f"{side} plateau from above; dot: first frame")
        course.axhline(NEAR_MM, color="#888888", linewidth=0.6, linestyle=":")
        course.axhline(0, color="#888888", linewidth=0.6)
        course.set_xlabel("frame" if times is None else "time (s)")
        course.set_ylabel("least distance of the bones (mm)")
        course.set_title("bone to bone: cartilage lies in between, and is not seen")
        course.grid(True, color="#dddddd")
        course.legend(frameon=False)
        with files.writing(path) as stream:
            figure.savefig(stream, format=path.suffix[1:].lower(), dpi=figures.DPI)
