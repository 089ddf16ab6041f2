"""Decoding in threads: order, turns, cancellation, and what is given back when."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.decoding import LARGE_BYTES, Decoding


@contextmanager
def decoding(threads=1):
    with ThreadPoolExecutor(threads) as executor:
        yield Decoding(executor, threads=threads), executor


class Gated:
    """Gives what it is given, notes it, and stands still at "wait" until told to go on."""

    def __init__(self):
        self.seen = []
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, item):
        self.seen.append(item)
        if item == "wait":
            self.reached.set()
            assert self.go_on.wait(timeout=10)
        return item

    async def until_reached(self):
        assert await asyncio.to_thread(self.reached.wait, 10)


@given(st.lists(st.lists(st.integers(), max_size=50), max_size=20), st.integers(1, 3))
def test_every_caller_gets_the_results_of_its_own_items_in_their_order(callers, threads):
    async def main():
        with decoding(threads) as (spread, _):
            answers = await asyncio.gather(*(spread.map(lambda item: item + 1, items) for items in callers))
        assert answers == [[item + 1 for item in items] for items in callers]
        assert spread._at_work == 0 and not spread._jobs

    asyncio.run(main())


def test_callers_take_turns():
    async def main():
        work = Gated()
        with decoding() as (spread, _):
            first = asyncio.ensure_future(spread.map(work, ["wait"]))
            await work.until_reached()
            others = [spread.map(work, ["a", "b", "c"]), spread.map(work, ["d"]), spread.map(work, ["e", "f"])]
            gathered = asyncio.gather(*others)
            await asyncio.sleep(0)
            work.go_on.set()
            assert await gathered == [["a", "b", "c"], ["d"], ["e", "f"]] and await first == ["wait"]
        assert work.seen == ["wait", "a", "d", "e", "b", "f", "c"]

    asyncio.run(main())


def test_what_a_caller_who_leaves_had_waiting_is_dropped():
    async def main():
        work = Gated()
        with decoding() as (spread, _):
            leaving = asyncio.ensure_future(spread.map(work, ["wait", "a", "b"]))
            await work.until_reached()
            staying = asyncio.ensure_future(spread.map(work, ["c"]))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            work.go_on.set()
            assert await staying == ["c"]
        assert work.seen == ["wait", "c"]

    asyncio.run(main())


def test_an_error_is_its_callers_who_gets_no_more_decoded():
    async def main():
        def divide(item):
            return 6 // item

        with decoding() as (spread, _):
            good, bad = spread.map(divide, [1, 2]), spread.map(divide, [3, 0, 0, 0, 0])
            answers = await asyncio.gather(good, bad, return_exceptions=True)
            assert answers[0] == [6, 3] and isinstance(answers[1], ZeroDivisionError)
            assert await spread.map(divide, [6]) == [1]

    asyncio.run(main())


def test_nothing_that_is_done_waits_for_a_large_file():
    async def main():
        work = Gated()
        large = b"x" * (LARGE_BYTES + 1)

        def call(item):
            return work("wait" if item == large else item)

        with decoding() as (spread, _):
            gate = threading.Event()
            spread._executor.submit(gate.wait, 10)
            small = asyncio.ensure_future(spread.map(call, [b"small"]))
            other = asyncio.ensure_future(spread.map(call, [large]))
            await asyncio.sleep(0)
            gate.set()
            assert await small == [b"small"] and not other.done()
            work.go_on.set()
            assert await other == ["wait"]

    asyncio.run(main())


@pytest.mark.parametrize("count", [1, 40])
def test_others_get_the_threads_too_when_a_slice_is_over(count, monkeypatch):
    monkeypatch.setattr("service.decoding.SLICE_S", 0.0)

    async def main():
        work = Gated()
        with decoding() as (spread, executor):
            many = asyncio.ensure_future(spread.map(work, ["wait", *range(count)]))
            await work.until_reached()
            other = executor.submit(lambda: list(work.seen))
            work.go_on.set()
            assert await many == ["wait", *range(count)]
        assert other.result() == ["wait"]

    asyncio.run(main())
