"""A host of native functions, in virtual time: what it answers, how much it takes on, how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest

from parrot_mq.bus import MemoryBus, MemoryServer
from parrot_mq.errors import (
    BlobMissing,
    CapacityExhausted,
    ConfigurationError,
    ConnectionClosed,
    FunctionFailed,
    FunctionTimedOut,
    InvalidName,
    MalformedMessage,
    NoResponders,
    ParrotError,
    QuotaExceeded,
    UnsupportedSchemaVersion,
)
from parrot_mq.messages import HEADER_BLOB, HEADER_PRODUCER, HEADER_SCHEMA, BlobRef, ErrorInfo, decode
from parrot_mq.native import NativeHost
from parrot_mq.observability import TraceContext, current_trace, use_trace
from parrot_mq.program import NativeFunction, native_function
from parrot_mq.testing import SimulatedClock
from tests.native import functions
from tests.native.calling import Caller, now, simulate, simulated_host
from tests.native.functions import fail, greet, halve, nap, shout, who

LARGE = "ä" * 200_000


def _ask(*functions: NativeFunction[..., Any], **arguments: str) -> str:
    """What a call of the first function answers."""

    async def main() -> str:
        async with simulated_host(*functions) as (_, caller):
            return await caller.call(functions[0].name, **arguments)

    return simulate(main())


def _fail(function: NativeFunction[..., Any], **arguments: str) -> tuple[ParrotError, ErrorInfo]:
    """The error that a call answers, and as it travels."""

    async def main() -> tuple[ParrotError, ErrorInfo]:
        async with simulated_host(function) as (_, caller):
            answer = await caller.request(function.name, arguments)
            info = decode(answer.payload, ErrorInfo, answer.headers)
            return info.to_error(), info

    return simulate(main())


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_with_the_text() -> None:
    assert _ask(greet, name="Ada") == "Hello Ada"
    assert _ask(greet, name="Ada", greeting="Good day") == "Good day Ada"


def test_every_function_of_a_host_has_its_subject() -> None:
    async def main() -> None:
        async with simulated_host(greet, nap) as (_, caller):
            assert await caller.call("nap", seconds="1") == "slept 1"
            assert await caller.call("greet", name="Ada") == "Hello Ada"
            with pytest.raises(NoResponders):
                await caller.call("shout", text="x")

    simulate(main())


def test_several_outputs_are_an_object() -> None:
    async def main() -> None:
        async with simulated_host(halve) as (_, caller):
            answer = await caller.call("halve", text="abcd", outputs=["first", "second"])
            assert json.loads(answer) == {"first": "ab", "second": "cd"}

    simulate(main())


def test_large_texts_travel_as_claim_checks_both_ways() -> None:
    async def main() -> None:
        async with simulated_host(greet) as (_, caller):
            data = LARGE.encode()
            digest = await caller.bus.put_blob("default", data)
            answer = await caller.request("greet", {"name": BlobRef(digest=digest, size_bytes=len(data))})
            assert HEADER_BLOB in answer.headers
            assert await caller.read(answer) == f"Hello {LARGE}"

    simulate(main())


def test_an_argument_that_is_not_in_the_store_is_a_typed_error() -> None:
    async def main() -> None:
        async with simulated_host(greet) as (_, caller):
            answer = await caller.request("greet", {"name": BlobRef(digest="0" * 64, size_bytes=1)})
            with pytest.raises(BlobMissing):
                await caller.read(answer)
            assert await caller.call("greet", name="Ada") == "Hello Ada"

    simulate(main())


def test_an_argument_that_is_no_text_is_a_typed_error() -> None:
    async def main() -> None:
        async with simulated_host(greet) as (_, caller):
            digest = await caller.bus.put_blob("default", b"caf\xe9")
            answer = await caller.request("greet", {"name": BlobRef(digest=digest, size_bytes=4)})
            with pytest.raises(MalformedMessage, match="Expected UTF-8 text, got byte 0xe9 at offset 3"):
                await caller.read(answer)
            assert await caller.call("greet", name="Ada") == "Hello Ada"

    simulate(main())


def test_a_result_that_cannot_be_read_ends_its_call_alone() -> None:
    class Trap:
        def __getattr__(self, name: str) -> str:
            raise ValueError(f"no {name}")

    @native_function
    async def trap(text: str) -> functions.Verdict:
        return Trap()  # type: ignore[return-value]

    async def main() -> None:
        async with simulated_host(trap, greet) as (_, caller):
            error = await caller.fail("trap", outputs=["verdict", "reason"], text="x")
            assert isinstance(error, FunctionFailed)
            assert error.problem == "ValueError: no verdict"
            assert await caller.call("greet", name="Ada") == "Hello Ada"

    simulate(main())


def test_the_code_can_ask_which_call_it_runs_for() -> None:
    async def main() -> None:
        async with simulated_host(who) as (_, caller):
            answer = await caller.read(await caller.request("who", {}, attempt=2))
            assert answer.startswith("default.session.v-")
            assert answer.endswith(" attempt 2")

    simulate(main())


def test_the_code_belongs_to_the_trace_of_its_call() -> None:
    @native_function
    async def traced() -> str:
        trace = current_trace()
        return trace.trace_id if trace is not None else "none"

    async def main() -> None:
        async with simulated_host(traced) as (_, caller):
            assert await caller.call("traced") == "none"
            with use_trace(TraceContext(trace_id="ab" * 16, span_id="cd" * 8)):
                assert await caller.call("traced") == "ab" * 16

    simulate(main())


def test_an_answer_names_its_host() -> None:
    async def main() -> None:
        async with simulated_host(greet, host="the-host") as (_, caller):
            answer = await caller.request("greet", {"name": "Ada"})
            assert answer.headers[HEADER_PRODUCER] == "the-host"
            assert {beat.host for beat, _ in caller.beats} == {"the-host"}

    simulate(main())


# -- errors ----------------------------------------------------------------------------------------------------------


def test_what_the_code_raises_is_a_typed_error_with_class_and_message_and_no_traceback() -> None:
    error, info = _fail(fail, kind="value")
    assert isinstance(error, FunctionFailed)
    assert error.message == "native function 'fail' failed: ValueError: no such thing: secret-plan.txt"
    assert not info.retryable
    assert "functions.py" not in str(info)
    assert "Traceback" not in str(info)


@pytest.mark.parametrize(("kind", "retryable"), [("lookup", True), ("refused", True), ("value", False)])
def test_exceptions_that_the_function_names_may_be_tried_again(kind: str, retryable: bool) -> None:
    error, info = _fail(fail, kind=kind)
    assert isinstance(error, FunctionFailed)
    assert info.retryable is retryable


def test_errors_of_this_project_travel_as_they_are() -> None:
    error, info = _fail(fail, kind="quota")
    assert isinstance(error, QuotaExceeded)
    assert info.retryable


@pytest.mark.parametrize("kind", ["exit", "cancelled"])
def test_code_that_wants_to_end_the_process_ends_its_call(kind: str) -> None:
    async def main() -> None:
        async with simulated_host(fail, greet) as (_, caller):
            error = await caller.fail("fail", kind=kind)
            assert isinstance(error, FunctionFailed)
            assert ("SystemExit: 3" if kind == "exit" else "CancelledError") in error.message
            assert await caller.call("greet", name="Ada") == "Hello Ada"

    simulate(main())


def test_an_unknown_argument_is_named_with_what_was_meant() -> None:
    error, _ = _fail(greet, names="Ada")
    assert error.message == (
        "native function 'greet' failed: unknown argument `names`; did you mean `name`? it takes `name`, `greeting`"
    )


def test_a_missing_argument_is_named() -> None:
    error, _ = _fail(greet, greeting="Hi")
    assert error.message == "native function 'greet' failed: missing argument: `name`; it takes `name`, `greeting`"


def test_a_call_that_cannot_be_read_is_a_typed_error_for_its_caller_alone() -> None:
    async def main() -> None:
        async with simulated_host(greet) as (_, caller):
            answer = await caller.send("greet", b"{}", {HEADER_SCHEMA: "2"})
            assert isinstance(decode(answer.payload, ErrorInfo).to_error(), UnsupportedSchemaVersion)
            for payload in (b"", b"{", b'{"type": "native.call", "function": 3}', b'{"arguments": {}}'):
                answer = await caller.send("greet", payload)
                assert isinstance(decode(answer.payload, ErrorInfo).to_error(), MalformedMessage), payload
            await caller.bus.publish("pmq.default.call.session.greet", b"nobody waits for an answer")
            assert await caller.call("greet", name="Ada") == "Hello Ada"

    simulate(main())


# -- time ------------------------------------------------------------------------------------------------------------


def test_a_call_that_takes_long_beats_every_second() -> None:
    async def main() -> None:
        async with simulated_host(nap) as (_, caller):
            await caller.call("nap", seconds="9.5")
            assert len(caller.beats) == 10

    simulate(main())


def test_a_call_is_cancelled_at_its_deadline_and_its_place_is_free() -> None:
    async def main() -> None:
        async with simulated_host(nap, concurrency=1, max_waiting=0) as (host, caller):
            began_at = now()
            answer = await caller.request("nap", {"seconds": "1000"}, deadline=now() + 5)
            with pytest.raises(FunctionTimedOut, match="it was not done in the 5 s that it had on host"):
                await caller.read(answer)
            assert now() - began_at == pytest.approx(5, abs=0.1)
            assert await caller.call("nap", seconds="1") == "slept 1"
            assert host.statistics().functions["nap"].num_ended == {"timed_out": 1, "returned": 1}

    simulate(main())


def test_a_call_without_deadline_has_the_time_that_the_function_says() -> None:
    async def main() -> None:
        async with simulated_host(nap.using(attempt_timeout_s=3)) as (_, caller):
            error = await caller.fail("nap", seconds="1000")
            assert isinstance(error, FunctionTimedOut)

    simulate(main())


def test_a_call_that_comes_after_its_deadline_is_not_begun() -> None:
    async def main() -> None:
        async with simulated_host(nap) as (host, caller):
            answer = await caller.request("nap", {"seconds": "0"}, deadline=now() - 1)
            with pytest.raises(FunctionTimedOut, match="are the clocks right"):
                await caller.read(answer)
            assert host.statistics().functions["nap"].duration.num_values == 0

    simulate(main())


def test_a_call_that_nobody_wants_any_more_is_cancelled() -> None:
    async def main() -> None:
        async with simulated_host(nap, concurrency=1, max_waiting=0) as (host, caller), asyncio.TaskGroup() as group:
            request = group.create_task(caller.request("nap", {"seconds": "1000"}))
            await asyncio.sleep(3)
            _, inbox = caller.beats[-1]
            await caller.bus.publish(inbox, b"")
            await asyncio.sleep(0.1)
            request.cancel()
            assert host.statistics().functions["nap"].num_ended == {"cancelled": 1}
            assert await caller.call("nap", seconds="1") == "slept 1"
            await caller.bus.publish(inbox, b"")  # once more, when it is long over

    simulate(main())


def test_code_that_does_not_end_when_it_is_cancelled_keeps_its_place_until_it_does() -> None:
    @native_function
    async def stubborn(text: str) -> str:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        return text

    async def main() -> None:
        async with simulated_host(stubborn, greet, concurrency=2) as (host, caller):
            answer = await caller.request("stubborn", {"text": "x"}, deadline=now() + 1)
            with pytest.raises(FunctionTimedOut):
                await caller.read(answer)
            assert host.statistics().num_overdue == 1
            assert await caller.call("greet", name="Ada") == "Hello Ada"
            await asyncio.sleep(130)
            assert host.statistics().num_overdue == 0

    simulate(main())


# -- how much at a time ----------------------------------------------------------------------------------------------


def _counting(most: list[int]) -> NativeFunction[..., Any]:
    """A function that notes in `most` how many of it ran at a time."""
    running = 0

    @native_function
    async def counted(number: str) -> str:
        nonlocal running
        running += 1
        most.append(running)
        try:
            await asyncio.sleep(1)
        finally:
            running -= 1
        return number

    return counted


def test_no_more_calls_run_at_a_time_than_there_are_places() -> None:
    most: list[int] = []

    async def main() -> None:
        counted = _counting(most)
        async with simulated_host(counted, concurrency=3, max_waiting=1000) as (_, caller):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(caller.call("counted", number=str(number))) for number in range(20)]
            assert [task.result() for task in tasks] == [str(number) for number in range(20)]

    simulate(main())
    assert max(most) == 3


def test_what_finds_no_room_is_told_to_try_again() -> None:
    async def main() -> None:
        async with simulated_host(nap, concurrency=2, max_waiting=1) as (host, caller):
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(caller.request("nap", {"seconds": "5"})) for _ in range(10)]
            infos = [decode(call.result().payload, ErrorInfo) for call in calls if call.result().payload[:1] == b"{"]
            assert len(infos) == 7
            assert {(info.code, info.retryable) for info in infos} == {(CapacityExhausted.code, True)}
            assert host.statistics().functions["nap"].num_ended == {"returned": 3, "refused": 7}

    simulate(main())


def test_hosts_of_one_function_share_its_calls() -> None:
    async def main() -> None:
        server = MemoryServer(clock=SimulatedClock())
        server.ensure_streams()
        async with (
            simulated_host(who, server=server) as (one, caller),
            simulated_host(who, server=server) as (other, _),
        ):
            for _ in range(50):
                await caller.call("who")
            done = [host.statistics().functions["who"].num_ended["returned"] for host in (one, other)]
            assert sum(done) == 50
            assert all(done)

    simulate(main())


def test_a_tenant_reaches_its_own_hosts() -> None:
    async def main() -> None:
        async with simulated_host(greet, tenant="acme") as (_, caller):
            with pytest.raises(NoResponders):
                await caller.call("greet", name="Ada")
            assert await Caller(caller.bus, tenant="acme").call("greet", name="Ada") == "Hello Ada"

    simulate(main())


# -- its end ---------------------------------------------------------------------------------------------------------


async def _leave_while_running(seconds: str, drain_s: float) -> tuple[list[str | ParrotError], float]:
    """What three calls in two places answer when the host ends, and how long it takes to end."""
    server = MemoryServer(clock=SimulatedClock())
    server.ensure_streams()
    answers: list[str | ParrotError] = []

    async def ask(caller: Caller) -> None:
        try:
            answers.append(await caller.call("nap", seconds=seconds))
        except ParrotError as error:
            answers.append(error)

    async with MemoryBus(server) as bus, asyncio.TaskGroup() as group:
        async with simulated_host(nap, server=server, concurrency=2, drain_s=drain_s):
            for _ in range(3):
                group.create_task(ask(Caller(bus)))
            await asyncio.sleep(1)
            began_at = now()
        took_s = now() - began_at
    return answers, took_s


def test_a_host_that_ends_lets_calls_end_in_time() -> None:
    answers, took_s = simulate(_leave_while_running("5", drain_s=30))
    assert answers == ["slept 5"] * 3
    assert took_s == pytest.approx(9, abs=0.5)


def test_calls_that_do_not_end_in_time_are_answered_so_that_they_are_attempted_elsewhere() -> None:
    answers, took_s = simulate(_leave_while_running("1000", drain_s=10))
    assert len(answers) == 3
    for error in answers:
        assert isinstance(error, FunctionTimedOut)
        assert "stopped before it had ended" in error.message
        assert error.retryable
    assert took_s == pytest.approx(10, abs=0.5)


def test_a_host_that_is_cancelled_ends_at_once() -> None:
    async def main() -> None:
        began_at = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), simulated_host(nap) as (_, caller):
                await caller.request("nap", {"seconds": "1000"}, timeout_s=1000)
        assert now() - began_at == pytest.approx(5, abs=0.5)

    simulate(main())


def test_a_host_that_the_server_has_left_ends_with_the_reason() -> None:
    async def main() -> None:
        bus = MemoryBus(MemoryServer(clock=SimulatedClock()))
        async with NativeHost(bus, [greet], clock=SimulatedClock()):
            await bus.aclose()
            await asyncio.sleep(10)

    with pytest.raises(ConnectionClosed):
        simulate(main())


# -- what cannot be served -------------------------------------------------------------------------------------------


def _refused(make: Coroutine[Any, Any, NativeHost]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        simulate(make)
    return caught.value.message


async def _make(*functions: Any, **options: Any) -> NativeHost:
    return NativeHost(MemoryBus(MemoryServer(clock=SimulatedClock())), functions, **options)


def test_a_host_without_functions_is_refused() -> None:
    assert _refused(_make()) == "there is no function to serve; decorate one with `@native_function`"


def test_what_is_no_native_function_is_refused() -> None:
    assert "cannot be served: decorate it with `@native_function`" in _refused(_make(len))


def test_two_functions_of_one_name_are_refused() -> None:
    other = native_function(name="greet")(shout.function)
    assert _refused(_make(greet, other)) == "two functions are called 'greet'; give one another name: `name=…`"
    simulate(_make(greet, greet, greet.using(max_attempts=9)))


def test_what_is_no_name_is_refused() -> None:
    for options in ({"host": "two\nlines"}, {"tenant": "a.b"}):
        with pytest.raises(InvalidName):
            simulate(_make(greet, **options))


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": 2.5}, {"max_waiting": -1}])
def test_numbers_out_of_their_range_are_refused(options: dict[str, Any]) -> None:
    assert f"{next(iter(options))}={next(iter(options.values()))!r} cannot be used" in _refused(_make(greet, **options))
