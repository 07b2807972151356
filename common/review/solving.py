"""What a reviewer asks of the solver: refine from here, search again, follow a neighbouring frame.

The solver is that of registration.py; see `common.registration`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import InputError
from common.registration.competition import Solution, compete, evidence, rivals
from common.registration.cues import of_bone
from common.registration.following import follow_frame
from common.registration.gauss_newton import assess_fit
from common.registration.joints import largest_overlap
from common.registration.pyramid import JUDGED, LEVELS
from common.registration.register import Registration, register
from common.registration.request import Followed
from common.registration.search.anywhere import Banks
from common.registration.starts import Starter
from common.registration.verdict import Surroundings, judge
from common.results.result import Verdict
from common.review.reopening import Opened


@dataclass(frozen=True)
class Solved:
    """A pose with its verdict."""

    pose: np.ndarray  # (4, 4) volume_from_rig
    verdict: Verdict
    evidence: float
    rivals: tuple[np.ndarray, ...] = ()  # other poses that were fitted

    def entries(self) -> dict[str, Any]:
        """Return it in plain types."""
        return {
            "pose": self.pose.tolist(),
            "verdict": self.verdict.entries(),
            "evidence": self.evidence,
            "rivals": [pose.tolist() for pose in self.rivals],
        }


def refine(opened: Opened, pose: np.ndarray, seed: int = 0) -> Solution:
    """Refine from a pose (volume_from_rig) that a person set, as registration.py from a start pose.

    Candidates around it compete: a refinement of the pose alone ended at another place in half of
    the trials from 8 mm and 6 degrees away. Raises InputError if the structure is out of view.
    """
    solution = compete(opened.seen, opened.structure.body, [pose], seed=seed)
    if solution is None:
        raise _out_of_view(opened)
    return solution


def search_again(opened: Opened) -> Solved:
    """Search as the registration did, from nothing. Raises InputError if it is out of view."""
    request = opened.request
    starter = Starter(
        "search",
        request.pose_range,
        request.search == "full",
        optimizer=request.optimizer,
        mirrored=False,  # the page shows the X-ray as it was registered
        banks=Banks(request.cache),
    )
    (found,) = register(opened.seen, [opened.structure], starter, request.seed)
    return judged(opened, found.solution)


def follow(opened: Opened, last: Followed) -> tuple[Solved, Followed]:
    """Find the pose in a frame from that of the frame beside it, as in a sequence.

    Returns the state after it too. Raises InputError if the structure is out of view.
    """
    views, structure = opened.seen, opened.structure
    solution = follow_frame(views, structure, opened.request.seed, last)
    if solution is None:
        raise _out_of_view(opened)
    around = Surroundings(expected_evidence=last.evidence)
    one = Registration(
        structure, views, solution.start, solution, judge(solution, views, structure, around)
    )
    after = last.without_motion() if one.verdict.code == "failed" else one.followed(last)
    return Solved(one.pose, one.verdict, solution.evidence), after


def assess(opened: Opened, pose: np.ndarray) -> Solved:
    """Return the verdict on a pose (volume_from_rig) as it is. Raises InputError if out of view."""
    return judged(opened, registration_at(opened, pose, pose).solution)


def registration_at(
    opened: Opened,
    pose: np.ndarray,
    start: np.ndarray,
    neighbours: Sequence[Registration] = (),
) -> Registration:
    """Return the registration that ends at a pose (volume_from_rig), without refining it.

    ``neighbours`` count as obstacles in its verdict. Raises InputError if it is out of view.
    """
    views, body = opened.seen, opened.structure.body
    fit = assess_fit(views, [body], [pose], LEVELS[-1])
    at_level = assess_fit(views, [body], [pose], JUDGED)
    if fit is None or at_level is None:
        raise _out_of_view(opened)
    fit = type(fit)([pose], at_level.similarity, fit.covariance, _trace(pose, at_level.similarity))
    solution = Solution(start, fit, None, 1, 1.0, evidence(views, body, fit))
    structures = [opened.structure, *(each.structure for each in neighbours)]
    overlap = largest_overlap(0, structures, [pose, *(each.pose for each in neighbours)])
    cues = of_bone(solution, views, opened.structure)
    verdict = judge(solution, views, opened.structure, Surroundings(overlap=overlap, cues=cues))
    hidden_by = opened.hidden_by
    return Registration(opened.structure, opened.views, start, solution, verdict, hidden_by)


def _trace(pose: np.ndarray, similarity: float) -> tuple[Any, ...]:
    from common.registration.gauss_newton import Evaluation

    return (Evaluation([pose], similarity, 0.0, JUDGED.pixel_mm),)


def judged(opened: Opened, solution: Solution) -> Solved:
    """Return a solution with its verdict."""
    views, structure = opened.seen, opened.structure
    around = Surroundings(cues=of_bone(solution, views, structure))
    return Solved(
        solution.fit.poses[0],
        judge(solution, views, structure, around),
        solution.evidence,
        tuple(rivals(views, structure.body, solution)),
    )


def _out_of_view(opened: Opened) -> InputError:
    return InputError(
        opened.views[0].xray.path,
        f"{opened.structure.ct.name} is outside the image at this pose",
        "the bone in view",
        "move it into the image",
    )
