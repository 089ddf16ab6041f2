"""Traces: nothing when they are not asked for, one span for a request and one for each of its parts when they are."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.errors import SettingRefused
from service.tracing import NO_TRACES, Traces, open_traces, traces_of, within

ROOT = Path(__file__).parents[2]


class Recorder:
    """Traces that remember what was opened, and what a request ended with."""

    def __init__(self):
        self.opened, self.finished = [], []
        self.is_closed = False
        self.traces = Traces(request=self.request, step=self.step, close=self.close)

    def close(self):
        self.is_closed = True

    @contextmanager
    def request(self, method, headers):
        self.opened.append((method, headers.get("traceparent")))
        yield lambda route, status: self.finished.append((route, status))

    @contextmanager
    def step(self, name):
        self.opened.append(name)
        yield


@pytest.fixture(name="recorder")
def recorder_fixture(client):
    recorder = Recorder()
    client.app.state.parts.telemetry.traces = recorder.traces
    return recorder


def test_a_request_is_traced_with_its_parts(client, recorder, pictures):
    client.post("/gallery", files={"crops": pictures(1)}, data={"pid": "a"}, headers={"traceparent": "00-1-2-01"})
    assert recorder.opened == [("POST", "00-1-2-01"), "decode", "infer", "gallery.enroll"]
    assert recorder.finished == [("/gallery", 201)]


def test_the_last_spans_are_sent_when_the_service_ends(serving, fake):
    client = serving(embed=fake())
    recorder = Recorder()
    client.app.state.parts.telemetry.traces = recorder.traces
    client.get("/livez")
    is_early = recorder.is_closed
    client.close()
    assert not is_early and recorder.is_closed


def test_a_collector_that_hangs_does_not_hold_the_end_up():
    answers = threading.Event()
    within(0.01, answers.wait)
    answers.set()


def test_an_unexpected_error_ends_its_trace_too(client, recorder):
    client.app.add_api_route("/broken", lambda: 1 // 0)
    assert client.get("/broken").status_code == 500
    assert recorder.finished == [("/broken", 500)]


def test_nothing_is_traced_unless_it_is_wanted():
    assert open_traces(is_wanted=False) is NO_TRACES
    with NO_TRACES.request("GET", {}) as finish, NO_TRACES.step("decode"):
        assert finish("/livez", 200) is None


def test_nothing_of_the_extra_is_loaded_unless_it_is_wanted():
    extra = ("opentelemetry.sdk", "opentelemetry.exporter")  # the API alone is FastAPI's own
    code = f"import sys, service.__main__; print([name for name in sys.modules if name.startswith({extra})])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_traces_without_the_extra_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingRefused, match=r"REID_TRACES: got true, .* pip install 'bnneck-reid\[otel\]', or unset it"):
        open_traces(is_wanted=True)


@pytest.fixture(name="spans")
def spans_fixture():
    """Traces of OpenTelemetry itself, and where their spans end."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra [otel] is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return traces_of(provider.get_tracer("test")), exporter


def test_spans_bear_route_and_status_and_stand_under_their_callers(spans):
    traces, exporter = spans
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with traces.request("POST", {"traceparent": parent}) as finish:
        with traces.step("infer"):
            pass
        finish("/embed", 503)
    infer, request = exporter.get_finished_spans()
    assert request.name == "POST /embed" and infer.name == "infer"
    assert request.attributes == {"http.request.method": "POST", "http.route": "/embed", "http.response.status_code": 503}
    assert not request.status.is_ok
    assert infer.parent.span_id == request.context.span_id
    assert f"{request.context.trace_id:032x}" == parent.split("-")[1] and f"{request.parent.span_id:016x}" == parent.split("-")[2]


class Collector(BaseHTTPRequestHandler):
    """Takes spans in and says where."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_closing_sends_the_last_spans(monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra [otel] is not installed")
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        collector.paths = []
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        traces = open_traces(is_wanted=True)
        with traces.request("GET", {}) as finish:
            finish("/livez", 200)
        before = list(collector.paths)
        traces.close()
        collector.shutdown()
    assert (before, collector.paths) == ([], ["/v1/traces"])


def test_fastapi_traces_no_request_a_second_time(client, monkeypatch):
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    assert client.get("/livez").status_code == 200
    assert memory.get_finished_spans() == ()
