"""What the batcher's tests share: a runtime that doubles numbers and stands still when told to, and ways to ask."""

import asyncio
import threading

from service.batcher import Batcher


class Gate:
    """A `run` that doubles numbers, notes its batches, and stands still while it is shut."""

    def __init__(self, *, shut=False):
        self.batches = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        if not shut:
            self.open.set()

    def __call__(self, batch):
        self.batches.append(list(batch))
        self.entered.release()
        assert self.open.wait(timeout=10)
        return [2 * item for item in batch]

    async def until_entered(self):
        await asyncio.to_thread(self.entered.acquire, timeout=10)


def batcher_of(run, **limits):
    return Batcher(run, **{"batch_max": 4, "queue_max": 100, **limits})


async def ask(batcher, items):
    with batcher.admit(len(items)) as room:
        return await room.submit(items)


async def queued(batcher, items):
    """Start asking and return once the items stand in the queue."""
    task = asyncio.ensure_future(ask(batcher, items))
    await asyncio.sleep(0)
    return task
