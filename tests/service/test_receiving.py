"""Bodies under way: their bytes together, and their time."""

import asyncio

import pytest

from service.errors import Overloaded, ReceiveTimeout
from service.receiving import Receiving, Reception
from service.telemetry import Telemetry


async def read_all(scope, receive, send):
    """An application that reads a body, answers, and waits for its caller to hang up."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await receive()


class Caller:
    """Sends a body piece by piece, and keeps what was answered."""

    def __init__(self):
        self.pieces = asyncio.Queue()
        self.answers = []

    def send(self, body, *, more=True):
        self.pieces.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self):
        self.pieces.put_nowait({"type": "http.disconnect"})

    async def hear(self, message):
        self.answers.append(message)

    def call(self, layer):
        """Begin a request."""
        return asyncio.ensure_future(layer({"type": "http"}, self.pieces.get, self.hear))


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def layer_of(app=read_all, *, held_bytes=100, patience_s=20.0, clock=lambda: 0.0):
    telemetry = Telemetry()
    limits = Reception(held_bytes=held_bytes, patience_s=patience_s)
    return Receiving(app, telemetry, limits=limits, clock=clock), telemetry


def held(telemetry):
    return telemetry.registry.get_sample_value("reid_body_bytes")


def test_bodies_count_until_their_requests_end():
    async def main():
        layer, telemetry = layer_of()
        callers = [Caller(), Caller()]
        tasks = [caller.call(layer) for caller in callers]
        for caller in callers:
            caller.send(b"x" * 40, more=False)
        await settle()
        during = held(telemetry)
        for caller in callers:
            caller.leave()
        await asyncio.gather(*tasks)
        return during, held(telemetry)

    assert asyncio.run(main()) == (80, 0)


def test_the_body_that_is_too_much_beside_others_is_refused_and_room_comes_back():
    async def main():
        layer, telemetry = layer_of()
        first, second, third = Caller(), Caller(), Caller()
        going = first.call(layer)
        first.send(b"x" * 60)
        refused = second.call(layer)
        second.send(b"x" * 60)
        with pytest.raises(Overloaded, match="over 100 bytes; try again"):
            await refused
        first.send(b"", more=False)
        first.leave()
        await going
        later = third.call(layer)
        third.send(b"x" * 100, more=False)
        third.leave()
        await later
        return first.answers[0]["status"], third.answers[0]["status"], held(telemetry)

    assert asyncio.run(main()) == (200, 200, 0)


def test_large_bodies_that_rest_leave_room_to_small_ones_and_are_given_up():
    async def main():
        now = [0.0]
        layer, telemetry = layer_of(held_bytes=8_000_000, patience_s=0.05, clock=lambda: now[0])
        large, small = [Caller() for _ in range(4)], Caller()
        tasks = [caller.call(layer) for caller in large]
        for caller in large:
            caller.send(b"x" * 2_000_000)
        small.send(b"x" * 900_000, more=False)
        small.leave()
        await small.call(layer)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return small.answers[0]["status"], [type(error) for error in ended], held(telemetry)

    assert asyncio.run(main()) == (200, [ReceiveTimeout] * 3 + [Overloaded], 0)


def test_a_large_body_alone_has_the_whole_room():
    async def main():
        layer, _ = layer_of(held_bytes=2_000_000)
        caller = Caller()
        caller.send(b"x" * 2_000_000, more=False)
        caller.leave()
        await caller.call(layer)
        return caller.answers[0]["status"]

    assert asyncio.run(main()) == 200


def test_what_came_quickly_earns_no_rest():
    async def main():
        now = [0.0]
        layer, _ = layer_of(held_bytes=10**8, patience_s=5.0, clock=lambda: now[0])
        caller = Caller()
        task = caller.call(layer)
        caller.send(b"x" * 10**7)
        for _ in range(3):
            await settle()
            now[0] += 2.0
            caller.send(b"x")
        with pytest.raises(ReceiveTimeout, match="no rest of over 5 s"):
            await task

    asyncio.run(main())


def test_a_body_that_stops_coming_is_given_up_and_its_connection_closed():
    async def serve(scope, receive, send):
        try:
            await read_all(scope, receive, send)
        except ReceiveTimeout as error:
            await send({"type": "http.response.start", "status": 408, "headers": [(b"a", b"b")]})
            await send({"type": "http.response.body", "body": str(error).encode()})

    async def main():
        layer, telemetry = layer_of(serve, patience_s=0.01)
        caller = Caller()
        caller.send(b"x" * 10)
        await caller.call(layer)
        return caller.answers, held(telemetry)

    (start, body), left = asyncio.run(main())
    assert start["headers"] == [(b"a", b"b"), (b"connection", b"close")] and left == 0
    assert body["body"].startswith(b"got 10 bytes of a body and then too few, wanted 50000 bytes a second and no rest")


def test_a_body_that_trickles_is_given_up_though_every_piece_is_quick():
    async def main():
        now = [0.0]
        layer, _ = layer_of(patience_s=5.0, clock=lambda: now[0])
        caller = Caller()
        task = caller.call(layer)
        for _ in range(4):
            caller.send(b"x")
            await settle()
            now[0] += 1.0
        is_patient = not task.done()
        now[0] += 2.0
        caller.send(b"x")
        await settle()
        caller.send(b"x")
        with pytest.raises(ReceiveTimeout):
            await task
        return is_patient

    assert asyncio.run(main())


def test_a_large_body_may_take_longer():
    async def main():
        now = [0.0]
        layer, _ = layer_of(held_bytes=10**7, patience_s=5.0, clock=lambda: now[0])
        caller = Caller()
        task = caller.call(layer)
        for _ in range(10):
            caller.send(b"x" * 100_000)
            await settle()
            now[0] += 1.5
        caller.send(b"", more=False)
        caller.leave()
        await task
        return caller.answers[0]["status"]

    assert asyncio.run(main()) == 200


def test_waiting_for_a_caller_to_hang_up_has_no_limit():
    async def main():
        now = [0.0]
        layer, _ = layer_of(patience_s=5.0, clock=lambda: now[0])
        caller = Caller()
        task = caller.call(layer)
        caller.send(b"x", more=False)
        await settle()
        now[0] = 1000.0
        caller.leave()
        await task
        return caller.answers[0]["status"]

    assert asyncio.run(main()) == 200


def test_what_is_no_request_passes():
    async def main():
        seen = []

        async def app(scope, receive, send):
            seen.append(scope["type"])

        layer, _ = layer_of(app)
        await layer({"type": "lifespan"}, None, None)
        return seen

    assert asyncio.run(main()) == ["lifespan"]


def test_bodies_beyond_the_limit_are_refused_and_told_the_least_time_that_makes_sense(serving, fake, pictures):
    client = serving(embed=fake(), max_bodies_mb=0.0001)
    answer = client.post("/embed", files={"crops": pictures(1)})
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "overloaded"
    assert answer.headers["retry-after"] == "1"
    assert client.get("/readyz").status_code == 200
