"""Clients that a service must outlive: they say nothing, trickle, or hang up; each begins again when it is cut off."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import cycle

from benchmarks import load

TRICKLE_S = 1.0  # between two bytes of a slow client
HURRY_S = 0.5  # until a client hangs up: twenty of them make forty broken uploads a second

Life = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Waits until the server closes."""
    await reader.read()


async def trickle(content: bytes, pause_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends what is allowed at once up to the first empty line, if there is one, and then a byte at a time."""
    head, gap, _ = content.partition(b"\r\n\r\n")
    writer.write(head + gap if gap else b"GET /livez HTTP/1.1\r\nX-Slow: ")
    for byte in cycle(b"x"):
        if reader.at_eof():
            return
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(pause_s)


async def hang_up(content: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends half a request."""
    writer.write(content[: len(content) // 2])
    await writer.drain()
    await asyncio.sleep(HURRY_S)


async def live(url: str, name: str, life: Life, cuts: Counter[str]) -> None:
    """Connects and lives, again and again; `cuts` counts how often it ended."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await load.open_stream(url)
            try:
                await life(reader, writer)
            finally:
                writer.close()
        cuts[name] += 1
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def crowd(
    url: str, content: bytes, *, idle: int, slow: int, broken: int, trickle_s: float = TRICKLE_S
) -> AsyncIterator[Counter[str]]:
    """Keeps so many of each kind at it while the block runs; yields how often each kind was cut off or hung up."""
    cuts: Counter[str] = Counter()
    kinds: list[tuple[str, Life, int]] = [
        ("idle", say_nothing, idle),
        ("slow heads", partial(trickle, b"", trickle_s), slow),
        ("slow bodies", partial(trickle, content, trickle_s), slow),
        ("hang-ups", partial(hang_up, content), broken),
    ]
    tasks = [asyncio.create_task(live(url, name, life, cuts)) for name, life, count in kinds for _ in range(count)]
    try:
        yield cuts
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
