"""The model, the probes, the metrics, the page, and what every answer carries."""

import asyncio
import json
import logging
import math
import re
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import anyio
import numpy as np
import pytest

from service.middleware import RequestTrail
from service.pipeline import STALE_S
from service.telemetry import JsonLines, Telemetry, TextLines, configure_logging


def test_the_model_is_described_with_what_runs_it(client):
    model = client.get("/model").json()
    assert model["dim"] == 16 and model["space_id"] == "5" * 64 and model["metrics"] == {"mAP": 0.5}
    assert model["thresholds"]["default"] == 0.9
    assert model["runtime"]["name"] == "onnxruntime" and model["runtime"]["provider"] == "CPUExecutionProvider"


def test_a_started_service_is_alive_and_ready(client):
    assert client.get("/livez").json() == {"alive": True}
    assert client.get("/readyz").json() == {"ready": True, "parts": {"model": "ready", "gallery": "ready", "disk": "ready"}}


def test_a_service_whose_first_pass_failed_is_alive_and_not_ready(serving, without, caplog):
    def before(size):
        raise RuntimeError("no such kernel")

    client = serving(embed=without(before=before))
    answer = client.get("/readyz")
    assert client.get("/livez").status_code == 200
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "model_not_ready"
    assert "the last forward pass failed" in answer.json()["parts"]["model"] and answer.json()["parts"]["gallery"] == "ready"
    assert "no such kernel" not in answer.text  # anybody may ask
    assert {record.fields["got"] for record in caplog.records if "pass failed" in record.message} == {"no such kernel"}


def test_a_service_whose_passes_begin_to_fail_is_not_ready_until_one_succeeds(serving, without, pictures):
    broken = threading.Event()

    def before(size):
        if broken.is_set():
            raise RuntimeError("out of memory")

    client = serving(embed=without(before=before))
    broken.set()
    assert client.get("/readyz").status_code == 200  # no pass has failed yet
    assert client.post("/embed", files={"crops": pictures(1)}).status_code == 500
    failing = client.get("/readyz")
    assert failing.status_code == 503 and "the last forward pass failed" in failing.json()["parts"]["model"]
    broken.clear()
    assert client.post("/embed", files={"crops": pictures(1)}).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_a_service_whose_first_pass_failed_becomes_ready_without_traffic(serving, without):
    failures = iter([True, False])

    def before(size):
        if next(failures):
            raise RuntimeError("out of memory")

    client = serving(embed=without(before=before))
    assert client.get("/readyz").status_code == 200
    assert client.get("/readyz").status_code == 200  # a third pass would raise StopIteration


def test_a_runtime_that_died_while_nobody_sent_crops_is_told_of(serving, without):
    broken, sizes = threading.Event(), []

    def before(size):
        sizes.append(size)
        if broken.is_set():
            raise RuntimeError("the device fell off the bus")

    client = serving(embed=without(before=before))
    broken.set()
    assert client.get("/readyz").status_code == 200 and sizes == [1]  # the pass of the start is fresh
    client.app.state.parts.pipeline._passed_at -= STALE_S
    assert client.get("/readyz").json()["error"]["code"] == "model_not_ready"
    broken.clear()
    assert client.get("/readyz").status_code == 200 and sizes == [1, 1, 1]


def test_simultaneous_probes_of_a_failing_service_share_one_pass(serving, without):
    sizes = []

    def before(size):
        sizes.append(size)
        raise RuntimeError("out of memory")

    client = serving(embed=without(before=before))

    async def probe():
        await asyncio.gather(*(client.app.state.parts.pipeline.recover() for _ in range(8)))

    client.run(probe())
    assert sizes == [1, 1]  # at start-up, and for all eight


def test_a_service_whose_gallery_is_closed_is_not_ready(client):
    client.app.state.parts.gallery.close()
    answer = client.get("/readyz")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "gallery_not_ready"
    assert answer.json()["parts"]["model"] == "ready" and "closed" in answer.json()["parts"]["gallery"]


def test_readiness_waits_for_no_change_of_the_gallery(client):
    gallery = client.app.state.parts.gallery
    with gallery._using_store, gallery._mirror._turns.writing():
        assert client.get("/readyz").status_code == 200


def test_a_service_whose_runtime_hangs_is_not_ready_until_it_returns(serving, without):
    passes, release = iter([True, False]), threading.Event()

    def before(size):
        assert next(passes) or release.wait(timeout=10)

    client = serving(embed=without(before=before), deadline_s=0.01)
    batcher = client.app.state.parts.pipeline.batcher

    async def probe():
        with batcher.admit(1) as room:
            hanging = asyncio.ensure_future(room.submit([np.zeros((32, 16, 3), dtype=np.uint8)]))
            async with asyncio.timeout(20):
                while (await client.http.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0)
            stuck = await client.http.get("/readyz")
            release.set()
            await hanging
        return stuck, await client.http.get("/readyz")

    stuck, recovered = client.run(probe())
    assert "a forward pass has been running" in stuck.json()["error"]["message"]
    assert recovered.status_code == 200


def metric(client, line):
    text = client.get("/metrics").text
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else None


def test_metrics_count_what_happened(client, pictures):
    client.post("/gallery", files={"crops": pictures(1)}, data={"pid": "a"})
    client.post("/embed", files=[("crops", pictures(2)), ("crops", b"text")])
    client.post("/search", files={"crops": pictures(1)})
    client.get("/gallery/entries/99")
    model = client.get("/model").json()
    ids = f'model_id="{model["model_id"]}",provider="CPUExecutionProvider",space_id="{model["space_id"]}"'
    assert metric(client, 'reid_requests_total{method="POST",route="/embed",status="200"}') == 1
    assert metric(client, 'reid_requests_total{method="GET",route="/gallery/entries/{entry_id}",status="404"}') == 1
    assert metric(client, 'reid_refusals_total{code="entry_not_found"}') == 1
    assert metric(client, 'reid_crops_total{outcome="embedded"}') == 3
    assert metric(client, 'reid_crops_total{outcome="refused"}') == 1
    assert metric(client, "reid_batch_size_count") == 4  # the first pass at start-up, and three requests
    assert metric(client, "reid_decode_seconds_count") == 3
    assert metric(client, "reid_search_seconds_count") == 1
    assert metric(client, "reid_commit_seconds_count") == 1
    assert metric(client, "reid_gallery_entries") == 1 and metric(client, "reid_gallery_identities") == 1
    assert metric(client, f"reid_model_info{{{ids}}}") == 1


def test_metrics_wait_neither_for_the_disk_nor_for_searches(client, pictures):
    client.post("/gallery", files={"crops": pictures(1)}, data={"pid": "a"})
    parts, release = client.app.state.parts, threading.Event()
    busy = [threads.submit(release.wait, 10) for threads in (parts.gallery_threads, parts.search_threads) for _ in range(40)]
    with parts.gallery._open_store():  # as an erasure holds it, which rewrites the file
        assert metric(client, "reid_gallery_entries") == 1
    release.set()
    assert all(one.result() for one in busy)


def test_metrics_do_not_wait_for_memory_that_is_read_anew(client):
    with client.app.state.parts.gallery._mirror._turns.writing():
        assert math.isnan(metric(client, "reid_gallery_entries"))
        assert metric(client, "reid_disk_free_bytes") > 0
    assert metric(client, "reid_gallery_entries") == 0


def test_unknown_paths_and_methods_share_one_label(client):
    client.get("/a")
    client.get("/b")
    client.request("BREW", "/c")
    assert metric(client, 'reid_requests_total{method="GET",route="none",status="404"}') == 2
    assert metric(client, 'reid_requests_total{method="other",route="none",status="404"}') == 1


@pytest.mark.parametrize("sent", ["abc-123", "0b9d~!", "x" * 128])
def test_a_callers_request_id_comes_back(client, sent):
    assert client.get("/livez", headers={"x-request-id": sent}).headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "two words", "caf\u00e9"])
def test_without_a_sane_request_id_one_is_made(client, sent):
    headers = {} if sent is None else {"x-request-id": sent.encode("latin-1")}
    made = client.get("/livez", headers=headers).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_an_error_names_its_request(client):
    answer = client.get("/gallery/entries/99", headers={"x-request-id": "here"})
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"] == "here"


def test_an_unexpected_error_gives_a_fixed_text_and_a_traceback_in_the_log(client, caplog):
    def broken():
        raise ZeroDivisionError("secret detail")

    client.app.add_api_route("/broken", broken)
    with caplog.at_level(logging.ERROR, logger="service"):
        answer = client.get("/broken", headers={"x-request-id": "r1"})
    assert answer.status_code == 500 and answer.headers["x-request-id"] == "r1"
    assert answer.json()["error"]["code"] == "internal_error" and "secret" not in answer.text
    (record,) = caplog.records
    assert record.exc_info and record.fields == {"request_id": "r1"}


def test_an_unexpected_error_behind_half_an_answer_breaks_it_off_and_is_in_the_log(caplog):
    async def breaks(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("secret")

    sent, telemetry = [], Telemetry()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError, match="secret"):
        asyncio.run(RequestTrail(breaks, telemetry)(scope, None, send))
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "unexpected error" in caplog.text
    assert b'status="200"' in telemetry.text()


def test_the_page_comes_with_a_policy_that_allows_only_its_own_files(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in re.findall(r'(?:src|href)="(/console/[^"]+)"', answer.text):
        assert client.get(name).status_code == 200
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", answer.text)


@pytest.mark.parametrize("path", ["/console/../settings.py", "/console/%2e%2e/settings.py", "/console/nothing.js", "/console/"])
def test_only_the_pages_own_files_are_served(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


def test_the_documentation_lists_every_call(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embed", "/gallery", "/search", "/model", "/livez", "/readyz", "/metrics", "/gallery/stats"} <= set(paths)
    assert "multipart/form-data" in paths["/embed"]["post"]["requestBody"]["content"]


def record_of(**extra):
    record = logging.LogRecord("service", logging.INFO, "here", 1, "request", (), None)
    record.__dict__.update(extra)
    return record


def test_a_json_log_line_holds_event_and_fields():
    line = json.loads(JsonLines().format(record_of(fields={"status": 200, "ms": 1.5})))
    assert (line["event"], line["level"], line["status"], line["ms"]) == ("request", "info", 200, 1.5)


@pytest.mark.parametrize("value", ["entrance", "Zoë \u202e", "\x7f", "half \ud800 a pair", 2**70, None])
def test_a_json_log_line_is_printable_and_whole_whatever_a_field_holds(value):
    text = JsonLines().format(record_of(fields={"got": value}))
    assert text.isascii() and text.isprintable() and json.loads(text)["got"] == value


@pytest.mark.parametrize("name", ["Zoe", "Zoë"])
def test_a_fields_form_does_not_depend_on_the_letters_of_another(name):
    fields = {"path": Path("a/b"), "at": datetime(2026, 1, 5, tzinfo=UTC), "share": np.float64(0.5), "none": math.nan}
    line = json.loads(JsonLines().format(record_of(fields=fields | {"name": name})))
    assert line["name"] == name
    assert [line[key] for key in fields] == ["a/b", "2026-01-05T00:00:00+00:00", 0.5, None]


def failure():
    """What an exception that was just raised leaves for the log."""
    try:
        raise ValueError("why")
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize(("form", "first"), [("json", '{"time":'), ("text", "20")])
def test_a_traceback_is_logged_in_the_form_of_all_lines(form, first):
    log = JsonLines() if form == "json" else TextLines()
    text = log.format(record_of(exc_info=failure()))
    assert text.startswith(first) and "ValueError: why" in text
    assert "\n" not in text or form == "text"


@pytest.mark.parametrize(("form", "first"), [("json", '{"time":'), ("text", "20")])
def test_every_line_of_the_process_has_the_form_that_is_set_and_at_least_the_level(capsys, monkeypatch, form, first):
    for flag in ("logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, flag, True)  # and as it was afterwards
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    root.handlers.clear()
    try:
        configure_logging(form=form, level="warning")
        logging.getLogger("uvicorn.error").info("quiet")
        logging.getLogger("another.library").warning("loud")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(first) and "loud" in line


def test_a_text_log_line_holds_event_and_fields():
    assert TextLines().format(record_of(fields={"status": 200})).endswith("info    request status=200")


def test_a_refusal_waits_for_no_thread(client):
    async def refused():
        threads = anyio.to_thread.current_default_thread_limiter()
        borrowers = [object() for _ in range(int(threads.total_tokens))]
        for borrower in borrowers:
            threads.acquire_on_behalf_of_nowait(borrower)
        try:
            async with asyncio.timeout(10):
                return await client.http.get("/nowhere"), await client.http.get("/gallery", params={"limit": 0})
        finally:
            for borrower in borrowers:
                threads.release_on_behalf_of(borrower)

    assert [answer.status_code for answer in client.run(refused())] == [404, 422]
