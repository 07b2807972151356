"""The server of the review: it carries between the page and the session, and knows no more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from common.review import access, disagreement, jobs, tab
from common.review.catalogue import Item
from common.review.session import Session
from common.review.tab import Tab, expected_error, send, whole_number

PAGE = Path(__file__).resolve().parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Server:
    """The handlers of one review."""

    def __init__(self, session: Session):
        self.session = session
        self.tabs: set[web.WebSocketResponse] = set()
        session.tell = self.tell_all

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
                web.get(f"/{token}/api/item/{{id}}/glance", self.glance),
                web.get(f"/{token}/api/item/{{id}}/xray/{{view}}", self.xray),
                web.get(f"/{token}/api/item/{{id}}/saved/{{what}}/{{view}}", self.saved),
                web.get(f"/{token}/api/item/{{id}}/surface", self.surface),
                web.get(f"/{token}/api/item/{{id}}/neighbours", self.neighbours),
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
        px = whole_number(request.query.get("px"), tab.LARGEST_PX)
        return await self._picture(self.session.renderer.do(jobs.xray, str(item.folder), view, px))

    async def glance(self, request: web.Request) -> web.Response:
        """Answer with what can be shown of a result before its CT is opened."""
        return await self._json(self.session.glanced(self._item(request)))

    async def saved(self, request: web.Request) -> web.Response:
        """Answer with the X-ray or the DRR as the registration saved it, without the CT."""
        item, view = self._item(request), _view(request)
        which = {"xray": 0, "drr": 1}.get(request.match_info["what"])
        if which is None or (which and self.session.blind):
            raise web.HTTPNotFound(text="no such picture\n")
        saved = asyncio.to_thread(jobs.saved_picture, str(item.folder), view, which)
        return await self._picture(saved)

    async def surface(self, request: web.Request) -> web.Response:
        """Answer with the surface of a bone."""
        item = self._item(request)
        return await self._json(self.session.solver.do(jobs.surface, str(item.folder)))

    async def neighbours(self, request: web.Request) -> web.Response:
        """Answer with the other bones of the X-rays of a result."""
        return await self._json(self.session.neighbours(self._item(request)))

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
        except ValueError:  # not JSON, or not text
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
            return web.json_response({"error": expected_error(error)}, status=422)

    async def _picture(self, answer: Any) -> web.Response:
        try:
            return web.Response(body=await answer, content_type="application/octet-stream")
        except IndexError:
            raise web.HTTPNotFound(text="no such view\n") from None
        except Exception as error:
            return web.json_response({"error": expected_error(error)}, status=422)

    # -------------------------------------------------------------------------------------- live

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        """Carry the pictures and solver's answers of one tab."""
        socket = web.WebSocketResponse(heartbeat=30, max_msg_size=access.MAX_BODY)
        await socket.prepare(request)
        self.tabs.add(socket)
        page = Tab(self.session, self.tell_all, socket)
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    page.take(message.data)
        finally:
            self.tabs.discard(socket)
            page.close()
        return socket

    async def tell_all(self, content: dict[str, Any]) -> None:
        """Send something to every tab."""
        for socket in list(self.tabs):
            await send(socket, content)


def _view(request: web.Request) -> int:
    return whole_number(request.match_info["view"], 99, 0)


async def _as_table(found: Any) -> dict[str, Any]:
    rows, problems = await found
    return {
        "rows": [row.entries() for row in rows],
        "summary": disagreement.summary(rows),
        "problems": problems,
    }
