"""The server under the application: uvicorn, with doors.py at its connections."""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from service.doors import LET_IN, Doors, GuardedProtocol, Shed, quiet
from service.refusals import Refusals

FILES_KEPT = 256  # descriptors that connections leave to the gallery, to snapshots and to libraries
MOST_CONNECTIONS = 20_000
LISTENERS = 16  # libuv takes one connection from each a turn of the loop, and a busy loop has a hundred turns a second


def connection_limit() -> int:
    """Let the process open as many files as it may, and give the most connections that leave some to others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_CONNECTIONS + FILES_KEPT
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, wanted - FILES_KEPT)


class GuardedServer(uvicorn.Server):
    """A server that takes in many connections a turn, and gives TLS handshakes no more time than heads (asyncio: a minute)."""

    def __init__(self, config: uvicorn.Config, *, doors: Doors) -> None:
        super().__init__(config)
        self._doors = doors

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        if sockets is not None:
            sockets = [*sockets, *(one.dup() for one in sockets for _ in range(LISTENERS - 1))]
        loop = asyncio.get_running_loop()
        if self.config.ssl is None:
            return await super().startup(sockets)
        limited = partial(loop.create_server, ssl_handshake_timeout=self._doors.patience_s)
        loop.create_server = limited  # type: ignore[method-assign]  # for as long as uvicorn calls it
        try:
            await super().startup(sockets)
        finally:
            del loop.create_server


def make_server(
    app: Any,
    *,
    doors: Doors,
    drain_s: float,
    on_refusal: Callable[[str], None] = lambda code: None,
    shed: Shed = LET_IN,
    **tls: Any,
) -> uvicorn.Server:
    """Build the server of one process.

    Args:
        app: the ASGI application.
        doors: limits of connections.
        drain_s: how long answers under way are waited for at the end.
        on_refusal: told the code of everything that is refused before the application sees it.
        shed: decides from a request's head alone, before the application sees it.
        tls: uvicorn's options of HTTPS.
    """
    refusals = Refusals("refused connections", on_refusal)
    quiet.setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        # A maker of protocols is all that is needed.
        http=partial(GuardedProtocol, doors=doors, refusals=refusals, shed=shed),  # type: ignore[arg-type]
        ws="none",  # else whatever package is installed beside would take upgrades
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=int(drain_s),
        **tls,
    )
    return GuardedServer(config, doors=doors)
