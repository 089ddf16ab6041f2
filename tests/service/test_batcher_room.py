"""Room and turns in the batcher's queue: who is let in, who comes next, who is told to come back."""

import asyncio
import contextlib

import pytest

from service.errors import Overloaded, TooManyCrops
from tests.service.batching import Gate, ask, batcher_of, queued


def test_a_request_beyond_the_room_left_is_refused_at_once():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate, queue_max=3)
        batcher.start()
        running = await queued(batcher, [0])
        await gate.until_entered()
        waiting = await queued(batcher, [1, 2])
        with pytest.raises(Overloaded, match="2 crops wait and 3 is the limit") as refusal:
            batcher.admit(2)
        assert refusal.value.retry_after_s > 0
        gate.open.set()
        assert await asyncio.gather(running, waiting) == [[0], [2, 4]]
        await batcher.close()

    asyncio.run(main())


def test_the_advice_when_to_return_is_the_time_that_the_queue_takes():
    async def main():
        times = iter(range(100))  # every reading is a second after the last: queueing 1, starting 1, ending 1
        batcher = batcher_of(Gate(), queue_max=8, clock=lambda: float(next(times)))
        batcher.start()
        await ask(batcher, [1, 2])
        with batcher.admit(8), pytest.raises(Overloaded) as refusal:
            batcher.admit(1)
        await batcher.close()
        return refusal.value.retry_after_s

    assert asyncio.run(main()) == pytest.approx(8 / 2)


def test_a_request_beyond_the_whole_queue_is_told_so():
    with pytest.raises(TooManyCrops, match="got 5 crops, the queue holds 3"):
        batcher_of(Gate(), queue_max=3).admit(5)


def test_callers_take_turns_of_half_a_batch():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        batcher.start()
        tasks = [await queued(batcher, [0])]
        await gate.until_entered()
        tasks.append(await queued(batcher, [1, 2, 3, 4]))
        await gate.until_entered()
        tasks += [await queued(batcher, range(10, 17)), await queued(batcher, [20, 21]), await queued(batcher, [30])]
        gate.open.set()
        results = await asyncio.gather(*tasks)
        await batcher.close()
        return results, gate.batches

    results, batches = asyncio.run(main())
    assert sorted(batches) == [[0], [1, 2, 3, 4], [10, 11, 20, 21], [15, 16], [30, 12, 13, 14]]
    assert results[2:] == [[20, 22, 24, 26, 28, 30, 32], [40, 42], [60]]


def test_one_crop_behind_a_thousand_is_in_the_next_batch_that_is_formed():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate, batch_max=16, queue_max=2000)
        batcher.start()
        many = await queued(batcher, range(1000))
        for _ in range(2):  # as many as the runtime is given at once
            await gate.until_entered()
        ones = [await queued(batcher, [-number]) for number in (1, 2, 3)]
        gate.open.set()
        await asyncio.gather(many, *ones)
        await batcher.close()
        return gate.batches

    (third,) = (batch for batch in asyncio.run(main()) if 32 in batch)  # as they were formed; threads begin in any order
    assert third == [*range(32, 45), -1, -2, -3]


def test_a_large_request_leaves_a_quarter_of_the_queue_to_small_ones():
    batcher = batcher_of(Gate(), queue_max=40)
    with batcher.admit(28):
        with pytest.raises(Overloaded, match="28 crops wait and 30 is the limit, no room for 5 more"):
            batcher.admit(5)
        with batcher.admit(4), batcher.admit(4), batcher.admit(4), pytest.raises(Overloaded, match="40 is the limit"):
            batcher.admit(1)


def test_requests_of_a_batch_are_not_small_where_a_batch_is_most_of_the_queue():
    batcher = batcher_of(Gate(), batch_max=32, queue_max=40)
    with batcher.admit(28):
        with pytest.raises(Overloaded, match="28 crops wait and 30 is the limit, no room for 11 more"):
            batcher.admit(11)
        batcher.admit(10).free(10)


def test_a_large_request_that_comes_alone_may_fill_the_queue():
    with batcher_of(Gate(), queue_max=40).admit(40) as room:
        assert room.held == 40


def test_a_request_that_could_not_be_served_in_time_is_refused_at_once():
    async def main():
        times = iter(range(1000))  # every reading is a second after the last: a batch takes one
        batcher = batcher_of(Gate(), queue_max=1000, longest_s=10.0, clock=lambda: float(next(times)))
        batcher.start()
        await ask(batcher, [1, 2, 3, 4])  # four a second
        with batcher.admit(36):
            batcher.admit(2).free(2)  # a turn of the large request and its own two: a second
            with pytest.raises(Overloaded, match="36 crops would take 18 s, wanted 10 s, as 36 wait") as refusal:
                batcher.admit(36)
        batcher.admit(400).free(400)  # alone it is tried: what the runtime did lately may be long ago
        await batcher.close()
        return refusal.value.retry_after_s

    assert asyncio.run(main()) == pytest.approx(8)


def test_the_runtime_is_behind_while_more_waits_than_it_is_given_at_once():
    async def main():
        gate = Gate(shut=True)
        batcher = batcher_of(gate)
        batcher.start()
        tasks, behind = [], []
        for items in ([0], [1, 2, 3, 4], range(7), [7], [8]):
            tasks.append(await queued(batcher, items))
            await asyncio.sleep(0.01)
            behind.append(batcher.is_behind)
        gate.open.set()
        await asyncio.gather(*tasks)
        behind.append(batcher.is_behind)
        await batcher.close()
        return behind

    assert asyncio.run(main()) == [False, False, False, True, True, False]


def test_few_crops_are_begun_however_many_large_requests_wait():
    batcher = batcher_of(Gate(), queue_max=1000)
    with contextlib.ExitStack() as rooms:
        for _ in range(6):
            rooms.enter_context(batcher.admit(60))
        assert not batcher.has_enough(11) and batcher.has_enough(12)  # three batches of four
        for _ in range(10):
            rooms.enter_context(batcher.admit(1))
        assert not batcher.has_enough(1) and batcher.has_enough(2)
    assert not batcher.has_enough(0)


def test_nobody_is_begun_where_large_requests_leave_no_room():
    batcher = batcher_of(Gate(), queue_max=80)
    with batcher.admit(60), batcher.admit(4), batcher.admit(4), batcher.admit(4):  # more than a turn of two, all of them
        assert not batcher.has_enough(7) and batcher.has_enough(8)
