"""The client for asyncio: the same calls, several requests of a job at a time, and the first error ends it."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest

from service.client import AllFailed, AsyncClient, Client, NotFound, ReidError, Unreachable

URL = "http://127.0.0.1:8000"


@pytest.fixture(name="together")
def together_fixture(serving, wire):
    """Runs a test's coroutine with an AsyncClient of a real application."""

    def together(work, *, per_request=32, **changes):
        async def main():
            async with AsyncClient(URL, transport=wire(serving(**changes)), crops_per_request=per_request) as reid:
                return await work(reid)

        return asyncio.run(main())

    return together


def test_every_method_answers_as_the_other_clients_does(together, pictures):
    async def work(reid):
        enrolled = await reid.enroll([pictures(1), pictures(2)], pid=["anna", "bert"], camid="hall")
        first, second = [result.entry_id for result in enrolled.results]
        row = (await reid.embed(pictures(1))).embeddings[0]
        assert (await reid.model()).dim == len(row) == 16
        assert (await reid.search(pictures(1))).matches[0].pid == "anna"
        assert (await reid.search(embedding=row, k=1)).matches[0].pid == "anna"
        assert (await reid.search(entry_id=first)).matches[0].pid == "bert"
        assert [entry.entry_id async for entry in reid.entries(camid="hall")] == [second, first]
        assert [one.pid async for one in reid.identities(prefix="b")] == ["bert"]
        assert (await reid.identity("anna")).entries == (await reid.stats()).cameras == 1
        assert (await reid.rename("bert", "anna", merge=True)).moved == 1
        assert (await reid.entry(second)).pid == "anna"
        assert (await reid.crop(second)).startswith(b"\xff\xd8\xff")
        await reid.delete_entry(second)
        assert (await reid.delete_identity("anna")).entries == 1
        with pytest.raises(NotFound):
            await reid.identity("anna")

    together(work)


def test_both_clients_have_the_same_methods():
    def methods(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


def test_a_job_keeps_its_order_and_its_bad_crops_whatever_ends_first(together, pictures):
    crops = [pictures(seed) for seed in range(7)]
    crops[3] = b"nothing"
    told = []

    async def work(reid):
        answer = await reid.embed(crops, progress=lambda done, total: told.append((done, total)))
        alone = [(await reid.embed(crop)).embeddings[0] for crop in crops if crop != b"nothing"]
        return answer, np.array(alone)

    answer, alone = together(work, per_request=2)
    assert [error.index for error in answer.errors] == [3] and told[-1] == (7, 7) and len(told) == 4
    assert np.abs(np.delete(answer.embeddings, 3, axis=0) - alone).max() < 1e-6


def test_a_request_that_is_too_large_is_halved_and_a_crop_that_is_fails_alone(together, pictures):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)

    async def work(reid):
        return await reid.embed([pictures(1), noise, pictures(2), b"", b""])

    answer = together(work, max_body_mb=0.02, max_crops=2)
    assert [(error.index, error.code) for error in answer.errors] == [
        (1, "body_too_large"),
        (3, "undecodable_image"),
        (4, "undecodable_image"),
    ]


def test_when_nothing_can_be_sent_every_reason_is_told(together):
    async def work(reid):
        await reid.embed([b"", b""])

    with pytest.raises(AllFailed, match="all 2 failed"):
        together(work)


@asynccontextmanager
async def answering(answer, **options):
    """An AsyncClient over a function that answers requests."""
    async with AsyncClient(URL, transport=httpx.MockTransport(answer), **options) as reid:
        yield reid


def test_no_more_requests_are_under_way_than_allowed():
    under_way, most = 0, 0

    async def answer(request):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return httpx.Response(200, json={"model_id": "m", "dim": 1, "results": [{"index": 0, "embedding": "AACAPw=="}]})

    async def main():
        async with answering(answer, crops_per_request=1, concurrency=3) as reid:
            return await reid.embed([b"1"] * 12)

    assert (asyncio.run(main()).embeddings == 1).all()
    assert most == 3


def test_the_first_error_ends_the_job():
    asked = []

    async def answer(request):
        asked.append(request)
        return httpx.Response(500, json={"error": {"code": "store_error", "message": "broken", "request_id": "r"}})

    async def main():
        async with answering(answer, crops_per_request=1, concurrency=2) as reid:
            await reid.embed([b"1"] * 100)

    with pytest.raises(ReidError, match="broken"):
        asyncio.run(main())
    assert len(asked) < 10


def test_it_waits_and_tries_again_and_gives_up():
    waits = []

    async def answer(request):
        if len(waits) == 2:
            return httpx.Response(404, json={"error": {"code": "not_found", "message": "gone", "request_id": "r"}})
        raise httpx.ConnectError("refused")

    async def sleep(seconds):
        waits.append(seconds)

    async def main(retry_s):
        async with answering(answer, sleep=sleep, retry_s=retry_s) as reid:
            await reid.stats()

    with pytest.raises(NotFound, match="gone"):
        asyncio.run(main(60))
    assert len(waits) == 2
    with pytest.raises(Unreachable, match="refused"):
        waits.clear()
        asyncio.run(main(0))
