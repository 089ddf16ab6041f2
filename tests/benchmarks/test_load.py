"""The load generator against a server of twenty lines: what is sent, waited for and counted."""

import asyncio

import pytest

from benchmarks import load


class Server:
    """Answers every POST after a moment with a status; keeps bodies, and how many requests were open at once."""

    def __init__(self, *, status=200, delay_s=0.0, idle_s=10.0):
        self.status, self.delay_s, self.idle_s = status, delay_s, idle_s
        self.bodies, self.open, self.most_open, self.connections = [], 0, 0, 0

    async def serve(self, reader, writer):
        self.connections += 1
        while True:
            try:
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self.idle_s)).decode()
            except (asyncio.IncompleteReadError, TimeoutError):
                break
            self.bodies.append(await reader.readexactly(int(head.split("Content-Length: ")[1].split()[0])))
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            await asyncio.sleep(self.delay_s)
            self.open -= 1
            writer.write(f"HTTP/1.1 {self.status} x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        writer.close()

    def put(self, work):
        """Run a load, made of an address, against this server."""

        async def both():
            server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with server:
                return await work(f"http://127.0.0.1:{port}")

        return load.run(both())


def closed(num_requests=6, clients=2):
    return lambda url: load.closed_loop(
        url, [load.request(url, "/embed", b"abc", content_type="x/y")], clients=clients, num_requests=num_requests
    )


def test_a_closed_loop_sends_so_many_from_so_many_clients_and_warms_up_each():
    server = Server(delay_s=0.01)
    waits = server.put(closed())
    assert (len(waits.seconds), waits.refused, waits.warming) == (6, [], 2)
    assert server.bodies == [b"abc"] * 8
    assert (server.connections, server.most_open) == (2, 2)
    assert min(waits.seconds) > 0.005  # timers may fire a little early


def test_refusals_are_counted_apart():
    waits = Server(status=503).put(closed())
    assert (waits.seconds, waits.refused, waits.warming) == ([], [503] * 6, 0)
    assert waits.figures(crops_per_request=1)["refused"] == 1


def test_a_connection_that_the_server_closed_is_opened_again():
    server = Server(idle_s=0.05)

    async def work(url):
        connection = await load.Connection.open(url)
        content = load.request(url, "/", b"", content_type="x/y")
        first = await connection.ask(content)
        await asyncio.sleep(0.3)
        second = await connection.ask(content)
        connection.close()
        return first, second

    assert server.put(work) == (200, 200)
    assert server.connections == 2


def test_constant_arrival_does_not_wait_for_answers_and_counts_from_when_a_request_was_due():
    server = Server(delay_s=0.1)

    async def work(url):
        content = load.request(url, "/", b"x", content_type="x/y")
        return await load.constant_arrival(url, [content], per_s=50, seconds=0.2)

    waits = server.put(work)
    assert len(waits.seconds) == 10
    assert server.most_open > 1
    assert min(waits.seconds) > 0.05  # timers may fire a little early


def test_figures_are_of_good_answers():
    waits = load.Waits(seconds=[0.1, 0.2, 0.3], refused=[503], total_s=2, cpu_s=0.004)
    figures = waits.figures(crops_per_request=8)
    assert figures["crops_per_s"] == 12
    assert figures["p50_ms"] == pytest.approx(200)
    assert (figures["refused"], figures["client_cpu_ms"]) == (0.25, 1)


def test_several_crops_make_one_form_each_and_a_rest_is_left_out():
    requests = load.jpeg_requests("http://host:1", [b"a", b"b", b"c", b"d", b"e"], crops_per_request=2)
    assert len(requests) == 2
    assert requests[0].count(b'name="crops"') == 2
    assert b"multipart/form-data; boundary=" in requests[0]


def test_the_time_of_a_load_is_taken_around_all_of_it():
    waits = load.Waits()
    ticks = iter((10.0, 13.5))
    load.run(load.timed(waits, asyncio.sleep(0), asyncio.sleep(0), clock=lambda: next(ticks)))
    assert waits.total_s == 3.5
