"""The preflight check itself: findings about setup and orientation, and the table.

A quick registration shows whether the X-ray fits. Only if it does not, flipped, rotated and
inverted images are tried, and only a clearly better one becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from common import geometry
from common.drr.renderer import ImageRenderer
from common.errors import InputError
from common.registration.competition import compete_from
from common.registration.preflight.orientation import orientation_findings, orientation_fits
from common.registration.preflight.report import Finding, Report
from common.registration.preflight.setup import (
    depth_findings,
    detector_findings,
    distance_findings,
    patient_findings,
    view_findings,
)
from common.registration.scene import Structure, View
from common.registration.starts import Starter
from common.volume.lineage import Lineage
from common.xray.xray import Xray

QUICK_STARTS = 4  # start poses of a search that a quick registration refines
SHOWN_FITS = 3  # rows of the table


def examine(
    xray: Xray,
    renderer: ImageRenderer,
    points: np.ndarray,
    camera: np.ndarray,
    lineage: Lineage,
    fit: Callable[[Xray], float] | None = None,
) -> Report:
    """Check an X-ray against a body at the start pose ``camera`` (volume_from_camera).

    The body is given by its renderer and points (N, 3), mm in the volume frame. ``fit`` registers
    an X-ray quickly and returns the similarity; without it, the orientation is not checked.
    """
    detector = xray.detector
    depth_mm = float(geometry.apply(geometry.invert(camera), renderer.centre_mm)[2])
    in_view = geometry.share_in_view(points, detector, camera)
    findings = detector_findings(detector) + depth_findings(detector, depth_mm)
    drr = np.zeros((detector.height, detector.width), np.float32)
    if depth_mm > 0:
        findings += view_findings(in_view)
        drr = renderer.render(camera[None], detector)[0]
    # with a wrong geometry, any orientation may fit
    fits = orientation_fits(xray, fit) if fit and not findings else {}
    findings += [_finding_of_header(text) for text in xray.reading.get("findings", [])]
    if xray.reading.get("decided_by", "").startswith("guess"):
        findings.append(
            Finding(
                "note",
                f"bone was guessed to be {xray.reading.get('bone')} in the stored grey values",
                "look at the image; `bone` bright or `bone` dark overrules this",
            )
        )
    if fits:
        findings += orientation_findings(fits, xray.flipped)
    if depth_mm > 0:
        findings += distance_findings(xray, depth_mm)
        findings += patient_findings(xray, camera, lineage)
    return Report(_rows(xray, depth_mm, in_view, fits), findings, drr, fits)


def examine_views(
    views: Sequence[View], structure: Structure, starter: Starter, seed: int
) -> list[Report]:
    """Check each view against a structure at the first start pose.

    The orientation is checked for a single view only, by quick registrations.
    """
    starts = starter(views, structure)
    if not starts:
        raise InputError(
            views[0].xray.path,
            f"no pose of {structure.ct.name} in the pose range is in view",
            "a pose range (`r1` ... `tz`) and a geometry that show the bone",
            "check them, and with several views their calibrations, or search without a range",
        )
    start = starts[0]
    cameras = [start @ view.rig_from_camera for view in views]
    body, lineage = structure.body, structure.ct.lineage

    def fit(xray: Xray) -> float:
        view = View(xray)
        stated = starter.method in ("fixed", "dicom")
        around = [cameras[0]] if stated else starter([view], structure)[:QUICK_STARTS]
        solution = compete_from([view], body, around, seed) if around else None
        return solution.fit.similarity if solution else -1.0

    quick = fit if len(views) == 1 else None
    return [
        examine(view.xray, body.renderer, body.points, camera, lineage, quick)
        for view, camera in zip(views, cameras, strict=True)
    ]


def _finding_of_header(text: str) -> Finding:
    """Return the finding for a contradiction in the header; its last part says what to change."""
    what, _, change = text.rpartition("; ")
    return Finding("likely", what, change)


def _rows(
    xray: Xray, depth_mm: float, in_view: float, fits: dict[str, float]
) -> list[tuple[str, str]]:
    """Return the table: geometry, field of view, polarity, and the best orientations."""
    detector, reading = xray.detector, xray.reading
    magnification = detector.sdd_mm / depth_mm if depth_mm > 0 else float("nan")
    width_mm, height_mm = detector.size_mm
    column, row = detector.principal_px
    flipped = ", flipped left to right" if xray.flipped else ""
    best = sorted(fits.items(), key=lambda entry: -entry[1])[:SHOWN_FITS]
    return [
        ("X-ray", f"{xray.path.name}, {detector.width} x {detector.height} pixels{flipped}"),
        ("geometry from", str(reading.get("geometry"))),
        ("source to detector", f"{detector.sdd_mm:.1f} mm"),
        (
            "pixel at the detector",
            f"{detector.pixel_mm[0]:.4f} x {detector.pixel_mm[1]:.4f} mm; detector"
            f" {width_mm:.0f} x {height_mm:.0f} mm",
        ),
        ("principal point", f"{column:.1f}, {row:.1f} (column, row)"),
        ("source to isocentre", f"{depth_mm:.1f} mm"),
        ("magnification", f"{magnification:.3f}"),
        (
            "field at the isocentre",
            f"{width_mm / magnification:.0f} x {height_mm / magnification:.0f} mm",
        ),
        ("bone in view", f"{100 * in_view:.0f} %"),
        ("bone in the file", f"{reading.get('bone')} ({reading.get('decided_by')})"),
        *((f"similarity {name}", f"{value:.2f}") for name, value in best),
    ]
