"""The server of the review: it carries between the page and the session, and knows no more."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from common.errors import InputError, as_input_error
from common.review import access, disagreement, jobs
from common.review.catalogue import Item
from common.review.session import Session, as_pose

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LARGEST_PX = 8192  # of a picture
SMALLEST_PX = 16


class Server:
    """The handlers of one review."""

    def __init__(self, session: Session):
        self.session = session
        self.tabs: set[web.WebSocketResponse] = set()
        self.tracking = asyncio.Lock()

    def app(self, token: str, hosts: frozenset[str]) -> web.Application:
        """Return the application; every address begins with the token."""
        app = web.Application(
            middlewares=[access.guard(token, hosts)], client_max_size=access.MAX_BODY
        )
        app.add_routes(
            [
                web.get(f"/{token}/", self.page),
                web.get(f"/{token}/page/{{name}}", self.page),
                web.get(f"/{token}/api/list", self.overview),
                web.get(f"/{token}/api/disagreement", self.disagreement),
                web.get(f"/{token}/api/item/{{id}}", self.item),
                web.get(f"/{token}/api/item/{{id}}/xray/{{view}}", self.xray),
                web.get(f"/{token}/api/item/{{id}}/drr/{{view}}", self.drr),
                web.get(f"/{token}/api/item/{{id}}/surface", self.surface),
                web.post(f"/{token}/api/item/{{id}}/decision", self.decision),
                web.get(f"/{token}/live", self.live),
            ]
        )
        return app

    # ---------------------------------------------------------------------------------- requests

    async def page(self, request: web.Request) -> web.Response:
        """Answer with a file of the page, by name."""
        name = request.match_info.get("name", "index.html")
        known = {path.name: path for path in PAGE.iterdir() if path.suffix in TYPES}
        if name not in known:
            raise web.HTTPNotFound(text="no such page\n")
        body = known[name].read_bytes()
        return web.Response(body=body, content_type=TYPES[known[name].suffix], charset="utf-8")

    def _item(self, request: web.Request) -> Item:
        try:
            return self.session.item(request.match_info["id"])
        except KeyError:
            raise web.HTTPNotFound(text="no such result\n") from None

    async def overview(self, _: web.Request) -> web.Response:
        """Answer with the list."""
        return web.json_response(self.session.overview())

    async def item(self, request: web.Request) -> web.Response:
        """Answer with one result."""
        return await self._json(self.session.described(self._item(request)))

    async def xray(self, request: web.Request) -> web.Response:
        """Answer with an X-ray, at most ``px`` pixels along its longer side."""
        item, view = self._item(request), _view(request)
        px = _number(request.query.get("px"), LARGEST_PX)
        return await self._picture(self.session.renderer.do(jobs.xray, str(item.folder), view, px))

    async def drr(self, request: web.Request) -> web.Response:
        """Answer with the DRR that the registration saved."""
        item, view = self._item(request), _view(request)
        return await self._picture(self.session.renderer.do(jobs.saved_drr, str(item.folder), view))

    async def surface(self, request: web.Request) -> web.Response:
        """Answer with the surface of a bone."""
        item = self._item(request)
        return await self._json(self.session.renderer.do(jobs.surface, str(item.folder)))

    async def disagreement(self, _: web.Request) -> web.Response:
        """Answer with the distances between the reviewers' poses."""
        if self.session.blind:
            return web.json_response({"error": "not shown in a blind review"}, status=403)
        found = asyncio.to_thread(disagreement.table, self.session.root)
        return await self._json(_as_table(found))

    async def decision(self, request: web.Request) -> web.Response:
        """Record a decision, and tell the other tabs."""
        item = self._item(request)
        try:
            content = await request.json()
        except json.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            raise web.HTTPBadRequest(text="expected a JSON object\n")
        # a tab that closes now does not stop what it asked for
        response = await asyncio.shield(self._json(self.session.decide(item, content)))
        if response.status == 200:
            await self.tell_all(
                {"type": "item", "item": self.session.listed(self.session.item(item.id))}
            )
        return response

    async def _json(self, answer: Any) -> web.Response:
        try:
            return web.json_response(await answer)
        except Exception as error:
            return web.json_response({"error": _expected(error)}, status=422)

    async def _picture(self, answer: Any) -> web.Response:
        try:
            return web.Response(body=await answer, content_type="application/octet-stream")
        except Exception as error:
            return web.json_response({"error": _expected(error)}, status=422)

    # -------------------------------------------------------------------------------------- live

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        """Carry the pictures and solver's answers of one tab."""
        socket = web.WebSocketResponse(heartbeat=30, max_msg_size=access.MAX_BODY)
        await socket.prepare(request)
        self.tabs.add(socket)
        tab = Tab(self, socket)
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    tab.take(message.data)
        finally:
            self.tabs.discard(socket)
            tab.close()
        return socket

    async def tell_all(self, content: dict[str, Any]) -> None:
        """Send something to every tab."""
        for socket in list(self.tabs):
            await send(socket, content)


class Tab:
    """One open page. Of its pictures, only the latest that it asked for is rendered."""

    def __init__(self, server: Server, socket: web.WebSocketResponse):
        self.server, self.session, self.socket = server, server.session, socket
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
            pose, px = as_pose(content.get("pose")), _number(content.get("px"), LARGEST_PX)
            number = _number(content.get("number"), 2**32 - 1, 0)
            pictures = await self.session.renderer.do(
                jobs.render, str(item.folder), pose, px, number
            )
            for picture in pictures:
                await self.socket.send_bytes(picture)
        except ConnectionError:
            return
        except Exception as error:
            await send(self.socket, {"type": "error", "error": _expected(error)})

    async def _solve(self, kind: str, item: Item, content: dict[str, Any]) -> None:
        answer = {"type": "solved", "what": kind, "item": item.id, "number": content.get("number")}
        folder = str(item.folder)
        try:
            if kind == "search":
                solved = await self.session.solver.do(jobs.search_again, folder)
            else:
                job = jobs.refine if kind == "refine" else jobs.assess
                solved = await self.session.solver.do(job, folder, as_pose(content.get("pose")))
            await send(self.socket, {**answer, **solved})
        except Exception as error:
            await send(self.socket, {**answer, "error": _expected(error)})

    async def _key(self, item: Item, content: dict[str, Any]) -> None:
        try:
            listed = self.session.set_key(item, content.get("pose"))
            await self.server.tell_all({"type": "item", "item": listed})
        except InputError as error:
            await send(self.socket, {"type": "error", "error": str(error)})

    async def _track(self, item: Item) -> None:
        try:
            async with self.server.tracking:
                count = await self.session.track(item, self.server.tell_all)
            await self.server.tell_all({"type": "tracked", "item": item.id, "count": count})
        except Exception as error:
            await send(self.socket, {"type": "tracked", "item": item.id, "error": _expected(error)})

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


def _expected(error: Exception) -> str:
    """Return an expected error as one line; others are bugs, and logged with their traceback."""
    expected = as_input_error(error)
    if expected is not None:
        return str(expected)
    logger.error("a request failed", exc_info=error)
    return f"a bug ({type(error).__name__}: {error}); the terminal has the details"


def _view(request: web.Request) -> int:
    return _number(request.match_info["view"], 99, 0)


def _number(value: Any, most: int, least: int = SMALLEST_PX) -> int:
    """Return a whole number of a request, within limits; ``most`` if it is none."""
    try:
        return min(max(int(value), least), most)
    except (TypeError, ValueError):
        return most


async def _as_table(found: Any) -> dict[str, Any]:
    rows, problems = await found
    return {
        "rows": [row.entries() for row in rows],
        "summary": disagreement.summary(rows),
        "problems": problems,
    }
