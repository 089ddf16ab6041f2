"""What allocators keep: Python's collector looks rarely, glibc has few heaps for many threads and gives back what is free."""

import asyncio
import ctypes
import gc
import os
from contextlib import suppress
from functools import cache

M_ARENA_MAX = -8  # <malloc.h>
YOUNG = 10_000  # new objects between two collections; by Python's 700 a full queue's are looked through again and again
TRIM_S = 30.0


def share_heaps(cores: int) -> None:
    """Let threads share glibc's heaps, one for two cores; variables of glibc's go before.

    With a heap for each thread, room that one has freed serves no other, and what lives long between what does not keeps the
    pages of both: memory creeps up.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(OSError, AttributeError):  # another C library
        libc().mallopt(M_ARENA_MAX, max(1, cores // 2))


def collect_rarely() -> None:
    """Leave alone what stays, modules, routes and the gallery: to look through them again and again stops everybody for 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


async def keep_trimmed() -> None:
    """Give free memory back to the system until cancelled: otherwise a process keeps what its busiest moment took, for ever."""
    while True:
        await asyncio.sleep(TRIM_S)
        await asyncio.to_thread(trim)


def trim() -> None:
    """Give back once; nothing where there is another C library than glibc."""
    with suppress(OSError, AttributeError):
        libc().malloc_trim(0)


@cache
def libc() -> ctypes.CDLL:
    """Give the C library, opened once: each opening makes a class that stays until a collection, and pins pages of the heap."""
    return ctypes.CDLL(None)
