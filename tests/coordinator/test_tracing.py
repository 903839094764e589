"""Traces through the service: from who submits to tokens, values, calls and events, and the spans that are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from parrot_mq.bus import Delivery, request_replay
from parrot_mq.messages import (
    STREAM_VARS,
    OutputSpec,
    PromptTask,
    VariableAddress,
    call_subject,
    encode,
    task_subject,
    variable_subject,
)
from parrot_mq.observability import TraceContext, parse_trace, spans, use_trace
from parrot_mq.program import Input, Output, semantic_function
from parrot_mq.program.transforms import Split
from parrot_mq.types import VariableId
from tests.coordinator.programs import Program, native, program, ref, task
from tests.coordinator.service import Service, answer, eventually, expected, make_engine, running_service
from tests.workers.stepped_engine import SteppedEngine

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = {"traceparent": PARENT, "tracestate": "a=b"}


def _trace() -> TraceContext:
    trace = parse_trace(PARENT, "a=b")
    assert trace is not None
    return trace


@semantic_function
def step(text: Input, result: Output = Output(max_tokens=100)) -> None:
    """{{text}}.{{result}}"""


class _Heard:
    """What is published in a session, with its headers."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    async def keep(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    async def listen(self, service: Service) -> None:
        for kind in ("set", "stream"):
            await service.bus.subscribe(f"pmq.*.{kind}.>", self.keep)

    def of(self, kind: str) -> list[Delivery]:
        return [each for each in self.deliveries if each.subject.split(".")[2] == kind]


# -- contexts --------------------------------------------------------------------------------------------------------


async def test_without_opentelemetry_the_callers_context_goes_on_as_it_is() -> None:
    """To every task that is called in it, and to all that comes of it; what is called elsewhere is in no trace."""
    heard = _Heard()
    async with running_service() as service, service.client().session():
        await heard.listen(service)
        with use_trace(_trace()):
            traced = step(step("a"))
        plain = step("b")
        assert await traced == expected(expected("a.") + ".")
        assert await plain == expected("b.")
        await eventually(lambda: sum(event.kind == "finished" for event in service.events) == 3)
        (plain_task,) = {event.task for event in service.events if event.variable == plain.id}
        for event in service.events:
            assert event.trace == ("" if event.task == plain_task else PARENT), event
        await eventually(lambda: len(heard.of("set")) == 3)
        assert heard.of("stream")
        for delivery in heard.deliveries:
            is_traced = not delivery.subject.endswith(f".{plain.id}")
            found = {name: delivery.headers[name] for name in HEADERS if name in delivery.headers}
            assert found == (HEADERS if is_traced else {}), delivery.subject


async def test_a_program_in_any_language_says_it_in_headers() -> None:
    async with running_service() as service, program(service) as run:
        await _submit(run, "hello{{out}}")
        assert await run.get("out") == expected("hello")
        assert await _stored(run, "out") == HEADERS
        await eventually(lambda: "finished" in service.kinds("out"))
        assert {event.trace for event in service.events} == {PARENT}


async def test_a_trace_that_cannot_be_read_is_no_trace() -> None:
    async with running_service() as service, program(service) as run:
        await _submit(run, "hello{{out}}", headers={"traceparent": "00-no-trace-01", "tracestate": "a=b"})
        assert await run.get("out") == expected("hello")
        assert await _stored(run, "out") == {}


async def test_an_error_of_the_worker_says_which_trace_it_belongs_to_and_so_does_the_log() -> None:
    with capture_logs() as logs:
        async with running_service() as service, program(service) as run:
            await _submit(run, "FAIL{{out}}")
            assert (await run.error("out")).code == "engine_failure"
            assert await _stored(run, "out") == HEADERS
    (line,) = [line for line in logs if line["event"] == "generation_failed"]
    assert line["trace_id"] == _trace().trace_id


async def test_a_task_that_is_rejected_says_which_trace_it_belongs_to() -> None:
    async with running_service() as service, program(service) as run:
        await _submit(run, "{{nobody}}{{out}}")
        await run.error("out")
        await eventually(lambda: bool(service.events))
        assert [(event.kind, event.trace) for event in service.events] == [("rejected", PARENT)]


async def test_what_the_coordinator_makes_of_a_text_belongs_to_the_trace() -> None:
    """Lists, their items, and errors: here of a deadline and of what waits for the failed variable."""
    record = PromptTask(
        template="a b{{out}}",
        outputs={"out": OutputSpec(variable="list", transforms=[Split(separator=" ")])},
        timeout_s=600,
    )
    async with running_service() as service, program(service) as run:
        subject = task_subject(run.tenant, run.name, "k")
        await service.bus.publish_once(subject, encode(record), headers=HEADERS)
        await _submit(run, "{{x}}{{out}}", name="late", reads={"x": ref("never")}, writes="late", timeout_s=0.01)
        await _submit(run, "{{x}}{{out}}", name="after", reads={"x": ref("late")}, writes="after")
        await run.get("list")
        assert (await run.error("after")).code == "input_failed"
        for variable in ("list", "list-raw", "list-0", "late", "after"):
            assert await _stored(run, variable) == HEADERS, variable


async def test_a_native_function_is_called_with_the_trace() -> None:
    calls: list[Delivery] = []
    async with running_service() as service, program(service) as run:

        async def serve(call: Delivery) -> None:
            calls.append(call)
            await service.bus.publish(call.reply, b"served")

        await service.bus.subscribe(call_subject("default", "*", "f"), serve)
        await service.bus.publish_once(task_subject("default", run.name, "k"), encode(native("f")), headers=HEADERS)
        assert await run.get("out") == "served"
        assert await _stored(run, "out") == HEADERS
    assert {name: calls[0].headers[name] for name in HEADERS} == HEADERS


async def test_another_worker_goes_on_in_the_same_trace_and_so_does_a_replay() -> None:
    first = SteppedEngine(make_engine(answer, tokens_per_step=4))
    first.allow(1)
    heard = _Heard()
    async with running_service(workers=()) as service, program(service) as run:
        await heard.listen(service)
        worker = await service.add_worker("first", lambda: first, drain_s=0.05)
        await _submit(run, "hello{{out}}")
        await eventually(lambda: len(heard.of("stream")) == 1)
        await request_replay(service.bus, VariableAddress(run.tenant, run.name, VariableId("out")))
        await eventually(lambda: len(heard.of("stream")) == 2)
        await worker.stop()
        await service.add_worker("second")
        assert await run.get("out") == expected("hello")
        assert all(delivery.headers["traceparent"] == PARENT for delivery in heard.of("stream"))
        assert len(service.assignments("out")) == 2


async def _submit(
    run: Program, template: str, *, name: str = "k", headers: dict[str, str] | None = None, **settings: Any
) -> None:
    """Submit a task in the trace, or with other headers, as any client does."""
    subject = task_subject(run.tenant, run.name, name)
    await run.service.bus.publish_once(subject, encode(task(template, **settings)), headers=headers or HEADERS)


async def _stored(run: Program, variable: str) -> dict[str, str]:
    """What a stored value says of its trace."""
    subject = variable_subject(run.tenant, run.name, variable)
    found = (await run.service.bus.get(STREAM_VARS, [subject]))[subject]
    return {name: found.headers[name] for name in HEADERS if name in found.headers}


# -- spans -----------------------------------------------------------------------------------------------------------


class _Recorded:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    async def wait(self, name: str, number: int = 1) -> list[ReadableSpan]:
        """Wait until so many of a name have ended."""
        await eventually(lambda: len(self.named(name)) >= number)
        return self.named(name)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Recorded]:
    """An SDK that keeps spans in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_provider", lambda: provider)
    yield _Recorded(exporter)
    provider.shutdown()


TASK, GENERATION = "parrot_mq.task", "text_completion scripted"


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def _parent_id(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


async def test_a_task_and_its_generation_are_spans_below_who_submitted_it(recorded: _Recorded) -> None:
    heard = _Heard()
    async with running_service() as service, program(service) as run:
        await heard.listen(service)
        await _submit(run, "hello{{out}}")
        await run.get("out")
        (whole,) = await recorded.wait(TASK)
        (generation,) = await recorded.wait(GENERATION)
    assert _parent_id(whole) == int(_trace().span_id, 16)
    assert _parent_id(generation) == _id(whole)
    assert {f"{span.context.trace_id:032x}" for span in recorded.spans if span.context} == {_trace().trace_id}
    assert whole.kind is trace_api.SpanKind.CONSUMER
    attributes = dict(generation.attributes or {})
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.request.model"] == "scripted"
    assert attributes["gen_ai.usage.input_tokens"] == len("hello")
    assert attributes["gen_ai.usage.output_tokens"] == 16
    assert attributes["gen_ai.response.finish_reasons"] == ("eos",)
    assert (attributes["parrot_mq.worker"], attributes["parrot_mq.attempt"]) == ("worker", 1)
    assert (attributes["parrot_mq.task"], attributes["parrot_mq.variable"]) == ("k", "out")
    assert whole.start_time is not None
    assert generation.start_time is not None
    assert whole.start_time <= generation.start_time, "it begins when it was stored"
    written = {delivery.headers["traceparent"].split("-")[2] for delivery in heard.of("stream")}
    assert written == {f"{_id(generation):016x}"}, "tokens belong below their generation"


async def test_a_span_of_the_caller_is_the_parent_and_its_state_goes_on(recorded: _Recorded) -> None:
    provider = spans._provider()
    async with running_service() as service, service.client().session():
        with provider.get_tracer("test").start_as_current_span("caller") as caller:
            variable = step("a")
        await variable
        (whole,) = await recorded.wait(TASK)
        assert _parent_id(whole) == caller.get_span_context().span_id
        assert service.events[0].trace.split("-")[2] == f"{_id(whole):016x}"


async def test_a_task_that_came_without_a_trace_begins_one(recorded: _Recorded) -> None:
    async with running_service() as service, program(service) as run:
        await run.run("hello{{out}}")
        await run.get("out")
        (whole,) = await recorded.wait(TASK)
        (generation,) = await recorded.wait(GENERATION)
        assert whole.parent is None
        assert _parent_id(generation) == _id(whole)


async def test_every_attempt_is_a_span_and_says_why_it_ended(recorded: _Recorded) -> None:
    first = SteppedEngine(make_engine(answer, tokens_per_step=4))
    first.allow(1)
    async with running_service(workers=()) as service, program(service) as run:
        worker = await service.add_worker("first", lambda: first, drain_s=0.05)
        await _submit(run, "hello{{out}}")
        await eventually(lambda: "started" in service.kinds("out"))
        await worker.stop()
        await service.add_worker("second")
        assert await run.get("out") == expected("hello")
        lost, last = await recorded.wait(GENERATION, 2)
        (whole,) = await recorded.wait(TASK)
    assert {_parent_id(lost), _parent_id(last)} == {_id(whole)}
    assert [(span.attributes or {})["parrot_mq.attempt"] for span in (lost, last)] == [1, 2]
    assert (lost.attributes or {})["error.type"] == "generation_aborted"
    assert (lost.status.status_code, last.status.status_code) == (
        trace_api.StatusCode.ERROR,
        trace_api.StatusCode.UNSET,
    )
    assert whole.status.status_code is trace_api.StatusCode.UNSET, "nobody but the worker noticed"


@pytest.mark.parametrize(
    ("template", "code"), [("FAIL{{out}}", "engine_failure"), ("{{nobody}}{{out}}", "template")], ids=["run", "read"]
)
async def test_a_task_that_fails_is_a_span_that_says_why(recorded: _Recorded, template: str, code: str) -> None:
    async with running_service() as service, program(service) as run:
        await _submit(run, template)
        await run.error("out")
        (whole,) = await recorded.wait(TASK)
        assert (whole.attributes or {})["error.type"] == code
        assert whole.status.status_code is trace_api.StatusCode.ERROR


async def test_however_a_task_ends_nothing_is_kept_of_its_trace(recorded: _Recorded) -> None:
    """Finished, cancelled, closed with its session, set by somebody else, or left behind by a coordinator."""
    async with running_service(None) as service:
        await service.add_coordinator()
        for name in ("cancelled", "closed", "set", "left"):
            async with program(service) as run:
                await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes=name)
                await eventually(lambda name=name: "submitted" in service.kinds(name))  # type: ignore[misc]
                match name:
                    case "cancelled":
                        await run.session.cancel()
                    case "closed":
                        await run.session.close()
                    case "set":
                        await run.set(name, "by somebody else")
        await service.coordinators[0].stop()
        assert len(recorded.named(TASK)) == 4


async def test_a_thousand_tasks_at_a_time_have_a_span_each(recorded: _Recorded) -> None:
    async with running_service() as service, service.client().session():
        variables = []
        for number in range(1000):
            with use_trace(_trace().child(f"{number}")):
                variables.append(step(f"{number}"))
        await asyncio.gather(*(variable.get() for variable in variables))
        tasks = await recorded.wait(TASK, 1000)
        generations = await recorded.wait(GENERATION, 1000)
    assert {_parent_id(span) for span in tasks} == {int(_trace().child(f"{n}").span_id, 16) for n in range(1000)}
    assert {_parent_id(span) for span in generations} == {_id(span) for span in tasks}
