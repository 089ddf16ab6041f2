"""Batching: order, pairing, cancellation, draining."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InferenceFailed, Overloaded
from tests.service.batching import Gate, ask, batcher_of, queued


def test_results_come_back_in_the_order_of_the_items():
    async def main():
        batcher = batcher_of(Gate())
        batcher.start()
        assert await ask(batcher, [5, 1, 9, 3, 7, 2]) == [10, 2, 18, 6, 14, 4]
        await batcher.close()

    asyncio.run(main())


def test_everything_that_waited_for_the_runtime_makes_the_next_batch():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        batcher.start()
        tasks = [await queued(batcher, [0])]
        await gate.until_entered()
        tasks += [await queued(batcher, [1]), await queued(batcher, [2, 3]), await queued(batcher, [4, 5])]
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[0], [2], [4, 6], [8, 10]]
        assert gate.batches == [[0], [1, 2, 3, 4], [5]]
        await batcher.close()

    asyncio.run(main())


def test_room_that_is_not_used_is_given_back():
    batcher = batcher_of(Gate(), queue_max=3)
    with batcher.admit(3):
        assert batcher.waiting == 3
    assert batcher.waiting == 0


def test_a_cancelled_callers_items_never_reach_the_runtime():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        batcher.start()
        running = await queued(batcher, [0])
        await gate.until_entered()
        leaving, staying = await queued(batcher, [1, 2]), await queued(batcher, [3])
        leaving.cancel()
        await asyncio.wait([leaving])
        assert batcher.waiting == 1
        gate.open.set()
        assert await asyncio.gather(running, staying) == [[0], [6]]
        assert gate.batches == [[0], [3]]
        await batcher.close()

    asyncio.run(main())


def test_a_caller_who_left_this_very_moment_is_not_taken():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate)
        batcher.start()
        await asyncio.sleep(0)
        with batcher.admit(1) as room:
            batcher._enqueue([1], room).cancel()  # the former is about to look, and the queue has not heard of it
            assert batcher._turns
            await asyncio.sleep(0)
        assert not batcher._turns and await ask(batcher, [2]) == [4]
        await batcher.close()
        return gate.batches

    assert asyncio.run(main()) == [[2]]


def test_a_failing_batch_fails_its_callers_and_nobody_else():
    async def main():
        def run(batch):
            if 13 in batch:
                raise RuntimeError("unlucky")
            return batch

        batcher = batcher_of(run, batch_max=2)
        batcher.start()
        results = await asyncio.gather(ask(batcher, [1, 2]), ask(batcher, [13, 4, 5]), ask(batcher, [6]), return_exceptions=True)
        assert results[0] == [1, 2] and results[2] == [6]
        assert isinstance(results[1], InferenceFailed) and "unlucky" in str(results[1])
        assert await ask(batcher, [7]) == [7] and batcher.waiting == 0
        await batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("answer", [[1], [1, 2, 3]], ids=["too few", "too many"])
def test_a_wrong_number_of_results_reaches_nobody(answer):
    async def main():
        batcher = batcher_of(lambda batch: answer)
        batcher.start()
        with pytest.raises(InferenceFailed, match="for 2 crops"):
            await ask(batcher, [1, 2])
        await batcher.close()

    asyncio.run(main())


def test_closing_finishes_what_is_queued_and_refuses_what_is_new():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        batcher.start()
        tasks = [await queued(batcher, [0])]
        await gate.until_entered()
        tasks.append(await queued(batcher, [1, 2]))
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="shutting down"):
            batcher.admit(1)
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[0], [2, 4]]
        await closing

    asyncio.run(main())


def test_closing_waits_for_admitted_items_that_are_still_being_decoded():
    async def main():
        batcher = batcher_of(Gate())
        batcher.start()
        with batcher.admit(1) as room:
            closing = asyncio.ensure_future(batcher.close())
            await asyncio.sleep(0)
            assert await room.submit([4]) == [8]
        await closing

    asyncio.run(main())


def test_no_items_need_no_batch():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate)
        batcher.start()
        assert await ask(batcher, []) == []
        await batcher.close()
        assert gate.batches == []

    asyncio.run(main())


def test_waiting_for_more_makes_one_full_batch_of_two_callers():
    async def main():
        gate = Gate()
        batcher = batcher_of(gate, batch_max=2, max_wait_s=60.0)
        batcher.start()
        first = await queued(batcher, [1])
        second = await queued(batcher, [2])
        assert await asyncio.gather(first, second) == [[2], [4]]
        assert gate.batches == [[1, 2]]
        await batcher.close()

    asyncio.run(main())


def test_a_caller_whose_time_is_over_already_is_not_waited_for():
    async def main():
        now = iter(range(0, 10_000, 100))  # seconds pass between two looks
        gate = Gate()
        batcher = batcher_of(gate, max_wait_s=60.0, clock=lambda: float(next(now)))
        batcher.start()
        assert await ask(batcher, [1]) == [2]
        await batcher.close()

    asyncio.run(main())


def test_a_batcher_that_was_never_started_closes_all_the_same():
    async def main():
        batcher = batcher_of(Gate())
        await batcher.close()
        with pytest.raises(Overloaded):
            batcher.admit(1)

    asyncio.run(main())


def test_waiting_for_more_ends_when_its_time_is_over():
    async def main():
        batcher = batcher_of(Gate(), max_wait_s=0.001)
        batcher.start()
        assert await ask(batcher, [1]) == [2]
        await batcher.close()

    asyncio.run(main())


def test_a_report_names_size_and_times():
    async def main():
        reports = []
        batcher = batcher_of(Gate(), on_batch=reports.append)
        batcher.start()
        await ask(batcher, [1, 2, 3])
        await batcher.close()
        return reports

    (report,) = asyncio.run(main())
    assert report.size == 3 and report.waited_s >= 0 and report.ran_s >= 0 and report.error is None


def test_a_report_names_what_a_failed_batch_raised():
    def run(batch):
        raise RuntimeError("out of memory")

    async def main():
        reports = []
        batcher = batcher_of(run, on_batch=reports.append)
        batcher.start()
        with pytest.raises(InferenceFailed):
            await ask(batcher, [1])
        await batcher.close()
        return reports

    (report,) = asyncio.run(main())
    assert isinstance(report.error, RuntimeError)


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(st.tuples(st.lists(st.integers(), max_size=9), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12),
    batch_max=st.integers(1, 5),
)
def test_whoever_leaves_everybody_else_gets_exactly_their_own(requests, batch_max):
    async def main():
        seen = []

        def run(batch):
            seen.append(len(batch))
            return [("result of", item) for item in batch]

        batcher = batcher_of(run, batch_max=batch_max, queue_max=1000)
        batcher.start()

        async def caller(items, leaves, patience):
            task = asyncio.ensure_future(ask(batcher, items))
            for _ in range(patience):
                await asyncio.sleep(0)
            if leaves:
                task.cancel()
            try:
                assert await task == [("result of", item) for item in items]
            except asyncio.CancelledError:
                assert leaves

        await asyncio.gather(*(caller(*request) for request in requests))
        assert batcher.waiting == 0
        await batcher.close()
        assert all(1 <= size <= batch_max for size in seen)

    asyncio.run(main())
