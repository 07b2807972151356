"""The pose of each structure in the X-rays of one instant: start, competition, joint refinement, verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.errors import InputError
from common.registration.competition import (
    Solution,
    better,
    compete,
    compete_from,
    evidence,
    follow,
)
from common.registration.gauss_newton import Fit, Trace, assess_fit, refine
from common.registration.neighbours import Found, largest_overlap, search_beside
from common.registration.pyramid import JUDGED, LEVELS, View
from common.registration.request import Followed
from common.registration.scene import Structure
from common.registration.starts import Starter
from common.registration.verdict import is_ok, judge
from common.results.result import BoneMotion, ScannerView, Verdict

logger = logging.getLogger(__name__)

# of evidence: a frame with so much less than the best of its sequence is tried from further starts
SLIDING = 0.02
LEAST_WINDOW_PX = 9  # of the coarsest level


@dataclass(frozen=True)
class Registration:
    """One structure with its pose and verdict."""

    structure: Structure
    views: tuple[View, ...]
    start: np.ndarray  # (4, 4) volume_from_rig, the best start pose
    solution: Solution
    verdict: Verdict

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) volume_from_rig."""
        return self.solution.fit.poses[0]

    def camera(self, view: int = 0, pose: np.ndarray | None = None) -> np.ndarray:
        """(4, 4) volume_from_camera of a view, for the X-ray as registered, at ``pose`` (the final one by default)."""
        return (self.pose if pose is None else pose) @ self.views[view].rig_from_camera

    def scanner_view(self, view: int = 0, bones: Sequence[BoneMotion] = ()) -> ScannerView:
        """A view in the world of the original CT, for the X-ray as stored on disk."""
        xray = self.views[view].xray
        return ScannerView.of(
            xray.detector,
            self.camera(view),
            self.camera(view, self.start),
            self.structure.ct.lineage.scanner_from_volume,
            xray.flipped,
            bones,
            str(xray.path),
        )

    def followed(self, before: Followed | None) -> Followed:
        """What the next frame of a sequence starts from."""
        return Followed(self.pose, max(before.evidence if before else 0.0, self.solution.evidence))


def register(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int,
    last: Sequence[Followed] | None = None,
) -> list[Registration]:
    """Register every structure in the views of one instant. ``last`` is what the frames before have left, in a sequence.

    Raises InputError if a structure cannot be seen in the images, or an image is too small.
    """
    check_sizes(views)
    before = list(last) if last else [None] * len(structures)
    found: list[Found] = []
    for structure, previous in zip(structures, before, strict=True):
        found.append(
            find(views, structure, starter, seed, previous, _carried(found, before, previous))
        )
    if len(structures) > 1:
        found = refine_together(
            views, structures, search_beside(views, structures, starter, seed, found)
        )
    poses = [one.solution.fit.poses[0] for one in found]
    registrations = []
    for number, (structure, one, previous) in enumerate(
        zip(structures, found, before, strict=True)
    ):
        overlap = largest_overlap(number, structures, poses)
        verdict = judge(
            one.solution, views, structure, overlap, previous.evidence if previous else 0.0
        )
        registrations.append(
            Registration(structure, tuple(views), one.start, one.solution, verdict)
        )
    return registrations


def _carried(
    found: Sequence[Found], before: Sequence[Followed | None], previous: Followed | None
) -> list[np.ndarray]:
    """Where each structure already found in this frame would have carried another one with it."""
    if previous is None:
        return []
    return [
        previous.pose @ geometry.invert(earlier.pose) @ one.solution.fit.poses[0]
        for one, earlier in zip(found, before, strict=False)
        if earlier is not None
    ]


def check_sizes(views: Sequence[View]) -> None:
    """InputError for an image too small for the coarsest level."""
    least_mm = LEAST_WINDOW_PX * LEVELS[0].pixel_mm
    for view in views:
        width, height = view.xray.detector.size_mm
        if min(width, height) < least_mm:
            raise InputError(
                view.xray.path,
                f"measures {width:.0f} x {height:.0f} mm at the detector",
                f"at least {least_mm:.0f} mm per side",
                "correct the pixel size, or give the whole image",
            )


def find(
    views: Sequence[View],
    structure: Structure,
    starter: Starter,
    seed: int,
    last: Followed | None = None,
    carried: Sequence[np.ndarray] = (),
) -> Found:
    """Start pose and solution of one structure by itself.

    In a sequence the pose of the frame before (``last``) comes first, then candidates around it, then candidates around the poses to which
    structures already found would have ``carried`` this one.
    """

    def certain(solution: Solution | None) -> bool:
        return solution is not None and is_ok(solution, views, structure)

    name, body = views[0].xray.path.name, structure.body
    if last:
        solution = follow(views, body, last.pose)
        for pose in (last.pose, *carried):
            if solution and certain(solution) and solution.evidence > last.evidence - SLIDING:
                break
            solution = better(solution, compete(views, body, [pose], seed=seed))
        if solution and certain(solution):
            return Found(solution.start, solution)
        logger.info(
            f"{name}: {structure.ct.name} was lost after the previous frame; searching again"
        )
    starts = starter(views, structure)
    if starter.optimizer == "adam":
        solution = ascend(views, structure, starts[0])
    else:
        solution = compete_from(views, body, starts, seed)
        if starter.method == "model" and not certain(solution):
            logger.info(f"{name}: the network's start is not certain; searching the pose range too")
            searched = starter(views, structure, "search")
            solution = better(solution, compete_from(views, body, searched, seed))
    if solution is None:
        raise InputError(
            views[0].xray.path,
            f"the start pose shows nothing of {structure.ct.name} inside the image",
            "the bone in view",
            "widen the pose range or use `init` search",
        )
    return Found(starts[0], solution)


def ascend(views: Sequence[View], structure: Structure, start: np.ndarray) -> Solution | None:
    """The reference optimiser's result from one start."""
    from common.registration import adam  # imports torch

    trace = Trace()
    fit = adam.ascend(views, structure.body, start, trace)
    if fit is None:
        return None
    return Solution(start, fit, trace, None, 1, 1.0, evidence(views, structure.body, fit))


def refine_together(
    views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> list[Found]:
    """Refine all structures at once from their separate solutions, so that neither pulls the other where they overlap.

    Each keeps its own similarity, judged without the others.
    """
    trace = Trace()
    alone = [one.solution for one in found]
    fit = refine(
        views, [s.body for s in structures], [s.fit.poses[0] for s in alone], LEVELS[2:], trace
    )
    if fit is None:
        return list(found)
    together = []
    for index, one in enumerate(found):
        rows = one.solution.trace.rows
        clock = rows[-1][2] if rows else 0.0
        joint = [
            ([poses[index]], similarity, clock + seconds, pixel_mm)
            for poses, similarity, seconds, pixel_mm in trace.rows
        ]
        judged = assess_fit(views, [structures[index].body], [fit.poses[index]], JUDGED)
        block = slice(6 * index, 6 * index + 6)
        own = Fit(
            [fit.poses[index]], judged.similarity if judged else 0.0, fit.covariance[block, block]
        )
        history = Trace(one.solution.trace.started, [*rows, *joint])
        together.append(Found(one.start, replace(one.solution, fit=own, trace=history)))
    return together
