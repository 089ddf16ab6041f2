"""OpenTelemetry traces, when they are asked for: the one file that knows the package, which need not be installed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from service.errors import SettingRefused

NAME = "bnneck-reid"
HINT = "pip install 'bnneck-reid[otel]', or unset it"

Finish = Callable[[str, int], None]  # is told the route and the status of the answer


@dataclass(frozen=True)
class Traces:
    """How to trace.

    Args:
        request: opens the span of a request, given its method and headers, under the caller's span when it sent one.
        step: opens the span of a part of the request under way.
    """

    request: Callable[[str, Mapping[str, str]], AbstractContextManager[Finish]]
    step: Callable[[str], AbstractContextManager[object]]


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
    provider = TracerProvider(resource=Resource({"service.name": NAME}).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return traces_of(provider.get_tracer(NAME))


def traces_of(tracer: Any) -> Traces:
    """Trace with an OpenTelemetry tracer."""
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

    return Traces(request=request, step=tracer.start_as_current_span)
