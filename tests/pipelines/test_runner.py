"""Pipelines on a real server: what is published, what is given up, what is worked on once more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parrot_mq.bus import Delivery
from parrot_mq.errors import ConfigurationError
from parrot_mq.pipelines import DeadEvent, Limits, Pipeline, Result, Source, dead_events
from tests.coordinator.service import eventually, expected, raised_by
from tests.pipelines.programs import EVENTS, RESULTS, chain, first, make_pipeline, second
from tests.pipelines.service import PipelineService, pipeline_service

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def service() -> AsyncIterator[PipelineService]:
    """A service with a stream of events and one of results."""
    async with pipeline_service() as running:
        await running.add_stream(EVENTS, "events.>")
        await running.add_stream(RESULTS, "results.>")
        yield running


def _answer(text: str) -> str:
    return expected(expected(f"{text}.") + "!")


async def _work_off(service: PipelineService, pipeline: Pipeline) -> None:
    """Run a pipeline until it has settled all events."""
    async with service.running(pipeline):

        async def is_done() -> bool:
            return await service.num_unsettled(EVENTS, pipeline.name) == 0

        await eventually(lambda: _exists(service, pipeline.name))
        await eventually(is_done)


async def _exists(service: PipelineService, name: str) -> bool:
    names: list[str] = (await service.api(f"CONSUMER.NAMES.{EVENTS}"))["consumers"] or []
    return f"pipeline-{name}" in names


async def _dead(service: PipelineService, name: str = "chain") -> list[DeadEvent]:
    return [dead async for dead in dead_events(service.bus, "default", name)]


async def _results(service: PipelineService) -> list[Any]:
    return [json.loads(result.payload) for result in await service.stored(RESULTS)]


async def test_an_event_becomes_a_result(service: PipelineService) -> None:
    await service.publish("events.x", [{"id": 1, "text": "hello"}])
    await _work_off(service, make_pipeline())
    (result,) = await service.stored(RESULTS)
    assert json.loads(result.payload) == {"two": _answer("hello"), "note": "none"}
    assert result.headers["ce-id"] == "1"
    assert result.headers["ce-source"] == "/parrot-mq/default/chain"
    assert result.headers["ce-type"] == "chain.result"


async def test_an_event_that_comes_again_is_done_already(service: PipelineService) -> None:
    """Also when it says something else: its id tells what it is."""
    events = [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]
    await service.publish("events.x", [*events, *events, {"id": "a", "text": "other"}])
    await _work_off(service, make_pipeline(limits=Limits(concurrency=1)))
    await service.publish("events.x", events)
    await _work_off(service, make_pipeline())
    assert [result["two"] for result in await _results(service)] == [_answer("x"), _answer("y")]


async def test_two_processes_at_the_same_event_publish_one_result(service: PipelineService) -> None:
    await service.publish("events.x", [{"id": n % 5, "text": f"{n % 5}"} for n in range(40)])
    async with service.running(make_pipeline()):
        await _work_off(service, make_pipeline())
    assert sorted(result["two"] for result in await _results(service)) == sorted(_answer(f"{n}") for n in range(5))


async def test_a_cloud_event_keeps_its_id_and_its_trace(service: PipelineService) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/shop", "ce-type": "t", "ce-subject": "order 9"}
    event = json.dumps({"text": "hello"}).encode()
    await service.bus.request(
        "events.x", event, headers={**headers, "traceparent": PARENT, "tracestate": "a=b"}, timeout_s=5
    )
    await _work_off(service, make_pipeline(source=Source(stream=EVENTS)))
    (result,) = await service.stored(RESULTS)
    assert (result.headers["ce-id"], result.headers["ce-subject"]) == ("/shop%207", "order%209")
    version, trace_id, span_id, flags = result.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", PARENT.split("-")[1], "01")
    assert span_id != PARENT.split("-")[2]
    assert result.headers["tracestate"] == "a=b"


async def test_the_trace_of_an_event_is_on_the_tokens_and_values_of_its_graph(service: PipelineService) -> None:
    heard: list[Delivery] = []

    async def keep(delivery: Delivery) -> None:
        heard.append(delivery)

    for kind in ("stream", "set", "event"):
        await service.bus.subscribe(f"pmq.default.{kind}.>", keep)
    headers = {"traceparent": PARENT, "tracestate": "a=b"}
    await service.bus.request("events.x", b'{"id": 1, "text": "hello"}', headers=headers, timeout_s=5)
    await _work_off(service, make_pipeline(source=Source(stream=EVENTS, id="/id")))
    await eventually(lambda: sum(b'"finished"' in each.payload for each in heard) == 2)
    by_kind = {kind: [each for each in heard if f".{kind}." in each.subject] for kind in ("stream", "set", "event")}
    assert by_kind["stream"]
    for delivery in [*by_kind["stream"], *by_kind["set"]]:
        if not delivery.subject.endswith(".pipeline-published"):
            assert {name: delivery.headers.get(name) for name in headers} == headers, delivery.subject
    assert {json.loads(each.payload)["trace"] for each in by_kind["event"]} == {PARENT}


async def test_a_structured_cloud_event_comes_in_and_goes_out(service: PipelineService) -> None:
    event = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "t", "data": {"text": "hello"}}
    headers = {"Content-Type": "application/cloudevents+json"}
    await service.bus.request("events.x", json.dumps(event).encode(), headers=headers, timeout_s=5)
    result = Result(subject="results.chain", format="cloudevents-structured", type="chained")
    await _work_off(service, make_pipeline(source=Source(stream=EVENTS), result=result))
    (found,) = await _results(service)
    assert (found["id"], found["type"], found["data"]["two"]) == ("/shop 7", "chained", _answer("hello"))


async def test_a_bad_event_is_given_up_and_the_others_go_on(service: PipelineService) -> None:
    await service.bus.request("events.x", b"\xff", timeout_s=5)
    await service.publish(
        "events.x",
        [{"id": 1}, {"text": "no id"}, {"id": 2, "text": "BREAK"}, {"id": 3, "text": "FAIL"}, {"id": 4, "text": "x"}],
    )
    await _work_off(service, make_pipeline())
    assert [result["two"] for result in await _results(service)] == [_answer("x")]
    reasons = {dead.event_id: dead.reason.code for dead in await _dead(service)}
    assert list(reasons.values()).count("event_mismatch") == 3
    assert (reasons["2"], reasons["3"]) == ("internal", "input_failed")


async def test_a_replay_works_with_fresh_values(service: PipelineService) -> None:
    """When the mistake is mended, what was given up is worked on, and only that; a second replay has nothing to do."""
    events = [{"id": n, "text": f"FAIL {n}"} for n in range(3)]
    await service.publish("events.x", [*events, {"id": 9, "text": "x"}])
    await _work_off(service, make_pipeline())
    assert len(await _dead(service)) == 3
    assert (await service.replay(make_pipeline())).num_dead == 3
    assert len(await _dead(service)) == 3

    async def mended(text: str, note: str = "") -> dict[str, Any]:
        return await chain(text.replace("FAIL", "PASS"), note)

    done = await service.replay(make_pipeline(program=mended))
    assert (done.num_published, done.num_dead) == (3, 0)
    assert await _dead(service) == []
    found = sorted(result["two"] for result in await _results(service))
    assert found == sorted([_answer("x"), *(_answer(f"PASS {n}") for n in range(3))])
    assert (await service.replay(make_pipeline())).num_published == 0


async def test_an_event_too_large_to_be_kept_is_told_all_the_same(service: PipelineService) -> None:
    """Base64 makes it larger than a message may be."""
    await service.publish("events.x", [{"id": 1, "text": None, "filler": "x" * 900_000}])
    await _work_off(service, make_pipeline())
    (dead,) = await _dead(service)
    assert (dead.event_id, dead.reason.code, dead.payload, dead.is_cut) == ("1", "event_mismatch", b"", True)
    assert (await service.replay(make_pipeline())).num_dead == 1


async def test_no_more_is_taken_on_than_the_limit(service: PipelineService) -> None:
    """The rest stays in the stream, where other processes find it."""
    running, most = 0, 0
    gate = asyncio.Event()

    async def slow(text: str, note: str = "") -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return text

    await service.publish("events.x", [{"id": n, "text": "x"} for n in range(30)])
    pipeline = make_pipeline(program=slow, limits=Limits(concurrency=4))
    async with service.running(pipeline):
        await eventually(lambda: running == 4)
        info = await service.api(f"CONSUMER.INFO.{EVENTS}.pipeline-chain")
        assert (info["num_pending"], info["num_ack_pending"]) == (26, 4)
        gate.set()

        async def is_done() -> bool:
            return await service.num_stored(RESULTS) == 30

        await eventually(is_done)
    assert most == 4


async def test_what_takes_long_is_not_delivered_again(service: PipelineService) -> None:
    num_starts = 0

    async def slow(text: str, note: str = "") -> str:
        nonlocal num_starts
        num_starts += 1
        await asyncio.sleep(1.2)  # longer than the server waits for a sign of life
        return text

    await service.publish("events.x", [{"id": 1, "text": "x"}])
    await _work_off(service, make_pipeline(program=slow, source=Source(stream=EVENTS, id="/id", ack_wait_s=0.5)))
    assert num_starts == 1


async def test_what_may_pass_is_tried_again(service: PipelineService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it was tried often enough: here no stream takes the results."""
    monkeypatch.setattr("parrot_mq.bus.storing._TOTAL_S", 0.2)
    await service.publish("events.x", [{"id": 1, "text": "x"}])
    pipeline = make_pipeline(result=Result(subject="nowhere"), limits=Limits(max_attempts=2))
    async with service.running(pipeline) as runner:
        await eventually(lambda: runner.statistics().num_dead == 1)
        assert runner.statistics().num_retried == 1
    (dead,) = await _dead(service)
    assert dead.reason.code == "no_responders"
    assert "stored = false" in dead.reason.message


@pytest.mark.parametrize("source", [Source(subject="core.>", id="/id"), Source(mqtt="core/#", id="/id")])
async def test_events_of_a_subject_become_results_for_whoever_listens(service: PipelineService, source: Source) -> None:
    results: asyncio.Queue[Delivery] = asyncio.Queue()
    await service.bus.subscribe("heard", results.put)
    pipeline = make_pipeline(source=source, result=Result(subject="heard", stored=False, format="json"))
    event = json.dumps({"id": "1", "text": "hello"}).encode()
    async with service.running(pipeline):
        while results.empty():  # until the subscription is there
            await service.bus.publish("core.x", event)
            await asyncio.sleep(0.05)
        assert json.loads((await results.get()).payload)["two"] == _answer("hello")


async def test_a_stream_that_would_take_the_results_is_refused(service: PipelineService) -> None:
    async def run() -> None:
        async with service.running(make_pipeline(result=Result(subject="events.done"))):
            await asyncio.Event().wait()

    assert "results would be events again" in str(await raised_by(run()))
    await service.publish("events.x", [{"id": 1, "text": "x"}])
    source, result = Source(stream=EVENTS, subject="events.x", id="/id"), Result(subject="events.done")
    await _work_off(service, make_pipeline(source=source, result=result))
    assert await service.num_stored(EVENTS) == 2


async def test_a_stream_that_is_not_there_is_told(service: PipelineService) -> None:
    async def run() -> None:
        async with service.running(make_pipeline(source=Source(stream="NOWHERE"))):
            await asyncio.Event().wait()

    error = await raised_by(run())
    assert isinstance(error, ConfigurationError)
    assert "there is no stream 'NOWHERE'" in error.message


async def test_a_file_gives_the_same_as_python(service: PipelineService, tmp_path: Any) -> None:
    from parrot_mq.pipelines import load_pipeline
    from tests.pipelines.test_file import GOOD

    path = tmp_path / "p.toml"
    path.write_text(GOOD)
    await service.publish("events.x", [{"id": 1, "text": "hello"}])
    await _work_off(service, load_pipeline(str(path)))
    assert await _results(service) == [{"answer": _answer("hello")}]


async def test_lists_are_arrays_in_the_result(service: PipelineService, tmp_path: Any) -> None:
    """A step makes a list, one goes through it, and one reads all that comes of it."""
    from parrot_mq.pipelines import load_pipeline
    from tests.pipelines.test_file import GOOD

    path = tmp_path / "p.toml"
    steps = """
[[steps]]
function = "tests.pipelines.programs:part"

[[steps]]
function = "tests.pipelines.programs:first"
inputs = { text = "parts" }
map = true

[[steps]]
function = "tests.pipelines.programs:second"
inputs = { text = "one" }

[result]"""
    begin, _, rest = GOOD.partition("[[steps]]")
    result = rest.partition("[result]")[2].replace("answer", 'parts = "parts", one = "one", two')
    path.write_text(begin + steps + result)
    await service.publish("events.x", [{"id": 1, "text": "hello"}])
    await _work_off(service, load_pipeline(str(path)))
    text = expected("hello?")
    parts = [text[begin : begin + 2] for begin in range(0, len(text), 2)]
    ones = [expected(f"{part}.") for part in parts]
    two = expected("\n".join(ones) + "!")
    assert await _results(service) == [{"parts": parts, "one": ones, "two": two}]


async def test_calls_may_change_their_order_between_functions(service: PipelineService) -> None:
    """A program that runs again is given its own values, by function and number."""
    is_first_time = True

    async def unsteady(text: str, note: str = "") -> dict[str, Any]:
        nonlocal is_first_time
        if is_first_time:
            outputs = {"a": first(text=text), "b": second(text=text)}
        else:
            outputs = {"b": second(text=text), "a": first(text=text)}
        texts = {name: await outputs[name] for name in sorted(outputs)}
        if is_first_time:
            is_first_time = False
            raise ZeroDivisionError
        return texts

    await service.publish("events.x", [{"id": 1, "text": "x"}])
    pipeline = make_pipeline(program=unsteady)
    await _work_off(service, pipeline)
    await service.publish("events.x", [{"id": 1, "text": "x"}])
    await _work_off(service, pipeline)
    assert await _results(service) == [{"a": expected("x."), "b": expected("x!")}]
