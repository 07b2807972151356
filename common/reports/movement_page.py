"""The page of a movement: curves with bands, X-rays with outlines, bones that move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import geometry
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.movement_inputs import Found
from common.kinematics.movement_summary import AT_DEG, summary_of
from common.kinematics.normal_band import Placed
from common.kinematics.smoother import OUTLIER
from common.kinematics.study import Study
from common.progress import track
from common.reports import charts
from common.reports.browser_scene import SurfaceEntries, surface_entries
from common.reports.kinematics_figure import TITLES
from common.reports.pages import counted, markup, render
from common.reports.patient_page import data_url, plotly_script, svg_path
from common.reports.registered import Registered
from common.results import names

# longest side of an X-ray in pixels: 300 frames are about 4 MB
IMAGE_PX = 420
# longest side of a silhouette whose outline is drawn
OUTLINE_PX = 210
SHOWN = 12  # frames that a remark names


def movement_page(study: Study, remarks: Sequence[str] = ()) -> str:
    """Return the page of a movement, which contains everything it shows.

    ``remarks`` are further lines of its summary.
    """
    found, count = study.found, len(study.found.names)
    pairs = list(zip(*study.inputs.results, strict=True))
    pictures = [_picture(pair) for pair in track(pairs, what="images", unit="frame")]
    scene = _meshes(study)
    first = int(found.known[0]) if len(found.known) else 0
    bones = [frame.bone for frame in study.inputs.frames]
    content = {
        "remarks": [*_remarks(study), *remarks],
        "summary_columns": _summary_columns(study.inputs.quantities),
        "summary": _summary(study),
        "count": count,
        "first": first,
        "width": pictures[first].width,
        "height": pictures[first].height,
        "image": pictures[first].url,
        "flipped": bool(pairs[first][0].result.xray.get("flipped")),
        "bones": bones,
        "charts": _charts(study),
        "smoothed": study.smoothed is not None,
        "normal": study.inputs.normal is not None,
        "scene": scene is not None,
        "plotly": plotly_script() if scene is not None else "",
        "store": _store(study, pictures, scene),
    }
    side = study.inputs.frames[0].side
    subtitle = f"{side} {bones[0]} and {bones[1]}, {counted(count, 'frame')}"
    return render(
        "movement.html", f"{study.inputs.name}: movement", subtitle, content, "movement.js",
        "pipeline/kinematics.py",
    )  # fmt: skip


@dataclass(frozen=True)
class _Picture:
    """An X-ray as a URL, with the outline of each bone as a path of an SVG in its pixels."""

    url: str
    width: int
    height: int
    outlines: tuple[str, str]


def _picture(pair: tuple[Found, Found]) -> _Picture:
    image = pair[0].result.image
    height, width = image.shape
    scale = min(1.0, IMAGE_PX / max(height, width))
    size = (round(width * scale), round(height * scale))
    paths = [_outline(each.folder / names.FINAL_IMAGE, size) for each in pair]
    return _Picture(data_url(image / 255, size), *size, (paths[0], paths[1]))


def _outline(path: Path, size: tuple[int, int]) -> str:
    """Return the outline of the DRR of a result, in an image of a size; empty without a DRR."""
    if not path.is_file():
        return ""
    from PIL import Image

    from common.xray import image_files
    from common.xray.outline import outline

    drr = Image.fromarray(image_files.read(path).grey.astype(np.float32))
    reduced = min(1.0, OUTLINE_PX / max(size))
    small = drr.resize((round(size[0] * reduced), round(size[1] * reduced)))
    curves = outline(np.asarray(small, float))
    return "".join(svg_path((curve + 0.5) / reduced) for curve in curves)


def _meshes(study: Study) -> list[dict[str, Any]] | None:
    """Return both surfaces in their anatomical frames, or None if a CT is missing."""
    entries = []
    for results, frame in zip(study.inputs.results, study.inputs.frames, strict=True):
        one = results[0]
        surface = surface_entries(Registered(one.folder, one.result, None))
        if surface is None:
            return None
        entries.append({"name": frame.bone, **_in_frame(surface, one, frame)})
    return entries


def _in_frame(surface: SurfaceEntries, one: Found, frame: AnatomicalFrame) -> dict[str, Any]:
    frame_from_volume = geometry.invert(frame.scanner_from_frame) @ np.array(
        one.result.drr["scanner_from_volume"], float
    )
    vertices = geometry.apply(frame_from_volume, np.reshape(surface.vertices, (-1, 3)))
    triangles = np.reshape(surface.triangles, (-1, 3))
    if np.linalg.det(frame_from_volume[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    return {"vertices": vertices.round(1).ravel().tolist(), "triangles": triangles.ravel().tolist()}


def _title(quantity: str) -> tuple[str, str]:
    """Return the name and the unit of a quantity."""
    name, _, unit = quantity.rpartition("_")
    return TITLES.get(quantity, name), "°" if unit == "deg" else unit


def suspect_frames(study: Study) -> list[int]:
    """Return the frames whose pose is suspect, or that hardly counted in the smoothing."""
    weights = None if study.smoothed is None else study.smoothed.weights
    return [
        number
        for number, pair in enumerate(zip(*study.inputs.results, strict=True))
        if any(each.result.verdict.code == "suspect" for each in pair)
        or (weights is not None and weights[number] < OUTLIER)
    ]


def _charts(study: Study) -> list[tuple[str, Any]]:
    found, smoothed, times = study.found, study.smoothed, study.inputs.times
    across = np.arange(len(found.names), dtype=float) if times is None else times
    half, suspect, drawn = found.band(), suspect_frames(study), []
    for number, quantity in enumerate(study.inputs.quantities):
        title, unit = _title(quantity)
        curves = {"registered": charts.Curve(found.values[:, number], half[:, number])}
        if smoothed is not None:
            curves["smoothed"] = charts.Curve(smoothed.values[:, number], smoothed.half[:, number])
        bounds = None if study.inputs.normal is None else study.inputs.normal.bounds(quantity)
        if bounds is not None:
            low, high = bounds
            curves["normal"] = charts.Curve((low + high) / 2, (high - low) / 2)
        label = f"{title} over the movement with its 95 % band"
        x_title = "frame" if times is None else "time / s"
        chart = charts.banded(across, curves, x_title, f"{title} / {unit}", label, suspect)
        drawn.append((title, markup(chart)))
    return drawn


def _summary_columns(quantities: Sequence[str]) -> list[str]:
    at = [f"at {angle:g}° of flexion" for angle in AT_DEG] if "FE_deg" in quantities else []
    return ["lowest", "highest", "95 % band", *at]


def _summary(study: Study) -> list[tuple[str, list[str]]]:
    """Return the rows of the summary table; of smoothed numbers if there are."""
    half = study.found.band() if study.smoothed is None else study.smoothed.half
    stated = summary_of(study.best, study.inputs.quantities)
    rows = []
    for number, quantity in enumerate(study.inputs.quantities):
        title, unit = _title(quantity)
        low, high = stated.get("range", {}).get(quantity, (np.nan, np.nan))
        known = half[np.isfinite(half[:, number]), number]
        width = f"± {np.median(known):.2f}" if len(known) else ""
        at = [
            stated.get("at_flexion", {}).get(f"{angle:g}", {}).get(quantity, np.nan)
            for angle in (AT_DEG if "FE_deg" in study.inputs.quantities else ())
        ]
        cells = [f"{x:.1f}" if np.isfinite(x) else "" for x in (low, high, *at)]
        rows.append((f"{title} / {unit}", [*cells[:2], width, *cells[2:]]))
    return rows


def _remarks(study: Study) -> list[str]:
    found, suspect = study.found, suspect_frames(study)
    known = set(found.known.tolist())
    gaps = [name for number, name in enumerate(found.names) if number not in known]
    lines = [f"{len(known)} of {counted(len(found.names), 'frame')} have a pose of both bones."]
    if gaps:
        lines.append(f"No pose: {_listed(gaps)}.")
    if suspect:
        listed = _listed([found.names[number] for number in suspect])
        lines.append(f"Suspect, and possibly wrong by any amount: {listed}.")
    largest = found.frame_band()[found.known]
    if len(largest) and largest.max() > 0:
        parts = [
            f"{_title(name)[0]} ± {width:.1f} {_title(name)[1]}"
            for name, width in zip(study.inputs.quantities, largest.max(axis=0), strict=True)
        ]
        lines.append(
            "Systematic 95 % band of the anatomical frames, the same error in all frames: "
            + ", ".join(parts) + "."
        )  # fmt: skip
    if study.smoothed is not None:
        lines.append("The table has smoothed numbers; curves show both.")
    if study.inputs.normal is not None:
        lines.append(_normal_remark(study, study.inputs.normal))
    return lines


def _normal_remark(study: Study, normal: Placed) -> str:
    """Return how often the movement is outside the normal band."""
    stated = normal.entries(study.best, study.inputs.quantities)
    parts = [
        f"{_title(name)[0]} {stated[name]['outside']} of {stated[name]['frames']}"
        for name in study.inputs.quantities
        if name in stated
    ]
    return f"Frames outside the normal band of {normal.band.name}: {', '.join(parts)}."


def _listed(all_names: Sequence[str]) -> str:
    more = len(all_names) - SHOWN
    return ", ".join(all_names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _store(study: Study, pictures: Sequence[_Picture], scene: list[dict[str, Any]] | None) -> Any:
    """Return what the script of the page reads, as JSON."""
    found, half = study.found, study.found.band()
    known = set(found.known.tolist())
    rows, poses, shown, verdicts = [], [], [], []
    for number, name in enumerate(found.names):
        time = "" if study.inputs.times is None else f", {study.inputs.times[number]:.3f} s"
        shown.append(f"{name}{time}")
        has = number in known
        rows.append(
            [f"{v:.2f} ± {h:.2f}" for v, h in zip(found.values[number], half[number], strict=True)]
            if has
            else None
        )
        pose = found.proximal_from_distal[number][:3]
        poses.append(pose.round(5).ravel().tolist() if has else None)
        verdicts.append(
            [
                (frame.bone, results[number].result.verdict.code)
                for frame, results in zip(study.inputs.frames, study.inputs.results, strict=True)
            ]
        )
    content = {
        "names": shown,
        "titles": [" / ".join(_title(each)) for each in study.inputs.quantities],
        "rows": rows,
        "verdicts": verdicts,
        "images": [picture.url for picture in pictures],
        "outlines": [picture.outlines for picture in pictures],
        "poses": poses,
        "meshes": scene,
    }
    return markup(json.dumps(content, separators=(",", ":")).replace("</", "<\\/"))
