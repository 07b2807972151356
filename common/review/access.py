"""Who may talk to the review's server: this computer's browser, at the address with the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_BODY = 1_000_000  # bytes of a request

HEADERS = {
    # nothing is loaded from elsewhere, no page may embed this one, nothing is kept in caches
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def guard(token: str, hosts: frozenset[str]) -> Callable:
    """Return the middleware that refuses everything without the token, or from another page.

    ``hosts`` are the names with port by which this server may be called: a page of another site
    whose name was made to point here sends its own (DNS rebinding).
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = refusal(request, token, hosts)
        if refused:
            return web.Response(status=403, text=refused + "\n", headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:  # not found, too large
            for name, value in HEADERS.items():
                error.headers[name] = value
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return middleware


def refusal(request: web.Request, token: str, hosts: frozenset[str]) -> str:
    """Return why a request is refused; empty if it is not."""
    if request.headers.get("Host", "") not in hosts:
        return "refused: called by another name than this computer's"
    origin = request.headers.get("Origin")
    if origin is not None and origin not in {f"http://{host}" for host in hosts}:
        return "refused: called from another page"
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "refused: called from another page"
    given = request.path.split("/")[1]
    if not hmac.compare_digest(given.encode(), token.encode()):
        return "refused: open the address that review.py printed, it contains a token"
    return ""
