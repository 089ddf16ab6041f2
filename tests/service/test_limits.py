"""Limits: body, crops, pixels, queue, deadline, and callers who leave."""

import asyncio
import struct
import threading
import time
import zlib

import httpx
import pytest
from fastapi import Request

from service.app import create_app
from service.routes.common import hung_up, unless_gone


def files(*contents):
    return [("crops", (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]


def bomb(side):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


async def until(is_so):
    """Let everybody else run until it is so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0)


async def status_of_a_crop(app, receive, **scope):
    """Post one crop whose body comes by `receive`, below the server; gives the answer's status."""
    answers = []

    async def send(message):
        answers.append(message)

    head = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": [(b"content-type", b"image/png")]}
    await app({**head, **scope}, receive, send)
    return answers[0]["status"]


class Gate:
    """Lets a fake's forward passes through while it is open, and tells when one has entered."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()

    def __call__(self, size):
        self.entered.release()
        assert self.open.wait(timeout=10)

    def shut(self):
        self.open.clear()
        while self.entered.acquire(blocking=False):
            pass

    async def until_entered(self):
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@pytest.fixture(name="gate")
def gate_fixture():
    gate = Gate()
    yield gate
    gate.open.set()


def test_a_declared_body_over_the_limit_is_refused(serving, fake):
    client = serving(embed=fake(), max_body_mb=0.01)
    answer = client.post("/embed", content=b"x" * 10_001, headers={"content-type": "image/png"})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
    assert "got 10001 bytes announced, wanted a body of at most 10000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["image/png", "application/json", "application/x-npy", "multipart/form-data; boundary=b"])
def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(serving, fake, kind):
    client = serving(embed=fake(), max_body_mb=0.01)
    sent = []

    async def pieces():
        yield b"--b\r\nContent-Disposition: form-data; name=crops; filename=x\r\n\r\n"
        for _ in range(1000):
            sent.append(1)
            yield b"x" * 1000

    answer = client.post("/embed", content=pieces(), headers={"content-type": kind})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
    assert len(sent) < 20


def test_ten_thousand_crops_in_a_form_are_refused(client, pictures):
    answer = client.post("/embed", files=files(*[pictures(1)[:40]] * 10_000))
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_many_crops"
    assert "wanted at most 256" in answer.json()["error"]["message"]
    assert client.post("/embed", files=files(pictures(1))).status_code == 200


def test_ten_thousand_crops_in_json_are_refused(client):
    answer = client.post("/embed", json={"crops": ["aaaa"] * 10_000})
    assert answer.status_code == 413 and "got 10000 crops, wanted at most 256" in answer.json()["error"]["message"]


def test_more_text_fields_than_crops_could_need_are_refused(serving, fake, pictures):
    client = serving(embed=fake(), max_crops=2)
    answer = client.post("/gallery", files=files(pictures(1)), data={"pid": ["a"] * 100})
    assert answer.status_code == 422 and "Too many fields" in answer.json()["error"]["message"]


@pytest.mark.parametrize("side", [4_001, 12_000, 20_000])
def test_a_picture_bomb_is_refused_by_its_header(client, pictures, side):
    answer = client.post("/embed", content=bomb(side), headers={"content-type": "image/png"})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "image_too_large"
    assert "wanted at most 16000000" in answer.json()["error"]["message"]
    assert client.post("/embed", files=files(pictures(1))).status_code == 200


def test_a_bomb_among_crops_fails_alone(client, pictures):
    answer = client.post("/embed", files=files(pictures(1), bomb(20_000)))
    assert answer.status_code == 200 and answer.json()["results"][1]["error"]["code"] == "image_too_large"


def test_a_full_queue_refuses_at_once_and_says_when_to_return(serving, without, pictures, gate):
    client = serving(embed=without(before=gate), queue_max=2)
    gate.shut()

    async def overload():
        running = asyncio.ensure_future(client.http.post("/embed", files=files(pictures(0))))
        await gate.until_entered()
        waiting = asyncio.ensure_future(client.http.post("/embed", files=files(pictures(1), pictures(2))))
        await until(lambda: client.app.state.parts.pipeline.batcher.waiting >= 2)
        refused = await client.http.post("/embed", files=files(b"never decoded"))
        gate.open.set()
        return refused, await running, await waiting

    refused, running, waiting = client.run(overload())
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert running.status_code == waiting.status_code == 200


def test_a_request_that_no_queue_would_take_is_told_so(serving, fake, pictures):
    client = serving(embed=fake(), queue_max=2)
    answer = client.post("/embed", files=files(pictures(0), pictures(1), pictures(2)))
    assert answer.status_code == 413 and "got 3 crops, the queue holds 2" in answer.json()["error"]["message"]


def test_a_request_over_its_deadline_is_given_up_and_its_crops_dropped(serving, without, pictures, gate):
    client = serving(embed=without(before=gate), deadline_s=0.05)
    gate.shut()

    async def late():
        running = asyncio.ensure_future(client.http.post("/embed", files=files(pictures(0))))
        await gate.until_entered()
        answers = await client.http.post("/embed", files=files(pictures(1))), await running
        waiting = client.app.state.parts.pipeline.batcher.waiting
        gate.open.set()
        return answers, waiting

    answers, waiting = client.run(late())
    assert [answer.status_code for answer in answers] == [504, 504] and waiting == 0
    assert answers[0].json()["error"]["code"] == "deadline_exceeded"
    assert any(client.post("/embed", files=files(pictures(1))).status_code == 200 for _ in range(100))  # 50 ms is not much


def test_a_caller_who_hangs_up_takes_its_crops_off_the_queue(serving, without, pictures, gate):
    client = serving(embed=without(before=gate))
    gate.shut()
    batcher = client.app.state.parts.pipeline.batcher

    async def hang_up():
        running = asyncio.ensure_future(client.http.post("/embed", files=files(pictures(0))))
        await gate.until_entered()
        body = asyncio.Queue()
        body.put_nowait({"type": "http.request", "body": pictures(1), "more_body": False})
        leaving = asyncio.ensure_future(status_of_a_crop(client.app, body.get))
        await until(lambda: batcher.waiting)
        body.put_nowait({"type": "http.disconnect"})
        status, waiting = await leaving, batcher.waiting
        gate.open.set()
        await running
        return waiting, status

    assert client.run(hang_up()) == (0, 499)


def test_what_a_request_waited_to_be_begun_counts_for_its_deadline(serving, fake, pictures):
    client = serving(embed=fake())

    async def call(*, seconds_ago):
        body = asyncio.Queue()
        body.put_nowait({"type": "http.request", "body": pictures(1), "more_body": False})
        return await status_of_a_crop(client.app, body.get, state={"arrived_at": time.monotonic() - seconds_ago})

    assert client.run(call(seconds_ago=0)) == 200 and client.run(call(seconds_ago=1000)) == 504


def test_only_a_disconnect_is_taken_for_a_hang_up():
    async def main():
        messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b""}]

        async def receive():
            return messages.pop()

        await hung_up(Request({"type": "http"}, receive))
        return messages

    assert asyncio.run(main()) == []


def test_work_that_takes_too_long_is_not_taken_for_a_hang_up():
    async def main():
        async def work():
            raise TimeoutError("the work's own")

        await unless_gone(Request({"type": "http"}, asyncio.Event().wait), work())

    with pytest.raises(TimeoutError, match="the work's own"):
        asyncio.run(main())


def test_a_caller_who_hangs_up_while_sending_is_noticed(serving, fake):
    client = serving(embed=fake())

    async def half_a_body():
        messages = iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])

        async def receive():
            return next(messages)

        return await status_of_a_crop(client.app, receive)

    assert client.run(half_a_body()) == 499


def test_a_failing_runtime_answers_500_and_the_next_request_works(serving, without, pictures):
    failures = iter([False, True, False])  # the first pass is the one at start-up

    def before(size):
        if next(failures):
            raise RuntimeError("out of memory")

    client = serving(embed=without(before=before))
    answer = client.post("/embed", files=files(pictures(1)))
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "inference_failed"
    assert client.post("/embed", files=files(pictures(1))).status_code == 200


def test_decoding_happens_in_its_own_threads(serving, fake, pictures):
    client = serving(embed=fake())
    helpers, release = client.app.state.parts.pipeline.helpers, threading.Event()
    busy = [helpers.submit(release.wait, 10) for _ in range(helpers._max_workers)]

    async def both():
        waiting = asyncio.ensure_future(client.http.post("/embed", files=files(pictures(1))))
        await until(lambda: client.app.state.parts.pipeline.batcher.waiting)
        probe = await client.http.get("/livez")
        was_done = waiting.done()
        release.set()
        return probe.status_code, was_done, (await waiting).status_code

    assert client.run(both()) == (200, False, 200)
    assert all(one.result() for one in busy)


def test_shutting_down_answers_what_is_queued(settings, without, pictures, gate):
    async def main():
        app = create_app(settings, embed=without(before=gate))
        async with app.router.lifespan_context(app):
            gate.shut()
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
            tasks = [asyncio.ensure_future(http.post("/embed", files=files(pictures(0))))]
            await gate.until_entered()
            tasks += [asyncio.ensure_future(http.post("/embed", files=files(pictures(seed)))) for seed in (1, 2)]
            await until(lambda: app.state.parts.pipeline.batcher.waiting >= 2)
            asyncio.get_running_loop().call_soon(gate.open.set)
        answers = await asyncio.gather(*tasks)
        await http.aclose()
        return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [200, 200, 200]
