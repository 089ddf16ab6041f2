"""Metric names, units and labels in one place, and the form of log lines."""

import collections
import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from service.manifest import ModelInfo
from service.passes import BatchReport
from service.tracing import NO_TRACES, Traces

FAST_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DEL = b"\x7f"
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Telemetry:
    """One application's metrics, in a registry of its own, and its traces."""

    def __init__(self, traces: Traces = NO_TRACES) -> None:
        self.traces = traces
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        requests = Counter("reid_requests", "Answered requests.", ("method", "route", "status"), registry=registry)
        refusals = Counter("reid_refusals", "Error answers by code.", ("code",), registry=registry)
        # Kept: to find three children by their labels took a twelfth of what refusing a request did.
        self._requests: Callable[..., Counter] = cache(requests.labels)
        self._request_seconds: Callable[..., Histogram] = cache(
            self._seconds("reid_request_seconds", "Whole time of a request that was let in.", "route").labels
        )
        self._refusals: Callable[..., Counter] = cache(refusals.labels)
        # Added up only when somebody asks: to count one in the registry takes a tenth of what refusing it does.
        self._shed: collections.Counter[tuple[str, int, str]] = collections.Counter()
        self.crops = Counter("reid_crops", "Crops by outcome.", ("outcome",), registry=registry)
        self._embedded, self._refused = (self.crops.labels(outcome) for outcome in ("embedded", "refused"))
        self.batch_size = Histogram("reid_batch_size", "Crops in one forward pass.", buckets=BATCH_BUCKETS, registry=registry)
        self.entrance_seconds = self._seconds("reid_entrance_seconds", "Wait of a request with crops before it is begun.")
        self.queue_seconds = self._seconds("reid_queue_seconds", "Wait of a batch's oldest crop.")
        self.inference_seconds = self._seconds("reid_inference_seconds", "One forward pass.")
        self.decode_seconds = self._seconds("reid_decode_seconds", "Decoding and resizing one crop.")
        self.search_seconds = self._seconds("reid_search_seconds", "One gallery search.")
        self.commit_seconds = self._seconds("reid_commit_seconds", "One durable enrolment.")
        self.gallery_entries = Gauge("reid_gallery_entries", "Enrolled entries.", registry=registry)
        self.gallery_identities = Gauge("reid_gallery_identities", "Enrolled identities.", registry=registry)
        self.free_bytes = Gauge("reid_disk_free_bytes", "Room on the gallery's disk.", registry=registry)
        self.waiting = Gauge("reid_queue_crops", "Crops waiting for the runtime.", registry=registry)
        self.body_bytes = Gauge("reid_body_bytes", "Bytes of bodies whose requests are not answered yet.", registry=registry)
        self.stalled_seconds = Gauge(
            "reid_inference_stalled_seconds", "How long the pass under way has taken.", registry=registry
        )
        self.inference_deaths = Counter("reid_inference_deaths", "Inference threads that died.", registry=registry)
        self.model = Gauge(
            "reid_model_info", "The model in use; always 1.", ("model_id", "space_id", "provider"), registry=registry
        )

    def _seconds(self, name: str, help_text: str, *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=FAST_BUCKETS_S, registry=self.registry)

    def observe_request(self, *, method: str, route: str, status: int, took_s: float, code: str | None) -> None:
        """Count one answered request; `code` is the error's, None for a good answer."""
        self._requests(method, route, status).inc()
        self._request_seconds(route).observe(took_s)
        if code:
            self.count_refusal(code)

    def count_refused(self, *, route: str, status: int, code: str) -> None:
        """Count one request that was refused from its head alone, which took no time to speak of."""
        self._shed[route, status, code] += 1

    def count_refusal(self, code: str) -> None:
        """Count one error answer, which the doors may have given before there was a request."""
        self._refusals(code).inc()

    def observe_batch(self, report: BatchReport) -> None:
        """Record one forward pass."""
        self.batch_size.observe(report.size)
        self.queue_seconds.observe(report.waited_s)
        self.inference_seconds.observe(report.ran_s)

    def count_crops(self, *, embedded: int, refused: int) -> None:
        """Count one request's crops by what became of them."""
        self._embedded.inc(embedded)
        self._refused.inc(refused)

    def describe_model(self, model: ModelInfo, provider: str) -> None:
        """Publish which model answers."""
        self.model.labels(model.model_id, model.space_id, provider).set(1)

    def text(self) -> bytes:
        """Add up what was refused from heads alone, then render the metrics in Prometheus' text form."""
        for (route, status, code), count in self._shed.items():
            self._requests("POST", route, status).inc(count)
            self._refusals(code).inc(count)
        self._shed.clear()
        return generate_latest(self.registry)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return ascii_json(line)


def ascii_json(content: object) -> str:
    """Encode as JSON of printable ASCII, which no terminal obeys; what JSON has no form for becomes text.

    By orjson, in a fifth of the time, which leaves letters beyond ASCII as they are; the standard encoder spells those out.
    """
    try:
        text = orjson.dumps(content, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # half a surrogate pair, or a number beyond 64 bits
        return json.dumps(content, default=str, separators=(",", ":"))
    return text.decode() if text.isascii() and DEL not in text else json.dumps(orjson.loads(text), separators=(",", ":"))


class TextLines(logging.Formatter):
    """One line for people: time, level, event, field=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{self.formatTime(record)} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(*, form: str, level: str) -> None:
    """Send every log line of the process to standard error in one form."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nothing shows them
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
