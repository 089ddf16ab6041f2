"""The watchdog: dead threads, hanging passes, and what the supervisor hears."""

import asyncio
import logging
import re
import socket
import threading

import numpy as np
import pytest

from service import watchdog
from service.telemetry import Telemetry
from service.watchdog import Watchdog, systemd


def end_thread(client):
    """Let the inference threads end, as if something had killed them."""
    for worker in client.app.state.parts.pipeline.batcher._passes._threads:
        worker.stop()
        worker._thread.join(timeout=10)


def test_readyz_tells_of_a_dead_inference_thread_until_another_one_has_worked(serving, fake, pictures, monkeypatch):
    monkeypatch.setattr(watchdog, "EVERY_S", 3600.0)  # it does not look between the thread's end and the probe
    client = serving(embed=fake())
    pipeline = client.app.state.parts.pipeline

    async def ended():
        end_thread(client)
        return await client.http.get("/readyz"), pipeline.revive(), pipeline._not_ready

    dead, was_dead, reason = client.run(ended())
    assert dead.status_code == 503 and "an inference thread died" in dead.json()["parts"]["model"]
    assert was_dead and "another one has to run a pass first" in reason
    assert client.get("/readyz").status_code == 200
    assert client.post("/embed", files={"crops": pictures(1)}).status_code == 200


def test_a_crop_sent_to_a_dead_thread_is_embedded_once_the_watchdog_has_looked(serving, fake, pictures, caplog):
    client = serving(embed=fake())
    end_thread(client)
    assert client.post("/embed", files={"crops": pictures(1)}).status_code == 200
    assert "an inference thread died and was replaced" in [record.getMessage() for record in caplog.records]
    assert re.search(r"^reid_inference_deaths_total 1\.0$", client.get("/metrics").text, re.MULTILINE)


def test_a_hanging_runtime_refuses_crops_before_they_are_sent(serving, without, pictures):
    passes, release = iter([True, False]), threading.Event()

    def before(size):
        assert next(passes) or release.wait(timeout=10)

    client = serving(embed=without(before=before), deadline_s=0.01)
    batcher = client.app.state.parts.pipeline.batcher

    async def send():
        with batcher.admit(1) as room:
            hanging = asyncio.ensure_future(room.submit([np.zeros((32, 16, 3), dtype=np.uint8)]))
            async with asyncio.timeout(20):
                while batcher.stalled_s() <= 0.01:
                    await asyncio.sleep(0)
            refused = await client.http.post("/embed", files={"crops": pictures(1)})
            release.set()
            await hanging
        return refused

    refused = client.run(send())
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "model_not_ready"
    assert "if it never ends, restart the service" in refused.json()["error"]["message"]


class Pipeline:
    """A pipeline of which the test says how it is."""

    def __init__(self):
        self.batcher, self.stalled, self.is_dead = self, 0.0, False

    def stalled_s(self):
        return self.stalled

    def revive(self):
        was_dead, self.is_dead = self.is_dead, False
        return was_dead


@pytest.fixture(name="watched")
def watched_fixture():
    """A watchdog, what it watches, and what it told the supervisor."""
    told = []
    pipeline = Pipeline()
    return Watchdog(pipeline, Telemetry(), limit_s=5.0, notify=told.append), pipeline, told


def test_a_pass_that_hangs_is_told_of_once_and_again_when_it_ends(watched, caplog):
    watchdog, pipeline, _ = watched
    with caplog.at_level(logging.WARNING, logger="service"):
        for stalled in (0.0, 4.9, 5.1, 60.0, 0.0, 0.0):
            pipeline.stalled = stalled
            watchdog.look()
    assert [record.getMessage() for record in caplog.records] == ["a forward pass hangs", "the forward pass that hung has ended"]
    assert caplog.records[0].fields == {"stalled_s": 5.1, "limit_s": 5.0}


def test_the_supervisor_hears_that_all_is_well_only_while_it_is(watched):
    watchdog, pipeline, told = watched
    for stalled in (0.0, 5.1, 0.0):
        pipeline.stalled = stalled
        watchdog.look()
    assert told == ["WATCHDOG=1", "WATCHDOG=1"]


def test_watching_survives_a_surprise_and_begins_with_ready(watched, caplog):
    watchdog, pipeline, told = watched
    pipeline.revive = lambda: 1 // 0

    async def main():
        task = asyncio.ensure_future(watchdog.watch())
        await asyncio.sleep(0)
        is_watching = not task.done()
        task.cancel()
        return is_watching

    assert asyncio.run(main()) and told == ["READY=1"]
    assert "unexpected error in the watchdog" in caplog.text


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_states_on_its_socket(tmp_path, kind):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name if kind == "path" else "\0" + name)
        systemd({"NOTIFY_SOCKET": name if kind == "path" else "@" + name})("READY=1")
        listener.settimeout(10)
        assert listener.recv(100) == b"READY=1"


def test_without_systemd_nobody_is_told():
    assert systemd({})("READY=1") is None


def test_a_supervisor_that_is_gone_stops_nothing(tmp_path):
    assert systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")})("WATCHDOG=1") is None
