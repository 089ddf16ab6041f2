"""The soak benchmark: slopes and their intervals, the mix, and what is read of the metrics."""

import asyncio
import random

import httpx
import numpy as np
import pytest

from benchmarks import soak

HOUR = np.linspace(0, 3600, 360)
TEXT = "process_resident_memory_bytes 1e+08\nprocess_open_fds 12.0\nreid_gallery_entries 50.0\n"


def noise(seed):
    return np.random.default_rng(seed).normal(scale=2.0, size=len(HOUR))


def test_noise_is_taken_for_growth_once_in_forty_times():
    verdicts = [soak.slope(HOUR, 100 + noise(seed)).verdict for seed in range(200)]
    assert 1 <= verdicts.count("GROWS") <= 10 and set(verdicts) == {"GROWS", "no growth to be told from none"}


def test_growth_is_found_and_measured():
    found = soak.slope(HOUR, 100 + 12 * HOUR / 3600 + noise(0))
    assert found.verdict == "GROWS" and found.per_hour == pytest.approx(12, abs=2)
    assert found.first < 105 and found.last > 107 and "GROWS" in soak.line("rss", found)


def test_what_falls_does_not_grow():
    assert soak.slope(HOUR, 100 - 12 * HOUR / 3600 + noise(0)).verdict == "no growth to be told from none"


def test_an_interval_that_would_hide_a_leak_shows_nothing():
    assert soak.slope(HOUR, 100 + 20 * noise(0)).verdict.startswith("INCONCLUSIVE")


def test_what_never_changes_is_flat():
    found = soak.slope(HOUR, np.full(len(HOUR), 12.0))
    assert found.per_hour == 0 and "no growth" in soak.line("files", found)


class EveryKind(random.Random):
    """A source that takes one kind of call after the other."""

    def choices(self, kinds, weights):
        self.number = getattr(self, "number", -1) + 1
        return [kinds[self.number % len(kinds)]]


def test_the_mix_makes_every_call_and_readings_are_taken():
    seen = set()

    def serve(request):
        seen.add((request.method, request.url.path.rstrip("0123456789")))
        return httpx.Response(200, text=TEXT)

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve), base_url="http://host") as http:
            source = EveryKind(0)
            acts = [await soak.act(http, [b"abcdef"] * 9, source) for _ in range(12)]
            return acts, await soak.read(http, 0.0)

    acts, reading = asyncio.run(main())
    assert acts == 2 * ["embed 200", "enroll 200", "search 200", "list 200", "erase 200", "hang up"]
    assert ("DELETE", "/gallery/identities/soak-") in seen
    assert (reading.rss, reading.files, reading.entries) == (1e8, 12, 50)


@pytest.mark.parametrize("text", [TEXT.replace("50.0", "NaN"), None], ids=["a count that is not known", "no answer"])
def test_a_call_without_an_answer_is_counted_and_a_reading_without_a_value_left_out(text):
    def serve(request):
        if text is None or request.url.path != "/metrics":
            raise httpx.ReadError("broken")
        return httpx.Response(200, text=text)

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve), base_url="http://host") as http:
            source = EveryKind(0)
            return [await soak.act(http, [b"abcdef"] * 9, source) for _ in range(6)], await soak.read(http, 0.0)

    kinds = ("embed", "enroll", "search", "list", "erase", "hang up")
    assert asyncio.run(main()) == ([f"{kind} ReadError" for kind in kinds], None)


def test_no_time_is_refused():
    with pytest.raises(SystemExit):
        soak.parse(["--minutes", "0"])
