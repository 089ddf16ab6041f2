"""The overload benchmark: how requests are sent and counted, and its crowd of bad clients, against servers of a few lines."""

import asyncio
import json
from contextlib import closing, suppress

import pytest

from benchmarks import bad_clients, load, overload
from benchmarks.overload import Answer

REQUEST = [load.request("http://host", "/embed", b"abc", content_type="x/y")]


def against(serve, work):
    """Run a load, made of an address, against a server."""

    async def serve_and_close(reader, writer):
        with closing(writer):
            await serve(reader, writer)

    async def both():
        server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            return await work(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    return asyncio.run(both())


async def answer_all(reader, writer):
    with suppress(asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"abc")
            writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\n{}")


async def hang_up(reader, writer):
    await reader.readuntil(b"abc")


def test_as_many_requests_are_sent_as_rate_and_time_say():
    answers = against(answer_all, lambda url: overload.by_the_clock(url, REQUEST, per_s=100, seconds=0.1))
    assert [answer.status for answer in answers] == [200] * 10


def test_clients_one_by_one_send_for_so_long():
    answers = against(answer_all, lambda url: overload.one_by_one(url, REQUEST, clients=3, seconds=0.05))
    assert len(answers) >= 3 and {answer.status for answer in answers} == {200}


def test_a_broken_connection_is_an_answer_of_its_own():
    answers = against(hang_up, lambda url: overload.by_the_clock(url, REQUEST, per_s=100, seconds=0.02))
    assert [answer.status for answer in answers] == [overload.NO_ANSWER] * 2


def test_recovery_is_over_with_a_quick_good_answer():
    assert against(answer_all, lambda url: overload.recovery_s(url, REQUEST, usual_s=10.0)) < 10


def test_a_service_that_never_recovers_is_not_waited_for_for_ever():
    async def say_nothing(reader, writer):
        await reader.read()

    assert against(say_nothing, lambda url: overload.recovery_s(url, REQUEST, usual_s=10.0, limit_s=0.05)) is None


def test_figures_tell_goodput_waits_from_due_and_refusals_from_sending():
    answers = [Answer(200, 0.0, 0.1, 1.0), Answer(200, 1.0, 1.0, 2.0), Answer(503, 1.0, 1.5, 1.52), Answer(0, 2.0, 2.0, 4.0)]
    row = overload.figures(answers)
    assert row["good_per_s"] == 0.5 and row["requests"] == 4 and row["statuses"] == {200: 2, 503: 1, 0: 1}
    assert row["accepted_p50_ms"] == pytest.approx(1000) and row["refused_p100_ms"] == pytest.approx(20)
    assert "1 times" not in overload.line("case", row)


def test_what_no_request_showed_is_null_in_json_and_a_dash_to_people():
    row = overload.figures([Answer(200, 0.0, 0.1, 1.0)]) | {"recovery_s": None}
    assert row["refused_p50_ms"] is None and json.dumps(row, allow_nan=False)
    assert "refused p50 -" in overload.line("case", row) and "not within 60 s" in overload.line("case", row)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("idle", b""),
        ("slow heads", b"GET /livez HTTP/1.1\r\nX-Slow: x"),
        ("slow bodies", b"\r\n\r\nx"),
        ("hang-ups", b"POST /embed"),
    ],
)
def test_every_kind_of_bad_client_sends_its_part_and_begins_again_when_cut_off(kind, sent):
    got = []

    async def cut_off(reader, writer):
        content = b""
        while sent not in content and not reader.at_eof():
            content += await reader.read(1000)
        got.append(content)

    async def besiege(url):
        numbers = dict.fromkeys(("idle", "slow", "broken"), 0) | {"idle" if kind == "idle" else "slow": 1}
        if kind == "hang-ups":
            numbers = {"idle": 0, "slow": 0, "broken": 1}
        async with bad_clients.crowd(url, REQUEST[0], **numbers, trickle_s=0.01) as crowd:
            while crowd.cuts[kind] < 2:
                await asyncio.sleep(0.001)
        return crowd.cuts

    cuts = against(cut_off, besiege)
    assert cuts[kind] >= 2 and any(sent in content for content in got)


@pytest.mark.parametrize("is_there", [True, False], ids=["a server that listens", "none"])
def test_a_siege_wants_its_crowd_connected(is_there):
    async def stay(reader, writer):
        await reader.read()

    async def besiege(url):
        async with bad_clients.crowd(url if is_there else "http://127.0.0.1:1", b"", idle=5, slow=0, broken=0) as crowd:
            await crowd.gather(limit_s=10 if is_there else 0.05)
            return crowd.open["idle"]

    if is_there:
        assert against(stay, besiege) == 5
    else:
        with pytest.raises(RuntimeError, match="wanted {'idle': 5"):
            against(stay, besiege)


def test_quick_is_quick_and_nonsense_is_refused():
    assert overload.parse(["--quick"]).minutes < 0.1
    with pytest.raises(SystemExit):
        overload.parse(["--minutes", "0"])
