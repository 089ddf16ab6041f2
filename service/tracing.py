"""OpenTelemetry traces, when they are asked for: the one file that knows the package, which need not be installed."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from service.errors import SettingRefused

NAME = "bnneck-reid"
HINT = "pip install 'bnneck-reid[otel]', or unset it"
LAST_S = 5.0  # for the last spans: a collector that hangs must not hold the service's end up

Finish = Callable[[str, int], None]  # is told the route and the status of the answer


@dataclass(frozen=True)
class Traces:
    """How to trace.

    Args:
        request: opens the span of a request, given its method and headers, under the caller's span when it sent one.
        step: opens the span of a part of the request under way.
        close: sends the last spans, or gives them up after LAST_S; blocks meanwhile.
    """

    request: Callable[[str, Mapping[str, str]], AbstractContextManager[Finish]]
    step: Callable[[str], AbstractContextManager[object]]
    close: Callable[[], None] = lambda: None


def no_finish(route: str, status: int) -> None:
    """Take note of nothing."""


NOTHING: AbstractContextManager[object] = nullcontext()
NO_REQUEST: AbstractContextManager[Finish] = nullcontext(no_finish)
NO_TRACES = Traces(request=lambda method, headers: NO_REQUEST, step=lambda name: NOTHING)


def open_traces(*, is_wanted: bool) -> Traces:
    """Send traces to where OpenTelemetry's own OTEL_* variables say, or nowhere.

    Raises:
        SettingRefused: they are wanted, and the extra is not installed.
    """
    if not is_wanted:
        return NO_TRACES
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found,unused-ignore]
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import (  # type: ignore[import-not-found,unused-ignore]
            OTELResourceDetector,
            Resource,
        )
        from opentelemetry.sdk.trace import TracerProvider  # type: ignore[import-not-found,unused-ignore]
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise SettingRefused(f"REID_TRACES: got true, and {error.name} is not installed; {HINT}") from None
    resource = Resource({"service.name": NAME}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # a process that a signal ends never gets there
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return traces_of(provider.get_tracer(NAME), close=lambda: within(LAST_S, provider.shutdown))


def within(limit_s: float, work: Callable[[], object]) -> None:
    """Do some work, and wait for it no longer than so."""
    thread = threading.Thread(target=work, name="last spans", daemon=True)
    thread.start()
    thread.join(limit_s)


def traces_of(tracer: Any, *, close: Callable[[], None] = lambda: None) -> Traces:
    """Trace with an OpenTelemetry tracer; `close` sends what it kept."""
    from opentelemetry import propagate, trace  # type: ignore[import-not-found,unused-ignore]

    @contextmanager
    def request(method: str, headers: Mapping[str, str]) -> Iterator[Finish]:
        context = propagate.extract(headers)
        with tracer.start_as_current_span(method, context=context, kind=trace.SpanKind.SERVER) as span:

            def finish(route: str, status: int) -> None:
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
                if status >= 500:
                    span.set_status(trace.StatusCode.ERROR)

            yield finish

    return Traces(request=request, step=tracer.start_as_current_span, close=close)
