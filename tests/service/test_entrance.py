"""When requests that bring crops are begun."""

import asyncio

from service.entrance import A_TURN, Entrance

MANY = 2 * A_TURN + 2


class Now:
    """A clock that stands until it is set."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def entrance_of(*, has_enough=lambda more: False, patience_s=8.0, clock=None):
    begun = []
    entrance = Entrance(has_enough, patience_s=patience_s, clock=clock or Now())

    def begin(number):
        def one():
            begun.append(number)

        entrance.let_in(one)
        return one

    return entrance, begun, begin


def test_one_alone_is_begun_at_once():
    async def main():
        entrance, begun, begin = entrance_of()
        begin(1)
        assert begun == [1] and len(entrance) == 1  # it has not asked for a place
        await asyncio.sleep(0)
        assert not len(entrance)

    asyncio.run(main())


def test_those_that_come_together_are_begun_in_their_order_a_few_a_turn():
    async def main():
        entrance, begun, begin = entrance_of()
        for number in range(MANY):
            begin(number)
        turns = [len(begun)]
        while entrance:
            await asyncio.sleep(0)
            turns.append(len(begun))
        return begun, turns

    begun, turns = asyncio.run(main())
    assert begun == list(range(MANY)) and turns == [1, 1 + A_TURN, 1 + 2 * A_TURN, MANY, MANY]


def test_while_the_runtime_has_enough_nobody_is_begun_and_then_as_many_as_it_wants():
    async def main():
        wanted = 0
        entrance, begun, begin = entrance_of(has_enough=lambda more: more >= wanted)
        for number in range(MANY):
            begin(number)
        for _ in range(3):
            await asyncio.sleep(0)
            entrance.go_on()
        assert begun == [] and len(entrance) == MANY
        wanted = 2
        entrance.go_on()
        assert begun == []  # in the next turn
        await asyncio.sleep(0)
        wanted = 0
        await asyncio.sleep(0)
        return begun, len(entrance)

    assert asyncio.run(main()) == ([0, 1], MANY - 2)


def test_who_has_left_is_dropped_once_and_what_he_waited_is_told():
    async def main():
        clock, enough = Now(), True
        entrance, begun, begin = entrance_of(has_enough=lambda more: enough, clock=clock)
        first, second = begin(1), begin(2)
        clock.time += 3
        assert (entrance.leave(second), entrance.leave(second), len(entrance)) == (3, None, 1)
        enough = False
        entrance.go_on()
        await asyncio.sleep(0)
        assert entrance.leave(first) is None and begun == [1]

    asyncio.run(main())


def test_nobody_waits_for_ever_where_the_runtime_does_nothing():
    async def main():
        clock = Now()
        entrance, begun, begin = entrance_of(has_enough=lambda more: True, patience_s=0.02, clock=clock)
        begin(1)
        clock.time += 0.015
        begin(2)
        clock.time += 0.006
        async with asyncio.timeout(20):
            while not begun:
                await asyncio.sleep(0.001)
            assert begun == [1]
            clock.time += 0.015
            while len(begun) < 2:
                await asyncio.sleep(0.001)
        return begun

    assert asyncio.run(main()) == [1, 2]
