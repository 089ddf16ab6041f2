"""Clients that a service must outlive: they say nothing, trickle, or hang up; each begins again when it is cut off."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

from benchmarks import load

TRICKLE_S = 1.0  # between two bytes of a slow client
HURRY_S = 0.5  # until a client hangs up: twenty of them make forty broken uploads a second

OPEN_SHARE = 0.8  # of those that stay until they are cut off: some are between two lives

Life = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Crowd:
    """How many of each kind are wanted, are connected now, and how often each kind was cut off or hung up."""

    wanted: Counter[str]
    open: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> list[str]:
        """The kinds of which too few are connected; whoever hangs up is not waited for."""
        kinds = [kind for kind in self.wanted if kind != "hang-ups"]
        return [kind for kind in kinds if self.open[kind] < OPEN_SHARE * self.wanted[kind]]

    def require_open(self) -> None:
        """Raises RuntimeError when too few are connected: what is measured now would be no siege."""
        if self.missing:
            raise RuntimeError(f"got {dict(self.open)} connections open, wanted {dict(self.wanted)}; look at `ulimit -n`")

    async def gather(self, *, limit_s: float) -> None:
        """Waits until enough are connected; raises RuntimeError when that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.missing:
                    await asyncio.sleep(0.05)
        self.require_open()


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


async def live(url: str, name: str, life: Life, crowd: Crowd) -> None:
    """Connects and lives, again and again."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await load.open_stream(url)
            crowd.open[name] += 1
            try:
                await life(reader, writer)
            finally:
                crowd.open[name] -= 1
                writer.close()
        crowd.cuts[name] += 1
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def crowd(
    url: str, content: bytes, *, idle: int, slow: int, broken: int, trickle_s: float = TRICKLE_S
) -> AsyncIterator[Crowd]:
    """Keeps so many of each kind at it while the block runs."""
    kinds: list[tuple[str, Life, int]] = [
        ("idle", say_nothing, idle),
        ("slow heads", partial(trickle, b"", trickle_s), slow),
        ("slow bodies", partial(trickle, content, trickle_s), slow),
        ("hang-ups", partial(hang_up, content), broken),
    ]
    members = Crowd(Counter({name: count for name, _, count in kinds}))
    tasks = [asyncio.create_task(live(url, name, life, members)) for name, life, count in kinds for _ in range(count)]
    try:
        yield members
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
