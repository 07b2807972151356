"""Before training: are an X-ray, the CT, the training detector and the pose range consistent?

The preflight check of a registration at the centre of the pose range, with a search over the range
as its quick registration, followed by tests that only training needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from common import geometry
from common.geometry import pose_range
from common.geometry.pose_range import PoseRange
from common.registration import competition, preflight
from common.registration.preflight import Finding, Report
from common.registration.scene import Structure, View
from common.registration.search.anywhere import STATED, Banks, stage_starts
from common.registration.search.limits import Limits
from common.training.images import LEAST_IN_VIEW
from common.training.patient import Patient
from common.training.view import TrainingView
from common.xray.xray import Xray

POSES = 300  # drawn from the pose range
LEAST_SHOWN = 0.9  # fraction of them that should show the bone
SAME_FIELD = 0.3  # relative difference of the fields; a network resamples X-rays to its own


def examine_training(
    xray: Xray, structure: Structure, patient: Patient, view: TrainingView, seed: int
) -> Report:
    """Check an X-ray against a CT and the training view.

    ``structure`` is the CT as a registration renders it, ``patient`` as training does.
    """
    body, lineage = structure.body, structure.ct.lineage
    canonical = view.cameras(pose_range.poses_from_parameters(view.pose_range.middle[None]))[0]
    camera = geometry.translation(structure.ct.isocentre_mm) @ canonical
    fit = _searching_fit(structure, view, seed)
    report = preflight.examine(xray, body.renderer, body.points, camera, lineage, fit)
    cameras = view.cameras(view.pose_range.poses(POSES, np.random.default_rng(seed)))
    shares = [
        geometry.share_in_view(patient.points_mm, view.detector, camera) for camera in cameras
    ]
    rows, findings = training_findings(xray, view, np.array(shares))
    return replace(report, rows=[*report.rows, *rows], findings=[*report.findings, *findings])


def training_findings(
    xray: Xray, view: TrainingView, shares: np.ndarray
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Rows and findings about the training images, compared with one X-ray.

    ``shares`` (N,) is the fraction of the bone on the training detector, at random poses of the
    range.
    """
    detector, depth = view.detector, np.abs(view.pose_range.limits[:, 3 + view.depth_axis])
    shown = float((shares >= LEAST_IN_VIEW).mean())
    field, xray_field = (max(d.size_mm) / d.sdd_mm for d in (detector, xray.detector))
    rows = [
        (
            "training detector",
            f"{detector.width} x {detector.height} pixels of {detector.pixel_mm[0]:.3g} mm, SDD"
            f" {detector.sdd_mm:g} mm",
        ),
        ("training poses", str(view.pose_range)),
        ("poses that show the bone", f"{100 * shown:.0f} %"),
    ]
    findings = []
    if depth.max() * preflight.MAGNIFICATION[0] > detector.sdd_mm:
        findings.append(
            Finding(
                "impossible",
                f"the range reaches {depth.max():.0f} mm from the source, the detector is at"
                f" {detector.sdd_mm:.0f} mm",
                "lower `ty` or raise `sdd`",
            )
        )
    if shown < LEAST_SHOWN:
        findings.append(
            Finding(
                "likely",
                f"in {100 * (1 - shown):.0f} % of the range's poses the bone misses the training"
                " detector",
                "narrow `tx` and `tz`, or widen the detector (`delx`)",
            )
        )
    if abs(field / xray_field - 1) > SAME_FIELD:
        findings.append(
            Finding(
                "likely",
                f"the training detector is {field / xray_field:.2f} times as wide as the X-ray,"
                " seen from the source",
                "take SDD and field from `like` alone: leave out `sdd` and `delx`",
            )
        )
    return rows, findings


def _searching_fit(
    structure: Structure, view: TrainingView, seed: int
) -> Callable[[Xray], float] | None:
    """Similarity of a registration that searches the pose range, for `preflight.examine`.

    None without an orientation: the search needs poses of AP.
    """
    ranges = _range_for_ap(view)
    if ranges is None:
        return None

    banks = Banks()

    def fit(xray: Xray) -> float:
        views = [View(xray)]
        starts = stage_starts(views, structure, STATED, banks, Limits(ranges))
        starts = starts[: preflight.QUICK_STARTS]
        winner = competition.compete_from(views, structure.body, starts, seed)
        return winner.fit.similarity if winner else -1.0

    return fit


def _range_for_ap(view: TrainingView) -> PoseRange | None:
    if view.orientation is None:
        return None
    if view.orientation == "PA":
        return pose_range.turned_about(view.pose_range)
    return view.pose_range
