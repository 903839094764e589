"""Trace contexts: what can be read goes on as it is, and what runs belongs to the trace that it was started for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage
from opentelemetry import context as context_api
from opentelemetry import trace as trace_api

from parrot_mq.observability import TraceContext, current_trace, parse_trace, read_trace, trace_headers, use_trace
from parrot_mq.observability import tracing as tracing_module

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

CONTEXTS = st.builds(
    lambda trace, span, flags, state: TraceContext(
        trace_id=f"{trace:032x}", span_id=f"{span:016x}", flags=f"{flags:02x}", state=state
    ),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 1),
    st.sampled_from(["", "a=b", "vendor@system=x y!,other=1"]),
)


def _trace(parent: str = PARENT, state: str = "") -> TraceContext:
    trace = parse_trace(parent, state)
    assert trace is not None
    return trace


# -- headers ---------------------------------------------------------------------------------------------------------


@given(CONTEXTS)
def test_what_is_written_is_read_again(trace: TraceContext) -> None:
    assert read_trace(trace.headers()) == trace


@given(st.text(), st.text())
def test_nothing_that_comes_does_harm(parent: str, state: str) -> None:
    parse_trace(parent, state)
    assert _trace(PARENT, state).trace_id == PARENT.split("-")[1]


@pytest.mark.parametrize(
    "parent",
    [
        "", "00", PARENT[:-1], PARENT.replace("4", "G"), PARENT.upper(), "ff" + PARENT[2:], PARENT + "-x",
        f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01",
    ],
)  # fmt: skip
def test_a_trace_that_cannot_be_read_is_none(parent: str) -> None:
    assert read_trace({"traceparent": parent}) is None


def test_a_later_version_may_say_more() -> None:
    assert read_trace({"traceparent": "01" + PARENT[2:] + "-more"}) is not None


@pytest.mark.parametrize("state", ["a=b", "a=b,c=d", " a=b ,, c=d", "1a*/_-=x", "tenant@system=x y", "a=" + "x" * 256])
def test_a_state_goes_on_as_it_is(state: str) -> None:
    assert _trace(state=state).state == state.strip()


@pytest.mark.parametrize(
    "state",
    [
        "a", "A=b", "a=", "=b", "a=b=c", "a=b,a=c", "a=ü", "a=\n", "a=" + "x" * 257,
        ",".join(f"k{n}=v" for n in range(33)), ",".join(f"k{n}=" + "v" * 200 for n in range(3)),
    ],
)  # fmt: skip
def test_a_state_that_is_wrong_or_too_long_is_left_out(state: str) -> None:
    assert _trace(state=state).state == ""


def test_a_step_of_its_own_is_the_same_when_it_is_repeated() -> None:
    trace = _trace(state="a=b")
    child = trace.child("step")
    assert (child.trace_id, child.flags, child.state) == (trace.trace_id, "01", "a=b")
    assert child.span_id != trace.span_id
    assert child == trace.child("step") != trace.child("other")


def test_no_trace_has_no_headers() -> None:
    assert trace_headers(None) == {}
    assert trace_headers(_trace()) == {"traceparent": PARENT}


# -- what runs now ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["with OpenTelemetry", "without it"])
def _api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules whether its API is installed or not."""
    if request.param == "without it":
        monkeypatch.setattr(tracing_module, "trace_api", None)
        monkeypatch.setattr(tracing_module, "context_api", None)


@pytest.mark.usefixtures("_api")
def test_a_block_belongs_to_its_trace_and_what_is_around_it_does_not() -> None:
    outer, inner = _trace(state="a=b"), _trace().child("inner")
    assert current_trace() is None
    with use_trace(outer):
        with use_trace(inner):
            assert current_trace() == inner
        with use_trace(None):
            assert current_trace() is None
        assert current_trace() == outer
    assert current_trace() is None


@pytest.mark.usefixtures("_api")
async def test_tasks_belong_to_the_trace_in_which_they_were_started() -> None:
    traces = [_trace().child(f"{number}") for number in range(5)]
    ready = asyncio.Event()

    async def look() -> TraceContext | None:
        await ready.wait()
        return current_trace()

    async with asyncio.TaskGroup() as group:
        looking = []
        for trace in traces:
            with use_trace(trace):
                looking.append(group.create_task(look()))
        looking.append(group.create_task(look()))
        ready.set()
    assert [each.result() for each in looking] == [*traces, None]


def test_a_span_of_the_caller_is_what_runs_now() -> None:
    span = trace_api.NonRecordingSpan(
        trace_api.SpanContext(
            trace_id=7,
            span_id=9,
            is_remote=False,
            trace_flags=trace_api.TraceFlags(1),
            trace_state=trace_api.TraceState([("a", "b")]),
        )
    )
    with use_trace(_trace()), trace_api.use_span(span):
        assert current_trace() == TraceContext(trace_id=f"{7:032x}", span_id=f"{9:016x}", flags="01", state="a=b")


def test_what_runs_now_is_the_callers_span_for_others_too() -> None:
    """Libraries that use OpenTelemetry go on with the trace, and what else was in the context stays there."""
    token = context_api.attach(baggage.set_baggage("user", "somebody"))
    with use_trace(_trace(state="a=b")):
        context = trace_api.get_current_span().get_span_context()
        assert (f"{context.trace_id:032x}", context.is_remote) == (PARENT.split("-")[1], True)
        assert baggage.get_baggage("user") == "somebody"
    context_api.detach(token)
