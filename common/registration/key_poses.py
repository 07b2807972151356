"""Sequences with start poses for some frames (key poses), tracked from each to both sides.

Between two key frames, the frame in the middle is reached from both. If the two poses differ, one
of them is wrong, and the frame is `suspect`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.registration.register import Registration
from common.results.result import Verdict

# of the bone in plane, and of its rotation: poses closer than these agree
AGREEING_MM, AGREEING_DEG = 1.0, 2.0


@dataclass(frozen=True)
class Step:
    """One frame of a sequence, and the frame that it is tracked from; None with its own start."""

    frame: int
    after: int | None


def steps(frames: int, keys: Sequence[int]) -> list[Step]:
    """Return the order in which frames are registered; ``keys``, sorted, have start poses.

    Without keys, frames follow one another. The middle between two key frames comes twice.
    """
    keys = list(keys) or [0]
    found = []
    for number, key in enumerate(keys):
        found.append(Step(key, None))
        first = 0 if number == 0 else (keys[number - 1] + key) // 2
        if number == 0 or key - keys[number - 1] > 1:
            found += [Step(frame, frame + 1) for frame in range(key - 1, first - 1, -1)]
        last = frames - 1 if key == keys[-1] else (key + keys[number + 1]) // 2
        found += [Step(frame, frame - 1) for frame in range(key + 1, last + 1)]
    return found


def met(one: Sequence[Registration], other: Sequence[Registration]) -> list[Registration]:
    """Return the better of two results of a frame that was tracked from both sides.

    That is the one with more evidence. A structure is `suspect` if its poses differ.
    """
    better, worse = sorted((one, other), key=_mean_evidence, reverse=True)
    return [
        replace(kept, verdict=_compared(kept, left))
        for kept, left in zip(better, worse, strict=True)
    ]


def _mean_evidence(found: Sequence[Registration]) -> float:
    return float(np.mean([each.solution.evidence for each in found]))


def _compared(kept: Registration, left: Registration) -> Verdict:
    """Return the verdict of a pose, with what another pose of the same frame says about it."""
    detector, points = kept.views[0].xray.detector, kept.structure.body.points
    apart = geometry.pose_error(kept.camera(), left.camera(), points, detector)
    if apart.in_plane_mm <= AGREEING_MM and apart.rotation_deg <= AGREEING_DEG:
        return kept.verdict
    reason = (
        "tracked from the key poses before and after it, it ends at poses"
        f" {apart.in_plane_mm:.1f} mm in plane and {apart.rotation_deg:.1f} deg apart"
    )
    code = "suspect" if kept.verdict.code == "ok" else kept.verdict.code
    return replace(kept.verdict, code=code, reasons=(*kept.verdict.reasons, reason))
