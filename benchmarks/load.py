"""A load generator that costs little beside the server it shares the machine with: prepared bytes over plain sockets.

Closed loop: so many clients, each sends its next request when the last is answered. Constant arrival: requests come by the
clock, whether or not the server keeps up, and a wait counts from the moment a request was due.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import uvloop

T = TypeVar("T")
BOUNDARY = "reid-load"


@dataclass
class Waits:
    """What a load gave: seconds of every good answer, statuses of the others, the whole time, CPU seconds of this process.

    `warming` good answers were given before, and count in nothing else.
    """

    seconds: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    total_s: float = 0.0
    cpu_s: float = 0.0
    warming: int = 0

    def figures(self, *, crops_per_request: int) -> dict[str, float]:
        """Returns crops per second, percentiles in milliseconds, the share refused, and the client's CPU time a request."""
        p50, p95, p99 = (1000 * np.percentile(self.seconds, (50, 95, 99))) if self.seconds else (float("nan"),) * 3
        num = len(self.seconds) + len(self.refused)
        return {
            "crops_per_s": crops_per_request * len(self.seconds) / self.total_s,
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
            "refused": len(self.refused) / max(num, 1),
            "client_cpu_ms": 1000 * self.cpu_s / max(num, 1),
        }


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the event loop that costs least, and collects no garbage meanwhile.

    To look through all that was imported would stop it for 0.4 s, through 150,000 answers for 0.1 s: both would be told as the
    service's.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    finally:
        gc.enable()


def request(url: str, path: str, body: bytes, *, content_type: str) -> bytes:
    """Returns a whole POST as bytes."""
    lines = (f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", f"Content-Type: {content_type}")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    return head.encode() + body


def jpeg_requests(url: str, files: Sequence[bytes], *, crops_per_request: int) -> list[bytes]:
    """Returns requests to embed JPEG files: raw bodies of one crop, or forms of several."""
    path = "/embed?encoding_format=base64"
    if crops_per_request == 1:
        return [request(url, path, file, content_type="image/jpeg") for file in files]
    groups = [files[at : at + crops_per_request] for at in range(0, len(files) - crops_per_request + 1, crops_per_request)]
    return [request(url, path, form(group), content_type=f"multipart/form-data; boundary={BOUNDARY}") for group in groups]


def form(files: Sequence[bytes]) -> bytes:
    """Returns a multipart body with every file in the field `crops`."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="crops"; filename="crop.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    return b"".join(head.encode() + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


class Connection:
    """One keep-alive connection, opened anew when the server has closed it for being idle."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url, self._reader, self._writer = url, reader, writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        return cls(url, *await open_stream(url))

    async def ask(self, content: bytes) -> int:
        """Sends a request, reads its answer whole, returns its status."""
        if self._reader.at_eof():
            self.close()
            self._reader, self._writer = await open_stream(self._url)
        self._writer.write(content)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()


async def open_stream(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to the server of an address."""
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


async def ask(connection: Connection, content: bytes, waits: Waits, due: float) -> None:
    """Sends a request and notes how long after `due` its answer was there."""
    status = await connection.ask(content)
    if status == 200:
        waits.seconds.append(time.perf_counter() - due)
    else:
        waits.refused.append(status)


async def closed_loop(url: str, requests: Sequence[bytes], *, clients: int, num_requests: int) -> Waits:
    """Sends `num_requests` from so many clients, after one each that does not count."""
    connections = [await Connection.open(url) for _ in range(clients)]
    statuses = await asyncio.gather(*(one.ask(requests[0]) for one in connections))
    numbers = iter(range(num_requests))
    waits = Waits(warming=statuses.count(200))

    async def client(connection: Connection) -> None:
        for number in numbers:
            await ask(connection, requests[number % len(requests)], waits, time.perf_counter())

    await timed(waits, *(client(one) for one in connections))
    for one in connections:
        one.close()
    return waits


async def constant_arrival(url: str, requests: Sequence[bytes], *, per_s: float, seconds: float) -> Waits:
    """Sends requests at a fixed rate for so long; each takes a free connection, or a new one when none is free."""
    free: list[Connection] = []
    waits = Waits()

    async def one(number: int, due: float) -> None:
        connection = free.pop() if free else await Connection.open(url)
        await ask(connection, requests[number % len(requests)], waits, due)
        free.append(connection)

    await timed(waits, paced(one, per_s=per_s, seconds=seconds))
    for connection in free:
        connection.close()
    return waits


async def paced(send: Callable[[int, float], Coroutine[Any, Any, object]], *, per_s: float, seconds: float) -> None:
    """Calls `send` with a number and the time when it is due, at a fixed rate for so long; returns when all are done."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in count():
            if number / per_s >= seconds:
                return
            due = begun + number / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(send(number, due))


async def timed(waits: Waits, *work: Coroutine[Any, Any, None], clock: Callable[[], float] = time.perf_counter) -> None:
    """Awaits all and notes the time and the CPU time that it took."""
    begun, begun_cpu = clock(), time.process_time()
    await asyncio.gather(*work)
    waits.total_s, waits.cpu_s = clock() - begun, time.process_time() - begun_cpu
