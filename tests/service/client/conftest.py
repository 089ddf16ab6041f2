"""Fixtures of the client's tests: a client over a real application, and an application that listens on a port."""

import asyncio
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.client import Client
from service.settings import Settings

URL = "http://127.0.0.1:8000"


class Wire(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Hands either client's requests to an application that runs on a loop of its own in another thread."""

    def __init__(self, served):
        self.served = served
        self.asgi = httpx.ASGITransport(served.app)
        self.seen = []

    def handle_request(self, request):
        return self.served.run(self.answer(request))

    async def handle_async_request(self, request):
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.answer(request), self.served.loop))

    async def answer(self, request):
        self.seen.append(request)
        plain = httpx.Request(request.method, request.url, headers=request.headers, content=b"".join(request.stream))
        answer = await self.asgi.handle_async_request(plain)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


@pytest.fixture(name="wire")
def wire_fixture():
    """The transport between a client and an application of the test."""
    return Wire


@pytest.fixture(name="over")
def over_fixture(serving):
    """Makes a client of an application with some settings changed, and the wire that saw its requests."""
    opened = []

    def over(*, embed=None, key=None, per_request=32, **changes):
        wire = Wire(serving(embed=embed, **changes))
        opened.append(Client(URL, key, transport=wire, crops_per_request=per_request))
        return opened[-1], wire

    yield over
    for client in opened:
        client.close()


@pytest.fixture(name="live", scope="module")
def live_fixture(tiny, tmp_path_factory):
    """An application that listens on a port, for all tests of a file; gives its URL."""
    settings = Settings(_env_file=None, model=tiny, gallery=tmp_path_factory.mktemp("live") / "gallery", threads=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(name="reid")
def reid_fixture(live):
    """A client of that application; whoever was enrolled is erased when the test ends."""
    with Client(live) as reid:
        yield reid
        for identity in list(reid.identities()):
            reid.delete_identity(identity.pid)
