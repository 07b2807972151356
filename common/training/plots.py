"""Images of a training run: a sheet of samples and the learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import files
from common.files import pictures
from common.xray import grey_values


def save_samples(path: Path, images: np.ndarray, columns: int = 8) -> None:
    """Save a sheet of the network's input images (N, H, W) as PNG; an incomplete row is dropped."""
    rows = [
        np.concatenate(list(images[start : start + columns]), axis=1)
        for start in range(0, len(images) - columns + 1, columns)
    ]
    pictures.write_png(path, grey_values.stretched(np.concatenate(rows)))


def save_curve(path: Path, history: Sequence[dict[str, float]], title: str) -> None:
    """Save a plot of loss and held-out errors over the minutes of training as PNG."""
    from matplotlib.figure import Figure

    minutes = [row["seconds"] / 60 for row in history]

    def column(name: str) -> list[float]:
        return [row[name] for row in history]

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(minutes, column("loss_mm"), marker="o", color="0.3", label="training loss")
    for name, label in (("mtre_mm", "mTRE"), ("in_plane_mm", "in plane"), ("depth_mm", "depth")):
        (line,) = left.plot(
            minutes, column(f"{name}_median"), marker="o", label=f"{label}, held out"
        )
        left.plot(minutes, column(f"{name}_p90"), linestyle=":", color=line.get_color())
    left.set(xlabel="minutes", ylabel="mm (median; dotted: 90th percentile)", yscale="log")
    left.legend(fontsize=8)
    right.plot(minutes, column("rotation_deg_median"), marker="o", label="rotation, held out")
    right.plot(minutes, column("rotation_deg_p90"), linestyle=":", color="C0")
    right.set(xlabel="minutes", ylabel="degrees (median; dotted: 90th percentile)", ylim=(0, None))
    share = right.twinx()
    percent = [100 * value for value in column("share_within_reach")]
    share.plot(minutes, percent, color="C2", marker="o")
    share.set(ylabel="% within reach of refinement (green)", ylim=(0, 100))
    figure.suptitle(title)
    with files.writing(path) as stream:
        figure.savefig(stream, dpi=110, format="png")
