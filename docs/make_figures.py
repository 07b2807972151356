"""Draw the figures of README and documentation.

writes  docs/frames.png, docs/view.png, and docs/overview.png from a registered phantom knee; with
        --cohort only docs/training_curve.png, from the models of a finished phantom cohort
        (workflow/phantom.yaml)

example
  python docs/make_figures.py
  python docs/make_figures.py --cohort phantom_cohort/output
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.reports import palette
from common.results import names
from common.xray.outline import outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
INK = "#333333"
BONE, BEAM, BOX = palette.VERMILLION, palette.BLUE, palette.GREEN
TISSUE = "#eeeeee"
ANGLES = np.linspace(0, 2 * np.pi, 100)


def draw_frames(path: Path) -> None:
    """Draw the frames and the transforms between them, seen from above the patient's head."""
    figure, axes = _new_drawing((10, 4.6))
    _draw_scanner(axes)
    _arrow(axes, (-2.8, 0), (-0.7, 0), BOX, 2)
    axes.text(-1.75, 0.25, "scanner_from_volume", ha="center", fontsize=8, color=BOX)
    steps = "crop, mirror,\nalign, centre"
    axes.text(-1.75, -0.55, steps, ha="center", va="center", fontsize=9, color=BOX)
    _ellipse(axes, (1.2, 0), (0.85, 0.85), BONE, 0.6)
    _box(axes, (0.0, -1.2), 2.4)
    _draw_axes(axes, (0.1, -0.82), "R", "A", "volume", BOX)
    axes.text(1.2, 1.4, "prepared volume", ha="center", color=BOX)
    source = np.array([6.0, 2.5])
    _arrow(axes, np.add(source, (-0.3, -0.5)), (2.7, 0.2), BEAM, 2)
    pose = "volume_from_camera\n(the pose)"
    axes.text(3.3, -0.1, pose, ha="left", va="top", fontsize=9, color=BEAM)
    _draw_camera(axes, source, np.array([[7.0, -2.2], [9.8, -1.3]]))
    axes.set_xlim(-8.4, 10.6)
    axes.set_ylim(-3.2, 3.1)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _draw_scanner(axes: Axes) -> None:
    """Two bones inside the original CT, and the crop box around one of them."""
    _ellipse(axes, (-5, 0), (2.1, 1.5), TISSUE, 1)
    _ellipse(axes, (-5.9, 0), (0.6, 0.6), BONE, 0.6)
    _ellipse(axes, (-4.1, 0), (0.6, 0.6), BONE, 0.3)
    _draw_axes(axes, (-7.6, -1.9), "R", "A", "scanner", INK)
    axes.text(-5, 1.85, "original CT", ha="center", color=INK)
    _box(axes, (-6.75, -0.85), 1.7)


def _draw_camera(axes: Axes, source: np.ndarray, detector: np.ndarray) -> None:
    """The source (2,), the ends of the detector (2, 2), and the z axis between them."""
    foot = detector.mean(0)
    axes.plot(*source, "o", color=BEAM)
    axes.text(source[0] - 0.2, source[1] + 0.15, "X-ray source", ha="right", color=BEAM)
    axes.plot(*detector.T, color=BEAM, linewidth=4)
    for end in detector:
        axes.plot(*np.stack([source, end]).T, color=BEAM, linewidth=0.8)
    axes.plot(*np.stack([source, foot]).T, "--", color=BEAM, linewidth=1)
    x, y = 0.25 * source + 0.75 * foot
    axes.text(x + 0.2, y + 0.1, "SDD", color=BEAM)
    columns = "detector: columns right, rows down"
    axes.text(foot[0] + 0.2, foot[1] - 0.75, columns, ha="center", color=BEAM)
    x, y = source + 0.25 * (foot - source)
    _arrow(axes, source, (x, y), BEAM, 2)
    axes.text(x + 0.15, y + 0.15, "z", color=BEAM)


def draw_view(path: Path) -> None:
    """Draw one view from the side: source, principal ray, detector, a point and its pixel."""
    figure, axes = _new_drawing((9, 3.6))
    source, sdd, depth = np.array([0.0, 0.0]), 10.2, 7.5
    axes.plot([sdd, sdd], [-2.2, 1.8], color=BEAM, linewidth=5, solid_capstyle="butt")
    axes.plot([0, sdd], [0, 0], "--", color=BEAM, linewidth=1)
    axes.plot(*source, "o", color=BEAM, markersize=9)
    axes.text(0, 0.35, "source", ha="center", color=BEAM)
    for end, name in (((1.4, 0), "z"), ((0, -1.4), "y: rows")):
        _arrow(axes, source, end, BEAM, 2)
        axes.text(*np.add(np.multiply(end, 1.05), (0.1, 0.12)), name, color=BEAM)
    _ellipse(axes, (depth, -0.9), (0.55, 0.75), BONE, 0.5)
    point = np.array([depth, -1.2])
    pixel = point * sdd / depth
    axes.plot(*np.stack([source, pixel]).T, color=BONE, linewidth=1)
    axes.plot(*point, "o", color=BONE)
    axes.plot(*pixel, "s", color=BONE)
    axes.text(point[0], 0.15, "bone", ha="center", color=BONE)
    axes.text(pixel[0] + 0.2, pixel[1], "its pixel (column, row)", va="center", color=BONE)
    axes.text(10.4, 0, "principal point", va="center", color=BEAM)
    axes.text(10.4, 1.5, "detector", va="center", color=BEAM)
    for y, stop, name in ((1.1, depth, "depth"), (2.3, sdd, "SDD")):
        axes.annotate("", (stop, y), (0, y), arrowprops={"arrowstyle": "<->", "color": INK})
        axes.text(stop / 2, y + 0.12, name, ha="center", color=INK)
    axes.set_xlim(-1, 14)
    axes.set_ylim(-2.5, 2.8)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def _new_drawing(size_in: tuple[float, float]):
    figure, axes = plt.subplots(figsize=size_in)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def _arrow(axes: Axes, start, end, colour: str, width: float = 1.5) -> None:
    style = {"arrowstyle": "->", "color": colour, "linewidth": width}
    axes.annotate("", tuple(end), tuple(start), arrowprops=style)


def _ellipse(axes: Axes, centre, radii, colour: str, alpha: float) -> None:
    x, y = centre[0] + radii[0] * np.cos(ANGLES), centre[1] + radii[1] * np.sin(ANGLES)
    axes.fill(x, y, color=colour, alpha=alpha)


def _box(axes: Axes, corner: tuple[float, float], side: float) -> None:
    axes.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor=BOX, linewidth=2))


def _draw_axes(axes: Axes, origin, right: str, up: str, name: str, colour: str) -> None:
    for step, label in (((0.8, 0), right), ((0, 0.8), up)):
        end = np.add(origin, step)
        axes.annotate("", end, origin, arrowprops={"arrowstyle": "->", "color": colour})
        x, y = np.add(origin, np.multiply(step, 1.2))
        axes.text(x, y, label, color=colour, ha="center", va="center", fontsize=9)
    axes.text(origin[0] + 0.05, origin[1] - 0.3, name, color=colour, fontsize=9)


def draw_training(models: Path, path: Path) -> None:
    """Plot the held-out errors of the agnostic models over training time: medians."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    logs = sorted(log for log in models.glob("*.csv") if "_" not in log.stem)
    for number, log in enumerate(logs):
        rows = list(csv.DictReader(log.open(encoding="utf-8")))
        minutes = [float(row["seconds"]) / 60 for row in rows]
        style, colour = (("-o", BEAM), ("--s", BONE))[number % 2]
        for panel, column in zip(
            panels, ("in_plane_mm_median", "rotation_deg_median"), strict=True
        ):
            errors = [float(row[column]) for row in rows]
            panel.plot(minutes, errors, style, color=colour, markersize=4, label=log.stem)
    for panel, title in zip(panels, ("in plane / mm", "rotation / °"), strict=True):
        panel.set(
            xlabel="minutes of training, two cores",
            ylabel=f"held-out error, median: {title}",
            ylim=(0, None),
        )
        panel.grid(color="#dddddd")
        panel.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


# the chain on the left femur of a phantom
CHAIN = """
pipeline/make_phantom.py -o . --patients 1 --spacing 1.2
segmentation_preprocessing.py -i P01/segmentations/P01_seg.nii.gz -o P01/segmentations
crop_cts.py --base_dir P01 --ct_filename P01_ct.nii.gz \\
  --seg_filename segmentations/P01_seg_cleaned.nii.gz
pipeline/make_xray.py --ct P01/P01_ct.nii.gz --mask P01/segmentations/P01_seg.nii.gz --labels 4 \\
  --angles 12 4 -5 --size 320 400 --pixel 0.7 -o x.dcm
registration.py x.dcm -v P01/femur_cts_cropped/P01_femur.nii.gz \\
  --mask P01/femur_masks_cropped/P01_femur.nii.gz -o out --init search
"""


def register_phantom(folder: Path) -> Path:
    """Run the chain in a folder; return the results folder."""
    for command in CHAIN.replace("\\\n", "").strip().splitlines():
        name, *arguments = shlex.split(command)
        subprocess.run([sys.executable, str(ROOT / name), *arguments], check=True, cwd=folder)
    return folder / "out"


def draw_overview(results_folder: Path, path: Path) -> None:
    """Draw the X-ray, and the outline of the bone at the start pose and at the final pose."""
    xray, start, final = (np.asarray(Image.open(results_folder / name)) for name in names.IMAGES)
    figure, panels = plt.subplots(1, 3, figsize=(9, 4))
    titles = ("X-ray", "start pose (search)", "registered")
    for panel, drr, title in zip(panels, (None, start, final), titles, strict=True):
        panel.imshow(xray, cmap="gray")
        for curve in outline(drr.astype(float)) if drr is not None else ():
            panel.plot(*curve.T, color=BONE, linewidth=1.4)
        panel.set_title(title)
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cohort", type=Path, metavar="OUTPUT", help="output folder of a finished phantom cohort"
    )
    cohort = parser.parse_args().cohort
    if cohort:
        draw_training(cohort / "models", ROOT / "docs/training_curve.png")
        sys.exit()
    draw_frames(ROOT / "docs/frames.png")
    draw_view(ROOT / "docs/view.png")
    with tempfile.TemporaryDirectory() as folder:
        draw_overview(register_phantom(Path(folder)), ROOT / "docs/overview.png")
