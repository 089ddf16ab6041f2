"""The real thing: python -m service in a process of its own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from gallery.errors import GalleryLocked, StoreUnavailable
from gallery.local import LocalGallery
from service.__main__ import listen, main
from service.errors import SettingRefused
from service.parts import open_gallery

ROOT = Path(__file__).parent.parent.parent
LONGEST_S = 120  # no test keeps a server longer; it is killed, and whoever waits for it reads its end


class Server:
    """One process of the service on a port of its own."""

    def __init__(self, code=None, **settings):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REID_")}
        self.process = subprocess.Popen(
            [sys.executable, *(["-m", "service"] if code is None else ["-c", code])],
            cwd=ROOT,
            env={**clean, "REID_PORT": "0", "REID_THREADS": "1", **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self.limit = threading.Timer(LONGEST_S, self.process.kill)
        self.limit.start()

    def until_logged(self, words):
        """Wait for a line of its log."""
        for line in self.process.stderr:
            self.log.append(line)
            if words in line:
                return
        raise AssertionError("".join(self.log))

    def url(self):
        """Wait until it serves, by reading its log."""
        self.until_logged(" serving ")
        found = self.log[-1].split("url=")[1].split()[0]
        self.until_logged("Application startup complete")
        # It is logged before the socket listens.
        with httpx.Client(transport=httpx.HTTPTransport(retries=8, verify=False)) as http:
            assert http.get(f"{found}/livez").status_code == 200
        return found

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
        server.limit.cancel()
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


@pytest.mark.skipif(sys.platform != "linux", reason="another system")
def test_its_threads_interrupt_nobody_when_they_wake(start):
    usual = "import os; os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))"  # whatever these tests run under
    server = start(code=f"{usual}; from service.__main__ import main; main([])")
    server.url()
    threads = os.listdir(f"/proc/{server.process.pid}/task")
    assert len(threads) > 4 and {os.sched_getscheduler(int(thread)) for thread in threads} == {os.SCHED_BATCH}


def under_way(url, body):
    """Send the head of a POST /embed, and return its connection once the service asks for the body."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    head = ["POST /embed HTTP/1.1", f"Host: {address.netloc}", "Content-Type: image/png", f"Content-Length: {len(body)}"]
    connection.sendall("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
    return connection


def answer_of(connection):
    """Read until the service hangs up."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_sigterm_answers_what_is_under_way(start, pictures):
    server = start()
    url = server.url()
    bodies = [pictures(seed) for seed in range(4)]
    connections = [under_way(url, body) for body in bodies]
    server.process.send_signal(signal.SIGTERM)
    server.until_logged("Shutting down")
    for connection, body in zip(connections, bodies, strict=True):
        connection.sendall(body)
    for connection in connections:
        with closing(connection):
            assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
    server.process.communicate(timeout=30)
    assert server.process.returncode == -signal.SIGTERM


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
            assert best["pid"] == f"p{seed}" and best["cosine"] == pytest.approx(1, abs=5e-4)  # stored in half precision


def test_sixty_four_connections_at_once_each_get_their_own_and_long_urls_are_read(start, pictures):
    async def main():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=start().url(), timeout=30, limits=limits) as http:
            kind = {"content-type": "image/png"}
            tasks = [http.post("/embed", content=pictures(seed), headers=kind) for seed in range(64)]
            together = await asyncio.gather(*tasks)
            alone = [await http.post("/embed", content=pictures(seed), headers=kind) for seed in range(64)]
            wide = await http.get("/search", params={"embedding": "A" * 10_923})  # 2048 float32 values
        return together, alone, wide

    together, alone, wide = asyncio.run(main())
    for got, wanted in zip(together, alone, strict=True):
        rows = [np.array(answer.json()["results"][0]["embedding"]) for answer in (got, wanted)]
        assert np.abs(rows[0] - rows[1]).max() < 1e-5
    assert wide.status_code == 422 and wide.json()["error"]["code"] == "dimension_mismatch"


HANGING = """
import sys, time
from service import __main__ as main

def open_embedder(settings, real=main.open_embedder):
    embedder = real(settings)
    passes = iter([embedder.embed])  # the one at the start works
    embed = lambda self, crops: next(passes, hang)(crops)
    facts = {"model": embedder.model, "provider": "none", "batch_max": embedder.batch_max}
    return type("Hanging", (), {**facts, "embed": embed})()

def hang(crops):
    time.sleep(1000)

main.open_embedder = open_embedder
sys.exit(main.main([]))
"""


def test_sigterm_ends_a_service_whose_runtime_hangs(start, pictures):
    server = start(code=HANGING, REID_DEADLINE_S="0.5")
    url = server.url()
    assert httpx.post(f"{url}/embed", files={"crops": pictures(1)}).status_code == 504
    until = time.monotonic() + 10  # the deadline counts the wait before the pass as well, on a busy machine
    while httpx.get(f"{url}/readyz").status_code != 503:
        assert time.monotonic() < until
    assert httpx.get(f"{url}/livez").status_code == 200
    assert server.stop() == -signal.SIGTERM


def test_sigterm_waits_for_no_connection_that_says_nothing(start):
    server = start(REID_RECEIVE_S="1000")
    address = urlsplit(server.url())
    with closing(socket.create_connection((address.hostname, address.port), timeout=30)) as connection:
        connection.sendall(b"GET /livez HT")
        assert server.stop() == -signal.SIGTERM


def test_ctrl_c_ends_it_without_an_error_and_the_gallery_is_free(start, tmp_path):
    server = start(REID_PROT="1")
    server.url()
    assert server.stop(signal.SIGINT) == 0
    assert any("REID_PROT is no setting and is ignored; did you mean REID_PORT?" in line for line in server.log)
    assert not any("Traceback" in line for line in server.log)
    LocalGallery.open(tmp_path / "gallery", space_id="5" * 64, dim=16).close()


def test_https_is_served_with_a_certificate(start, pair):
    url = start(REID_TLS_CERT=str(pair["tls_cert"]), REID_TLS_KEY=str(pair["tls_key"])).url()
    assert url.startswith("https://")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"WEB_CONCURRENCY": "4"}, "WEB_CONCURRENCY: got 4, wanted 1: one process owns a gallery; unset it"),
        ({"REID_PORT": "http"}, "cannot start: REID_PORT: "),
        ({"REID_DEADLINE_S": "inf"}, "REID_DEADLINE_S: Input should be a finite number, got 'inf'"),
        ({"REID_CALIBRATION": "Makefile"}, "Makefile: got broken JSON"),
        ({"REID_MODEL": "/nowhere"}, "/nowhere/manifest.json: got No such file or directory, wanted an artefact folder"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(start, settings, words):
    refusal = start(**settings).refusal()
    assert words in refusal and refusal.splitlines()[-1].startswith("cannot start: ") and "Traceback" not in refusal


def test_an_env_file_that_is_no_text_stops_the_start_with_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / ".env").write_bytes(b"REID_PORT=\xff\n")
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cannot start: .env: got ") and "wanted a readable file of settings in UTF-8" in line


def test_the_calibration_beside_the_model_is_served(start):
    url = start(REID_MODEL="service/model").url()
    served = httpx.get(f"{url}/calibration").json()
    rates = {rate["far"]: rate["threshold"] for rate in served["rates"]}
    assert httpx.get(f"{url}/model").json()["thresholds"]["default"] == rates[0.001]


def test_a_gallery_of_another_model_stops_the_start_with_one_line(start, tmp_path):
    LocalGallery.open(tmp_path / "gallery", space_id="6" * 64, dim=16).close()
    refusal = start().refusal()
    assert "5" * 12 in refusal and "6" * 12 in refusal.splitlines()[-1] and "Traceback" not in refusal


def test_a_gallery_in_use_is_refused(settings, fake):
    with open_gallery(settings, fake().model), pytest.raises(GalleryLocked, match="one process: no --workers"):
        open_gallery(settings, fake().model)


def test_a_gallery_that_cannot_be_made_is_refused(settings, fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file/gallery cannot be used: .*check the path and its rights"):
        open_gallery(settings.model_copy(update={"gallery": tmp_path / "file" / "gallery"}), fake().model)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_refused_with_what_to_do(settings, host):
    with listen(settings.model_copy(update={"host": host, "port": 0})) as taken:
        taken.listen()
        same = settings.model_copy(update={"host": host, "port": taken.getsockname()[1]})
        with pytest.raises(SettingRefused, match="wanted a free address; set another REID_PORT"):
            listen(same)


def test_an_address_of_another_machine_is_refused(settings):
    with pytest.raises(SettingRefused, match="REID_HOST=192.0.2.1"):
        listen(settings.model_copy(update={"host": "192.0.2.1"}))


def test_a_host_that_no_name_server_knows_is_refused(settings):
    with pytest.raises(SettingRefused, match="REID_HOST=no such host"):
        listen(settings.model_copy(update={"host": "no such host"}))


def test_help_lists_the_settings(capsys):
    assert main(["--help"]) == 0
    assert "REID_QUEUE_MAX" in capsys.readouterr().out


def test_arguments_are_refused(capsys):
    assert main(["--port", "1"]) == 2
    assert "got '--port 1', wanted no arguments" in capsys.readouterr().err


def test_importing_the_application_loads_neither_torch_nor_training():
    code = "import sys, service.app; print(sorted({'torch', 'training', 'exporter', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
