"""The state of a review: the list, the decisions, and poses that are not accepted yet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from common import files
from common.errors import InputError
from common.geometry import is_rigid
from common.results import decisions, names
from common.results.decisions import Choice, Decision
from common.review import catalogue, jobs, saving
from common.review.catalogue import Item
from common.review.jobs import Pose
from common.review.workers import Worker

Tell = Callable[[dict[str, Any]], Awaitable[None]]


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
    made: dict[str, list[Decision]] = field(default_factory=dict)  # by item
    drafts: dict[str, dict[str, Any]] = field(default_factory=dict)  # tracked, not accepted
    keys: dict[str, Pose] = field(default_factory=dict)  # poses set by hand in a sequence
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
        workers = Worker("renders"), Worker("solves")
        try:
            items, problems = catalogue.read_catalogue(root)
        except BaseException:
            for worker in workers:
                worker.stop()
            raise
        session = cls(root, reviewer, blind, items, problems, *workers)
        for item in items.values():
            session.made[item.id] = decisions.read(item.folder)
        return session

    def item(self, ident: str) -> Item:
        """Return an item by its id. Raises KeyError."""
        return self.items[ident]

    def listed(self, item: Item) -> dict[str, Any]:
        """Return an item as the page lists it."""
        made = self.made.get(item.id, [])
        entries = catalogue.entries(item, made, self.reviewer, self.blind)
        return {
            **entries,
            "sha256": item.parameters_sha256,
            "draft": self.drafts.get(item.id),
            "key": item.id in self.keys,
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

    async def described(self, item: Item) -> dict[str, Any]:
        """Return what the page needs to show an item."""
        item = await asyncio.to_thread(catalogue.read_item, self.root, item.folder)
        self.items[item.id] = item  # it may have been registered again
        every = list(self.items.values())
        near = catalogue.neighbours_of(item, every)
        found = await self.renderer.do(
            jobs.describe, str(item.folder), [str(each.folder) for each in near], self.blind
        )
        frames = [each.id for each in catalogue.frames_of(item, every)]
        for neighbour, each in zip(found.get("neighbours", []), near, strict=False):
            neighbour["id"] = each.id
        own = [one for one in self.made.get(item.id, []) if one.reviewer == self.reviewer]
        return {
            **self.listed(item),
            **found,
            "frames": frames,
            "key_pose": self.keys.get(item.id),
            "history": [
                {"choice": one.choice, "when": one.when, "note": one.note, "set_by": one.set_by}
                for one in own
            ],
        }

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
            _check_seen(item, content.get("seen"))
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
            self.drafts.pop(item.id, None)
            fresh = await asyncio.to_thread(catalogue.read_item, self.root, item.folder)
            self.items[item.id] = fresh
        return self.listed(fresh)

    # ------------------------------------------------------------------------------- sequences

    def set_key(self, item: Item, pose: Any) -> dict[str, Any]:
        """Make a frame a key with a pose, or with None an ordinary frame again."""
        if pose is None:
            self.keys.pop(item.id, None)
        else:
            self.keys[item.id] = as_pose(pose)
            self.drafts.pop(item.id, None)
        return self.listed(self.items[item.id])

    def stop(self) -> None:
        """End the workers."""
        self.renderer.stop()
        self.solver.stop()


def _check_seen(item: Item, seen: Any) -> None:
    """Raise InputError if a result is not the one that was decided on, by its hash."""
    path = item.folder / names.PARAMETERS
    if seen is not None and files.sha256(files.existing_file(path, "the result")) != seen:
        raise InputError(
            path,
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
