"""The state of a review: the list, the decisions, and poses that are not accepted yet."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from common.errors import InputError
from common.geometry import is_rigid
from common.results import decisions, names
from common.results.decisions import Choice, Decision
from common.review import catalogue, jobs, renewal, saving
from common.review.catalogue import Item
from common.review.drafts import Pose
from common.review.unsaved import Unsaved
from common.review.workers import Worker

logger = logging.getLogger(__name__)

Tell = Callable[[dict[str, Any]], Awaitable[None]]


async def _to_nobody(_: dict[str, Any]) -> None:
    """Tell nobody: no page is open yet."""


@dataclass
class Session:
    """One reviewer at one folder. ``blind`` hides what others decided and set."""

    root: Path
    reviewer: str
    blind: bool
    items: dict[str, Item]
    problems: list[str]
    renderer: Worker
    solver: Worker
    unsaved: Unsaved
    made: dict[str, list[Decision]] = field(default_factory=dict)  # by item
    tell: Tell = _to_nobody
    renewing: asyncio.Task[None] | None = None
    warming: asyncio.Task[None] | None = None
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    tracking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def start(cls, root: Path, reviewer: str, blind: bool = False) -> Session:
        """Read the list, after finishing what a crash interrupted, and start the workers.

        Raises InputError if there are no results.
        """
        decisions.check_reviewer(reviewer)
        for pending in root.rglob(saving.PENDING):
            if os.access(pending.parent, os.W_OK):
                saving.finish(pending.parent)
        workers = Worker("renders"), Worker("solves", leave_cores=1)  # one is for the page
        workers[0].start()  # while the list is read
        try:
            items, problems = catalogue.read_catalogue(root)
        except BaseException:
            for worker in workers:
                worker.stop()
            raise
        session = cls(root, reviewer, blind, items, problems, *workers, Unsaved(reviewer, blind))
        for item in items.values():
            session._read_beside(item)
        return session

    def _read_beside(self, item: Item) -> None:
        """Read the decisions on a result, and the pose that is not decided on yet."""
        self.made[item.id] = decisions.read(item.folder)
        self.unsaved.read(item)

    def item(self, ident: str) -> Item:
        """Return an item by its id. Raises KeyError."""
        return self.items[ident]

    def listed(self, item: Item) -> dict[str, Any]:
        """Return an item as the page lists it."""
        made = self.made.get(item.id, [])
        entries = catalogue.entries(item, made, self.reviewer, self.blind)
        draft = self.unsaved.drafts.get(item.id)
        return {
            **entries,
            "sha256": item.parameters_sha256,
            "hashes": item.hashes,
            "draft": draft.entries() if draft and draft.changed else None,
            "key": draft is not None and draft.key,
        }

    def overview(self) -> dict[str, Any]:
        """Return the list and who reviews what."""
        unwritable = [
            item.folder.relative_to(self.root).as_posix()
            for item in self.items.values()
            if not os.access(item.folder, os.W_OK)
        ]
        return {
            "folder": self.root.resolve().name,
            "reviewer": self.reviewer,
            "blind": self.blind,
            "items": [self.listed(item) for item in self.items.values()],
            "problems": self.problems,
            "read_only": len(unwritable),
        }

    async def glanced(self, item: Item) -> dict[str, Any]:
        """Return what can be shown before the CT is opened."""
        found = await asyncio.to_thread(jobs.glance, str(item.folder))
        return {**self.listed(item), **self._around(item), **found}

    def _around(self, item: Item) -> dict[str, Any]:
        """Return the frames of an item's sequence, and what its reviewer decided on it."""
        own = [one for one in self.made.get(item.id, []) if one.reviewer == self.reviewer]
        return {
            "frames": [each.id for each in catalogue.frames_of(item, list(self.items.values()))],
            "history": [
                {"choice": one.choice, "when": one.when, "note": one.note, "set_by": one.set_by}
                for one in own
            ],
        }

    async def described(self, item: Item) -> dict[str, Any]:
        """Return what the page needs to show an item."""
        item = await asyncio.to_thread(catalogue.read_item, self.root, item.folder)
        if item.parameters_sha256 != self.items[item.id].parameters_sha256:  # registered again
            self.unsaved.answers.pop(item.id, None)
            await asyncio.to_thread(self._read_beside, item)
        self.items[item.id] = item
        found = await self.renderer.do(jobs.describe, str(item.folder), self.blind)
        if not found["problem"]:
            self.unsaved.stored[item.id] = found["pose"]
            self._warm(item)
        return {**self.listed(item), **self._around(item), **found}

    async def neighbours(self, item: Item) -> list[dict[str, Any]]:
        """Return the other bones in the X-rays of an item, opened where no dragging waits."""
        near = catalogue.neighbours_of(item, list(self.items.values()))
        found = [await self.solver.do(jobs.neighbour, str(each.folder)) for each in near]
        return [{**one, "id": each.id} for one, each in zip(found, near, strict=True)]

    def _warm(self, item: Item) -> None:
        """Let the solver open an item that is shown, unless it is still opening another one."""
        if self.warming is None or self.warming.done():
            self.warming = asyncio.create_task(self._opened_by_solver(item))

    async def _opened_by_solver(self, item: Item) -> None:
        try:
            await self.solver.do(jobs.warm, str(item.folder))
        except InputError as error:  # the next request says so to the person
            logger.debug(str(error))

    async def decide(self, item: Item, content: dict[str, Any]) -> dict[str, Any]:
        """Record a decision, with the pose if a person changed it, and return the item as listed.

        When this returns, both are on the disk. Raises InputError if they cannot be written.
        """
        choice: Any = content.get("choice")
        note = str(content.get("note", ""))[: decisions.LONGEST_NOTE]
        if choice not in get_args(Choice):
            raise InputError("decision", f"is {choice!r}", "accept, reject or second look", "retry")
        pose, start = (as_pose(content[key]) if content.get(key) else None for key in POSES)
        if choice != "accept":  # the stored pose is what is rejected
            pose = None
        async with self.saving:
            await asyncio.to_thread(_check_seen, self.root, item, content.get("seen"))
            if self.blind:
                camera, sha256 = await self.renderer.do(jobs.blind_camera, str(item.folder), pose)
            elif pose is not None:
                near = catalogue.neighbours_of(item, list(self.items.values()))
                camera, sha256 = await self.solver.do(
                    jobs.save,
                    str(item.folder),
                    pose,
                    pose if start is None else start,
                    self.reviewer,
                    [str(each.folder) for each in near],
                )
            else:
                camera, sha256 = await self.renderer.do(jobs.stored_camera, str(item.folder))
            by_hand = pose is not None or (item.corrected_by is not None and not self.blind)
            decision = Decision(
                self.reviewer,
                choice,
                note.strip(),
                decisions.now(),
                sha256,
                camera,
                "person" if by_hand else "solver",
            )
            await asyncio.to_thread(decisions.append, item.folder, decision)
            self.made.setdefault(item.id, []).append(decision)
            fresh = await asyncio.to_thread(catalogue.read_item, self.root, item.folder)
            self.items[item.id] = fresh
            await self._decided(fresh, choice, pose)
        if pose is not None and not self.blind:
            self.renewing = asyncio.create_task(self.renew())
        return self.listed(fresh)

    async def _decided(self, item: Item, choice: Choice, pose: Pose | None) -> None:
        try:
            await self.unsaved.decided(item, choice, pose)
        except InputError as error:  # the decision itself is on the disk
            logger.warning(str(error))

    async def renew(self) -> None:
        """Write results anew that state a bone where it was before its correction."""
        for ident in list(self.items):
            item = self.items[ident]
            every = renewal.siblings(item, list(self.items.values()))
            moved = renewal.stale(item, every)
            if not moved or not os.access(item.folder, os.W_OK):
                continue
            async with self.saving:
                folders = [str(each.folder) for each in every]
                try:
                    await self.solver.do(jobs.renew, str(item.folder), folders)
                except InputError as error:
                    bones = ", ".join(each.bone for each in moved)
                    logger.warning(f"{item.folder}: has {bones} where it was before; {error}")
                    continue
                fresh = await asyncio.to_thread(catalogue.read_item, self.root, item.folder)
                self.items[ident] = fresh
            await self.tell({"type": "item", "item": self.listed(fresh)})

    def stop(self) -> None:
        """End the workers."""
        self.renderer.stop()
        self.solver.stop()


def _check_seen(root: Path, item: Item, seen: Any) -> None:
    """Raise InputError if a result is not of the pose that was decided on, by its hash."""
    if seen is not None and seen not in catalogue.read_item(root, item.folder).hashes:
        raise InputError(
            item.folder / names.PARAMETERS,
            "has changed since it was shown",
            "the pose that you decided on",
            "look at it again",
        )


POSES = ("pose", "start")


def as_pose(content: Any) -> Pose:
    """Return a pose of the page. Raises InputError unless it is a rigid motion."""
    try:
        matrix = np.array(content, float)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if not is_rigid(matrix) or np.linalg.det(matrix[:3, :3]) < 0:
        raise InputError("pose", "is not a rotation with a translation", "4 x 4 numbers", "retry")
    return matrix.tolist()
