"""Connections: slow and long heads, too many of them, and what is no HTTP."""

import asyncio
import json
import resource
import socket
import ssl
import sys
from contextlib import asynccontextmanager

import pytest
import uvloop

from service.doors import Doors, unread_bytes
from service.refusals import Refusals
from service.server import FILES_KEPT, connection_limit, make_server
from tests.service.sockets import started

PATIENT = Doors(connections=100, patience_s=20.0)
HASTY = Doors(connections=100, patience_s=0.1)
LARGE = 20_000_000  # bytes of an answer: more than the kernel holds of one
WHOLE = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def answer_after_reading(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    more = scope["path"] != "/refuse"
    while more:
        more = (await receive()).get("more_body", False)
    body = bytes(LARGE) if scope["path"] == "/large" else b"ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def running(doors, **options):
    """A server with these limits; gives a way to connect to it."""
    server = make_server(answer_after_reading, doors=doors, drain_s=1, **options)
    serving, port = await started(server)
    writers = []

    async def connect(**tls):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
        writers.append(writer)
        return reader, writer

    try:
        async with asyncio.timeout(20):
            yield connect
    finally:
        for writer in writers:
            writer.close()
        server.should_exit = True
        await serving


def answer_to(sent, doors):
    """What a connection hears, until it is closed, when it sends this and no more."""

    async def main():
        async with running(doors) as connect:
            reader, writer = await connect()
            writer.write(sent)
            return await reader.read()

    return asyncio.run(main())


def error_of(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


def test_a_head_that_stops_coming_is_answered_408():
    answer = answer_to(b"GET / HTTP/1.1\r\nHost: he", HASTY)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") and error_of(answer) == "receive_timeout"


def test_a_connection_that_says_nothing_is_closed():
    assert answer_to(b"", HASTY) == b""


@pytest.mark.parametrize("trickle", [b"GET / HTTP/1.1\r\nX-A: " + b"a" * 1000, b"\r\n" * 500], ids=["head", "empty lines"])
def test_a_head_that_trickles_after_an_answer_is_given_up(trickle):
    async def main():
        async with running(HASTY) as connect:
            reader, writer = await connect()
            writer.write(WHOLE)
            await reader.readexactly(len(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
            for byte in trickle:
                writer.write(bytes([byte]))
                try:
                    async with asyncio.timeout(0.02):
                        await reader.read()
                        return True
                except TimeoutError:
                    pass
                except ConnectionResetError:  # it was closed while a byte was on its way
                    return True

    assert asyncio.run(main())


def test_the_rest_of_a_refused_body_may_not_trickle_for_ever():
    async def main():
        async with running(HASTY) as connect:
            reader, writer = await connect()
            writer.write(b"POST /refuse HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n")
            await reader.readuntil(b"ok")
            while not reader.at_eof() and reader.exception() is None:  # closed, or reset
                writer.write(b"x")
                await asyncio.sleep(0.01)
            return True

    assert asyncio.run(main())


def test_a_request_that_takes_long_to_answer_is_waited_for():
    async def main():
        async with running(HASTY) as connect:
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n")
            await asyncio.sleep(0.2)
            writer.write(b"xx")
            return await reader.readuntil(b"ok")

    assert asyncio.run(main()).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_is_not_read_is_given_up(caplog):
    async def main():
        async with running(HASTY) as connect:
            reader, writer = await connect()
            writer.write(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            while "gave up an answer that is not read" not in caplog.messages:
                await asyncio.sleep(0.01)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(LARGE)

    asyncio.run(main())


def test_an_answer_that_is_read_slowly_but_steadily_is_sent_whole():
    doors = Doors(connections=100, patience_s=0.5)

    async def main():
        async with running(doors) as connect:
            reader, writer = await connect()
            writer.write(b"GET /large HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            got, begun = 0, asyncio.get_running_loop().time()
            while piece := await reader.read(500_000):
                got += len(piece)
                await asyncio.sleep(0.01)
            return got, asyncio.get_running_loop().time() - begun

    got, took_s = asyncio.run(main())
    assert got > LARGE and took_s > doors.patience_s


def test_what_a_reader_took_counts_before_the_kernel_takes_more_in():
    async def main():
        transports = []
        listener = socket.create_server(("127.0.0.1", 0))
        async with await asyncio.start_server(lambda _, writer: transports.append(writer.transport), sock=listener):
            with socket.socket() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                peer.connect(listener.getsockname())
                while not transports:
                    await asyncio.sleep(0.001)
                transports[0].write(bytes(LARGE))
                got, taken, before = 0, [], (transports[0].get_write_buffer_size(), unread_bytes(transports[0]))
                for _ in range(8):
                    got += len(peer.recv(65_536))
                    await asyncio.sleep(0.01)
                    taken.append(before[1] - unread_bytes(transports[0]))
            transports[0].abort()
        return before[1] - before[0], taken, got

    in_kernel, taken, got = asyncio.run(main())
    assert in_kernel > 0 and taken == sorted(taken) and taken[-1] >= got / 2


def test_where_the_kernel_does_not_tell_what_waits_here_counts(monkeypatch):
    class Transport:
        def get_write_buffer_size(self):
            return 5

    monkeypatch.setattr(sys, "platform", "darwin")
    assert unread_bytes(Transport()) == 5


def test_good_clients_are_served_among_many_that_say_nothing_or_trickle():
    async def main():
        async with running(Doors(connections=1000, patience_s=20.0)) as connect:
            others = [await connect() for _ in range(300)]
            for number, (_, writer) in enumerate(others):
                writer.write(b"GET / HTTP/1.1\r\nX-Slow: "[: number % 30])
            for _ in range(10):
                reader, writer = await connect()
                writer.write(WHOLE)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
            return [reader.at_eof() for reader, _ in others]

    assert asyncio.run(main()) == [False] * 300


def test_an_endless_head_is_refused():
    answer = answer_to(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 70_000, PATIENT)
    assert answer.startswith(b"HTTP/1.1 431 ") and error_of(answer) == "head_too_large"


@pytest.mark.parametrize("head", [b"X-A: %b" % (b"a" * 65_536), b"X-A: a\r\n" * 9_000, b"X-A: a"])
def test_a_head_too_large_that_came_at_once_is_refused_and_the_next_one_answered(head):
    async def main():
        async with running(PATIENT) as connect:
            reader, writer = await connect()
            writer.write(b"GET /%b HTTP/1.1\r\nHost: here\r\n%b\r\n\r\n" % (b"A" * 65_536 * (len(head) < 10), head))
            refusal = await reader.readuntil(b"}}")
            writer.write(WHOLE)
            return refusal, await reader.readuntil(b"ok")

    refusal, answer = asyncio.run(main())
    assert refusal.startswith(b"HTTP/1.1 431 ") and error_of(refusal) == "head_too_large"
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_head_within_the_limit_is_read_however_much_comes_with_it():
    sent = b"POST / HTTP/1.1\r\nHost: here\r\nX-A: %b\r\nContent-Length: 100000\r\n\r\n%b"
    answer = answer_to(sent % (b"a" * 60_000, bytes(100_000)), PATIENT)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_endless_headers_behind_a_request_under_way_are_refused():
    sent = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\n" + b"X-A: a\r\n" * 10_000
    assert b"HTTP/1.1 431 " in answer_to(sent, PATIENT)


def test_a_long_url_is_read():
    async def main():
        async with running(PATIENT) as connect:
            reader, writer = await connect()
            writer.write(b"GET /?q=" + b"A" * 20_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n")
            return await reader.readuntil(b"ok")

    assert asyncio.run(main()).startswith(b"HTTP/1.1 200 ")


def test_what_is_no_http_is_refused_in_the_form_of_all_errors():
    answer = answer_to(b"hello\r\n\r\n", PATIENT)
    assert answer.startswith(b"HTTP/1.1 400 ") and error_of(answer) == "invalid_http"
    assert b"\r\ndate: " in answer and b"\r\nx-content-type-options: nosniff\r\n" in answer


def test_bytes_that_come_after_the_refusal_are_dropped():
    class Written(asyncio.Transport):
        """What a protocol writes; TLS hands on what it had decrypted before it was told to close."""

        def __init__(self):
            super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
            self.answers, self.is_closing = [], lambda: bool(self.answers)

        def write(self, data):
            self.answers.append(data)

        def close(self):
            pass

    async def main():
        server, written = make_server(answer_after_reading, doors=PATIENT, drain_s=1), Written()
        server.config.load()
        connection = server.config.http(config=server.config, server_state=server.server_state, app_state={})
        connection.connection_made(written)
        connection.data_received(b"nonsense\r\n\r\n")
        connection.data_received(WHOLE + b"more nonsense\r\n\r\n")
        await asyncio.sleep(0)
        connection.connection_lost(None)
        return written.answers

    answers = asyncio.run(main())
    assert [error_of(answer) for answer in answers] == ["invalid_http"]


def test_one_connection_too_many_is_told_so_and_the_others_are_served():
    async def main():
        async with running(Doors(connections=2, patience_s=20.0)) as connect:
            first, second, third = await connect(), await connect(), await connect()
            refused = await third[0].read()
            for reader, writer in (first, second):
                writer.write(WHOLE)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
            return refused

    refused = asyncio.run(main())
    assert refused.startswith(b"HTTP/1.1 503 ") and error_of(refused) == "overloaded"
    assert b"\r\nretry-after: 1\r\n" in refused


def test_many_connections_that_come_at_once_are_taken_in_within_a_few_turns_of_the_loop():
    async def main():
        listener = socket.create_server(("127.0.0.1", 0))
        server = make_server(answer_after_reading, doors=PATIENT, drain_s=1)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        callers = [socket.create_connection(listener.getsockname()) for _ in range(64)]  # the loop stands still meanwhile
        turns = 0
        while len(server.server_state.connections) < len(callers):
            await asyncio.sleep(0)
            turns += 1
        for caller in callers:
            caller.close()
        server.should_exit = True
        await serving
        return turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) < 32


def test_refusals_are_counted_each_and_logged_together_and_bear_an_id(caplog):
    counted = []

    async def main():
        async with running(PATIENT, on_refusal=counted.append) as connect:
            for _ in range(5):
                reader, writer = await connect()
                writer.write(b"hello\r\n\r\n")
                answer = await reader.read()
            return answer

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    request_id = json.loads(body)["error"]["request_id"]
    assert len(request_id) == 32 and f"x-request-id: {request_id}".encode() in head
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert counted == ["invalid_http"] * 5 and len(told) < 5 and told[0].fields["codes"] == {"invalid_http": 1}


def test_the_next_line_of_the_log_tells_of_all_since(caplog):
    async def main():
        refusals = Refusals("refused connections")
        for number in range(3):
            refusals.note("overloaded", client=number)
        refusals._tell()  # a second has passed

    asyncio.run(main())
    assert [record.fields for record in caplog.records] == [
        {"codes": {"overloaded": 1}, "client": 0},
        {"codes": {"overloaded": 2}, "client": 2},
    ]


def test_a_tls_handshake_that_does_not_come_is_given_up_and_one_that_does_is_served(pair):
    doors = Doors(connections=100, patience_s=0.5)

    async def main():
        async with running(doors, ssl_certfile=pair["tls_cert"], ssl_keyfile=pair["tls_key"]) as connect:
            silent, _ = await connect()
            trust = ssl.create_default_context(cafile=pair["tls_cert"])
            reader, writer = await connect(ssl=trust, server_hostname="localhost")
            writer.write(b"GET /large HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            return await silent.read(), len(await reader.read())

    heard, got = asyncio.run(main())
    assert heard == b"" and got > LARGE


def test_connections_leave_descriptors_to_the_gallery():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
        limit = connection_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert 1 <= limit <= max(1, soft - FILES_KEPT) and hard == before[1] and soft >= 1000
        assert connection_limit() == limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
