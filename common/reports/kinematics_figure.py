"""Figure of a movement: every joint coordinate over time with its 95 % band."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import files
from common.kinematics.smoother import OUTLIER
from common.kinematics.study import Study
from common.reports import figures, palette

WIDTH_IN, HEIGHT_IN = 7.1, 3.6
TITLES = {
    "FE_deg": "flexion",
    "VV_deg": "varus",
    "IE_deg": "internal rotation",
    "ML_mm": "lateral",
    "AP_mm": "anterior",
    "PD_mm": "distraction",
}


def write_figure(path: Path, study: Study) -> None:
    """Write six panels as PNG, PDF or SVG, by the ending.

    A frame without a pose is a gap; one that hardly counted in the smoothing is ringed. A normal
    band is grey.
    """
    found, smoothed = study.found, study.smoothed
    times, normal = study.inputs.times, study.inputs.normal
    with figures.style():
        figure = figures.new(WIDTH_IN, HEIGHT_IN)
        across = np.arange(len(found.names)) if times is None else times
        half = found.band()
        for number, (panel, name) in enumerate(
            zip(figure.subplots(2, 3).ravel(), study.inputs.quantities, strict=True)
        ):
            title, _, unit = name.rpartition("_")
            panel.set_ylabel(f"{TITLES.get(name, title)} ({'°' if unit == 'deg' else unit})")
            panel.set_xlabel("frame" if times is None else "time (s)")
            bounds = None if normal is None else normal.bounds(name)
            if bounds is not None:
                panel.fill_between(across, *bounds, color="#bbbbbb", alpha=0.5, linewidth=0)
            raw = found.values[:, number]
            panel.fill_between(across, raw - half[:, number], raw + half[:, number],
                               color=palette.BLUE, alpha=0.25, linewidth=0)  # fmt: skip
            panel.plot(across, raw, ".-", color=palette.BLUE, markersize=2.5, linewidth=0.6)
            if smoothed is not None:
                panel.plot(across, smoothed.values[:, number], color=palette.VERMILLION,
                           linewidth=1.0)  # fmt: skip
                suspect = smoothed.weights < OUTLIER
                panel.plot(across[suspect], raw[suspect], "o", color=palette.VERMILLION,
                           fillstyle="none", markersize=6)  # fmt: skip
            panel.grid(True, color="#dddddd")
        with files.writing(path) as stream:
            figure.savefig(stream, format=path.suffix[1:].lower(), dpi=figures.DPI)
