"""Who is refused and who is let in, asked without a server."""

import asyncio
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest

from service.access import Access, digest
from service.decoding import Decoding
from service.entrance import A_TURN, Entrance
from service.errors import ModelNotReady, Overloaded
from service.shedding import REST_S, Shedding
from service.telemetry import Telemetry
from tests.service.crowding import full, run


def head(path="/embed", method="POST", **headers):
    """A scope as the server has it when a request's head is there."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "method": method, "headers": raw, "client": None, "state": {}}


def meet(shed, scope, begin):
    """Do what the server does with a request's head: refuse it, or let it in."""
    answer = shed.refuse(scope["method"].encode(), scope["path"].encode() + b"?k=1", scope["headers"], scope["client"])
    return answer or shed.let_in(scope, begin)


def shedding_of(*, has_enough=lambda more: False, **pipeline):
    """Shedding over a pipeline that does so."""
    pipeline["entrance"] = Entrance(has_enough, patience_s=8)
    access = Access((digest("full"),), (digest("reader"),), is_local=True)
    parts = SimpleNamespace(pipeline=SimpleNamespace(**pipeline), access=access, telemetry=Telemetry())
    return Shedding(SimpleNamespace(state=SimpleNamespace(parts=parts)))


@pytest.mark.parametrize("is_behind", [True, False])
def test_the_loop_rests_after_a_request_that_is_served_only_while_the_runtime_has_enough_to_do(is_behind):
    rests, begun = [], []
    batcher = SimpleNamespace(is_behind=is_behind, rest=rests.append)
    shed = shedding_of(check_room=lambda ahead: None, batcher=batcher)

    async def main():
        assert meet(shed, head(authorization="Bearer full"), lambda: begun.append("POST")) is None
        assert meet(shed, head(method="GET"), lambda: begun.append("GET")) is None
        assert begun == ["POST", "GET"]
        for _ in range(2):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert rests == [REST_S] * is_behind


def test_what_is_refused_because_the_runtime_hangs_gives_the_loop_no_rest():
    def check_room(ahead):
        raise ModelNotReady("a forward pass has been running for 60 s")

    shed = shedding_of(check_room=check_room, batcher=None)

    async def main():
        return meet(shed, head(authorization="Bearer full"), pytest.fail)

    answer = asyncio.run(main())
    assert answer.status == 503 and b"model_not_ready" in answer.body


def test_what_is_full_is_not_looked_at_for_each_who_comes_in_one_millisecond():
    looked, is_full = [], [True]

    def check_room(ahead):
        looked.append(ahead)
        if is_full[0]:
            raise Overloaded("8 crops wait", retry_after_s=3.2)

    batcher = SimpleNamespace(is_behind=False, has_enough=lambda more: False)
    shed, begun = shedding_of(check_room=check_room, batcher=batcher), []

    async def main():
        answers = [meet(shed, head(authorization="Bearer full"), pytest.fail) for _ in range(100)]
        is_full[0], of_a_hundred = False, len(looked)
        await asyncio.sleep(0.01)  # this loop's clock goes by milliseconds
        assert meet(shed, head(authorization="Bearer full"), lambda: begun.append("let in")) is None
        return answers, of_a_hundred

    answers, of_a_hundred = run(main())
    assert {answer.status for answer in answers} == {503} and len({answer.body for answer in answers}) == 100  # by their ids
    assert b"\r\nretry-after: 4\r\n" in answers[0].lines and of_a_hundred < 10 and begun == ["let in"]
    parts = shed._app.state.parts
    for _ in range(2):  # counted once, however often somebody asks
        metrics = parts.telemetry.text().decode()
        assert 'reid_requests_total{method="POST",route="/embed",status="503"} 100.0' in metrics
        assert 'reid_refusals_total{code="overloaded"} 100.0' in metrics


def test_of_those_that_come_together_as_many_are_let_in_as_find_room(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures, queue_max=2 * A_TURN + 1) as (app, _, _):  # and one waits already
            shed, begun, answers = Shedding(app), [], []
            for number in range(2 * A_TURN + 3):
                answers.append(meet(shed, head(host="localhost"), lambda number=number: begun.append(number)))
            turns = [len(begun)]
            for _ in range(3):
                await asyncio.sleep(0)
                turns.append(len(begun))
            return answers, begun, turns

    answers, begun, turns = run(main())
    assert [getattr(answer, "status", None) for answer in answers] == [None] * 2 * A_TURN + [503] * 3
    assert turns == [1, 1 + A_TURN, 2 * A_TURN, 2 * A_TURN] and begun == list(range(2 * A_TURN))


def test_who_may_not_call_takes_nobodys_place():
    seen = []
    batcher = SimpleNamespace(is_behind=False)
    shed = shedding_of(check_room=lambda ahead: seen.append(ahead), batcher=batcher)
    begun = []

    async def main():
        for key, path in (("wrong", "/embed"), ("reader", "/gallery")):
            for _ in range(2 * A_TURN):
                assert meet(shed, head(path, authorization=f"Bearer {key}"), lambda: begun.append("told so by its route")) is None
        meet(shed, head(authorization="Bearer reader"), lambda: begun.append("let in"))

    asyncio.run(main())
    assert seen == [0, 0] and begun == 4 * A_TURN * ["told so by its route"] + ["let in"]


def test_decoding_threads_wake_before_the_loop_rests():
    seen, woken = [], threading.Event()

    def rest(limit_s):
        seen.append(woken.wait(10))

    async def main():
        with closing(Decoding(threads=1)) as decoding:
            tasks = []
            shed = shedding_of(check_room=lambda ahead: None, batcher=SimpleNamespace(is_behind=True, rest=rest))
            begin = lambda: tasks.append(asyncio.ensure_future(decoding.map(lambda item: woken.set(), [1])))  # noqa: E731
            meet(shed, head(authorization="Bearer full"), begin)
            while not seen:
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)

    asyncio.run(main())
    assert seen == [True]
