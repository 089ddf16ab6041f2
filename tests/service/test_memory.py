"""What the allocators keep: heaps, objects that stay, and what is given back."""

import asyncio
import ctypes
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from service import memory
from service.memory import keep_trimmed, share_heaps, trim

ROOT = Path(__file__).parents[2]
IS_GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def heard(script):
    """What a process says on standard error that has none of glibc's variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True, timeout=60).stderr


@pytest.mark.skipif(not IS_GLIBC, reason="heaps of glibc")
@pytest.mark.parametrize(("cores", "heaps"), [(1, 1), (2, 1), (8, 4)])
def test_the_services_threads_share_few_heaps(cores, heaps):
    script = f"""
import threading
from service.memory import share_heaps
share_heaps({cores})
barrier = threading.Barrier(9)
def hold():
    kept = [bytes(2000) for _ in range(100)]
    barrier.wait()
    barrier.wait()
for _ in range(8):
    threading.Thread(target=hold).start()
barrier.wait()
import ctypes
ctypes.CDLL(None).malloc_stats()
barrier.wait()
"""
    assert heard(script).count("Arena ") == heaps


def test_the_collector_leaves_alone_what_stays_and_looks_at_the_rest_more_rarely():
    script = """
import gc
from service.memory import collect_rarely
collect_rarely()
print(gc.get_freeze_count() > 1000, gc.get_threshold()[0])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "10000"], done.stderr


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_heaps_that_the_environment_asks_for_are_left_as_they_are(monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    monkeypatch.setattr(memory, "libc", lambda: pytest.fail("it was asked for others"))
    share_heaps(2)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not IS_GLIBC, reason="heaps of glibc")
def test_what_is_free_between_what_is_kept_is_given_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(50_000) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, 50_000)
    kept = blocks[::20] + blocks[-1:]  # so that the heap's end cannot simply be taken back
    for block in set(blocks) - set(kept):
        libc.free(ctypes.c_void_p(block))
    before = resident_bytes()
    trim()
    assert before - resident_bytes() > 30e6
    for block in set(kept):
        libc.free(ctypes.c_void_p(block))


@pytest.mark.skipif(not IS_GLIBC, reason="heaps of glibc")
def test_giving_back_leaves_nothing_itself():
    trim()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            trim()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_another_library_has_nothing_to_give_back(monkeypatch):
    monkeypatch.setattr(memory, "libc", object)
    trim()
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    share_heaps(2)


def test_it_is_given_back_again_and_again(monkeypatch):
    monkeypatch.setattr(memory, "TRIM_S", 0.001)

    async def main():
        seen, twice = [], asyncio.Event()
        loop = asyncio.get_running_loop()

        def count():
            seen.append(1)
            if len(seen) == 2:
                loop.call_soon_threadsafe(twice.set)

        monkeypatch.setattr(memory, "trim", count)
        task = asyncio.create_task(keep_trimmed())
        async with asyncio.timeout(10):
            await twice.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
