"""Spans: recorded where an SDK is, and elsewhere nothing but the context that goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from parrot_mq.observability import Span, TraceContext, parse_trace, spans, start_span, use_trace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def _trace() -> TraceContext:
    trace = parse_trace(PARENT, "a=b")
    assert trace is not None
    return trace


def _start(parent: TraceContext | None) -> Span:
    return start_span("work", parent, kind="internal", attributes={"size": 3})


@pytest.fixture(params=["no API", "no SDK", "no provider"])
def _unrecorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways in which nobody records."""
    if request.param == "no API":
        monkeypatch.setattr(spans, "trace_api", None)
    elif request.param == "no provider":
        monkeypatch.setattr(trace_api, "get_tracer_provider", trace_api.NoOpTracerProvider)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """An SDK that keeps spans in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace_api, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.mark.usefixtures("_unrecorded")
@pytest.mark.parametrize("parent", [None, _trace()], ids=["in no trace", "in a trace"])
def test_where_nobody_records_the_parent_goes_on(parent: TraceContext | None) -> None:
    span = _start(parent)
    span.note({"more": 1})
    span.fail("some_error", "it went wrong")
    span.end()
    assert span.trace == parent


def test_a_span_is_below_its_parent_and_not_below_what_surrounds_it(recorded: InMemorySpanExporter) -> None:
    with use_trace(_trace().child("surrounding")):
        below, alone = _start(_trace()), _start(None)
    for span in (below, alone):
        span.end()
    first, second = recorded.get_finished_spans()
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == _trace().span_id
    assert second.parent is None
    assert below.trace is not None
    assert (below.trace.trace_id, below.trace.flags, below.trace.state) == (_trace().trace_id, "01", "a=b")
    assert below.trace.span_id != _trace().span_id


def test_what_is_said_of_it_is_recorded_and_after_its_end_nothing_is(recorded: InMemorySpanExporter) -> None:
    span = start_span("work", None, kind="consumer", attributes={"size": 3}, started_at=1_763_800_000.5)
    span.note({"words": ["a", "b"]})
    span.fail("some_error")
    span.end()
    late: list[Callable[[], None]] = [lambda: span.note({"late": 1}), lambda: span.fail("late"), span.end]
    for each in late:
        each()
    (found,) = recorded.get_finished_spans()
    assert dict(found.attributes or {}) == {"size": 3, "words": ("a", "b"), "error.type": "some_error"}
    assert (found.kind, found.start_time) == (trace_api.SpanKind.CONSUMER, 1_763_800_000_500_000_000)
    assert (found.status.status_code, found.status.description) == (trace_api.StatusCode.ERROR, "some_error")


def test_what_is_not_sampled_goes_on_unsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr(trace_api, "get_tracer_provider", lambda: provider)
    span = _start(_trace())
    assert span.trace is not None
    assert (span.trace.trace_id, span.trace.flags) == (_trace().trace_id, "00")
