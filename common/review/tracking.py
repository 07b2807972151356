"""Frames between the key poses of a sequence, found again from both sides as in a registration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from common.errors import InputError
from common.registration.key_poses import Tracking
from common.registration.request import Followed
from common.review import catalogue, jobs
from common.review.catalogue import Item
from common.review.drafts import Draft
from common.review.session import Session, Tell

# differences from the stored pose up to which a tracked frame counts as the same
UNCHANGED = {"in_plane_mm": 0.1, "depth_mm": 1.0, "rotation_deg": 0.2}


async def track(session: Session, item: Item, tell: Tell) -> int:
    """Find the poses between the keys of a sequence again, from both sides of each gap.

    Poses that differ from the stored ones become drafts, which ``tell`` is given one by one;
    returns their number. Frames that the reviewer has accepted, or moved by hand, stay as they
    are. Raises InputError if there are fewer than two keys, or none with frames between them.
    """
    frames = catalogue.frames_of(item, list(session.items.values()))
    drafts = [session.unsaved.drafts.get(frame.id) for frame in frames]
    keys = [number for number, draft in enumerate(drafts) if draft and draft.key]
    if not any(b - a > 1 for a, b in itertools.pairwise(keys)):
        raise InputError(
            "track between",
            f"{len(keys)} key poses",
            "two key poses with frames between them",
            "set a key pose at both ends of the frames to be tracked",
        )
    first, last = keys[0], keys[-1]
    inside = frames[first : last + 1]
    tracking: Tracking[dict[str, Any], Followed] = Tracking(
        len(inside), [key - first for key in keys]
    )
    count = 0
    for step in tracking.steps:
        frame, before = inside[step.frame], tracking.before(step)
        if before is None:  # a key
            pose = np.array(session.unsaved.drafts[frame.id].pose)
            tracking.reached(step, {}, Followed(pose, 0.0))
            continue
        await tell({"type": "tracking", "item": frame.id})
        found, after = await session.solver.do(jobs.follow, str(frame.folder), before)
        if every := tracking.reached(step, found, after):
            count += await _draft(session, frame, every, tell)
    return count


async def _draft(session: Session, frame: Item, every: list[dict[str, Any]], tell: Tell) -> bool:
    """Keep the pose with most evidence as the draft of a frame, unless it is the stored one."""
    decided, draft = session.listed(frame)["decision"], session.unsaved.drafts.get(frame.id)
    if (decided and decided["choice"] == "accept") or (draft and draft.by != "tracking"):
        return False
    best = await session.solver.do(jobs.met, str(frame.folder), every)
    moved = best["moved"]
    changed = any(moved[name] > limit for name, limit in UNCHANGED.items())
    draft = Draft(best["pose"], "tracking", verdict=best["verdict"], moved=moved)
    await session.unsaved.keep(frame, draft if changed else None)
    await tell({"type": "item", "item": session.listed(session.items[frame.id])})
    return changed
