"""One open page of the review: its pictures and the solver's answers, over a websocket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

from common.errors import InputError, as_input_error
from common.review import jobs
from common.review.catalogue import Item
from common.review.drafts import Draft
from common.review.session import Session, Tell, as_pose
from common.review.tracking import track

logger = logging.getLogger(__name__)

LARGEST_PX, SMALLEST_PX = 8192, 16  # of a picture


class Tab:
    """One open page. Of its pictures, only the latest that it asked for is rendered."""

    def __init__(self, session: Session, tell_all: Tell, socket: web.WebSocketResponse):
        self.session, self.tell_all, self.socket = session, tell_all, socket
        self.wanted: dict[str, Any] | None = None
        self.tasks: set[asyncio.Task] = set()
        self.rendering = False

    def take(self, text: str) -> None:
        """Start what a message asks for."""
        try:
            content = json.loads(text)
            item = self.session.item(content["item"])
            kind = content["type"]
        except (ValueError, KeyError, TypeError):
            self._start(send(self.socket, {"type": "error", "error": "unknown request"}))
            return
        if kind == "render":
            self.wanted = content
            if not self.rendering:
                self.rendering = True
                self._start(self._render())
        elif kind in ("refine", "search", "assess"):
            self._start(self._solve(kind, item, content))
        elif kind == "draft":
            self._start(self._draft(item, content))
        elif kind == "key":
            self._start(self._key(item, content))
        elif kind == "track":
            self._start(self._track(item))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _render(self) -> None:
        """Render until nothing newer is wanted."""
        try:
            while self.wanted is not None and not self.socket.closed:
                content, self.wanted = self.wanted, None
                await self._send_pictures(content)
        finally:
            self.rendering = False

    async def _send_pictures(self, content: dict[str, Any]) -> None:
        try:
            item = self.session.item(content["item"])
            pose, px = as_pose(content.get("pose")), whole_number(content.get("px"), LARGEST_PX)
            number = whole_number(content.get("number"), 2**32 - 1, 0)
            pictures = await self.session.renderer.do(
                jobs.render, str(item.folder), pose, px, number
            )
            for picture in pictures:
                await self.socket.send_bytes(picture)
        except ConnectionError:
            return
        except Exception as error:
            await send(self.socket, {"type": "error", "error": expected_error(error)})

    async def _solve(self, kind: str, item: Item, content: dict[str, Any]) -> None:
        answer = {"type": "solved", "what": kind, "item": item.id, "number": content.get("number")}
        try:
            found = await self._solved(kind, item, content, answer)
            await send(self.socket, {**answer, **found})
            start = as_pose(content["start"]) if content.get("start") else None
            draft = Draft(found["pose"], "solver", start, verdict=found["verdict"])
            await self._keep(item, self.session.unsaved.answered(item, draft, kind != "assess"))
        except Exception as error:
            await send(self.socket, {**answer, "error": expected_error(error)})

    async def _solved(
        self, kind: str, item: Item, content: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what the solver found; a refined pose is sent at once, before its verdict."""
        folder, do = str(item.folder), self.session.solver.do
        if kind == "search":
            return await do(jobs.search_again, folder)
        pose = as_pose(content.get("pose"))
        if kind == "assess":
            return await do(jobs.assess, folder, pose)
        refined, solution = await do(jobs.refine, folder, pose)
        await send(self.socket, {**answer, "type": "refined", "pose": refined})
        return await do(jobs.judge, folder, solution)

    async def _draft(self, item: Item, content: dict[str, Any]) -> None:
        """Keep the pose that the page shows, so that it is not lost with the page."""
        try:
            start = as_pose(content["start"]) if content.get("start") else None
            work = self.session.unsaved.set_pose(item, as_pose(content.get("pose")), start)
        except InputError as error:
            await send(self.socket, {"type": "error", "error": str(error)})
            return
        await self._keep(item, work)

    async def _keep(self, item: Item, work: Awaitable[None]) -> None:
        """Wait until a pose is on the disk, and tell every tab, also that it cannot be written."""
        error = None
        try:
            await asyncio.shield(work)
        except InputError as unwritable:
            error = str(unwritable)
        listed = self.session.listed(self.session.item(item.id))
        await self.tell_all({"type": "item", "item": listed, "not_kept": error})

    async def _key(self, item: Item, content: dict[str, Any]) -> None:
        try:
            pose = as_pose(content["pose"]) if content.get("pose") else None
            await self._keep(item, self.session.unsaved.set_key(item, pose))
        except InputError as error:
            await send(self.socket, {"type": "error", "error": str(error)})

    async def _track(self, item: Item) -> None:
        try:
            async with self.session.tracking:
                count = await track(self.session, item, self.tell_all)
            await self.tell_all({"type": "tracked", "item": item.id, "count": count})
        except Exception as error:
            await send(
                self.socket, {"type": "tracked", "item": item.id, "error": expected_error(error)}
            )

    def close(self) -> None:
        """Forget what was wanted; work that was begun goes on and is kept by the session."""
        self.wanted = None


async def send(socket: web.WebSocketResponse, content: dict[str, Any]) -> None:
    """Send a message; a tab that has gone away misses it."""
    try:
        if not socket.closed:
            await socket.send_json(content)
    except ConnectionError:
        logger.debug("a tab went away")


def expected_error(error: Exception) -> str:
    """Return an expected error as one line; others are bugs, and logged with their traceback."""
    expected = as_input_error(error)
    if expected is not None:
        return str(expected)
    logger.error("a request failed", exc_info=error)
    return f"a bug ({type(error).__name__}: {error}); the terminal has the details"


def whole_number(value: Any, most: int, least: int = SMALLEST_PX) -> int:
    """Return a whole number of a request, within limits; ``most`` if it is none."""
    try:
        return min(max(int(value), least), most)
    except (TypeError, ValueError):
        return most
