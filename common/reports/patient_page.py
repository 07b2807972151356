"""The page of a patient: every registration with its images, measures, 3D scene and origin."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.progress import track
from common.reports import charts, origin, overlays
from common.reports.browser_scene import (
    SceneEntries,
    SurfaceEntries,
    scene_entries,
    surface_entries,
)
from common.reports.pages import columns_of, counted, markup, render, row_of
from common.reports.registered import NUMBERS, Registered, convergence
from common.reports.view_images import ViewImages, view_images
from common.xray.grey_values import as_uint8

if TYPE_CHECKING:
    from markupsafe import Markup

# longest side of an image in pixels, and its WebP quality: about 15 kB per image
IMAGE_PX, IMAGE_QUALITY = 560, 72
# distance of the scale bar from the edges, of the width and height
BAR_MARGIN = 0.05
# every outline has at most about this number of points
OUTLINE_POINTS = 300


@dataclass(frozen=True)
class Figure:
    """One view: both images as URLs, outline and scale bar as paths of an SVG in their pixels."""

    width: int
    height: int
    xray: str
    drr: str
    outline: Markup
    bar: str
    bar_text: str


@dataclass(frozen=True)
class Section:
    """Content of one registration."""

    id: str
    name: str
    scene: bool  # whether the surface of the bone is known
    verdict: str
    reasons: tuple[str, ...]
    flipped: bool
    views: list[Figure]
    numbers: list[tuple[str, str]]
    lineage: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    chart: Markup
    similarity: Markup


def patient_page(name: str, folder: Path, found: Sequence[Registered]) -> str:
    """Return the page of the registrations below a folder."""
    sections: list[Section] = []
    scenes: dict[str, SceneEntries] = {}
    surfaces: dict[str, SurfaceEntries | None] = {}
    for number, registered in enumerate(track(found, what="images", unit="registration")):
        scene = scene_entries(registered)
        if scene.surface not in surfaces:
            surfaces[scene.surface] = surface_entries(registered)
        section = _section(
            registered, f"r{number}", _title(registered, folder), bool(surfaces[scene.surface])
        )
        if section.scene:
            scenes[section.id] = scene
        sections.append(section)
    rows = [
        row_of(registered, section.name, f"#{section.id}")
        for registered, section in zip(found, sections, strict=True)
    ]
    # the least certain first
    order = sorted(range(len(rows)), key=lambda i: (rows[i].doubt, i))
    content = {
        "name": name,
        "items": [sections[i] for i in order],
        "rows": [rows[i] for i in order],
        "columns": columns_of(rows),
        "known": any("mtre_mm" in registered.numbers for registered in found),
        "plotly": plotly_script() if scenes else "",
        "scenes": _store(scenes, surfaces),
    }
    subtitle = f"{counted(len(found), 'registration')} of X-rays to CT"
    return render("patient.html", f"{name}: registered poses", subtitle, content)


def _title(registered: Registered, folder: Path) -> str:
    if registered.folder == folder:
        return folder.resolve().name
    return str(registered.folder.relative_to(folder)).replace(os.sep, ", ")


def _section(registered: Registered, ident: str, name: str, scene: bool) -> Section:
    chart, similarity = _convergence_charts(registered)
    return Section(
        ident,
        name,
        scene,
        registered.verdict,
        registered.result.verdict.reasons,
        bool(registered.result.xray.get("flipped")),
        [_figure(images) for images in view_images(registered)],
        _numbers(registered),
        origin.lineage_of(registered),
        origin.settings_of(registered),
        origin.versions_of(registered),
        chart,
        similarity,
    )


def _figure(images: ViewImages) -> Figure:
    height, width = images.xray.shape
    scale = min(1.0, IMAGE_PX / max(height, width))
    bar_mm = overlays.scale_bar_mm(width * images.pixel_mm)
    bar_px = bar_mm / images.pixel_mm * scale
    width, height = round(width * scale), round(height * scale)
    left, bottom = BAR_MARGIN * width, height - BAR_MARGIN * height
    return Figure(
        width,
        height,
        data_url(images.xray, (width, height)),
        data_url(images.drr, (width, height)),
        markup("".join(svg_path((curve + 0.5) * scale) for curve in images.outline)),
        f"M{left:.1f} {bottom:.1f}h{bar_px:.1f}",
        f"{bar_mm:g} mm",
    )


def data_url(image: np.ndarray, size: tuple[int, int]) -> str:
    """Return an image (H, W) in 0..1 as WebP inside a URL, resized to (width, height)."""
    from PIL import Image

    grey = Image.fromarray(as_uint8(image))
    stream = io.BytesIO()
    grey.resize(size, Image.Resampling.LANCZOS).save(stream, "WEBP", quality=IMAGE_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def svg_path(curve: np.ndarray) -> str:
    """Return a closed curve (N, 2), pixels, as a path of an SVG with fewer points."""
    points = curve[:: max(1, len(curve) // OUTLINE_POINTS)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _convergence_charts(registered: Registered) -> tuple[Markup, Markup]:
    """Charts of the distance from the final pose and of the similarity, over the iterations."""
    approach = convergence(registered.result)
    # levels of the pyramid
    marks = [int(i) + 1 for i in np.flatnonzero(np.diff(approach.scale_mm))]
    distances = {
        "in plane / mm": approach.in_plane_mm,
        "depth / mm": approach.depth_mm,
        "rotation / °": approach.rotation_deg,
    }
    starts = ", ".join(f"{name} from {values[0]:.2g}" for name, values in distances.items())
    count = counted(len(approach.similarity), "iteration")
    chart = charts.lines(
        distances,
        "iteration (dotted: finer level)",
        "distance from final pose",
        f"Distance from the final pose over {count}: {starts} to zero",
        log=True,
        marks=marks,
    )
    similarity = charts.lines(
        {"similarity": approach.similarity},
        "iteration",
        "similarity",
        f"Similarity over the iterations, {approach.similarity[-1]:.2f} at the end",
        marks=marks,
    )
    return markup(chart), markup(similarity)


def _numbers(registered: Registered) -> list[tuple[str, str]]:
    """(quantity, value) of the table of results."""
    result = registered.result
    rows = [
        (NUMBERS[key].title, f"{value:.2f} {NUMBERS[key].unit}".strip())
        for key, value in registered.numbers.items()
    ]
    drrs = registered.evaluation.images if registered.evaluation else {}
    best = drrs.get("high_quality") or drrs.get("final")
    if best:
        rows += [
            (f"{name} of X-ray and DRR", f"{value:.4f}") for name, value in best.similarity.items()
        ]
    return [
        *rows,
        ("fraction of the bone in the image", f"{100 * result.verdict.in_view:.0f} %"),
        ("registration time", f"{result.runtime_s.get('registration', float('nan')):.1f} s"),
    ]


def plotly_script() -> Markup:
    """Return the plotting library, for a page that contains it."""
    from plotly.offline import get_plotlyjs

    return markup(get_plotlyjs())


def _store(scenes: dict[str, SceneEntries], surfaces: dict[str, SurfaceEntries | None]) -> Markup:
    """The scenes as JSON for report.js."""
    content = {
        "scenes": {key: asdict(scene) for key, scene in scenes.items()},
        "surfaces": {key: asdict(surface) for key, surface in surfaces.items() if surface},
    }
    return markup(json.dumps(content, separators=(",", ":")).replace("</", "<\\/"))
