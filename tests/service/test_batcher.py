"""Batching: order, pairing, cancellation, draining."""

import asyncio
import threading

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


def test_a_full_batch_is_given_to_the_runtime_while_another_computes_and_no_third():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate, batch_max=2)
        batcher.start()
        tasks = [await queued(batcher, [0])]
        await gate.until_entered()
        tasks.append(await queued(batcher, [1]))
        await asyncio.sleep(0.01)
        assert gate.batches == [[0]]  # not full
        tasks.append(await queued(batcher, [2]))
        await gate.until_entered()
        tasks.append(await queued(batcher, [3, 4]))
        await asyncio.sleep(0.01)
        assert gate.batches == [[0], [1, 2]] and batcher.waiting == 2
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[0], [2], [4], [6, 8]]
        await batcher.close()

    asyncio.run(main())


def test_a_callers_results_are_in_order_though_his_batches_end_in_another():
    async def main():
        first_may, second_ran = threading.Event(), threading.Event()

        def run(batch):
            if batch == [1, 2]:
                assert first_may.wait(10)
            else:
                second_ran.set()
            return [2 * item for item in batch]

        batcher = batcher_of(run, batch_max=2)
        batcher.start()
        task = await queued(batcher, [1, 2, 3, 4])
        assert await asyncio.to_thread(second_ran.wait, 10)
        await asyncio.sleep(0.01)
        assert not task.done()
        first_may.set()
        assert await task == [2, 4, 6, 8]
        await batcher.close()

    asyncio.run(main())


def test_the_time_of_a_batch_counts_from_the_end_of_the_one_before_it():
    async def main():
        now, reports, gate = [0.0], [], Gate()
        may = [threading.Event(), threading.Event()]

        def run(batch):
            gate(batch)
            assert may[batch[0]].wait(10)
            return batch

        batcher = batcher_of(run, batch_max=1, clock=lambda: now[0], on_batch=reports.append)
        batcher.start()
        tasks = [await queued(batcher, [0])]
        await gate.until_entered()
        now[0] = 1.0
        tasks.append(await queued(batcher, [1]))
        await gate.until_entered()
        now[0] = 4.0
        may[0].set()
        await tasks[0]
        now[0] = 6.0
        may[1].set()
        await tasks[1]
        await batcher.close()
        return [(report.waited_s, report.ran_s) for report in reports]

    assert asyncio.run(main()) == [(0.0, 4.0), (3.0, 2.0)]


def test_a_batchs_callers_go_on_while_the_next_one_computes(monkeypatch):
    monkeypatch.setattr("service.batcher.HEAD_START_S", 0.1)

    async def main():
        first_may, second_may = threading.Event(), threading.Event()
        batches = []

        def run(batch):
            batches.append(list(batch))
            assert (first_may if len(batches) == 1 else second_may).wait(10)
            return batch

        batcher = batcher_of(run)
        batcher.start()
        first = await queued(batcher, [0])
        second = await queued(batcher, [1])
        first_may.set()
        assert await first == [0] and batches == [[0], [1]] and not second.done()
        second_may.set()
        assert await second == [1]
        await batcher.close()

    asyncio.run(main())


def test_a_batch_that_ends_sooner_than_its_head_start_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("service.batcher.HEAD_START_S", 60.0)

    async def main():
        reports = []
        batcher = batcher_of(Gate(), batch_max=1, on_batch=reports.append)
        batcher.start()
        assert await ask(batcher, [1, 2, 3]) == [2, 4, 6]
        await batcher.close()
        assert max(report.ran_s for report in reports) < 30

    asyncio.run(main())


def test_the_loop_rests_while_a_batch_computes_and_no_longer_than_it_may():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        rests = []
        batcher._ran = Rests(rests)
        batcher.rest(0.001)  # nothing computes
        batcher.start()
        asked = await queued(batcher, [1])
        await gate.until_entered()
        batcher.rest(0.001)
        threading.Timer(0.01, gate.open.set).start()
        batcher.rest(60)
        assert gate.open.is_set() and await asked == [2]
        assert rests == [True, False, True]  # whether the batch was done
        batcher._closing = True
        batcher.rest(60)
        assert len(rests) == 3
        batcher._closing = False
        await batcher.close()

    asyncio.run(main())


def test_the_loop_does_not_rest_for_a_batch_that_may_hang():
    async def main():
        gate, now = Gate(shut=True), [0.0]
        batcher = batcher_of(gate, clock=lambda: now[0])
        rests = []
        batcher._ran = Rests(rests)
        batcher.start()
        asked = await queued(batcher, [1])
        await gate.until_entered()
        now[0] = 1.5
        batcher.rest(60)
        assert rests == []
        gate.open.set()
        await asked
        await batcher.close()

    asyncio.run(main())


class Rests(threading.Event):
    """An event that notes how each waiting for it ended."""

    def __init__(self, ends):
        super().__init__()
        self.set()
        self.ends = ends

    def wait(self, timeout=None):
        self.ends.append(super().wait(timeout))
        return self.ends[-1]
