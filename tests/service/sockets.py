"""A server on a free port of this machine."""

import asyncio


async def started(server):
    """Start it; gives the task that serves, and the port."""
    server.config.port, server.config.host = 0, "127.0.0.1"
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    return serving, server.servers[0].sockets[0].getsockname()[1]
