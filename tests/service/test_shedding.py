"""What is refused from a request's head alone: by the real server, over a socket, while the queue is full."""

import asyncio
import gc
import json
import threading
import time
import weakref
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import uvloop
from pydantic import SecretStr

from service.access import Access, digest
from service.app import create_app
from service.doors import Doors
from service.entrance import A_TURN, Entrance
from service.errors import ModelNotReady, Overloaded
from service.server import make_server
from service.shedding import GAP_S, LONG_REST_S, REST_S, Shedding
from service.telemetry import Telemetry

DOORS = Doors(connections=1000, patience_s=20.0)
UPLOAD = "Content-Type: image/png\r\nContent-Length: 1000000\r\n"  # announced, never sent


@pytest.fixture(name="gate")
def gate_fixture():
    gate = threading.Event()
    yield gate
    gate.set()


@asynccontextmanager
async def full(settings, without, gate, pictures, *, queue_max=1, becomes=200):
    """A server one of whose places is taken and whose runtime waits at the gate.

    Gives the application, a way to send a head, and the server's connections.
    """
    passes = iter([True])

    def before(size):
        assert next(passes, False) or gate.wait(20)  # the first pass is the one at start-up

    app = create_app(settings.model_copy(update={"queue_max": queue_max}), embed=without(before=before))
    server = make_server(app, doors=DOORS, drain_s=5, shed=Shedding(app))
    server.config.port, server.config.host = 0, "127.0.0.1"
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    writers = []

    async def send(request, *, to=None):
        reader, writer = to or await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(request if isinstance(request, bytes) else request.encode())
        return reader, writer

    crop = post_of(pictures(1))
    try:
        async with asyncio.timeout(20):
            batcher = app.state.parts.pipeline.batcher
            running = await send(crop)
            while not batcher._passes.size:
                await asyncio.sleep(0.001)
            waiting = await send(crop)
            while not batcher.waiting:
                await asyncio.sleep(0.001)
            yield app, send, server.server_state.connections
            gate.set()
            for reader, _ in (running, waiting):
                assert (await reader.readuntil(b"\r\n")).startswith(f"HTTP/1.1 {becomes} ".encode())
    finally:
        gate.set()
        for writer in writers:
            writer.close()
        server.should_exit = True
        await serving


def post_of(body):
    """A request to embed one crop."""
    lines = ("POST /embed HTTP/1.1", "Host: localhost", "Authorization: Bearer full", "Content-Type: image/png")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


async def answer_of(reader):
    """Read one answer: its status, headers by lower-case name, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def run(work):
    """Run on the loop that the service has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@pytest.mark.parametrize("path", ["/embed?encoding_format=base64", "/search?k=3", "/gallery"])
def test_crops_that_find_no_room_are_refused_before_their_body_comes(settings, without, gate, pictures, path):
    async def main():
        async with full(settings, without, gate, pictures) as (app, send, _):
            reader, _ = await send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: mine\r\n{UPLOAD}\r\n")
            answer = await answer_of(reader)
            return answer, app.state.telemetry.text().decode()

    (status, headers, body), metrics = run(main())
    error = json.loads(body)["error"]
    assert status == 503 and int(headers["retry-after"]) >= 1 and headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"] == error["request_id"] == "mine" and error["code"] == "overloaded" and "date" in headers
    assert f'reid_requests_total{{method="POST",route="{path.split("?")[0]}",status="503"}} 1.0' in metrics
    assert 'reid_refusals_total{code="overloaded"} 1.0' in metrics


def test_after_a_refusal_the_connection_serves_on(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, _):
            refused = f"POST /embed HTTP/1.1\r\nHost: localhost\r\n{UPLOAD}\r\n".replace("1000000", "4")
            connection = await send(refused + "bodyGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            first, second = await answer_of(connection[0]), await answer_of(connection[0])
            await send(refused.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n") + "body", to=connection)
            third = await answer_of(connection[0])
            return first[0], second[0], third[0], third[1]["connection"], await connection[0].read()

    assert run(main()) == (503, 200, 503, "close", b"")


def test_who_may_not_call_is_told_that_and_not_that_there_is_no_room(settings, without, gate, pictures):
    async def main():
        keys = {"api_keys": SecretStr("full"), "read_only_keys": SecretStr("reader")}
        async with full(settings.model_copy(update=keys), without, gate, pictures) as (_, send, _):
            statuses = []
            for path, key in (("/embed", "wrong"), ("/gallery", "reader"), ("/embed", "reader"), ("/gallery", "full")):
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{UPLOAD}\r\n"
                statuses.append((await answer_of((await send(head))[0]))[0])
            return statuses

    assert run(main()) == [401, 403, 503, 503]


def test_what_brings_no_crops_is_served_while_the_queue_is_full(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, _):
            calls = ("GET /livez", "GET /gallery", "GET /model", "GET /embed", "POST /nowhere")
            heads = [f"{call} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" for call in calls]
            return [(await answer_of((await send(head))[0]))[0] for head in heads]

    assert run(main()) == [200, 200, 200, 405, 404]


def test_requests_that_come_together_are_answered_in_their_order(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, _):
            refused = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            reader, _ = await send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + 1500 * refused)
            return [(await answer_of(reader))[0] for _ in range(1501)]

    assert run(main()) == [200] + 1500 * [503]


def test_answers_are_not_heaped_up_for_a_caller_who_reads_none(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, connections):
            refused = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            _, writer = await send(refused)
            writer.transport.pause_reading()
            for _ in range(600):
                writer.write(100 * refused.encode())
                await asyncio.sleep(0.001)
            held = [one.transport.get_write_buffer_size() for one in connections]
            writer.transport.abort()
            return max(held)

    assert run(main()) < 1_000_000  # sixty thousand answers take twenty times that


def test_a_connection_that_was_refused_is_closed_when_it_rests(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, connections):
            reader, _ = await send("POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            assert (await answer_of(reader))[0] == 503
            resting = [one for one in connections if one.timeout_keep_alive_task is not None]
            assert len(resting) == 1  # the two that wait for their answers do not rest
            resting[0].timeout_keep_alive_handler()
            return await reader.read()

    assert run(main()) == b""


def test_after_refusals_the_loop_rests_once_and_not_again_at_once(settings, without, gate, pictures, monkeypatch):
    async def main():
        async with full(settings, without, gate, pictures) as (app, send, _):
            rests, now = [], [100.0]
            monkeypatch.setattr(app.state.parts.pipeline.batcher, "rest", rests.append)
            clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
            monkeypatch.setattr("service.shedding.time", clock)
            refused = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            counts = []
            for at in (100.0, 100.0 + GAP_S / 2, 100.0 + 2 * GAP_S):
                now[0] = at
                reader, writer = await send(3 * refused + "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert [(await answer_of(reader))[0] for _ in range(4)] == [503, 503, 503, 200]
                counts.append(len(rests))
            return counts, set(rests)

    assert run(main()) == ([1, 1, 2], {LONG_REST_S})


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


def test_what_is_full_is_looked_at_once_for_all_who_come_together():
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
    assert dict(answers[0].headers)[b"retry-after"] == b"4" and of_a_hundred < 10 and begun == ["let in"]
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
    assert set(seen) == {0} and begun == 4 * A_TURN * ["told so by its route"] + ["let in"]


def test_a_hundred_that_come_together_are_all_served(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures, queue_max=200) as (_, send, _):
            crop = post_of(pictures(2))
            connections = [await send("") for _ in range(100)]
            for connection in connections:
                await send(crop, to=connection)
            gate.set()
            return [(await answer_of(reader))[0] for reader, _ in connections]

    assert run(main()) == 100 * [200]


def test_who_waits_to_be_begun_is_counted_and_served_in_turn(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures, queue_max=200) as (app, send, _):
            pipeline = app.state.parts.pipeline
            crop = post_of(pictures(2))
            connections = [await send(crop) for _ in range(100)]
            while pipeline.batcher._passes.size + pipeline.waiting < 102:
                await asyncio.sleep(0.001)
            enough, late = pipeline.batcher.waiting, len(pipeline.entrance)
            reader, _ = await send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            metrics = (await answer_of(reader))[2].decode()
            connections.pop()[1].transport.abort()
            while len(pipeline.entrance) == late:
                await asyncio.sleep(0.001)
            left = len(pipeline.entrance)
            gate.set()
            answers = [(await answer_of(reader))[0] for reader, _ in connections]
            return enough, late, left, metrics, answers, app.state.telemetry.text().decode()

    enough, late, left, metrics, answers, later = run(main())
    assert 0 < enough < 60 and left == late - 1
    assert f"reid_queue_crops {enough + late}.0" in metrics and answers == 99 * [200]
    assert 'reid_requests_total{method="POST",route="/embed",status="499"} 1.0' in later


def test_requests_sent_ahead_wait_at_the_entrance_too(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures, queue_max=200) as (app, send, _):
            pipeline = app.state.parts.pipeline
            crop = post_of(pictures(2))
            connections = [await send(crop) for _ in range(80)]
            while not pipeline.batcher.has_enough(0):
                await asyncio.sleep(0.001)
            held = pipeline.batcher.waiting
            ahead = await send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + 3 * crop)
            assert (await answer_of(ahead[0]))[0] == 200  # livez
            for _ in range(50):
                await asyncio.sleep(0.001)
            waiting = pipeline.batcher.waiting
            gate.set()
            answers = [(await answer_of(ahead[0]))[0] for _ in range(3)]
            answers += [(await answer_of(reader))[0] for reader, _ in connections]
            return held, waiting, answers

    held, waiting, answers = run(main())
    assert held == waiting and answers == 83 * [200]


def test_a_refusal_just_before_does_not_end_a_request_that_is_served(settings, without, gate, pictures, monkeypatch):
    async def main():
        async with full(settings, without, gate, pictures) as (app, send, connections):
            before, gallery, is_asked = set(connections), app.state.parts.gallery, threading.Event()
            stats = gallery.stats
            monkeypatch.setattr(gallery, "stats", lambda: (is_asked.set(), gate.wait(20), stats())[2])
            refused = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            reader, _ = await send(refused + "GET /gallery/stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
            statuses = [(await answer_of(reader))[0]]
            while not is_asked.is_set():
                await asyncio.sleep(0.001)
            (one,) = set(connections) - before
            clock = one.timeout_keep_alive_task
            gate.set()
            return [*statuses, (await answer_of(reader))[0]], clock

    assert run(main()) == ([503, 200], None)


def test_a_connection_that_is_gone_leaves_nothing_to_collect(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, connections):
            before = set(connections)
            reader, writer = await send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await answer_of(reader))[0] == 200
            (gone,) = map(weakref.ref, set(connections) - before)
            gc.disable()
            try:
                writer.close()
                while connections != before:
                    await asyncio.sleep(0.001)
                for _ in range(100):  # what the loop itself still holds
                    await asyncio.sleep(0.001)
                return gone()
            finally:
                gc.enable()

    assert run(main()) is None
