"""The real thing: python -m service in a process of its own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


class Server:
    """One process of the service on a port of its own."""

    def __init__(self, **settings):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REID_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**clean, "REID_PORT": "0", "REID_THREADS": "1", **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []

    def url(self):
        """Wait until it serves, by reading its log."""
        for line in self.process.stderr:
            self.log.append(line)
            if " serving " in line:
                found = line.split("url=")[1].split()[0]
            if "Application startup complete" in line:
                return found
        raise AssertionError("".join(self.log))

    def stop(self, how=signal.SIGTERM):
        """Signal it and wait for its end."""
        self.process.send_signal(how)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def refusal(self):
        """Wait for a process that refuses to start; returns its last words."""
        out, words = self.process.communicate(timeout=30)
        assert self.process.returncode == 1 and out == ""
        return words


@pytest.fixture(name="start")
def start_fixture(tiny, tmp_path):
    servers = []

    def start(**settings):
        defaults = {"REID_MODEL": str(tiny), "REID_GALLERY": str(tmp_path / "gallery")}
        servers.append(Server(**{**defaults, **settings}))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


def test_a_crop_goes_in_and_is_found_after_a_restart(start, pictures):
    server = start()
    url = server.url()
    answer = httpx.post(f"{url}/gallery", files={"crops": pictures(1)}, data={"pid": "anna"})
    assert answer.status_code == 201
    embedding = httpx.post(f"{url}/embed?encoding_format=base64", files={"crops": pictures(1)}).json()
    query = embedding["results"][0]["embedding"].replace("+", "-").replace("/", "_")
    assert server.stop() == -signal.SIGTERM
    url = start().url()
    assert httpx.get(f"{url}/search", params={"embedding": query}).json()["matches"][0]["pid"] == "anna"
    assert httpx.get(f"{url}/readyz").status_code == 200


def test_a_query_of_a_real_models_size_fits_into_the_url(start):
    answer = httpx.get(f"{start().url()}/search", params={"embedding": "A" * 10_923})
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "dimension_mismatch"


def test_sigterm_answers_what_is_under_way(start, pictures):
    async def main():
        server = start(REID_BATCH_WAIT_MS="500", REID_BATCH_MAX="100")
        async with httpx.AsyncClient(base_url=server.url(), timeout=20) as http:
            kind = {"content-type": "image/png"}
            tasks = [asyncio.ensure_future(http.post("/embed", content=pictures(seed), headers=kind)) for seed in range(8)]
            while (await http.get("/metrics")).text.find("reid_queue_crops 8.0") < 0:
                await asyncio.sleep(0)
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*tasks)
        server.process.communicate(timeout=30)
        return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [200] * 8


def test_every_acknowledged_enrolment_survives_kill_9(start, pictures):
    server = start()
    url = server.url()
    acknowledged = {}

    async def enroll():
        async def stream(http, first):
            for seed in range(first, first + 1000):
                answer = await http.post("/gallery", files={"crops": pictures(seed)}, data={"pid": f"p{seed}"})
                acknowledged[seed] = answer.json()["results"][0]["entry_id"]
                if len(acknowledged) == 40:
                    server.process.kill()

        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            return await asyncio.gather(*(stream(http, 1000 * one) for one in range(4)), return_exceptions=True)

    assert all(isinstance(end, httpx.TransportError) for end in asyncio.run(enroll()))
    server.process.communicate()
    with httpx.Client(base_url=start().url(), timeout=20) as http:
        listed = {entry["entry_id"]: entry["pid"] for entry in http.get("/gallery?limit=1000").json()["entries"]}
        assert {entry_id: f"p{seed}" for seed, entry_id in acknowledged.items()}.items() <= listed.items()
        stats = http.get("/gallery/stats").json()
        assert stats["entries"] == stats["identities"] == len(listed) <= len(acknowledged) + 4
        for seed in acknowledged:
            best = http.post("/search?k=1", files={"crops": pictures(seed)}).json()["matches"][0]
            assert best["pid"] == f"p{seed}" and best["cosine"] == pytest.approx(1, abs=1e-5)


def test_sixty_four_connections_at_once_each_get_their_own(start, pictures, tiny):
    async def main():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=start().url(), timeout=30, limits=limits) as http:
            kind = {"content-type": "image/png"}
            tasks = [http.post("/embed", content=pictures(seed), headers=kind) for seed in range(64)]
            together = await asyncio.gather(*tasks)
            alone = [await http.post("/embed", content=pictures(seed), headers=kind) for seed in range(64)]
        return together, alone

    together, alone = asyncio.run(main())
    for got, wanted in zip(together, alone, strict=True):
        rows = [np.array(answer.json()["results"][0]["embedding"]) for answer in (got, wanted)]
        assert np.abs(rows[0] - rows[1]).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"REID_PORT": "http"}, "cannot start: REID_PORT: "),
        ({"REID_HOST": "0.0.0.0"}, "wanted a loopback address; set REID_API_KEYS"),
        ({"REID_MODEL": "/nowhere"}, "/nowhere/manifest.json: got No such file or directory, wanted an artefact folder"),
        ({"REID_GALLERY": "/proc/gallery"}, "/proc/gallery"),
        ({"REID_HOST": "192.0.2.1", "REID_ALLOW_ANONYMOUS": "true"}, "REID_HOST=192.0.2.1"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(start, settings, words):
    refusal = start(**settings).refusal()
    assert words in refusal and refusal.count("\n") == 1


def test_a_port_in_use_stops_the_start_with_one_line(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refusal = start(REID_PORT=str(taken.getsockname()[1])).refusal()
    assert "wanted a free address; set another REID_PORT" in refusal and refusal.count("\n") == 1


def test_a_gallery_in_use_stops_the_start_with_one_line(start):
    start().url()
    refusal = start().refusal()
    assert refusal.startswith("cannot start: ") and refusal.count("\n") == 1


def test_a_gallery_of_another_model_stops_the_start_with_one_line(start, artefact, tmp_path):
    server = start()
    server.url()
    server.stop()
    other = artefact(tmp_path / "other", space_id="6" * 64)
    refusal = start(REID_MODEL=str(other)).refusal()
    assert "5" * 12 in refusal and "6" * 12 in refusal and refusal.count("\n") == 1


def test_help_lists_the_settings():
    done = subprocess.run([sys.executable, "-m", "service", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "REID_QUEUE_MAX" in done.stdout


def test_arguments_are_refused():
    done = subprocess.run([sys.executable, "-m", "service", "--port", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "wanted no arguments" in done.stderr


def test_importing_the_application_loads_neither_torch_nor_training():
    code = "import sys, service.app; print(sorted({'torch', 'training', 'exporter', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
