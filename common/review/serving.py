"""Runs the review: a port of this computer, the session, the server, until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable, Generator
from pathlib import Path

from aiohttp import web

from common.errors import InputError
from common.review.server import Server
from common.review.session import Session

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
CLOSING_S = 2  # at most, for tabs to say goodbye


@contextlib.contextmanager
def listening(port: int) -> Generator[socket.socket, None, None]:
    """Context of a socket of this computer alone, at a port (0: any that is free).

    Raises InputError if the port is in use.
    """
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            door.bind((ADDRESS, port))
        except OSError as error:
            raise InputError(
                f"`port` {port}",
                f"cannot be used ({error.strerror})",
                "a free port",
                "choose another one, or leave it out",
            ) from None
        yield door
    finally:
        door.close()


def start(folder: Path, reviewer: str, blind: bool) -> Session:
    """Return the session of a folder. Raises InputError if there is nothing to review."""
    return Session.start(folder, reviewer, blind)


def serve(
    session: Session,
    door: socket.socket,
    announce: Callable[[str], None],
    open_browser: bool = True,
    token: str | None = None,
) -> None:
    """Serve the page until SIGINT or SIGTERM; ``announce`` is given its address."""
    try:
        asyncio.run(_serve(session, door, announce, open_browser, token or secrets.token_urlsafe()))
    finally:
        session.stop()


async def _serve(
    session: Session,
    door: socket.socket,
    announce: Callable[[str], None],
    open_browser: bool,
    token: str,
) -> None:
    port = door.getsockname()[1]
    hosts = frozenset({f"{ADDRESS}:{port}", f"localhost:{port}"})
    server = Server(session)
    runner = web.AppRunner(server.app(token, hosts), access_log=None)
    await runner.setup()
    await web.SockSite(runner, door, shutdown_timeout=2).start()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl+C interrupts instead
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    address = f"http://{ADDRESS}:{port}/{token}/"
    announce(address)
    session.renewing = asyncio.create_task(session.renew())  # what an earlier run left
    if open_browser and not webbrowser.open(address):
        logger.warning("no browser could be opened: open the address yourself")
    await stopped.wait()
    async with session.saving:  # what is being saved is saved
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await asyncio.gather(*(tab.close() for tab in list(server.tabs)))
        await runner.cleanup()
