"""Frames between the key poses of a sequence, found again from both sides."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from common.errors import InputError
from common.registration.request import Followed
from common.review import catalogue, jobs
from common.review.catalogue import Item
from common.review.session import Session, Tell

# differences from the stored pose up to which a tracked frame counts as the same
UNCHANGED = {"in_plane_mm": 0.1, "depth_mm": 1.0, "rotation_deg": 0.2}


async def track(session: Session, item: Item, tell: Tell) -> int:
    """Find the poses between the keys of a sequence again, from both sides of each gap.

    Poses that differ from the stored ones become drafts, which ``tell`` is given one by one;
    returns their number. Frames that the reviewer has accepted stay as they are. Raises InputError
    if there are fewer than two keys, or none with frames between them.
    """
    frames = catalogue.frames_of(item, list(session.items.values()))
    keys = [number for number, frame in enumerate(frames) if frame.id in session.keys]
    gaps = [(a, b) for a, b in itertools.pairwise(keys) if b - a > 1]
    if not gaps:
        raise InputError(
            "track between",
            f"{len(keys)} key poses",
            "two key poses with frames between them",
            "set a key pose at both ends of the frames to be tracked",
        )
    count = 0
    for first, last in gaps:
        between = frames[first + 1 : last]
        forward = await _followed(session, frames[first], between, tell)
        backward = await _followed(session, frames[last], between[::-1], tell)
        for frame in between:
            count += await _draft(session, frame, forward[frame.id], backward[frame.id], tell)
    return count


async def _followed(
    session: Session, key: Item, frames: list[Item], tell: Tell
) -> dict[str, dict[str, Any]]:
    """Return the poses of frames that follow a key, by item."""
    last, found = Followed(np.array(session.keys[key.id]), 0.0), {}
    for frame in frames:
        solved, last = await session.solver.do(jobs.follow_frame, str(frame.folder), last)
        found[frame.id] = solved
        await tell({"type": "tracking", "item": frame.id})
    return found


async def _draft(
    session: Session, frame: Item, one: dict[str, Any], other: dict[str, Any], tell: Tell
) -> bool:
    """Keep the pose with more evidence as the draft of a frame, unless it is the stored one."""
    decided = session.listed(frame)["decision"]
    if decided and decided["choice"] == "accept":
        return False
    best = max(one, other, key=lambda each: each["evidence"])
    folder = str(frame.folder)
    moved = await session.solver.do(jobs.moved_by, folder, best["pose"])
    changed = any(moved[key] > limit for key, limit in UNCHANGED.items())
    if changed:
        session.drafts[frame.id] = {**best, "moved": moved}
    else:
        session.drafts.pop(frame.id, None)
    await tell({"type": "item", "item": session.listed(session.items[frame.id])})
    return changed
