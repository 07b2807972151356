"""The pages of a report: what a patient's and a cohort's registrations become in the templates."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.progress import track
from common.reports import charts, overlays, registered
from common.reports.registered import NUMBERS, Registered
from common.results import cohort

TEMPLATES = Path(__file__).resolve().parent / "templates"
SEVERITY = ("missing", "failed", "suspect", "unknown", "ok")
PICTURE_PX, PICTURE_QUALITY = 560, 72  # longest side and WebP quality: some 15 kB a picture
BAR_MARGIN = 0.05
PACKAGES = ("torch", "numpy", "scipy", "numba", "diffdrr")


@dataclass(frozen=True)
class Column:
    """A column of a table of registrations."""

    title: str
    unit: str = ""
    number: bool = False

    def format(self, value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"


def patient_page(name: str, folder: Path, found: Sequence[Registered]) -> str:
    """One patient's (or any folder's) registrations as a page."""
    from plotly.offline import get_plotlyjs

    items, scenes, surfaces = [], {}, {}
    for number, one in enumerate(track(found, what="pictures", unit="registration")):
        title = (
            str(one.folder.relative_to(folder)).replace(os.sep, ", ")
            if one.folder != folder
            else folder.resolve().name
        )
        ident = f"r{number}"
        volume, scene = registered.scene_of(one)
        if volume not in surfaces:
            surfaces[volume] = registered.surface_of(one)
        if surfaces[volume]:
            scenes[ident] = {**scene, "surface": volume}
        items.append({"id": ident, "name": title, "scene": ident in scenes, **_about(one)})
    rows = [
        _row(one, item["name"], f"#{item['id']}") for one, item in zip(found, items, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["severity"], i))
    drawn = {volume: surface for volume, surface in surfaces.items() if surface}
    content = {
        "name": name,
        "items": [items[i] for i in order],
        "rows": [rows[i] for i in order],
        "columns": _columns("registration", rows),
        "known": any("mtre_mm" in one.numbers for one in found),
        "plotly": _markup(get_plotlyjs()) if scenes else "",
        "scenes": _markup(
            json.dumps({"scenes": scenes, "surfaces": drawn}, separators=(",", ":")).replace(
                "</", "<\\/"
            )
        ),
    }
    return _render(
        "patient.html",
        f"{name}: where the bone was",
        f"{len(found)} registration{'s' if len(found) != 1 else ''} of X-rays to CT",
        content,
    )


def cohort_page(
    name: str,
    output: Path,
    patients: Sequence[cohort.Patient],
    bones: Sequence[str],
    page_folder: Path,
) -> str:
    """All registrations of a cohort's table as a page, whether they are there or not."""
    rows, values = [], {key: {bone: [] for bone in bones} for key in NUMBERS}
    expected = [
        (patient, xray, bone) for patient in patients for xray in patient.xrays for bone in bones
    ]
    for patient, xray, bone in track(expected, what="reading", unit="registration"):
        title = f"{patient.name}, {bone}, {xray.view}"
        about = {"patient": patient.name, "bone": bone, "side": xray.side, "view": xray.view}
        trouble = cohort.trouble(output, patient.name, bone, xray)
        if trouble:
            rows.append(
                {
                    **dict.fromkeys(NUMBERS),
                    **about,
                    "name": title,
                    "link": "",
                    "verdict": "missing",
                    "severity": 0,
                    "reason": f"{trouble[0]}: {trouble[1]}",
                }
            )
            continue
        one = registered.load(output / cohort.results_folder(patient.name, bone, xray.view))
        report = output / "reports" / f"{patient.name}.html"
        rows.append(
            {
                **_row(one, title, os.path.relpath(report, page_folder) if report.exists() else ""),
                **about,
            }
        )
        for key, value in one.numbers.items():
            values[key][bone].append(value)
    rows.sort(key=lambda row: row["severity"])
    counts = [(verdict, sum(row["verdict"] == verdict for row in rows)) for verdict in SEVERITY]
    content = {
        "rows": rows,
        "columns": {**_columns("registration", rows), "side": Column("side")},
        "counts": [(verdict, count) for verdict, count in counts if count],
        "charts": [
            _distribution(key, groups) for key, groups in values.items() if any(groups.values())
        ],
    }
    return _render(
        "cohort.html",
        f"{name}: all registrations",
        f"{len(patients)} patients, {len(rows)} registrations",
        content,
    )


def _row(one: Registered, name: str, link: str) -> dict[str, Any]:
    severity = SEVERITY.index(one.verdict) if one.verdict in SEVERITY else SEVERITY.index("unknown")
    return {
        **dict.fromkeys(NUMBERS),
        **one.numbers,
        "name": name,
        "link": link,
        "verdict": one.verdict,
        "severity": severity,
        "reason": "; ".join(one.reasons),
    }


def _columns(first: str, rows: Sequence[dict[str, Any]]) -> dict[str, Column]:
    """The columns that any row fills."""
    filled = {
        key: Column(title, unit, True)
        for key, (title, unit) in NUMBERS.items()
        if any(row[key] is not None for row in rows)
    }
    return {"name": Column(first), "verdict": Column("verdict"), **filled}


def _about(one: Registered) -> dict[str, Any]:
    """Everything a patient's page says about one registration."""
    result = one.result
    return {
        "verdict": one.verdict,
        "reasons": one.reasons,
        "flipped": bool(result.xray.get("flipped")),
        "views": [_picture(shown) for shown in registered.shown_views(one)],
        "numbers": _numbers(one),
        "lineage": registered.lineage_of(one),
        "settings": [
            (key, registered.plain(value))
            for key, value in {**_geometry(one), **result.settings}.items()
            if value is not None
        ],
        "versions": sorted({**files.versions(*PACKAGES), **result.versions}.items()),
        **_charts(one),
    }


def _picture(shown: registered.Shown) -> dict[str, Any]:
    """One view: both pictures as URLs, the outline and the scale bar as paths of an SVG in their pixels."""
    scale = min(1.0, PICTURE_PX / max(shown.xray.shape))
    height, width = (round(side * scale) for side in shown.xray.shape)
    bar_mm = overlays.scale_bar(shown.xray.shape[1] * shown.pixel_mm)
    return {
        "width": width,
        "height": height,
        "xray": data_url(shown.xray, (width, height)),
        "drr": data_url(shown.drr, (width, height)),
        "outline": _markup("".join(_path((curve + 0.5) * scale) for curve in shown.outline)),
        "bar": (
            f"M{BAR_MARGIN * width:.1f}"
            f" {height - BAR_MARGIN * height:.1f}h{bar_mm / shown.pixel_mm * scale:.1f}"
        ),
        "bar_text": f"{bar_mm:g} mm",
    }


def _charts(one: Registered) -> dict[str, Any]:
    way = registered.convergence(one.result)
    marks = [int(i) + 1 for i in np.flatnonzero(np.diff(way["scale"]))]
    distances = {
        "in plane / mm": way["in_plane_mm"],
        "depth / mm": way["depth_mm"],
        "rotation / °": way["rotation_deg"],
    }
    starts = ", ".join(f"{name} from {values[0]:.2g}" for name, values in distances.items())
    label = f"Distance from the final pose over {len(way['scale'])} steps: {starts} to zero"
    return {
        "chart": _markup(
            charts.lines(
                distances,
                "step (dotted: finer pictures)",
                "from the final pose",
                label,
                log=True,
                marks=marks,
            )
        ),
        "similarity": _markup(
            charts.lines(
                {"similarity": way["similarity"]},
                "step",
                "similarity",
                f"Similarity over the steps, ending at {way['similarity'][-1]:.2f}",
                marks=marks,
            )
        ),
    }


def _numbers(one: Registered) -> list[tuple[str, str]]:
    rows = [
        (f"{title}", f"{value:.2f} {unit}".strip())
        for (title, unit), value in ((NUMBERS[key], value) for key, value in one.numbers.items())
    ]
    final = one.evaluation.get("pictures", {})
    best = final.get("high_quality", final.get("final", {})).get("similarity", {})
    rows += [(f"{name} of X-ray and DRR", f"{value:.4f}") for name, value in best.items()]
    if "in_view" in one.result.verdict:
        rows.append(
            ("share of the bone in the picture", f"{100 * one.result.verdict['in_view']:.0f} %")
        )
    return [
        *rows,
        ("registration took", f"{one.result.runtime_s.get('registration', float('nan')):.1f} s"),
    ]


def _geometry(one: Registered) -> dict[str, Any]:
    detector = one.result.detector
    known = {
        key: one.result.xray[key]
        for key in ("geometry", "bone", "decided_by", "linearised")
        if key in one.result.xray
    }
    return {
        "volume": one.volume_path.name,
        "source to detector": f"{detector.sdd_mm:g} mm",
        "pixel": f"{detector.pixel_mm[0]:.4g} x {detector.pixel_mm[1]:.4g} mm",
        "detector": f"{detector.width} x {detector.height} pixels",
        **known,
    }


def _distribution(key: str, groups: dict[str, list[float]]) -> tuple[str, Any]:
    title, unit = NUMBERS[key]
    every = np.concatenate([np.array(values) for values in groups.values()])
    worst = 5 if key == "similarity" else 95
    label = (
        f"{title}: median {np.median(every):.2f}{unit and ' ' + unit}, {worst} % below"
        f" {np.percentile(every, worst):.2f}{unit and ' ' + unit}"
    )
    chart = charts.histogram(
        {bone: np.array(values) for bone, values in groups.items()},
        title + (f" / {unit}" if unit else ""),
        label,
    )
    return label, _markup(chart)


def data_url(picture: np.ndarray, size: tuple[int, int]) -> str:
    """A picture (H, W) in 0..1 as WebP inside a URL."""
    from PIL import Image

    image = Image.fromarray((picture * 255).round().astype(np.uint8)).resize(
        size, Image.Resampling.LANCZOS
    )
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=PICTURE_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def _path(curve: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in curve[:: max(1, len(curve) // 300)]) + "Z"


def _markup(text: str):
    from markupsafe import Markup

    return Markup(text)


def _render(template: str, title: str, subtitle: str, content: dict[str, Any]) -> str:
    import datetime

    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    style, script = (
        _markup((TEMPLATES / file).read_text(encoding="utf-8"))
        for file in ("style.css", "report.js")
    )
    footer = (
        f"Written {datetime.date.today().isoformat()} by pipeline/report.py; everything on this"
        " page is inside this file."
    )
    return environment.get_template(template).render(
        title=title, subtitle=subtitle, footer=footer, style=style, script=script, **content
    )
