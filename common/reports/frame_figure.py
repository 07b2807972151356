"""Picture of a bone with its anatomical frame, from the front, the right and above."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files, geometry
from common.kinematics.anatomical_frames import ShapedFrame
from common.reports import palette

# title, and the axes of the frame that point right, up and towards the viewer, with their signs
VIEWS = (
    ("from the front", ((2, -1), (1, 1), (0, 1))),
    ("from the subject's right", ((0, 1), (1, 1), (2, 1))),
    ("from above", ((2, 1), (0, 1), (1, 1))),
)
NAMES = ("X anterior", "Y proximal", "Z right")
COLOURS = (palette.VERMILLION, palette.GREEN, palette.BLUE)
FACES_COLOUR = palette.ORANGE
ARROW_MM = 45.0
MOST_TRIANGLES = 40_000
LIGHT = 0.35  # grey level of faces seen edge on; those that face the viewer are white


def write_frame_figure(path: Path, shaped: ShapedFrame) -> None:
    """Write the picture, PNG: the surface, the fitted faces and the three axes.

    Raises as `files.writing`.
    """
    from matplotlib.figure import Figure

    frame_from_scanner = geometry.invert(shaped.frame.scanner_from_frame)
    bone = shaped.bone.moved(frame_from_scanner)
    faces = geometry.apply(frame_from_scanner, shaped.faces)
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for panel, (title, directions) in zip(axes, VIEWS, strict=True):
        (across, up, near) = (index for index, _ in directions)
        right, high, front = (sign for _, sign in directions)
        step = 1 + len(bone.areas) // MOST_TRIANGLES
        seen = np.flatnonzero(front * bone.normals[:, near] > 0)[::step]
        seen = seen[np.argsort(front * bone.centres[seen, near])]
        grey = LIGHT + (1 - LIGHT) * np.abs(bone.normals[seen, near])
        points = bone.centres[seen]
        panel.scatter(right * points[:, across], high * points[:, up], c=grey, cmap="gray", s=3,
                      vmin=0, vmax=1.1, linewidths=0)  # fmt: skip
        shown = faces[:: 1 + len(faces) // 3000]
        panel.scatter(right * shown[:, across], high * shown[:, up], c=FACES_COLOUR, s=1.5,
                      alpha=0.35, linewidths=0)  # fmt: skip
        for axis, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
            tip = ARROW_MM * np.eye(3)[axis]
            if axis == near:
                panel.plot(0, 0, "o", color=colour, markersize=7)
                continue
            end = (right * tip[across], high * tip[up])
            panel.annotate("", end, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour,
                           "lw": 2.2})  # fmt: skip
            panel.plot(*end, ",", color=colour)  # keeps the arrow inside the panel
            panel.annotate(name, end, textcoords="offset points", xytext=(0, 5), color=colour,
                           ha="center")  # fmt: skip
        panel.set_title(title)
        panel.set_aspect("equal")
        panel.margins(0.12)
        panel.set_xlabel("mm")
    frame = shaped.frame
    figure.suptitle(
        f"{frame.side} {frame.bone}, method {frame.method}; orange: the faces that were fitted"
    )
    with files.writing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
