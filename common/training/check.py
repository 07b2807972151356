"""Before training: does an X-ray that the network is to be used on go together with the CT, the training detector and the range of poses?

`preflight.examine` at the middle of the range, with a search over the range as its quick registration, and what only training asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from common import geometry
from common.geometry import pose_range
from common.geometry.pose_range import PoseRange
from common.registration import competition, preflight, pyramid
from common.registration.preflight import Finding, Report
from common.registration.scene import Structure
from common.registration.search import search
from common.training.sampling import IN_VIEW, Patient, View, share_in_view
from common.xray.xray import Xray

POSES = 300  # drawn from the range
IN_RANGE = 0.9  # share of them that should show the bone
SAME_FIELD = 0.3  # relative: a network sees the picture at its training field


def examine(xray: Xray, structure: Structure, patient: Patient, view: View, seed: int) -> Report:
    """Check an X-ray against a CT (as a registration and as training render it) and the training view."""
    ranges = {"AP": view.pose_range, "PA": pose_range.turned_about(view.pose_range), None: None}[
        view.orientation
    ]
    middle = view.cameras(pose_range.poses_from_parameters(view.pose_range.middle[None]))[0]
    camera = geometry.translation(structure.ct.isocentre_mm) @ middle
    body = structure.body
    report = preflight.examine(
        xray,
        body.renderer,
        body.points,
        camera,
        structure.ct.lineage.scanner_from_volume,
        searching_fit(body, ranges, seed) if ranges else None,
    )
    poses = view.cameras(view.pose_range.poses(POSES, np.random.default_rng(seed)))
    rows, findings = training_findings(
        xray, view, np.array([share_in_view(patient, view, pose) for pose in poses])
    )
    return replace(report, rows=[*report.rows, *rows], findings=[*report.findings, *findings])


def training_findings(
    xray: Xray, view: View, shares: np.ndarray
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Rows and findings about a network's training pictures, beside one X-ray that it is to be used on.

    ``shares`` holds the share of the bone on the training detector at each of many poses of the range.
    """
    detector, depth = view.detector, np.abs(view.pose_range.limits[:, 3 + view.depth_axis])
    shown = float((shares >= IN_VIEW).mean())
    field, pictured = (max(d.size_mm) / d.sdd_mm for d in (detector, xray.detector))
    rows = [
        (
            "training detector",
            (
                f"{detector.width} x {detector.height} pixels of {detector.pixel_mm[0]:.3g} mm, SDD"
                f" {detector.sdd_mm:g} mm"
            ),
        ),
        ("training poses", str(view.pose_range)),
        ("poses that show the bone", f"{100 * shown:.0f} %"),
    ]
    findings = []
    if depth.max() * preflight.MAGNIFICATION[0] > detector.sdd_mm:
        findings.append(
            Finding(
                "impossible",
                f"the range reaches {depth.max():.0f} mm from the source, the detector stands at"
                f" {detector.sdd_mm:.0f} mm",
                "lower --ty or raise --sdd",
            )
        )
    if shown < IN_RANGE:
        findings.append(
            Finding(
                "likely",
                f"in {100 * (1 - shown):.0f} % of the range's poses the bone misses the training"
                " detector",
                "narrow --tx and --tz, or widen the detector (--delx)",
            )
        )
    if abs(field / pictured - 1) > SAME_FIELD:
        findings.append(
            Finding(
                "likely",
                f"the training detector is {field / pictured:.2f} times as wide as the X-ray, seen"
                " from the source",
                "take SDD and field from --like alone: drop --sdd and --delx",
            )
        )
    return rows, findings


def searching_fit(body: pyramid.Body, ranges: PoseRange, seed: int) -> Callable[[Xray], float]:
    """A ``fit`` for `examine`: similarity of a registration that searches the range of poses (of orientation AP)."""

    def fit(picture: Xray) -> float:
        views = [pyramid.View(picture)]
        winner = competition.compete_from(
            views, body, search.search(views, body, ranges)[: preflight.STARTS], seed
        )
        return winner.fit.similarity if winner else -1.0

    return fit
