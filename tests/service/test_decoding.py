"""Decoding in threads: order, turns, cancellation, and what is given back when."""

import asyncio
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.decoding import LARGE_BYTES, Decoding
from service.worker import Worker


@contextmanager
def decoding(threads=1):
    spread = Decoding(threads=threads)
    yield spread
    spread.close()


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
        with decoding(threads) as spread:
            answers = await asyncio.gather(*(spread.map(lambda item: item + 1, items) for items in callers))
        assert answers == [[item + 1 for item in items] for items in callers]
        assert not spread._jobs and not spread._done

    asyncio.run(main())


def test_as_many_threads_work_at_once_as_there_are():
    async def main():
        with decoding(2) as spread:
            together = threading.Barrier(2)
            await asyncio.gather(*(spread.map(lambda item: together.wait(10), [1]) for _ in range(2)))

    asyncio.run(main())


def test_threads_are_woken_once_for_all_who_come_in_one_turn(monkeypatch):
    woken, run = [], Worker.run
    monkeypatch.setattr(Worker, "run", lambda self, call: (woken.append(self), run(self, call))[1])

    async def main():
        with decoding(2) as spread:
            tasks = [asyncio.ensure_future(spread.map(lambda item: item, [number])) for number in range(4)]
            await asyncio.sleep(0)
            assert spread._wanted == 4 and not woken
            return await asyncio.gather(*tasks), len(woken), len(set(woken))

    assert asyncio.run(main()) == ([[0], [1], [2], [3]], 2, 2)


def test_callers_take_turns():
    async def main():
        work = Gated()
        with decoding() as spread:
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
        with decoding() as spread:
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

        with decoding() as spread:
            good, bad = spread.map(divide, [1, 2]), spread.map(divide, [3, 0, 0, 0, 0])
            answers = await asyncio.gather(good, bad, return_exceptions=True)
            assert answers[0] == [6, 3] and isinstance(answers[1], ZeroDivisionError)
            assert await spread.map(divide, [6]) == [1]

    asyncio.run(main())


@pytest.mark.parametrize("large", [b"x" * (LARGE_BYTES + 1), np.zeros((200, 200, 3), np.uint8)], ids=["file", "pixels"])
def test_nothing_that_is_done_waits_for_a_large_file(large):
    async def main():
        work = Gated()

        def call(item):
            return work("wait" if item is large else item)

        with decoding() as spread:
            small, other = (asyncio.ensure_future(spread.map(call, [item])) for item in (b"small", large))
            assert await small == [b"small"] and not other.done()
            work.go_on.set()
            assert await other == ["wait"]

    asyncio.run(main())


def test_nothing_that_is_done_waits_for_the_last_when_a_slice_is_over(monkeypatch):
    monkeypatch.setattr("service.decoding.SLICE_S", -1.0)

    async def main():
        work = Gated()
        with decoding() as spread:
            first, second = (asyncio.ensure_future(spread.map(work, [item])) for item in ("a", "wait"))
            assert await first == ["a"] and not second.done()
            work.go_on.set()
            assert await second == ["wait"]

    asyncio.run(main())


def test_what_ends_a_thread_elsewhere_is_an_error_of_its_caller_here():
    async def main():
        def leave(item):
            if item:
                raise SystemExit(item)
            return item

        with decoding(2) as spread:
            for _ in range(3):
                answers = await asyncio.gather(spread.map(leave, [1]), spread.map(leave, [0]), return_exceptions=True)
                assert isinstance(answers[0], RuntimeError) and "SystemExit(1)" in str(answers[0]) and answers[1] == [0]

    asyncio.run(main())


def test_closing_drops_what_waits_and_ends_the_threads():
    async def main():
        work = Gated()
        with decoding() as spread:
            running = asyncio.ensure_future(spread.map(work, ["wait"]))
            await work.until_reached()
            waiting = asyncio.ensure_future(spread.map(work, ["a"]))
            await asyncio.sleep(0)
            spread.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            work.go_on.set()
            assert await running == ["wait"]
            for thread in spread._threads:
                await asyncio.to_thread(thread._thread.join, 10)
            assert not any(thread.is_alive for thread in spread._threads)

    asyncio.run(main())


def test_threads_that_finish_after_the_loop_is_closed_trouble_nobody():
    work = Gated()
    spread = Decoding(threads=1)

    async def main():
        asyncio.ensure_future(spread.map(work, ["wait"]))  # cancelled as the loop ends
        await work.until_reached()

    asyncio.run(main())
    work.go_on.set()
    spread.close()
    spread._threads[0]._thread.join(10)
    assert not spread._threads[0].is_alive
