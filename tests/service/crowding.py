"""The real server over a socket, its queue full and its runtime held at a gate."""

import asyncio
from contextlib import asynccontextmanager

import uvloop

from service.app import create_app
from service.doors import Doors
from service.server import make_server
from service.shedding import Shedding
from tests.service.sockets import started

DOORS = Doors(connections=1000, patience_s=20.0)


@asynccontextmanager
async def full(settings, without, gate, pictures, *, queue_max=1, becomes=200):
    """A server one of whose places is taken and whose runtime waits at the gate.

    Gives the application, a way to send a head, and the server's connections.
    """
    passes = iter([True])

    def before(size):
        assert next(passes, False) or gate.wait(20)  # the first pass is the one at start-up

    app = create_app(settings.model_copy(update={"queue_max": queue_max}), embed=without(before=before))
    server = make_server(app, doors=DOORS, drain_s=5, shed=Shedding(app))
    serving, port = await started(server)
    writers = []

    async def send(request, *, to=None):
        reader, writer = to or await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(request if isinstance(request, bytes) else request.encode())
        return reader, writer

    crop = post_of(pictures(1))
    try:
        async with asyncio.timeout(20):
            batcher = app.state.parts.pipeline.batcher
            running = await send(crop)
            while not batcher._passes.size:
                await asyncio.sleep(0.001)
            waiting = await send(crop)
            while not batcher.waiting:
                await asyncio.sleep(0.001)
            yield app, send, server.server_state.connections
            gate.set()
            for reader, _ in (running, waiting):
                assert (await reader.readuntil(b"\r\n")).startswith(f"HTTP/1.1 {becomes} ".encode())
    finally:
        gate.set()
        for writer in writers:
            writer.close()
        server.should_exit = True
        await serving


def post_of(body):
    """A request to embed one crop."""
    lines = ("POST /embed HTTP/1.1", "Host: localhost", "Authorization: Bearer full", "Content-Type: image/png")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


async def answer_of(reader):
    """Read one answer: its status, headers by lower-case name, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def run(work):
    """Run on the loop that the service has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
