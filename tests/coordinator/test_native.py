"""Native functions in programs: called by the coordinator, between generations and with no client in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from parrot_mq.bus import MemoryBus
from parrot_mq.client.control import SessionControl
from parrot_mq.coordinator import CoordinatorStatistics
from parrot_mq.coordinator.calls.caller import CallerActor
from parrot_mq.coordinator.calls.run import CallRun
from parrot_mq.errors import DeadlineExceeded, FunctionFailed, FunctionNotServed, InputFailed, TaskCancelled
from parrot_mq.messages import NativeTask, ResultSpec, TaskStory
from parrot_mq.program.transforms import Split, Strip
from parrot_mq.types import Objective
from tests.coordinator.native_hosts import Host, Running, Script
from tests.coordinator.programs import Program, program, ref
from tests.coordinator.service import FAST, Service, eventually, expected, running_service
from tests.coordinator.test_recovery import _fail_once

CONFIG = replace(FAST, function_grace_s=0.2)


async def _do(run: Running) -> None:
    """What the functions of these tests do."""
    arguments = run.call.arguments
    match run.call.function:
        case "join":
            await run.answer("+".join(str(value) for _, value in sorted(arguments.items())))
        case "split":
            first, _, rest = str(arguments["text"]).partition(" ")
            await run.answer(json.dumps({"first": first, "rest": rest}))
        case "fail":
            await run.fail("ValueError: no", retryable=False)
        case "hold":
            await run.beat_for(1_000, 0.3)


async def _serve(service: Service, script: Script = _do, *functions: str, name: str = "host") -> Host:
    host = Host(service.bus, service.group, script, name=name)
    await host.serve(*(functions or ("join", "split", "fail", "hold")))
    return host


@asynccontextmanager
async def _running(**settings: Any) -> AsyncIterator[tuple[Service, Program]]:
    async with running_service(settings.pop("config", CONFIG), **settings) as service, program(service) as run:
        yield service, run


def _statistics(service: Service) -> CoordinatorStatistics:
    found: CoordinatorStatistics = service.coordinators[-1].result.statistics()
    return found


async def _story(service: Service, run: Program, variable: str) -> TaskStory:
    story = await SessionControl(service.bus, run.tenant, run.name).explain()
    return next(each for each in story.stories if each.variable == variable)


# -- programs --------------------------------------------------------------------------------------------------------


async def test_functions_and_generations_read_each_other() -> None:
    async with _running() as (service, run):
        await _serve(service)
        await run.run("{{x}}{{out}}", reads={"x": ref("x")}, writes="a")
        await run.call("join", reads={"1": ref("a"), "2": ref("x")}, writes="b")
        await run.run("{{x}}{{out}}", reads={"x": ref("b")}, writes="c")
        await run.set("x", "?")
        assert await run.get("c") == expected(f"{expected('?')}+?")
        await eventually(service.is_all_done)
        assert set(service.num_stored.values()) == {1}
        story = await _story(service, run, "b")
        assert (story.state, story.function, story.worker, story.attempts) == ("finished", "join", "", 1)


async def test_a_function_with_several_outputs_fills_each_of_them() -> None:
    async with _running() as (service, run):
        await _serve(service)
        await run.call("split", reads={"text": "good morning parrot"}, writes={"first": "a", "rest": "b"})
        assert [await run.get("a"), await run.get("b")] == ["good", "morning parrot"]


async def test_answers_are_transformed_and_lists_are_gone_through() -> None:
    async with _running() as (service, run):
        host = await _serve(service)
        outputs = {"out": ResultSpec(variable="xs", transforms=[Split(separator="+"), Strip()])}
        await run.submit(NativeTask(function="join", inputs={"1": "a ", "2": " b", "3": "c"}, outputs=outputs))
        await run.call("join", reads={"1": "item", "2": ref("xs")}, writes="ys", each=["2"])
        assert json.loads(await run.get("xs")) == ["a", "b", "c"]
        assert await run.get("xs-raw") == "a + b+c"
        assert json.loads(await run.get("ys")) == ["item+a", "item+b", "item+c"]
        assert len(host.runs) == 4


async def test_a_generated_text_decides_which_function_runs() -> None:
    async with _running() as (service, run):
        host = await _serve(service)
        await run.call(ref("choice"), choices=["split", "join"], reads={"1": "x", "2": "y"}, writes="a")
        await run.set("choice", "  join\n")
        assert await run.get("a") == "x+y"
        assert [each.call.function for each in host.runs] == ["join"]
        await run.call(ref("other"), choices=["split", "join"], writes="b")
        await run.set("other", "fail")
        error = await run.error("b")
        assert isinstance(error, FunctionNotServed)
        assert "split, join" in error.message


# -- failures --------------------------------------------------------------------------------------------------------


async def test_an_error_of_a_function_spreads_to_what_reads_it() -> None:
    async with _running() as (service, run):
        await _serve(service)
        await run.call("fail", reads={"x": ref("x")}, writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await run.call("split", reads={"text": ref("a")}, writes={"first": "c", "rest": "d"})
        await run.set("x", "")
        error = await run.error("a")
        assert isinstance(error, FunctionFailed)
        assert error.message == "native function 'fail' failed: ValueError: no"
        for variable in "bcd":
            assert isinstance(await run.error(variable), InputFailed)
        await eventually(service.is_all_done)
        assert [dead.reason.code for dead in await service.dead()] == ["function_failed"]


async def test_a_function_that_nobody_serves_is_an_error_with_the_remedy() -> None:
    async with _running() as (service, run):
        await run.call("unserved", writes="a")
        error = await run.error("a")
        assert isinstance(error, FunctionNotServed)
        assert "pmq.default.call.*.unserved" in error.message
        found = _statistics(service).functions["unserved"]
        await eventually(lambda: _statistics(service).functions["unserved"].num_running == 0)
        assert found.num_waiting == 0


async def test_a_function_is_waited_for_that_comes_late() -> None:
    async with _running(config=replace(CONFIG, function_grace_s=20)) as (service, run):
        await run.call("join", reads={"1": "x"}, writes="a")
        await eventually(lambda: "returned" in service.kinds("a"))
        await _serve(service)
        assert await run.get("a") == "x"


async def test_a_call_ends_with_the_time_of_its_task() -> None:
    async with _running() as (service, run):
        host = await _serve(service)
        await run.call("hold", writes="a", timeout_s=0.2)
        assert isinstance(await run.error("a"), DeadlineExceeded)
        await asyncio.wait_for(host.runs[0].stopped.wait(), 5)


async def test_a_call_that_has_begun_goes_on_when_its_own_mark_has_passed() -> None:
    go = asyncio.Event()

    async def wait(run: Running) -> None:
        await run.beat()
        await go.wait()
        await (run.answer("done") if run.call.function == "good" else run.fail("later", retryable=True))

    async with _running() as (service, run):
        host = await _serve(service, wait, "good", "bad")
        for name in ("good", "bad"):
            await run.call(name, writes=name)
        await eventually(lambda: len(host.runs) == 2)
        await SessionControl(service.bus, run.tenant, run.name).mark(["good", "bad"], Objective(deadline_s=0.05))
        await asyncio.sleep(0.15)
        assert not run.num_stored("bad")
        go.set()
        assert await run.get("good") == "done"
        assert isinstance(await run.error("bad"), DeadlineExceeded)


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_what_is_given_up_stops_at_its_host(how: str) -> None:
    async with _running() as (service, run):
        host = await _serve(service)
        await run.call("hold", writes="a")
        await run.call("join", reads={"1": ref("a")}, writes="b")
        await eventually(lambda: "started" in service.kinds("a"))
        assert (await _story(service, run, "a")).worker == "host"
        await (run.session.cancel("a") if how == "cancel" else run.session.close())
        await asyncio.wait_for(host.runs[0].stopped.wait(), 5)
        if how == "cancel":
            assert isinstance(await run.error("a"), TaskCancelled)
        await eventually(service.is_all_done)
        await eventually(lambda: _statistics(service).functions["hold"].num_running == 0)


async def test_a_variable_that_somebody_sets_stops_its_call() -> None:
    async with _running() as (service, run):
        host = await _serve(service)
        await run.call("hold", writes="a")
        await eventually(lambda: "started" in service.kinds("a"))
        await run.set("a", "mine")
        await asyncio.wait_for(host.runs[0].stopped.wait(), 5)
        await eventually(service.is_all_done)


async def test_a_host_that_is_killed_is_replaced_by_another_one() -> None:
    async with _running() as (service, run):
        first = await _serve(service, name="first")
        await run.call("hold", writes="a")
        await eventually(lambda: "started" in service.kinds("a"))

        async def answer(each: Running) -> None:
            await each.answer(f"attempt {each.call.attempt}")

        await _serve(service, answer, "hold", name="second")
        await first.vanish()
        assert await run.get("a") == "attempt 2"
        story = await _story(service, run, "a")
        assert [each.worker for each in story.lost] == ["first"]
        assert "was lost, nothing was heard of it" in story.lost[0].reason


# -- parts of the coordinator that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_another_coordinator_takes_up_calls_that_were_running(how: str) -> None:
    answers = iter([False, True])

    async def answer_the_second(run: Running) -> None:
        if next(answers):
            await run.answer("second")
        else:
            await run.beat_for(1_000, 0.05)

    async with _running() as (service, run):
        host = await _serve(service, answer_the_second, "f")
        await run.call("f", writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await eventually(lambda: "started" in service.kinds("a"))
        coordinator = service.coordinators[0]
        await (coordinator.stop() if how == "stop" else coordinator.kill())
        if how == "stop":
            await asyncio.wait_for(host.runs[0].stopped.wait(), 5)
        await service.add_coordinator(CONFIG, bus=MemoryBus(service.server))
        assert await run.get("b") == expected("second")
        assert [each.call.attempt for each in host.runs] == [1, 1]
        await eventually(service.is_all_done)
        await host.vanish()


@pytest.mark.parametrize(
    ("owner", "method"),
    [(CallerActor, "_take"), (CallerActor, "_forget"), (CallerActor, "_end"), (CallRun, "_store"), (CallRun, "_hear")],
)
async def test_a_caller_that_fails_loses_no_call(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    async def beat_and_do(run: Running) -> None:
        await run.beat()
        await asyncio.sleep(0.01)
        await _do(run)

    raised = _fail_once(monkeypatch, owner, method, lambda *_: True)
    async with _running() as (service, run):
        await _serve(service, beat_and_do)
        for number in range(20):
            await run.call("join", reads={"1": ref("x"), "2": str(number)}, writes=f"v{number}")
        await run.set("x", "go")
        for number in range(20):
            assert await run.get(f"v{number}") == f"go+{number}"
        await eventually(service.is_all_done)
        assert raised
        assert set(service.num_stored.values()) == {1}
        assert await service.dead() == []
        await eventually(lambda: _statistics(service).functions["join"].num_running == 0)
        assert _statistics(service).functions["join"].num_waiting == 0


async def test_the_service_says_what_is_called() -> None:
    async with _running() as (service, run):
        await _serve(service)
        await run.call("hold", writes="a")
        await run.call("join", reads={"1": "x"}, writes="b")
        await run.call("fail", writes="c")
        await run.get("b")
        await run.error("c")
        await eventually(lambda: "started" in service.kinds("a"))
        functions = {each.function: each for each in (await service.report()).functions}
        assert next(iter(functions)) == "hold", "the busiest comes first"
        assert (functions["hold"].num_running, functions["hold"].num_returned) == (1, 0)
        assert (functions["join"].num_running, functions["join"].num_returned) == (0, 1)
        assert functions["join"].mean_s > 0
        assert functions["fail"].num_failed == 1
