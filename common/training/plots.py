"""Pictures of a training run: sample DRRs and the learning curve. matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files


def save_samples(path: Path, images: np.ndarray, columns: int = 8) -> None:
    """A sheet of pictures (N, H, W) as the network sees them."""
    from PIL import Image

    rows = [
        np.concatenate(list(images[start : start + columns]), axis=1)
        for start in range(0, len(images) - columns + 1, columns)
    ]
    sheet = np.concatenate(rows)
    grey = np.clip((sheet - sheet.min()) / max(np.ptp(sheet), 1e-6) * 255, 0, 255).astype(np.uint8)
    with files.writing(path) as stream:
        Image.fromarray(grey).save(stream, format="PNG")


def save_curve(path: Path, history: list[dict[str, float]], title: str) -> None:
    """Loss and held-out errors over the minutes of training."""
    from matplotlib.figure import Figure

    minutes = [row["seconds"] / 60 for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(
        minutes, [row["loss_mm"] for row in history], marker="o", color="0.3", label="training loss"
    )
    for name, label in (("mtre_mm", "mTRE"), ("in_plane_mm", "in plane"), ("depth_mm", "depth")):
        (line,) = left.plot(
            minutes,
            [row[f"{name}_median"] for row in history],
            marker="o",
            label=f"{label}, held out",
        )
        left.plot(
            minutes, [row[f"{name}_p90"] for row in history], linestyle=":", color=line.get_color()
        )
    left.set(xlabel="minutes", ylabel="mm (median; dotted: 90th percentile)", yscale="log")
    left.legend(fontsize=8)
    right.plot(
        minutes,
        [row["rotation_deg_median"] for row in history],
        marker="o",
        label="rotation, held out",
    )
    right.plot(minutes, [row["rotation_deg_p90"] for row in history], linestyle=":", color="C0")
    right.set(xlabel="minutes", ylabel="degrees (median; dotted: 90th percentile)", ylim=(0, None))
    share = right.twinx()
    share.plot(
        minutes, [100 * row["share_within_reach"] for row in history], color="C2", marker="o"
    )
    share.set(ylabel="% within reach of refinement (green)", ylim=(0, 100))
    figure.suptitle(title)
    with files.writing(path) as stream:
        figure.savefig(stream, dpi=110, format="png")
