"""Poses of a session that are not decided on: what the page shows, and what the solver answered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np

from common import files
from common.results.decisions import Choice
from common.review import drafts, saving
from common.review.catalogue import Item
from common.review.drafts import Draft, Pose

SAME_POSE = 1e-7  # of the numbers of a pose


class Unsaved:
    """The drafts of one reviewer, by item; each is on the disk when the call that set it returns.

    Where a folder cannot be written, calls raise InputError, and the draft lasts as long as the
    server.
    """

    def __init__(self, reviewer: str, blind: bool):
        self.reviewer, self.blind = reviewer, blind
        self.drafts: dict[str, Draft] = {}
        self.stored: dict[str, Pose] = {}  # poses as they are shown first
        self.answers: dict[str, list[Draft]] = {}  # of the solver
        self._lock = asyncio.Lock()  # drafts are kept in the order in which they came

    def read(self, item: Item) -> None:
        """Read the draft of an item, as an earlier session left it."""
        draft = drafts.last(item.folder, self.reviewer, self._about(item))
        if draft is None:
            self.drafts.pop(item.id, None)
        else:
            self.drafts[item.id] = draft

    def _about(self, item: Item) -> tuple[str, ...]:
        """Return the hashes of the files that a draft is about: if blind, the solver's."""
        kept = saving.revisions(item.folder) if self.blind else []
        return (files.sha256(kept[0]),) if kept else item.hashes

    async def keep(self, item: Item, draft: Draft | None) -> None:
        """Keep the draft of an item, or drop it."""
        async with self._lock:
            if draft == self.drafts.get(item.id):
                return
            if draft is None:
                del self.drafts[item.id]
            else:
                self.drafts[item.id] = draft
            await asyncio.to_thread(
                drafts.keep, item.folder, self.reviewer, self._about(item)[0], draft
            )

    async def set_pose(self, item: Item, pose: Pose, start: Pose | None) -> None:
        """Keep the pose that a page shows; ``start`` is what a person set before the solver."""
        answers = self.answers.get(item.id, [])
        answer = next((each for each in answers if same(each.pose, pose)), None)
        before = self.drafts.get(item.id)
        draft = Draft(
            pose,
            answer.by if answer else "person",
            start,
            item.id not in self.stored or not same(self.stored[item.id], pose),
            before is not None and before.key,
            answer.verdict if answer else None,
        )
        await self.keep(item, draft if draft.changed or draft.key else None)

    async def answered(self, item: Item, draft: Draft, found: bool) -> None:
        """Keep a pose that the solver ``found``; one that it only judged, if it is the draft."""
        self.answers.setdefault(item.id, []).append(draft)
        before = self.drafts.get(item.id)
        if found:
            await self.set_pose(item, draft.pose, draft.start)
        elif before and same(before.pose, draft.pose):
            await self.set_pose(item, draft.pose, before.start)

    async def set_key(self, item: Item, pose: Pose | None) -> None:
        """Make a frame a key with a pose, or with None an ordinary frame again."""
        before = self.drafts.get(item.id)
        if pose is None:
            await self.keep(item, replace(before, key=False) if before and before.changed else None)
            return
        await self.set_pose(item, pose, before.start if before else None)
        at = self.drafts.get(item.id) or Draft(pose, changed=False)
        await self.keep(item, replace(at, key=True))

    async def decided(self, item: Item, choice: Choice, pose: Pose | None) -> None:
        """Drop the draft of an item that was decided on; an accepted key pose stays one.

        ``pose`` is the one that was accepted, if it is not the stored one.
        """
        draft = self.drafts.get(item.id)
        if pose is not None and not self.blind:
            self.stored[item.id] = pose
        if draft is not None:
            at = Draft(draft.pose if pose is None else pose, changed=False, key=True)
            await self.keep(item, at if draft.key and choice == "accept" else None)


def same(one: Any, other: Any) -> bool:
    """Return whether two poses are one but for rounding."""
    return bool(np.allclose(one, other, rtol=0, atol=SAME_POSE))
