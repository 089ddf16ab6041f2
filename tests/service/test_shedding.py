"""What is refused from a request's head alone: by the real server, over a socket, while the queue is full."""

import asyncio
import gc
import json
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from service.shedding import GAP_S, REST_S
from tests.service.crowding import answer_of, full, post_of, run

UPLOAD = "Content-Type: image/png\r\nContent-Length: 1000000\r\n"  # announced, never sent


def held_at(gate, gallery, monkeypatch):
    """Lets whoever asks for the gallery's numbers wait at the gate; gives what tells that somebody does."""
    stats, is_asked = gallery.stats, threading.Event()
    monkeypatch.setattr(gallery, "stats", lambda: (is_asked.set(), gate.wait(20), stats())[2])
    return is_asked


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


def test_every_way_to_send_a_body_that_is_refused(settings, without, gate, pictures):
    refused = "POST /embed HTTP/1.1\r\nHost: localhost\r\n"
    chunked = refused + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    expecting = refused + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"
    old = "POST /embed HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody"
    upgrade = refused + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"
    after = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def main():
        async with full(settings, without, gate, pictures) as (_, send, _):
            seen = []
            for sent in (chunked, expecting):
                reader, _ = await send(sent + after)
                seen.append([(await answer_of(reader))[0] for _ in range(2)])
            reader, _ = await send(old)
            status, headers, _ = await answer_of(reader)
            seen.append([status, headers["connection"], await reader.read()])
            seen.append((await answer_of((await send(upgrade))[0]))[0])
            return seen

    assert run(main()) == [[503, 200], [503, 200], [503, "close", b""], 503]


def test_what_was_served_before_is_not_kept_while_its_caller_is_refused(settings, without, gate, pictures):
    async def main():
        async with full(settings, without, gate, pictures) as (_, send, connections):
            before = set(connections)
            connection = await send(f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n{50000 * 'x'}")
            assert (await answer_of(connection[0]))[0] == 404
            (one,) = set(connections) - before
            served = weakref.ref(one.cycle)
            await send("POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", to=connection)
            assert (await answer_of(connection[0]))[0] == 503
            gc.collect()
            return served()

    assert run(main()) is None


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
                await asyncio.sleep(0.01)
                counts.append(len(rests))
            return counts, set(rests)

    assert run(main()) == ([1, 1, 2], {REST_S})


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
            before, is_asked = set(connections), held_at(gate, app.state.parts.gallery, monkeypatch)
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


def test_a_connection_that_is_gone_with_requests_behind_another_leaves_nothing_to_collect(
    settings, without, gate, pictures, monkeypatch
):
    async def main():
        async with full(settings, without, gate, pictures) as (app, send, connections):
            before, is_asked = set(connections), held_at(gate, app.state.parts.gallery, monkeypatch)
            _, writer = await send(3 * "GET /gallery/stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not is_asked.is_set():
                await asyncio.sleep(0.001)
            (gone,) = map(weakref.ref, set(connections) - before)
            gc.disable()
            try:
                writer.transport.abort()
                gate.set()  # the first is answered, which tells that nobody reads
                while connections != before:
                    await asyncio.sleep(0.001)
                async with asyncio.timeout(10):
                    while gone() is not None:
                        await asyncio.sleep(0.01)
            finally:
                gc.enable()

    run(main())
