"""Draw the figures of README and documentation: docs/frames.png, docs/view.png and docs/overview.png, the latter from a registered phantom knee.

With --cohort, only docs/training_curve.png, from the models of a finished phantom cohort (workflow/phantom.yaml).

Example:
  python docs/make_figures.py
  python docs/make_figures.py --cohort phantom_cohort/output
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage.measure import find_contours

ROOT = Path(__file__).resolve().parents[1]
INK, BONE, BEAM, BOX = (
    "#333333",
    "#D55E00",
    "#0072B2",
    "#009E73",
)  # Okabe and Ito's colour-blind-safe palette


def draw_frames(path: Path) -> None:
    """The four frames and what carries one into the next, seen from above the patient's head."""
    figure, axes = plt.subplots(figsize=(10, 4.6))
    axes.set_aspect("equal")
    axes.axis("off")
    angle = np.linspace(0, 2 * np.pi, 100)
    axes.fill(2.1 * np.cos(angle) - 5, 1.5 * np.sin(angle), color="#eeeeee")
    axes.fill(0.6 * np.cos(angle) - 5.9, 0.6 * np.sin(angle), color=BONE, alpha=0.6)
    axes.fill(0.6 * np.cos(angle) - 4.1, 0.6 * np.sin(angle), color=BONE, alpha=0.3)
    _axes(axes, (-7.6, -1.9), "R", "A", "scanner", INK)
    axes.text(-5, 1.85, "original CT", ha="center", color=INK)
    axes.add_patch(plt.Rectangle((-6.75, -0.85), 1.7, 1.7, fill=False, edgecolor=BOX, linewidth=2))
    axes.annotate(
        "", (-0.7, 0), (-2.8, 0), arrowprops={"arrowstyle": "->", "color": BOX, "linewidth": 2}
    )
    axes.text(-1.75, 0.25, "scanner_from_volume", ha="center", fontsize=8, color=BOX)
    axes.text(
        -1.75,
        -0.55,
        "crop, mirror,\nalign, centre",
        ha="center",
        va="center",
        fontsize=9,
        color=BOX,
    )
    axes.fill(0.85 * np.cos(angle) + 1.2, 0.85 * np.sin(angle), color=BONE, alpha=0.6)
    axes.add_patch(plt.Rectangle((0.0, -1.2), 2.4, 2.4, fill=False, edgecolor=BOX, linewidth=2))
    _axes(axes, (0.1, -0.82), "R", "A", "volume", BOX)
    axes.text(1.2, 1.4, "prepared volume", ha="center", color=BOX)
    source, detector = np.array([6.0, 2.5]), np.array([[7.0, -2.2], [9.8, -1.3]])
    axes.annotate(
        "",
        np.add(source, (-0.3, -0.5)),
        (2.7, 0.2),
        arrowprops={"arrowstyle": "<-", "color": BEAM, "linewidth": 2},
    )
    axes.text(
        3.3, -0.1, "volume_from_camera\n(the pose)", ha="left", va="top", fontsize=9, color=BEAM
    )
    axes.plot(*source, "o", color=BEAM)
    axes.text(source[0] - 0.2, source[1] + 0.15, "X-ray source", ha="right", color=BEAM)
    axes.plot(*detector.T, color=BEAM, linewidth=4)
    for end in detector:
        axes.plot(*np.stack([source, end]).T, color=BEAM, linewidth=0.8)
    foot = detector.mean(0)
    axes.plot(*np.stack([source, foot]).T, "--", color=BEAM, linewidth=1)
    axes.text(*(0.25 * source + 0.75 * foot + [0.2, 0.1]), "SDD", color=BEAM)
    axes.text(
        foot[0] + 0.2, foot[1] - 0.75, "detector: columns right, rows down", ha="center", color=BEAM
    )
    axes.annotate(
        "",
        source + 0.25 * (foot - source),
        source,
        arrowprops={"arrowstyle": "->", "color": BEAM, "linewidth": 2},
    )
    axes.text(*(source + 0.25 * (foot - source) + [0.15, 0.15]), "z", color=BEAM)
    axes.set_xlim(-8.4, 10.6)
    axes.set_ylim(-3.2, 3.1)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def draw_view(path: Path) -> None:
    """One view from the side: source, principal ray, detector, a point and its pixel."""
    figure, axes = plt.subplots(figsize=(9, 3.6))
    axes.set_aspect("equal")
    axes.axis("off")
    source, foot, depth = np.array([0.0, 0.0]), np.array([10.2, 0.0]), 7.5
    axes.plot([10.2, 10.2], [-2.2, 1.8], color=BEAM, linewidth=5, solid_capstyle="butt")
    axes.plot(*np.stack([source, foot]).T, "--", color=BEAM, linewidth=1)
    axes.plot(*source, "o", color=BEAM, markersize=9)
    axes.text(0, 0.35, "source", ha="center", color=BEAM)
    for start, step, name in ((source, (1.4, 0), "z"), (source, (0, -1.4), "y: rows")):
        axes.annotate(
            "",
            np.add(start, step),
            start,
            arrowprops={"arrowstyle": "->", "color": BEAM, "linewidth": 2},
        )
        axes.text(*np.add(np.add(start, np.multiply(step, 1.05)), (0.1, 0.12)), name, color=BEAM)
    angle = np.linspace(0, 2 * np.pi, 60)
    axes.fill(depth + 0.55 * np.cos(angle), -0.9 + 0.75 * np.sin(angle), color=BONE, alpha=0.5)
    point = np.array([depth, -1.2])
    pixel = point * 10.2 / depth
    axes.plot(*np.stack([source, pixel]).T, color=BONE, linewidth=1)
    axes.plot(*point, "o", color=BONE)
    axes.plot(*pixel, "s", color=BONE)
    axes.text(point[0], 0.15, "bone", ha="center", color=BONE)
    axes.text(pixel[0] + 0.2, pixel[1], "its pixel (column, row)", va="center", color=BONE)
    axes.text(10.4, 0, "principal point", va="center", color=BEAM)
    axes.text(10.4, 1.5, "detector", va="center", color=BEAM)
    for y, stop, name in ((1.1, depth, "depth"), (2.3, 10.2, "SDD")):
        axes.annotate("", (stop, y), (0, y), arrowprops={"arrowstyle": "<->", "color": INK})
        axes.text(stop / 2, y + 0.12, name, ha="center", color=INK)
    axes.set_xlim(-1, 14)
    axes.set_ylim(-2.5, 2.8)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def draw_training(models: Path, path: Path) -> None:
    """Held-out errors of the agnostic models over their training, median in plane and in rotation."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for number, log in enumerate(
        sorted(log for log in models.glob("*.csv") if "_" not in log.stem)
    ):
        rows = list(csv.DictReader(log.open(encoding="utf-8")))
        minutes = [float(row["seconds"]) / 60 for row in rows]
        for panel, column in zip(
            panels, ("in_plane_mm_median", "rotation_deg_median"), strict=True
        ):
            panel.plot(
                minutes,
                [float(row[column]) for row in rows],
                ("-o", "--s")[number % 2],
                color=(BEAM, BONE)[number % 2],
                markersize=4,
                label=log.stem,
            )
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


def _axes(axes, origin, right: str, up: str, name: str, colour: str) -> None:
    for step, label in (((0.8, 0), right), ((0, 0.8), up)):
        axes.annotate(
            "", np.add(origin, step), origin, arrowprops={"arrowstyle": "->", "color": colour}
        )
        axes.text(
            *np.add(origin, np.multiply(step, 1.2)),
            label,
            color=colour,
            ha="center",
            va="center",
            fontsize=9,
        )
    axes.text(origin[0] + 0.05, origin[1] - 0.3, name, color=colour, fontsize=9)


def register_phantom(folder: Path) -> Path:
    """Run the chain on a phantom's left femur; returns the results folder."""

    def run(*words) -> None:
        subprocess.run([sys.executable, *map(str, words)], check=True, cwd=folder)

    run(ROOT / "pipeline/make_phantom.py", "-o", ".", "--patients", 1, "--spacing", 1.2)
    run(
        ROOT / "segmentation_preprocessing.py",
        "-i",
        "P01/segmentations/P01_seg.nii.gz",
        "-o",
        "P01/segmentations",
    )
    run(
        ROOT / "crop_cts.py",
        "--base_dir",
        "P01",
        "--ct_filename",
        "P01_ct.nii.gz",
        "--seg_filename",
        "segmentations/P01_seg_cleaned.nii.gz",
    )
    run(
        ROOT / "pipeline/make_xray.py",
        "--ct",
        "P01/P01_ct.nii.gz",
        "--mask",
        "P01/segmentations/P01_seg.nii.gz",
        "--labels",
        4,
        "--angles",
        12,
        4,
        -5,
        "--size",
        320,
        400,
        "--pixel",
        0.7,
        "-o",
        "x.dcm",
    )
    run(
        ROOT / "registration.py",
        "x.dcm",
        "-v",
        "P01/femur_cts_cropped/P01_femur.nii.gz",
        "--mask",
        "P01/femur_masks_cropped/P01_femur.nii.gz",
        "-o",
        "out",
        "--init",
        "search",
    )
    return folder / "out"


def draw_overview(results_folder: Path, path: Path) -> None:
    """X-ray, start and result with the bone's outline."""
    pictures = [
        np.asarray(Image.open(results_folder / name))
        for name in ("gt.png", "init_image.png", "final_img.png")
    ]
    figure, panels = plt.subplots(1, 3, figsize=(9, 4))
    for panel, outlined, title in zip(
        panels,
        (None, pictures[1], pictures[2]),
        ("X-ray", "start pose (search)", "registered"),
        strict=True,
    ):
        panel.imshow(pictures[0], cmap="gray")
        if outlined is not None:
            for contour in find_contours(outlined.astype(float), 6):
                panel.plot(contour[:, 1], contour[:, 0], color=BONE, linewidth=1.4)
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
