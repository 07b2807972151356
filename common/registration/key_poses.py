"""Sequences with start poses for some frames (key poses), tracked from each to both sides.

Every frame between two key frames is reached from both, and the pose with more evidence is kept. If
the two poses differ, one of them is wrong, and the frame is `suspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from common import geometry
from common.geometry import PoseError
from common.registration.register import Registration
from common.registration.request import Request
from common.registration.scene import View
from common.results.result import Verdict

# of the bone in plane, and of its rotation: poses closer than these agree
AGREEING_MM, AGREEING_DEG = 1.0, 2.0

Found = TypeVar("Found")
State = TypeVar("State")


@dataclass(frozen=True)
class Step:
    """One frame of a sequence, and the frame that it is tracked from; None with its own start."""

    frame: int
    after: int | None


def steps(frames: int, keys: Sequence[int]) -> list[Step]:
    """Return the order in which frames are registered; ``keys``, sorted, have start poses.

    Without keys, frames follow one another. Those between two key frames come twice.
    """
    keys = list(keys) or [0]
    found = []
    for number, key in enumerate(keys):
        found.append(Step(key, None))
        first = keys[number - 1] + 1 if number else 0
        found += [Step(frame, frame + 1) for frame in range(key - 1, first - 1, -1)]
        last = frames if key == keys[-1] else keys[number + 1]
        found += [Step(frame, frame - 1) for frame in range(key + 1, last)]
    return found


class Tracking(Generic[Found, State]):
    """A sequence on its way: what each step starts from, and what a frame was found at before.

    ``first`` is what frames with a start pose of their own know of earlier ones, ``hold`` what to
    keep of a frame until it is reached again.
    """

    def __init__(
        self,
        frames: int,
        keys: Sequence[int],
        first: State | None = None,
        hold: Callable[[Found], Found] = lambda found: found,
    ):
        self.steps = steps(frames, keys)
        self._hold = hold
        self._states: dict[int | None, State | None] = {None: first}
        self._held: dict[int, Found] = {}
        self._left = [sum(step.frame == frame for step in self.steps) for frame in range(frames)]

    def before(self, step: Step) -> State | None:
        """Return the state that a step starts from, which stays if the step fails."""
        state = self._states[step.frame] = self._states.get(step.after)
        return state

    def reached(self, step: Step, found: Found | None, state: State | None = None) -> list[Found]:
        """Take what a step found and its state; None if it failed.

        Returns all that was found in its frame, or nothing yet if it is to be reached again.
        """
        if found is not None:
            self._states[step.frame] = state
        self._left[step.frame] -= 1
        every = [each for each in (self._held.pop(step.frame, None), found) if each is not None]
        if self._left[step.frame] and every:
            self._held[step.frame] = self._hold(every[0])
            return []
        return every


@dataclass(frozen=True)
class Reached:
    """What a frame was registered as, from one side."""

    request: Request
    found: list[Registration]

    def without_views(self) -> Reached:
        """Return it without the X-rays, which need much memory, to be held for `met`."""
        return self.seen_in(())

    def seen_in(self, views: Sequence[View]) -> Reached:
        """Return it with the X-rays of its frame."""
        return replace(self, found=[replace(each, views=tuple(views)) for each in self.found])

    @property
    def evidence(self) -> float:
        """Mean over the structures."""
        return float(np.mean([each.solution.evidence for each in self.found]))


def met(one: Reached, other: Reached) -> Reached:
    """Return the better of two results of a frame that was tracked from both sides.

    That is the one with more evidence. A structure is `suspect` if its poses differ. The X-rays
    are those of ``other``.
    """
    one = one.seen_in(other.found[0].views)
    better, worse = sorted((one, other), key=lambda each: each.evidence, reverse=True)
    found = [
        replace(kept, verdict=compared(kept.verdict, _apart(kept, left)))
        for kept, left in zip(better.found, worse.found, strict=True)
    ]
    return replace(better, found=found)


def _apart(kept: Registration, left: Registration) -> PoseError:
    detector, points = kept.views[0].xray.detector, kept.structure.body.points
    return geometry.pose_error(kept.camera(), left.camera(), points, detector)


def compared(verdict: Verdict, apart: PoseError) -> Verdict:
    """Return the verdict of a pose, with what another pose of the same frame says about it."""
    if apart.in_plane_mm <= AGREEING_MM and apart.rotation_deg <= AGREEING_DEG:
        return verdict
    reason = (
        "tracked from the key poses before and after it, it ends at poses"
        f" {apart.in_plane_mm:.1f} mm in plane and {apart.rotation_deg:.1f} deg apart"
    )
    code = "suspect" if verdict.code == "ok" else verdict.code
    return replace(verdict, code=code, reasons=(*verdict.reasons, reason))
