"""A batch that fails, a thread that dies, a pass that hangs."""

import asyncio
import gc
import threading

import pytest

from service.errors import InferenceFailed, Overloaded
from tests.service.batching import Gate, ask, batcher_of, queued


def test_a_queue_that_nobody_serves_is_stalled_and_an_empty_one_never():
    async def main():
        times = [5.0]
        batcher = batcher_of(Gate(), clock=lambda: times[0])  # never started
        assert batcher.stalled_s() == 0
        tasks = [await queued(batcher, [1])]
        times[0] = 7.0
        tasks.append(await queued(batcher, [2]))
        stalled_s = batcher.stalled_s()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return stalled_s, batcher.stalled_s()

    assert asyncio.run(main()) == (2.0, 0.0)


def test_who_shares_a_batch_with_one_that_fails_is_served_all_the_same():
    async def main():
        def run(batch):
            if 13 in batch:
                raise RuntimeError("unlucky")
            return batch

        reports = []
        gate = Gate(shut=True)
        batcher = batcher_of(lambda batch: gate(batch) and run(batch), on_batch=reports.append)
        batcher.start()
        tasks = [await queued(batcher, [0])]
        await gate.until_entered()
        tasks += [await queued(batcher, items) for items in ([1], [13], [2, 3])]
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
        return results, [report.size for report in reports if report.error is not None]

    results, failed = asyncio.run(main())
    assert [results[0], results[1], results[3]] == [[0], [1], [2, 3]]
    assert isinstance(results[2], InferenceFailed) and failed == [4, 1]


def test_who_left_a_batch_that_fails_is_not_tried_again():
    async def main():
        gate = Gate(shut=True)

        def run(batch):
            gate(batch)
            raise RuntimeError("unlucky")

        batcher = batcher_of(run)
        batcher.start()
        first = await queued(batcher, [0])
        await gate.until_entered()
        leaving, staying = await queued(batcher, [1]), await queued(batcher, [2])
        gate.open.set()  # the first fails; then the two of them together
        async with asyncio.timeout(10):
            while len(gate.batches) < 2:
                await asyncio.sleep(0)
        leaving.cancel()
        failures = await asyncio.gather(first, leaving, staying, return_exceptions=True)
        await batcher.close()
        return gate.batches, [type(failure) for failure in failures]

    batches, failures = asyncio.run(main())
    assert batches == [[0], [1, 2], [2]]
    assert failures == [InferenceFailed, asyncio.CancelledError, InferenceFailed]


def test_a_caller_who_left_a_pass_that_fails_changes_nothing_for_the_next():
    async def main():
        gate = Gate(shut=True)

        def run(batch):
            if gate(batch) == [26]:
                raise RuntimeError("unlucky")
            return batch

        batcher = batcher_of(run)
        batcher.start()
        leaving = await queued(batcher, [13])
        await gate.until_entered()
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.open.set()
        assert await ask(batcher, [1]) == [1]
        await batcher.close()

    asyncio.run(main())


def test_a_caller_who_left_a_failed_batch_is_not_tried_again():
    async def main():
        gate = Gate(shut=True)

        def run(batch):
            gate(batch)
            if len(batch) > 1:
                raise RuntimeError("unlucky")
            return batch

        batcher = batcher_of(run)
        first, leaving = await queued(batcher, [1]), await queued(batcher, [2])
        batcher.start()
        await gate.until_entered()
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.open.set()
        assert await first == [1]
        await batcher.close()
        return gate.batches

    assert asyncio.run(main()) == [[1, 2], [1]]


def test_a_batch_that_fails_at_once_does_not_make_the_runtime_look_fast():
    async def main():
        now, is_broken = [0.0], False

        def run(batch):
            if is_broken:
                raise RuntimeError("unlucky")
            now[0] += len(batch)  # an item a second
            return batch

        batcher = batcher_of(run, queue_max=2, clock=lambda: now[0])
        batcher.start()
        await ask(batcher, [1])
        is_broken = True
        for _ in range(3):
            with pytest.raises(InferenceFailed):
                await ask(batcher, [1])
        with batcher.admit(2), pytest.raises(Overloaded) as refused:
            batcher.admit(1)
        await batcher.close()
        return refused.value.retry_after_s

    assert asyncio.run(main()) == 2.0


def test_a_dead_thread_is_replaced_and_what_waited_is_served():
    async def main():
        batcher = batcher_of(Gate())
        batcher.start()
        for thread in batcher._passes._threads:
            thread.stop()
            thread._thread.join(timeout=10)
        waiting = await queued(batcher, [1])
        assert not batcher.is_alive and batcher.revive() and batcher.is_alive and not batcher.revive()
        assert await waiting == [2]
        await batcher.close()

    asyncio.run(main())


def test_forming_batches_goes_on_after_it_failed(caplog):
    surprises = [ZeroDivisionError()]

    def on_batch(report):
        if surprises:
            raise surprises.pop()

    async def main():
        batcher = batcher_of(Gate(), on_batch=on_batch)
        batcher.start()
        assert await ask(batcher, [1]) == [2]
        await asyncio.wait([batcher._former])
        waiting = await queued(batcher, [3])
        assert not batcher.is_alive and batcher.revive()
        assert await waiting == [6]
        await batcher.close()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["forming batches failed"]


def test_closing_gives_up_a_batch_that_hangs(caplog):
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        batcher.start()
        hanging = await queued(batcher, [0])
        await gate.until_entered()
        await batcher.close(limit_s=0.01)
        hanging.cancel()
        gate.open.set()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["a forward pass hangs and is given up"]


def test_a_batch_that_hangs_is_told_of_though_the_next_ones_pass():
    async def main():
        gate, now = Gate(shut=True), [0.0]

        def run(batch):
            return gate(batch) if batch == [0] else [2 * item for item in batch]

        batcher = batcher_of(run, batch_max=2, clock=lambda: now[0])
        batcher.start()
        hanging = await queued(batcher, [0])
        await gate.until_entered()
        now[0] = 3.0
        assert await ask(batcher, [1, 2]) == [2, 4]
        stalled_s = batcher.stalled_s()
        gate.open.set()
        assert await hanging == [0]
        await batcher.close()
        return stalled_s

    assert asyncio.run(main()) == 3.0


def test_closing_gives_up_all_batches_that_hang(caplog):
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate, batch_max=2)
        batcher.start()
        hanging = [await queued(batcher, [0])]
        await gate.until_entered()
        hanging.append(await queued(batcher, [1, 2]))
        await gate.until_entered()
        await batcher.close(limit_s=0.01)
        for task in hanging:
            task.cancel()
        gate.open.set()
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name() in ("batch", "batcher")]

    assert asyncio.run(main()) == []
    assert [record.fields for record in caplog.records] == [{"crops": 3}]


def test_who_is_served_alone_after_a_failed_batch_does_not_wait_for_those_after_him():
    async def main():
        gate, last_may = Gate(shut=True), threading.Event()

        def run(batch):
            gate(batch)
            if len(batch) > 1:
                raise RuntimeError("unlucky")
            assert batch != [3] or last_may.wait(10)
            return batch

        batcher = batcher_of(run)
        tasks = [await queued(batcher, [number]) for number in (1, 2, 3)]
        batcher.start()
        gate.open.set()
        async with asyncio.timeout(10):
            assert await asyncio.gather(*tasks[:2]) == [[1], [2]]
        last_may.set()
        assert await tasks[2] == [3]
        await batcher.close()

    asyncio.run(main())


def test_a_batcher_that_nobody_holds_ends_its_threads_at_once():
    gc.collect()
    before = set(threading.enumerate())
    gc.disable()
    try:
        batcher = batcher_of(Gate())
        threads = set(threading.enumerate()) - before
        assert {thread.name for thread in threads} == {"inference 1", "inference 2"}
        del batcher
        for thread in threads:
            thread.join(timeout=10)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        gc.enable()
