"""Whatever goes wrong with a task becomes a typed error on its outputs, and nothing else is disturbed."""

from __future__ import annotations

import json

import pytest

from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.errors import (
    DuplicateProducer,
    EngineFailure,
    GraphCycleError,
    InputFailed,
    MalformedMessage,
    ModelNotServed,
    TemplateError,
)
from parrot_mq.messages import HEADER_STATUS, STATUS_ERROR, ErrorInfo, encode, encode_json
from tests.coordinator.programs import program, ref, task
from tests.coordinator.service import FAST, eventually, expected, running_service

SETTLED = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=0)
"""Knows from the start which models are served: those of which it has heard."""

# -- inputs ----------------------------------------------------------------------------------------------------------


async def test_a_failure_spreads_to_all_that_depend_on_it_and_names_its_root_cause() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("b")}, writes="c")
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await run.run("{{x}}{{y}}{{out}}", reads={"x": ref("never"), "y": ref("c")}, writes="d")
        await run.run("FAIL{{out}}", writes="a")
        assert isinstance(await run.error("a"), EngineFailure)
        for variable, read in (("b", "a"), ("c", "b"), ("d", "c")):
            error = await run.error(variable)
            assert isinstance(error, InputFailed)
            assert error.variable == read
            assert error.facts["cause_code"] == "engine_failure"
            assert "the prompt says so" in error.message
        await eventually(service.is_all_done)
        assert set(service.num_stored.values()) == {1}


async def test_a_task_that_comes_after_the_failure_names_the_root_cause_too() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("FAIL{{out}}", writes="v0")
        messages = set()
        for i in range(1, 30):
            await run.run("{{x}}{{out}}", reads={"x": ref(f"v{i - 1}")}, writes=f"v{i}")
            error = await run.error(f"v{i}")
            assert error.facts["cause_code"] == "engine_failure"
            messages.add(len(error.message))
        assert max(messages) - min(messages) < 10, "the message does not grow with the distance"


async def test_an_output_that_fails_fails_the_outputs_behind_it() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("FAIL{{x}} then {{y}}", writes={"x": "a", "y": "b"})
        assert isinstance(await run.error("a"), EngineFailure)
        assert isinstance(await run.error("b"), InputFailed)
        await eventually(service.is_all_done)


async def test_anyone_can_fail_a_variable() -> None:
    async with running_service() as service, program(service, "demo") as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        error = ErrorInfo(code="own", message="our database is down")
        headers = {HEADER_STATUS: STATUS_ERROR}
        await service.bus.publish("pmq.default.var.demo.x", encode_json(error), headers=headers)
        assert "our database is down" in (await run.error("out")).message


async def test_a_foreign_error_of_any_size_fails_what_depends_on_it() -> None:
    async with running_service() as service, program(service, "demo") as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        error = ErrorInfo(code="own", message="é" * 500_000, facts={"message": "m", "self": "s", "args": 1})
        headers = {HEADER_STATUS: STATUS_ERROR}
        await service.bus.publish("pmq.default.var.demo.x", encode(error), headers=headers)
        assert isinstance(await run.error("out"), InputFailed)
        await run.error("x")


async def test_a_value_that_is_no_text_is_an_error_for_who_reads_it() -> None:
    async with running_service() as service, program(service, "demo") as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        await service.bus.publish("pmq.default.var.demo.x", b"caf\xe9")
        error = await run.error("x")
        assert isinstance(error, MalformedMessage)
        assert "0xe9 at offset 3" in error.message
        assert (await run.error("out")).facts["cause_code"] == "malformed_message"


# -- cycles ----------------------------------------------------------------------------------------------------------


async def test_a_task_that_reads_its_own_output_fails() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("loop")}, writes="loop")
        error = await run.error("loop")
        assert isinstance(error, GraphCycleError)
        assert error.cycle == ["loop", "loop"]
        await eventually(service.is_all_done)


async def test_the_task_that_closes_a_cycle_fails_and_with_it_the_others() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("c")}, writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await eventually(lambda: bool(service.kinds("b")))
        await run.run("{{x}}{{out}} and {{more}}", reads={"x": ref("b")}, writes={"out": "c", "more": "c2"})
        assert isinstance(await run.error("c"), GraphCycleError)
        assert isinstance(await run.error("c2"), GraphCycleError)
        for variable in ("a", "b"):
            assert (await run.error(variable)).facts["cause_code"] == "graph_cycle"
        await eventually(service.is_all_done)
        assert "rejected" in [event.kind for event in service.events]


# -- models ----------------------------------------------------------------------------------------------------------


async def test_a_model_that_nobody_serves_is_an_error_that_names_those_that_are_served() -> None:
    async with running_service(SETTLED, workers=()) as service, program(service) as run:
        await service.add_worker()
        await run.run("hi{{out}}", model="gpt-17")
        error = await run.error("out")
        assert isinstance(error, ModelNotServed)
        assert error.served == ["scripted"]
        assert "gpt-17" in error.message
        await eventually(service.is_all_done)


async def test_a_task_names_its_model() -> None:
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker("w1", model="small")
        await service.add_worker("w2", model="large")
        await run.run("one{{out}}", model="large", writes="x")
        await run.run("two{{out}}", model="small", writes="y")
        await run.get("x")
        await run.get("y")
        assert (service.assignments("x"), service.assignments("y")) == (["w2"], ["w1"])


async def test_without_a_name_the_only_model_is_meant() -> None:
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(model="small")
        await run.run("one{{out}}")
        assert await run.get("out") == expected("one")


async def test_without_a_name_among_several_models_nothing_is_guessed() -> None:
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker("w1", model="small")
        await service.add_worker("w2", model="large")
        await run.run("one{{out}}")
        error = await run.error("out")
        assert isinstance(error, ModelNotServed)
        assert error.served == ["large", "small"]


async def test_after_a_start_a_task_waits_a_moment_for_its_model() -> None:
    config = CoordinatorConfig(settle_s=0, model_grace_s=30)
    async with running_service(config, workers=()) as service, program(service) as run:
        await run.run("early{{out}}", model="scripted", writes="x")
        await run.run("bird{{out}}", writes="y")
        await eventually(lambda: "submitted" in service.kinds("y"))
        await service.add_worker()
        assert (await run.get("x"), await run.get("y")) == (expected("early"), expected("bird"))


async def test_when_the_moment_is_over_the_task_fails() -> None:
    async with running_service(SETTLED, workers=()) as service, program(service) as run:
        await run.run("early{{out}}")
        error = await run.error("out")
        assert isinstance(error, ModelNotServed)
        assert error.served == []


async def test_a_declared_model_is_waited_for_without_a_worker() -> None:
    config = CoordinatorConfig(settle_s=0, model_grace_s=0, models=("scripted",))
    async with running_service(config, workers=()) as service, program(service) as run:
        await run.run("patient{{out}}")
        await eventually(lambda: "ready" in service.kinds("out"))
        await service.add_worker()
        assert await run.get("out") == expected("patient")


# -- bad tasks -------------------------------------------------------------------------------------------------------


async def test_a_bad_template_is_an_error_on_the_outputs() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}} {{out}} {{oops}", reads={"x": "1"}, writes="a")
        await run.run("{{x}} {{out}}", reads={"x": "1", "unused": "2"}, writes="b")
        for variable in ("a", "b"):
            assert isinstance(await run.error(variable), TemplateError)
        await eventually(service.is_all_done)


async def test_one_variable_for_two_outputs_is_an_error() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("1 {{x}} 2 {{y}}", writes={"x": "same", "y": "same"})
        assert isinstance(await run.error("same"), DuplicateProducer)
        await eventually(service.is_all_done)


async def test_a_malformed_task_fails_the_outputs_that_can_be_made_out_and_its_record_is_kept() -> None:
    record = {"template": 5, "outputs": {"out": {"variable": "o"}, "bad": {"variable": "no good"}, "worse": 3}}
    async with running_service() as service, program(service, "demo") as run:
        await service.bus.publish("pmq.default.task.demo.t1", json.dumps(record).encode())
        error = await run.error("o")
        assert isinstance(error, MalformedMessage)
        await eventually(service.is_all_done)
        (dead,) = await service.dead()
        assert (dead.session, dead.task, dead.reason.code) == ("demo", "t1", "malformed_message")
        assert json.loads(dead.record) == record


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff" * 1000, b"[]", b'"text"', b"{}", b"\x81" * 40, b"[" * 100_000])
async def test_garbage_is_buried(payload: bytes) -> None:
    async with running_service() as service, program(service, "demo") as run:
        await service.bus.publish("pmq.default.task.demo.t1", payload)
        await eventually(lambda: bool(service.server.streams["PMQ_DEAD"].last_sequence))
        await eventually(service.is_all_done)
        await run.run("fine{{out}}")
        assert await run.get("out") == expected("fine")


async def test_garbage_as_large_as_a_message_may_be_is_buried() -> None:
    async with running_service() as service, program(service, "demo") as run:
        await service.bus.publish("pmq.default.task.demo.t1", b"\xff" * (service.bus.max_payload - 100))
        await eventually(lambda: bool(service.server.streams["PMQ_DEAD"].last_sequence))
        await eventually(service.is_all_done)
        await run.run("fine{{out}}")
        assert await run.get("out") == expected("fine")


BAD_TEXTS = [
    {"inputs": {"x": "\ud800"}},
    {"inputs": {"x": ["a", "\udfff"]}},
    {"inputs": {"x": ["a", "b"]}, "separators": {"x": "\ud800"}},
    {"model": "\ud800"},
    {"function": "\ud800"},
    {"timeout_s": float("nan")},
]


@pytest.mark.parametrize("fields", BAD_TEXTS, ids=lambda fields: next(iter(fields)))
async def test_what_json_can_say_and_nothing_else_can_is_an_error_and_no_crash(fields: dict[str, object]) -> None:
    record = {"template": "{{x}}{{out}}", "inputs": {"x": "a"}, "outputs": {"out": {"variable": "o"}}, **fields}
    async with running_service() as service, program(service, "demo") as run:
        await service.bus.publish("pmq.default.task.demo.t1", json.dumps(record).encode())
        assert isinstance(await run.error("o"), MalformedMessage)
        await run.run("fine{{out}}")
        assert await run.get("out") == expected("fine")


async def test_an_event_that_is_too_large_to_send_is_left_out() -> None:
    async with running_service(None) as service, program(service) as run:
        system = await service.add_visible_coordinator()
        record = task("a{{out}}", writes="x", function="f" * (service.bus.max_payload - 110))
        await service.bus.publish(f"pmq.default.task.{run.name}.{'t' * 64}", encode(record))
        assert await run.get("x") == expected("a")
        await run.run("fine{{out}}", writes="y")
        await run.get("y")
        await eventually(lambda: service.kinds("y")[-1:] == ["finished"])
        assert "submitted" not in service.kinds("x")
        assert {actor.num_restarts for actor in system.statistics().actors} == {0}


# -- two writers -----------------------------------------------------------------------------------------------------


async def test_the_second_task_that_wants_to_write_a_variable_is_buried_and_its_other_outputs_fail() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}} first {{out}}", reads={"x": ref("x")}, writes="taken", model="scripted")
        await eventually(lambda: bool(service.kinds("taken")))
        second = await run.run("second {{a}} and {{b}}", writes={"a": "taken", "b": "own"})
        await run.run("{{x}}{{out}}", reads={"x": ref("own")}, writes="after")
        error = await run.error("own")
        assert isinstance(error, DuplicateProducer)
        assert error.variable == "taken"
        assert (await run.error("after")).facts["cause_code"] == "duplicate_producer"
        await run.set("x", "the")
        assert await run.get("taken") == expected("the first ")
        await eventually(service.is_all_done)
        (dead,) = await service.dead()
        assert (dead.task, dead.reason.code) == (second, "duplicate_producer")
        assert json.loads(dead.record)["template"] == "second {{a}} and {{b}}"


async def test_a_malformed_task_does_not_fail_what_another_task_writes() -> None:
    async with running_service(workers=()) as service, program(service, "demo") as run:
        await run.run("good{{out}}", writes="o")
        await service.bus.publish("pmq.default.task.demo.bad", b'{"outputs": {"out": {"variable": "o"}}}')
        await eventually(lambda: bool(service.server.streams["PMQ_DEAD"].last_sequence))
        await service.add_worker()
        assert await run.get("o") == expected("good")


async def test_the_same_outputs_may_be_written_by_another_task_once_the_first_is_done() -> None:
    async with running_service(FAST) as service, program(service) as run:
        await run.run("first{{out}}")
        await run.get("out")
        await eventually(service.is_all_done)
        await run.run("second{{out}}")
        await eventually(service.is_all_done)
        assert await run.get("out") == expected("first")
        assert await service.dead() == []
