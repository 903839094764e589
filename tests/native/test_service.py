"""Native functions in programs: client, coordinator and hosts together, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parrot_mq.client import Client
from parrot_mq.errors import DeadlineExceeded, FunctionFailed, FunctionNotServed, FunctionTimedOut, InputFailed
from parrot_mq.native import NativeHost
from parrot_mq.pipelines.repeatable import RepeatableCalls
from parrot_mq.pipelines.steps import Step, steps_program
from parrot_mq.program import Input, NativeFunction, Output, native_function, select, semantic_function
from parrot_mq.testing import SimulatedClock, run_simulation, simulated_service
from parrot_mq.testing.service import SimulatedService
from tests.native.functions import fail, greet, halve, nap, words


@semantic_function
def decide(question: Input, tool: Output = Output(max_tokens=8)) -> None:
    """Which tool answers {{question}}? {{tool}}"""


@semantic_function
def reply(found: Input, answer: Output = Output(max_tokens=8)) -> None:
    """Found: {{found}}. {{answer}}"""


@native_function
async def search(question: str) -> str:
    """Look something up."""
    return f"pages about {question}"


@native_function
async def calculate(question: str) -> str:
    """Work something out."""
    return f"the sum of {question}"


def _write(prompt: str) -> str:
    """What the workers say."""
    if prompt.startswith("Which tool"):
        return " calculate\n" if "+" in prompt else " none\n" if "?" in prompt[11:-2] else " search\n"
    return f"<{prompt}>"


@asynccontextmanager
async def _service(
    *functions: NativeFunction[..., Any], **options: Any
) -> AsyncIterator[tuple[SimulatedService, Client, NativeHost]]:
    async with (
        simulated_service(answer=_write) as service,
        service.connect() as bus,
        NativeHost(bus, functions, clock=SimulatedClock(), **options) as host,
    ):
        yield service, service.client(), host


def _simulate(main: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        await main

    run_simulation(run)


def test_a_prompt_reads_what_a_native_function_returns() -> None:
    async def main() -> None:
        async with _service(search) as (_, client, _), client.session():
            assert await reply(search("parrots")) == "<Found: pages about parrots. >"

    _simulate(main())


@pytest.mark.parametrize(("question", "found"), [("1 + 1", "the sum of 1 + 1"), ("parrots", "pages about parrots")])
def test_the_output_of_a_prompt_decides_which_function_is_called(question: str, found: str) -> None:
    async def main() -> None:
        async with _service(search, calculate) as (_, client, _), client.session():
            tool = decide(question)
            assert await select(tool, among=[search, calculate])(question=question) == found

    _simulate(main())


def test_a_function_that_is_none_of_the_choices_is_a_typed_error() -> None:
    async def main() -> None:
        async with _service(search, calculate) as (_, client, _), client.session() as session:
            tool = session.variable("tool")
            result = select(tool, among=[search, calculate])(question="x")
            await tool.set("delete_everything")
            with pytest.raises(FunctionNotServed, match="search"):
                await result
            assert await search("x") == "pages about x"

    _simulate(main())


def test_lists_and_maps_of_native_functions() -> None:
    async def main() -> None:
        async with _service(words, greet, nap) as (_, client, _), client.session():
            names = words("Ada Bob Cleo")
            assert await names == ["Ada", "Bob", "Cleo"]
            assert await greet.map(name=names, greeting="Hi") == ["Hi Ada", "Hi Bob", "Hi Cleo"]
            assert await greet.map(name=words("")) == []

    _simulate(main())


def test_several_outputs_are_variables_of_their_own() -> None:
    async def main() -> None:
        async with _service(halve) as (_, client, _), client.session():
            first, second = halve.outputs("abcd")
            assert (await second, await first) == ("cd", "ab")

    _simulate(main())


def test_a_step_of_a_pipeline_may_be_a_native_function() -> None:
    program = steps_program(
        [
            Step(function=words, reads={"text": "text"}, writes={"result": "names"}),
            Step(function=greet, reads={"name": "names"}, writes={"result": "greetings"}, is_map=True),
            Step(function=halve, reads={"text": "text"}, writes={"first": "one", "second": "two"}),
        ],
        {"greetings": "greetings", "one": "one"},
    )

    async def main() -> None:
        async with _service(words, greet, halve) as (_, client, _), client.session() as session:
            with RepeatableCalls(session).as_current():
                result = await program(text="Ada Bo")
            assert await result["greetings"] == ["Hello Ada", "Hello Bo"]
            assert await result["one"] == "Ada"

    _simulate(main())


def test_large_texts_go_through_a_function() -> None:
    text = "é" * 300_000

    async def main() -> None:
        async with _service(greet, halve) as (_, client, _), client.session():
            assert await greet(text) == f"Hello {text}"
            first, second = halve.outputs(greet(text))
            assert await first + await second == f"Hello {text}"

    _simulate(main())


def test_what_a_function_raises_comes_out_of_await_and_harms_no_other() -> None:
    async def main() -> None:
        async with _service(fail, greet) as (_, client, _), client.session():
            failed, fine = fail("value"), greet("Ada")
            behind = greet(failed)
            with pytest.raises(FunctionFailed, match="ValueError: no such thing"):
                await failed
            with pytest.raises(InputFailed):
                await behind
            assert await fine == "Hello Ada"

    _simulate(main())


def test_an_exception_that_may_pass_is_tried_again() -> None:
    num_attempts = 0

    @native_function(max_attempts=4)
    async def flaky(text: str) -> str:
        nonlocal num_attempts
        num_attempts += 1
        if num_attempts < 4:
            raise ConnectionResetError("away")
        return text

    async def main() -> None:
        async with _service(flaky) as (_, client, host), client.session():
            assert await flaky("x") == "x"
            assert host.statistics().functions["flaky"].num_ended == {"retryable": 3, "returned": 1}

    _simulate(main())


def test_a_function_that_never_answers_is_a_typed_error_after_its_attempts() -> None:
    async def main() -> None:
        async with _service(nap) as (service, client, _), client.session():
            began_at = service.clock.now()
            with pytest.raises(FunctionTimedOut):
                await nap.using(attempt_timeout_s=3, max_attempts=2)("1000")
            assert service.clock.now() - began_at < 30
            with pytest.raises(DeadlineExceeded):
                await nap.using(timeout_s=5)("1000")

    _simulate(main())


def test_a_function_that_nobody_serves_is_a_typed_error_in_time() -> None:
    async def main() -> None:
        async with _service(greet) as (_, client, _), client.session():
            with pytest.raises(FunctionNotServed):
                await search("x")

    _simulate(main())


def test_a_call_waits_for_a_host_that_is_just_starting() -> None:
    async def main() -> None:
        async with _service(greet) as (service, client, _), client.session():
            found = search("x")
            await asyncio.sleep(3)
            async with service.connect() as bus, NativeHost(bus, [search], clock=SimulatedClock()):
                assert await found == "pages about x"

    _simulate(main())


def test_more_calls_than_places_all_come_to_their_end() -> None:
    most = Counter[str]()

    @native_function
    async def counted(number: str) -> str:
        most["running"] += 1
        most["most"] = max(most["most"], most["running"])
        await asyncio.sleep(0.5)
        most["running"] -= 1
        return number

    async def main() -> None:
        async with _service(counted, concurrency=2, max_waiting=1) as (_, client, _), client.session():
            results = [counted(str(number)) for number in range(20)]
            assert [await result for result in results] == [str(number) for number in range(20)]

    _simulate(main())
    assert most["most"] == 2


def test_what_is_cancelled_is_cancelled_at_its_host() -> None:
    async def main() -> None:
        async with _service(nap, concurrency=1, max_waiting=0) as (_, client, host), client.session() as session:
            long = nap("1000")
            await session.flush()
            await asyncio.sleep(2)
            assert host.statistics().functions["nap"].num_running == 1
            await long.cancel()
            await asyncio.sleep(1)
            assert host.statistics().functions["nap"].num_ended == {"cancelled": 1}
            assert await nap("1") == "slept 1"

    _simulate(main())


def test_calls_of_a_host_that_ends_go_to_another() -> None:
    async def main() -> None:
        async with _service(greet) as (service, client, _), client.session() as session:
            async with service.connect() as bus, NativeHost(bus, [nap], clock=SimulatedClock(), drain_s=1):
                slept = nap("20")
                await session.flush()
                await asyncio.sleep(2)
            async with service.connect() as bus, NativeHost(bus, [nap], clock=SimulatedClock()):
                assert await slept == "slept 20"

    _simulate(main())
