"""Two batches at once: what is given to the runtime when, whose results come when, and when the event loop rests."""

import asyncio
import threading
from concurrent import futures

import pytest

from tests.service.batching import Gate, ask, batcher_of, queued


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
    monkeypatch.setattr("service.passes.HEAD_START_S", 0.1)

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
    monkeypatch.setattr("service.passes.HEAD_START_S", 60.0)

    async def main():
        batcher = batcher_of(Gate(), batch_max=2)
        batcher.start()
        async with asyncio.timeout(30):
            assert await ask(batcher, [1, 2, 3]) == [2, 4, 6]  # the second batch is not full: it begins when the first has ended
        await batcher.close()

    asyncio.run(main())


@pytest.fixture(name="rests")
def rests_fixture(monkeypatch):
    """How many batches had been computed when each rest ended."""
    ends = []

    def wait(calls, **limits):
        ends.append(len(futures.wait(calls, **limits).done))

    monkeypatch.setattr("service.passes.wait", wait)
    return ends


def test_the_loop_rests_while_batches_compute_and_no_longer_than_it_may(rests):
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate, batch_max=2)
        batcher.rest(60)  # nothing computes
        batcher.start()
        asked = [await queued(batcher, [1])]
        await gate.until_entered()
        asked.append(await queued(batcher, [2, 3]))
        await gate.until_entered()
        batcher.rest(0.001)
        threading.Timer(0.01, gate.open.set).start()
        batcher.rest(60)
        assert gate.open.is_set() and await asyncio.gather(*asked) == [[2], [4, 6]]
        assert rests[0] == 0 and rests[1] >= 1
        batcher.rest(60)  # nothing computes any more
        batcher._closing = True
        batcher.rest(60)
        assert len(rests) == 2
        batcher._closing = False
        await batcher.close()

    asyncio.run(main())


def test_the_loop_does_not_rest_for_a_batch_that_may_hang(rests):
    async def main():
        gate, now = Gate(shut=True), [0.0]
        batcher = batcher_of(gate, clock=lambda: now[0])
        batcher.start()
        asked = await queued(batcher, [1])
        await gate.until_entered()
        now[0] = 1.5
        batcher.rest(60)
        gate.open.set()
        await asked
        await batcher.close()

    asyncio.run(main())
    assert rests == []


def test_two_batches_that_end_in_one_turn_of_the_loop_count_each_once():
    async def main():
        now, reports, gate = [0.0], [], Gate()
        may = [threading.Event(), threading.Event()]

        def run(batch):
            gate(batch)
            assert may[batch[0]].wait(10)
            now[0] += 2.0
            return batch

        batcher = batcher_of(run, batch_max=1, clock=lambda: now[0], on_batch=reports.append)
        batcher.start()
        tasks = []
        for number in range(2):
            tasks.append(await queued(batcher, [number]))
            await gate.until_entered()
        calls = [batch.call for batch in batcher._passes._under_way]
        for one, call in zip(may, calls, strict=True):  # while the loop stands still
            one.set()
            futures.wait([call], timeout=10)
        await asyncio.gather(*tasks)
        await batcher.close()
        return [(report.waited_s, report.ran_s) for report in reports]

    assert asyncio.run(main()) == [(0.0, 2.0), (2.0, 2.0)]
