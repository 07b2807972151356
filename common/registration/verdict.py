"""How far a registered pose can be trusted, from what the solver knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common import geometry
from common.registration.competition import RIVAL_SIMILARITY, Winner, share_in_view
from common.registration.pyramid import Body, View
from common.registration.scene import Structure

# similarity of 84 fits of knee bones in full X-rays with known truth: right ones 0.81 to 0.97, wrong ones 0.13 to 0.66; a scapula's crop in a chest, right, 0.4
FAILED_SIMILARITY, SUSPECT_SIMILARITY = 0.25, 0.75
# of 28 right fits of knee bones those that less than a tenth of the starts had come to had 0.87 to 0.94; a femur 3.4 mm and 11 degrees off, which none had, 0.80
LONELY_AGREEMENT, LONELY_SIMILARITY = 0.1, 0.85
LOST_EVIDENCE = 0.05  # a phantom's femur that slid off by 3 mm and 15 degrees in a sequence lost 0.07, right frames 0.03
LARGE_IN_PLANE_MM, LARGE_ROTATION_DEG = 1.0, 2.0


def judge(
    winner: Winner,
    views: Sequence[View],
    body: Body,
    lone_bone: bool,
    overlapping: float = 0.0,
    expected: float = 0.0,
) -> dict[str, Any]:
    """Verdict (ok, suspect, failed) with its reasons: agreement of starts, curvature, share in view, unexplained contrast, assumed geometry.

    Standard deviations are of the body in the first camera's frame: in plane (rms of two axes), depth, and rotation (rms of three axes).
    ``lone_bone`` is false for a whole CT, which is larger than most pictures; ``overlapping`` is the share of the bone inside another, where that is too much;
    ``expected`` the evidence of the best frame of a sequence.
    """
    fit, rival = winner.fit, winner.runner_up
    camera = fit.poses[0] @ views[0].rig_from_camera
    shift = camera[:3, :3].T @ fit.covariance[3:6, 3:6] @ camera[:3, :3]
    in_plane, depth = float(np.sqrt((shift[0, 0] + shift[1, 1]) / 2)), float(np.sqrt(shift[2, 2]))
    rotation = float(np.degrees(np.sqrt(np.trace(fit.covariance[:3, :3]) / 3)))
    in_view = min(share_in_view(view, body, fit.poses[0]) for view in views)
    reasons, other = [], None
    if rival is not None:
        error = geometry.pose_error(
            rival.poses[0] @ views[0].rig_from_camera, camera, body.points, views[0].xray.detector
        )
        other = {
            "in_plane_mm": error.in_plane_mm,
            "rotation_deg": error.rotation_deg,
            "similarity": rival.similarity,
        }
        if (
            error.in_plane_mm > LARGE_IN_PLANE_MM or error.rotation_deg > LARGE_ROTATION_DEG
        ) and rival.similarity > fit.similarity - RIVAL_SIMILARITY:
            reasons.append(
                f"another pose, {error.in_plane_mm:.1f} mm and {error.rotation_deg:.1f} deg away,"
                " fits nearly as well"
            )
    if in_plane > LARGE_IN_PLANE_MM or rotation > LARGE_ROTATION_DEG:
        reasons.append(
            f"the picture determines the pose poorly (in plane {in_plane:.1f} mm, rotation"
            f" {rotation:.1f} deg)"
        )
    if in_view < 0.5 and lone_bone:
        reasons.append(f"only {100 * in_view:.0f} % of the structure is inside the picture")
    if winner.evidence < expected - LOST_EVIDENCE:
        reasons.append(
            f"it explains less of the picture than in other frames ({winner.evidence:.2f}, there"
            f" {expected:.2f})"
        )
    if assumed := sorted({what for view in views for what in view.xray.reading.get("assumed", ())}):
        reasons.append(
            f"the {' and the '.join(assumed)} {'are' if len(assumed) > 1 else 'is'} the"
            " checkpoint's, not the X-ray's: depth and scale are only as true as that"
        )
    if overlapping:
        reasons.append(f"{100 * overlapping:.0f} % of the bone lies inside another")
    if (
        winner.agreement < LONELY_AGREEMENT
        and SUSPECT_SIMILARITY <= fit.similarity < LONELY_SIMILARITY
    ):
        reasons.append(
            "other starts ended elsewhere, and the rendering explains too little of the picture"
            f" for that (similarity {fit.similarity:.2f})"
        )
    if fit.similarity < SUSPECT_SIMILARITY:
        reasons.append(
            f"the rendering explains little of the picture (similarity {fit.similarity:.2f})"
        )
    failed = fit.similarity < FAILED_SIMILARITY or in_view < 0.05
    return {
        "verdict": "failed" if failed else "suspect" if reasons else "ok",
        "reasons": reasons,
        "in_plane_sd_mm": in_plane,
        "depth_sd_mm": depth,
        "rotation_sd_deg": rotation,
        "in_view": in_view,
        "similarity": fit.similarity,
        "agreement": winner.agreement,
        "other_start": other,
    }


def is_ok(winner: Winner, views: Sequence[View], structure: Structure) -> bool:
    return verdict_of(winner, views, structure)["verdict"] == "ok"


def verdict_of(
    winner: Winner,
    views: Sequence[View],
    structure: Structure,
    overlapping: float = 0.0,
    expected: float = 0.0,
) -> dict[str, Any]:
    return judge(
        winner,
        views,
        structure.body,
        lone_bone=structure.excess,
        overlapping=overlapping,
        expected=expected,
    )
