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


def test_noise_is_flat_nineteen_times_of_twenty():
    flat = sum(soak.slope(HOUR, 100 + noise(seed)).is_flat for seed in range(200))
    assert 180 <= flat <= 198


def test_growth_is_found_and_measured():
    found = soak.slope(HOUR, 100 + 12 * HOUR / 3600 + noise(0))
    assert not found.is_flat and found.per_hour == pytest.approx(12, abs=2)
    assert found.first < 105 and found.last > 107 and "NOT FLAT" in soak.line("rss", found)


def test_what_never_changes_is_flat():
    found = soak.slope(HOUR, np.full(len(HOUR), 12.0))
    assert found.is_flat and found.per_hour == 0 and "NOT" not in soak.line("files", found)


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


def test_no_time_is_refused():
    with pytest.raises(SystemExit):
        soak.parse(["--minutes", "0"])
