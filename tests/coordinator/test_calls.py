"""Calls of native functions: whatever hosts do, each call ends as it must, and its result is stored once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from parrot_mq.actors import Actor, ActorRef, ActorSystem
from parrot_mq.bus import Bus, Delivery, Headers, MemoryBus, MemoryServer, fetch_text
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.coordinator.calls.caller import CallerActor
from parrot_mq.coordinator.calls.counts import CallCounts, FunctionStatistics
from parrot_mq.coordinator.calls.messages import MAX_OBJECT_BYTES
from parrot_mq.coordinator.protocol import Call, CameBack, Done, Expire, GenerationFailed
from parrot_mq.coordinator.sessions.ready import Known, ReadyCall
from parrot_mq.coordinator.stories.events import Events
from parrot_mq.coordinator.stories.history import History
from parrot_mq.errors import DeadlineExceeded, FunctionFailed, FunctionNotServed, FunctionTimedOut, ParrotError
from parrot_mq.messages import (
    HEADER_PRODUCER,
    HEADER_STATUS,
    STATUS_ERROR,
    STATUS_RUNNING,
    STREAM_VARS,
    BlobRef,
    TaskStory,
    VariableAddress,
    decode_value,
    encode_blob_ref,
    encode_error,
    parse_variable,
)
from parrot_mq.testing import SimulatedClock, run_simulation
from parrot_mq.types import SessionId, TaskId, TenantId, VariableId
from tests.coordinator.native_hosts import Host, Running, Script

CONFIG = CoordinatorConfig(function_grace_s=10.0, max_calls_per_tenant=4)
_T = TypeVar("_T")


# -- a world with a caller and nothing else --------------------------------------------------------------------------


class _Session(Actor):
    """Keeps what it is told; as a session does, it has the caller forget what has failed."""

    def __init__(self, world: _World) -> None:
        self._world = world

    async def receive(self, message: object) -> None:
        world = self._world
        world.told.append((world.now, message))
        if isinstance(message, GenerationFailed):
            world.errors[message.variable] = message.error
            await world.caller.tell(Done((f"default.s.{message.variable}",)))
        world.changed.set()


@dataclass(slots=True)
class _World:
    """A caller, and who stands in for the sessions: what is stored is told to the caller as done.

    Attributes:
        facts: The values that were stored, and by whom, by variable; `num_stored` says how often.
        told: What the sessions were told, and when.
    """

    server: MemoryServer
    bus: Bus
    group: asyncio.TaskGroup
    counts: CallCounts = field(default_factory=CallCounts)
    history: History = field(default_factory=History)
    facts: dict[str, tuple[Known, str]] = field(default_factory=dict)
    num_stored: Counter[str] = field(default_factory=Counter)
    told: list[tuple[float, object]] = field(default_factory=list)
    errors: dict[str, ParrotError] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    caller: ActorRef = field(init=False)
    session: ActorRef = field(init=False)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def host(self, script: Script, *functions: str, name: str = "host", tenant: str = "default") -> Host:
        """Somebody who serves functions, `f` unless they are named."""
        host = Host(self.bus, self.group, script, name=name)
        await host.serve(*(functions or ("f",)), tenant=tenant)
        return host

    async def call(self, variable: str = "v", function: str = "f", *, tenant: str = "default", **settings: Any) -> None:
        """Hand a call over."""
        settings = {
            "arguments": {"q": "?"},
            "outputs": ("out",),
            "deadline": SimulatedClock().now() + 600.0,
            "attempt_timeout_s": 60.0,
            "max_attempts": 3,
            **settings,
        }
        address = VariableAddress(TenantId(tenant), SessionId("s"), VariableId(variable))
        ready = ReadyCall(address=address, task=TaskId("task"), function=function, **settings)
        await self.caller.tell(Call(ready, self.session))

    async def done(self, variable: str = "v") -> None:
        """Say that a call is not wanted any more."""
        await self.caller.tell(Done((f"default.s.{variable}",)))

    async def text(self, variable: str = "v") -> str:
        """The text that a variable gets."""
        await self.until(lambda: variable in self.facts)
        return await fetch_text(self.bus, "default", self.facts[variable][0])

    async def error(self, variable: str = "v") -> ParrotError:
        """The error with which a call is given up."""
        await self.until(lambda: variable in self.errors)
        assert variable not in self.facts
        return self.errors[variable]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that changes facts, or what is told, makes a condition true."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def until_time(self, at: float) -> None:
        """Let time pass until so many seconds after the beginning."""
        await asyncio.sleep(max(0.0, at - self.now))

    def statistics(self, function: str = "f") -> FunctionStatistics:
        return self.counts.statistics()[function]

    def story(self, variable: str = "v") -> TaskStory:
        """What `explain` tells of it."""
        (story,) = [each for each in self.history.story("default", "s").stories if each.variable == variable]
        return story

    async def on_variable(self, delivery: Delivery) -> None:
        address = parse_variable(delivery.subject)
        value = decode_value(delivery.payload, delivery.headers)
        assert isinstance(value, str | BlobRef)
        producer = delivery.headers.get(HEADER_PRODUCER, "")
        self.facts[address.variable] = (value, producer)
        self.num_stored[address.variable] += 1
        self.history.store(*address, SimulatedClock().now(), producer=producer)
        await self.caller.tell(Done((".".join(address),), producer))
        self.changed.set()


@asynccontextmanager
async def _running_world(config: CoordinatorConfig, seed: int, **settings: Any) -> AsyncIterator[_World]:
    clock = SimulatedClock()
    server = MemoryServer(clock=clock, seed=seed, **settings)
    server.ensure_streams()
    async with MemoryBus(server) as bus, MemoryBus(server) as own, asyncio.TaskGroup() as group:
        world = _World(server, bus, group)
        async with ActorSystem("test", bus=own, clock=clock) as system:
            events = Events(own, clock, world.history)
            rng = random.Random(seed)
            world.caller = await system.spawn(
                lambda: CallerActor(own, config=config, events=events, counts=world.counts, rng=rng), name="caller"
            )
            world.session = await system.spawn(lambda: _Session(world), name="session")
            await bus.follow(STREAM_VARS, world.on_variable, after_sequence=0)
            yield world


def _simulate(
    main: Callable[[_World], Awaitable[_T]], *, config: CoordinatorConfig = CONFIG, seed: int = 0, **settings: Any
) -> _T:
    """Run a test in virtual time."""

    async def run() -> _T:
        async with _running_world(config, seed, **settings) as world:
            return await main(world)

    return run_simulation(run, seed=seed)


async def _echo(run: Running) -> None:
    await run.answer(f"<{run.call.arguments['q']}>")


async def _keep_silent(run: Running) -> None:
    """What somebody does who forgets to answer."""


# -- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_stored_once_with_the_name_of_its_host() -> None:
    async def main(world: _World) -> None:
        async def answer_twice(run: Running) -> None:
            await run.beat()
            await asyncio.sleep(0.5)
            await run.answer("first")
            await run.answer("second")

        host = await world.host(answer_twice)
        began_at = SimulatedClock().now()
        await world.call(arguments={"q": "hello", "large": BlobRef(digest="0" * 64, size_bytes=9)})
        assert await world.text() == "first"
        (run,) = host.runs
        assert run.delivery.subject == "pmq.default.call.s.f"
        assert run.call.call == "default.s.v"
        assert run.call.function == "f"
        assert run.call.arguments == {"q": "hello", "large": BlobRef(digest="0" * 64, size_bytes=9)}
        assert run.call.outputs == ["out"]
        assert run.call.attempt == 1
        assert run.call.deadline == pytest.approx(began_at + 60, abs=0.01)
        assert world.facts["v"] == ("first", "host")
        await asyncio.sleep(100)
        assert world.num_stored["v"] == 1
        assert world.told == []
        assert not run.stopped.is_set()

    _simulate(main)


def test_a_plain_client_that_sends_no_beats_may_take_its_time_and_name_itself() -> None:
    async def main(world: _World) -> None:
        async def answer_late(run: Running) -> None:
            await asyncio.sleep(59)
            await run.answer("ä", {HEADER_PRODUCER: "plain"})

        await world.host(answer_late)
        await world.call()
        assert await world.text() == "ä"
        assert world.facts["v"][1] == "plain"

    _simulate(main)


def test_a_host_that_refuses_may_name_itself_too() -> None:
    async def main(world: _World) -> None:
        async def refuse(run: Running) -> None:
            payload, headers = encode_error(FunctionFailed(function="f", problem="no"))
            await run.answer(payload, {**headers, HEADER_PRODUCER: "gpu-7"})

        await world.host(refuse)
        await world.call()
        await world.error()
        assert [each.worker for each in world.story().lost] == ["gpu-7"]

    _simulate(main)


def test_an_empty_answer_is_an_answer() -> None:
    async def main(world: _World) -> None:
        async def answer_nothing(run: Running) -> None:
            await run.answer("")

        await world.host(answer_nothing)
        await world.call()
        assert await world.text() == ""

    _simulate(main)


def test_large_arguments_and_answers_travel_as_claim_checks() -> None:
    async def main(world: _World) -> None:
        async def join(run: Running) -> None:
            texts = [await fetch_text(world.bus, "default", each) for each in run.call.arguments.values()]
            data = "".join(texts).encode()
            digest = await world.bus.put_blob("default", data)
            payload, headers = encode_blob_ref(BlobRef(digest=digest, size_bytes=len(data)))
            await run.answer(payload, headers)

        host = await world.host(join)
        arguments = {"a": "a" * 200_000, "b": "b" * 100_000, "c": "c" * 100_000, "d": "\x00" * 60_000}
        await world.call(arguments=arguments)
        assert await world.text() == "".join(arguments.values())
        assert isinstance(world.facts["v"][0], BlobRef)
        kinds = {name: type(value) for name, value in host.runs[0].call.arguments.items()}
        assert kinds == {"a": BlobRef, "b": str, "c": str, "d": BlobRef}, "the largest, as JSON"

    _simulate(main)


def test_a_large_text_as_it_is_becomes_a_claim_check() -> None:
    async def main(world: _World) -> None:
        async def answer_much(run: Running) -> None:
            await run.answer("x" * 600_000)

        await world.host(answer_much)
        await world.call()
        assert await world.text() == "x" * 600_000
        assert isinstance(world.facts["v"][0], BlobRef)

    _simulate(main)


def test_small_messages_of_a_server_are_enough() -> None:
    async def main(world: _World) -> None:
        await world.host(_echo)
        await world.call(arguments={"q": "x", "large": "y" * 9_000})
        assert await world.text() == "<x>"
        await world.call("w", arguments={f"a{number}": "" for number in range(2_000)})
        assert (await world.error("w")).message.endswith("the limit is 15360; pass fewer")

    _simulate(main, max_payload=16 * 1024)


def test_several_outputs_are_stored_as_one_object_that_has_them_all() -> None:
    async def main(world: _World) -> None:
        async def answer(run: Running) -> None:
            await run.answer('{"title": "T", "body": "B", "more": 1}')

        await world.host(answer)
        await world.call(outputs=("title", "body"))
        assert await world.text() == '{"title": "T", "body": "B", "more": 1}'

    _simulate(main)


UNUSABLE = {
    "no UTF-8: byte 0xff at offset 1": (b"a\xff", {}, ("out",)),
    "is no JSON (JSON is malformed": (b"hello", {}, ("a", "b")),
    "is no JSON object; expected a JSON object with a, b": (b'["a", "b"]', {}, ("a", "b")),
    "lacks b, it has a, c": (b'{"a": "", "c": ""}', {}, ("a", "b")),
    "lacks a, b, it has nothing": (b"{}", {}, ("a", "b")),
    "answer cannot be read: malformed error message": (b"{}", {HEADER_STATUS: STATUS_ERROR}, ("out",)),
    "answer cannot be read: malformed blob message": (b"{}", {"Pmq-Blob": "0" * 64}, ("out",)),
    "beat cannot be read: malformed native.running": (b"{}", {HEADER_STATUS: STATUS_RUNNING}, ("out",)),
    "answer has 16777217 bytes, with several outputs the limit is 16777216": (
        *encode_blob_ref(BlobRef(digest="0" * 64, size_bytes=MAX_OBJECT_BYTES + 1)),
        ("a", "b"),
    ),
    f"the large value {'0' * 64} is not in the store": (
        *encode_blob_ref(BlobRef(digest="0" * 64, size_bytes=5)),
        ("a", "b"),
    ),
}


@pytest.mark.parametrize("problem", UNUSABLE)
def test_an_answer_that_cannot_be_used_says_why_and_is_not_asked_for_again(problem: str) -> None:
    payload, headers, outputs = UNUSABLE[problem]

    async def main(world: _World) -> None:
        async def answer(run: Running) -> None:
            await run.answer(payload, headers)

        host = await world.host(answer)
        await world.call(outputs=outputs)
        assert problem in (await world.error()).message
        assert len(host.runs) == 1

    _simulate(main)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_an_error_that_every_attempt_would_meet_is_told_as_it_is() -> None:
    async def main(world: _World) -> None:
        async def fail(run: Running) -> None:
            await run.fail("ValueError: no number", retryable=False)

        host = await world.host(fail)
        await world.call()
        error = await world.error()
        assert isinstance(error, FunctionFailed)
        assert (error.function, error.problem) == ("f", "ValueError: no number")
        assert len(host.runs) == 1
        assert world.statistics().num_ended == {"failed": 1}

    _simulate(main)


def test_a_retryable_error_is_tried_again_with_growing_delays_until_it_is_given_up() -> None:
    async def main(world: _World) -> None:
        async def fail(run: Running) -> None:
            await run.fail("ConnectionError", retryable=True)

        host = await world.host(fail)
        await world.call(max_attempts=5)
        assert (await world.error()).message.endswith("ConnectionError; given up after 5 attempts")
        assert [run.call.attempt for run in host.runs] == [1, 2, 3, 4, 5]
        delays = [later.at - sooner.at for sooner, later in pairwise(host.runs)]
        for delay, longest in zip(delays, [0.2, 0.4, 0.8, 1.6], strict=True):
            assert longest / 2 <= delay <= longest + 0.01

    _simulate(main)


def test_an_attempt_that_succeeds_makes_good_for_those_before() -> None:
    async def main(world: _World) -> None:
        async def fail_twice(run: Running) -> None:
            await (run.fail("later", retryable=True) if run.call.attempt < 3 else run.answer("at last"))

        await world.host(fail_twice)
        await world.call()
        assert await world.text() == "at last"
        assert world.told == []
        found = world.statistics()
        assert (found.num_lost, found.num_ended, found.num_running) == (2, {"returned": 1}, 0)

    _simulate(main)


def test_a_host_without_room_is_asked_again_soon_and_that_is_no_attempt() -> None:
    async def main(world: _World) -> None:
        async def answer_from_30_on(run: Running) -> None:
            await (run.answer("done") if world.now >= 30 else run.refuse())

        host = await world.host(answer_from_30_on)
        await world.call(max_attempts=1)
        assert await world.text() == "done"
        assert world.now <= 31.1
        assert {run.call.attempt for run in host.runs} == {1}
        assert max(later.at - sooner.at for sooner, later in pairwise(host.runs)) <= 1.01
        assert len(host.runs) < 80
        assert world.statistics().num_busy == len(host.runs) - 1

    _simulate(main)


def test_as_soon_as_a_call_ends_one_that_found_no_room_is_made_again() -> None:
    async def main(world: _World) -> None:
        num_running = 0

        async def do_two_at_a_time(run: Running) -> None:
            nonlocal num_running
            if num_running == 2:
                await run.refuse()
                return
            num_running += 1
            await asyncio.sleep(3)
            num_running -= 1
            await _echo(run)

        await world.host(do_two_at_a_time)
        for number in range(10):
            await world.call(f"v{number}")
        await world.until(lambda: len(world.facts) == 10)
        assert world.now == pytest.approx(15, abs=0.1), "two at a time, one after the other"

    _simulate(main, config=CoordinatorConfig())


# -- hosts that are lost ---------------------------------------------------------------------------------------------


def test_a_host_that_falls_silent_is_lost_after_three_beats_and_another_one_is_called() -> None:
    async def main(world: _World) -> None:
        async def fall_silent(run: Running) -> None:
            await run.beat_for(9.5, 2.0)  # the last one at 8 s

        silent = await world.host(fall_silent, name="silent")
        await world.call()
        await world.until_time(10)
        await world.host(_echo, name="other")
        for subscription in silent._subscriptions[1:]:
            await subscription.aclose()
        assert await world.text() == "<?>"
        assert 14 <= world.now <= 14.3
        assert world.facts["v"][1] == ""
        assert silent.runs[0].stopped.is_set(), "if it runs on after all, it need not"
        assert world.statistics().num_lost == 1

    _simulate(main)


def test_beats_keep_a_call_alive_only_as_long_as_one_attempt_may_take() -> None:
    async def main(world: _World) -> None:
        async def beat_for_ever(run: Running) -> None:
            await run.beat_for(1_000)

        host = await world.host(beat_for_ever)
        await world.call(attempt_timeout_s=20, max_attempts=2)
        error = await world.error()
        assert isinstance(error, FunctionTimedOut)
        assert error.message == ("native function 'f' gave no answer: none came within 20 s; given up after 2 attempts")
        assert 40 <= world.now <= 40.3
        assert [run.stopped.is_set() for run in host.runs] == [True, True]

    _simulate(main)


def test_without_beats_only_the_time_of_an_attempt_counts() -> None:
    async def main(world: _World) -> None:
        host = await world.host(_keep_silent)
        await world.call(max_attempts=1)
        assert (await world.error()).message == "native function 'f' gave no answer: none came within 60 s"
        assert 60 <= world.now <= 60.1
        assert len(host.runs) == 1

    _simulate(main)


def test_an_answer_that_comes_after_its_attempt_was_given_up_changes_nothing() -> None:
    async def main(world: _World) -> None:
        async def answer_late(run: Running) -> None:
            await asyncio.sleep(15 if run.call.attempt == 1 else 8)
            await run.answer(f"attempt {run.call.attempt}")

        await world.host(answer_late)
        await world.call(attempt_timeout_s=10)
        assert await world.text() == "attempt 2"
        await asyncio.sleep(60)
        assert world.num_stored["v"] == 1

    _simulate(main)


def test_the_name_of_a_lost_host_is_told() -> None:
    async def main(world: _World) -> None:
        async def beat_once(run: Running) -> None:
            await run.beat(0.001)

        await world.host(beat_once, name="gpu-7")
        await world.call(max_attempts=1)
        problem = "its host 'gpu-7' was lost, nothing was heard of it for 0.1 s"
        assert (await world.error()).message == f"native function 'f' gave no answer: {problem}"

    _simulate(main)


# -- nobody there ----------------------------------------------------------------------------------------------------


def test_a_function_that_nobody_serves_is_waited_for_and_then_named() -> None:
    async def main(world: _World) -> None:
        await world.call()
        error = await world.error()
        assert isinstance(error, FunctionNotServed)
        assert "pmq.default.call.*.f" in error.message
        assert world.now == pytest.approx(10, abs=0.05)
        assert world.statistics().num_ended == {"not_served": 1}

    _simulate(main)


def test_a_host_that_comes_in_time_gets_the_call() -> None:
    async def main(world: _World) -> None:
        await world.call(max_attempts=1)
        await world.until_time(9)
        await world.host(_echo)
        assert await world.text() == "<?>"
        assert world.now <= 10.1

    _simulate(main)


def test_all_that_wait_for_a_function_that_nobody_serves_fail_together() -> None:
    async def main(world: _World) -> None:
        for number in range(50):  # and only four of them are tried at a time
            await world.call(f"v{number}")
        await world.until(lambda: len(world.errors) == 50)
        assert world.now <= 10.1
        await world.call("later")
        await world.error("later")
        assert 20 <= world.now <= 20.2, "one that comes later is waited for as long"

    _simulate(main)


def test_time_in_which_the_server_is_away_is_not_held_against_a_function() -> None:
    async def main(world: _World) -> None:
        await world.call(max_attempts=1)
        await world.until_time(2)
        world.server.go_down()
        await world.until_time(30)
        world.server.come_up()
        await world.until_time(37)
        await world.host(_echo)
        assert await world.text() == "<?>"

    _simulate(main)


def test_an_attempt_that_is_cut_off_is_made_again_and_does_not_count() -> None:
    async def main(world: _World) -> None:
        async def answer_from_20_on(run: Running) -> None:
            if world.now >= 20:
                await _echo(run)

        host = await world.host(answer_from_20_on)
        await world.call(max_attempts=1)
        await world.until_time(5)
        world.server.go_down()
        await world.until_time(20)
        world.server.come_up()
        assert await world.text() == "<?>"
        assert [run.call.attempt for run in host.runs] == [1, 1]

    _simulate(main)


def test_an_answer_waits_for_a_server_that_is_away() -> None:
    async def main(world: _World) -> None:
        async def answer_and_cut(run: Running) -> None:
            await _echo(run)
            asyncio.get_running_loop().call_soon(world.server.go_down)

        host = await world.host(answer_and_cut)
        await world.call(max_attempts=1)
        await world.until_time(60)
        world.server.come_up()
        await world.until_time(100)
        assert world.num_stored["v"] == 1
        assert len(host.runs) == 1

    _simulate(main)


# -- calls that are not wanted ---------------------------------------------------------------------------------------


def test_a_call_that_is_not_wanted_any_more_is_stopped_at_its_host() -> None:
    async def main(world: _World) -> None:
        async def run_long(run: Running) -> None:
            await run.beat_for(1_000)
            await run.answer("too late")

        host = await world.host(run_long)
        await world.call()
        await world.until_time(5)
        await world.done()
        await asyncio.wait_for(host.runs[0].stopped.wait(), 1)
        await asyncio.sleep(100)
        assert (world.facts, world.told) == ({}, [])
        assert world.statistics().num_ended == {"cancelled": 1}

    _simulate(main)


def test_what_waits_and_is_not_wanted_is_never_called() -> None:
    async def main(world: _World) -> None:
        host = await world.host(_keep_silent)
        for number in range(6):
            await world.call(f"v{number}")
        await world.until_time(1)
        for number in (5, 1):
            await world.done(f"v{number}")
        await world.until_time(2)
        assert {run.call.call[-2:] for run in host.runs} == {"v0", "v1", "v2", "v3", "v4"}
        found = world.statistics()
        assert (found.num_waiting, found.num_running, found.num_ended) == (0, 4, {"cancelled": 2})

    _simulate(main)


@pytest.mark.parametrize("reply", ["", "pmq.victim.control.s.close", "$JS.API.STREAM.DELETE.PMQ_VARS", "a b"])
def test_a_host_cannot_have_anything_sent_elsewhere_than_to_an_inbox(reply: str) -> None:
    async def main(world: _World) -> None:
        seen: list[str] = []

        async def on_any(delivery: Delivery) -> None:
            seen.append(delivery.subject)

        async def name_another_subject(run: Running) -> None:
            await run.host.bus.publish(run.delivery.reply, b'{"host": "h"}', headers={HEADER_STATUS: STATUS_RUNNING})
            world.server.publish(
                Delivery(run.delivery.reply, b'{"host": "h"}', Headers({HEADER_STATUS: STATUS_RUNNING}), reply)
            )

        await world.host(name_another_subject)
        for subject in ("pmq.victim.>", "$JS.>"):
            await world.bus.subscribe(subject, on_any)
        await world.call()
        await world.until_time(1)
        await world.done()
        await world.until_time(2)
        assert seen == []

    _simulate(main)


def test_a_call_that_is_handed_over_twice_is_made_once() -> None:
    async def main(world: _World) -> None:
        async def answer_later(run: Running) -> None:
            await asyncio.sleep(5)
            await _echo(run)

        host = await world.host(answer_later)
        for at in (0, 1, 3):
            await world.until_time(at)
            await world.call()
        assert await world.text() == "<?>"
        assert len(host.runs) == 1

    _simulate(main)


def test_a_variable_that_somebody_else_has_set_keeps_its_value() -> None:
    async def main(world: _World) -> None:
        async def set_it_first(run: Running) -> None:
            await world.bus.publish_once("pmq.default.var.s.v", b"from elsewhere")
            await _echo(run)

        await world.host(set_it_first)
        await world.call()
        assert await world.text() == "from elsewhere"
        await world.until_time(1)
        assert world.told == []
        assert world.statistics().num_running == 0

    _simulate(main)


# -- time ------------------------------------------------------------------------------------------------------------


def test_nothing_is_called_after_the_deadline_and_hosts_know_it() -> None:
    async def main(world: _World) -> None:
        deadline = SimulatedClock().now() + 15

        async def beat_for_ever(run: Running) -> None:
            await run.beat_for(1_000)

        host = await world.host(beat_for_ever)
        await world.call(attempt_timeout_s=10, deadline=deadline)
        error = await world.error()
        assert isinstance(error, DeadlineExceeded)
        assert "the call of 'f'" in error.message
        assert [run.call.deadline - deadline for run in host.runs] == pytest.approx([-5, 0], abs=0.01)
        assert world.now == pytest.approx(16, abs=0.01), "the session has a moment to say so itself"
        assert all(run.stopped.is_set() for run in host.runs)

    _simulate(main)


def _expiry(variable: str = "v") -> Expire:
    error = DeadlineExceeded(what=f"variable {variable!r}", timeout_s=1.0)
    return Expire(f"default.s.{variable}", GenerationFailed(VariableId(variable), error))


def test_what_expires_while_it_waits_is_given_up() -> None:
    async def main(world: _World) -> None:
        await world.host(_keep_silent)
        for number in range(5):
            await world.call(f"v{number}")
        await world.call("w", "unserved")
        await world.until_time(1)
        for variable in ("v4", "w", "unknown"):
            await world.caller.tell(_expiry(variable))
        await world.until_time(2)
        assert set(world.errors) == {"v4", "w"}

    _simulate(main)


def test_what_expires_at_a_host_goes_on_and_if_it_comes_back_its_session_is_asked() -> None:
    async def main(world: _World) -> None:
        async def fail_late(run: Running) -> None:
            await asyncio.sleep(5)
            await (run.fail("later", retryable=True) if run.call.call.endswith("v") else _echo(run))

        await world.host(fail_late)
        await world.call("v")
        await world.call("w")
        await world.until_time(1)
        await world.caller.tell(_expiry("v"))
        await world.caller.tell(_expiry("w"))
        await world.until_time(6)
        assert world.told == [(5.0, CameBack(VariableId("v")))]
        assert await world.text("w") == "<?>"

    _simulate(main)


# -- who is next -----------------------------------------------------------------------------------------------------


def test_a_tenant_with_many_slow_calls_holds_up_no_other() -> None:
    async def main(world: _World) -> None:
        num_running = Counter[str]()
        most = Counter[str]()

        async def be_slow(run: Running) -> None:
            tenant = run.call.call.partition(".")[0]
            num_running[tenant] += 1
            most[tenant] = max(most[tenant], num_running[tenant])
            await asyncio.sleep(10)
            num_running[tenant] -= 1
            await _echo(run)

        for tenant in ("default", "other"):
            await world.host(be_slow, tenant=tenant, name=f"host-{tenant}")
        for number in range(100):
            await world.call(f"v{number}")
        await world.call("w", tenant="other")
        assert await world.text("w") == "<?>"
        assert world.now <= 10.1
        await world.until(lambda: len(world.facts) == 101)
        assert most == {"default": 4, "other": 1}
        assert world.now == pytest.approx(250, abs=1)

    _simulate(main)


def test_a_function_that_waits_for_another_one_does_not_wait_for_its_place() -> None:
    async def main(world: _World) -> None:
        async def ask_another(run: Running) -> None:
            name = f"inner-{run.call.call.rpartition('.')[2]}"
            await world.call(name, "inner")
            await run.answer(await world.text(name))

        await world.host(ask_another, "outer", name="outer")
        await world.host(_echo, "inner", name="inner")
        for number in range(20):
            await world.call(f"v{number}", "outer", attempt_timeout_s=500)
        await world.until(lambda: len(world.facts) == 40)
        assert world.now < 1

    _simulate(main)


# -- failures of the actor itself ------------------------------------------------------------------------------------


def test_a_caller_that_stops_stops_the_hosts() -> None:
    async def main(world: _World) -> None:
        async def run_long(run: Running) -> None:
            await run.beat_for(1_000)

        host = await world.host(run_long)
        await world.call()
        await world.until_time(3)
        await world.caller.stop()
        await asyncio.wait_for(host.runs[0].stopped.wait(), 1)

    _simulate(main)


# -- what is told ----------------------------------------------------------------------------------------------------


def test_the_story_of_a_call_says_where_it_ran_and_why_attempts_were_lost() -> None:
    async def main(world: _World) -> None:
        async def struggle(run: Running) -> None:
            match len(run.host.runs):
                case 1:
                    await run.beat(0.5)
                case 2:
                    await run.fail("ConnectionError: refused", retryable=True)
                case 3 | 4:
                    await run.refuse()
                case _:
                    await run.beat()
                    await asyncio.sleep(2)
                    await _echo(run)

        await world.host(struggle, name="host-1")
        await world.call()
        assert await world.text() == "<?>"
        story = world.story()
        assert (story.state, story.worker, story.attempts) == ("finished", "host-1", 3)
        assert [(each.worker, each.reason) for each in story.lost] == [
            (
                "host-1",
                "native function 'f' gave no answer: its host 'host-1' was lost, nothing was heard of it for 1.5 s",
            ),
            ("", "native function 'f' failed: ConnectionError: refused"),
            ("", "host 'host-1' has no room"),
        ]
        assert story.reason == "it was tried again: host 'host-1' has no room"
        assert 0 < story.assigned_at <= story.started_at < story.finished_at

    _simulate(main)


def test_while_a_call_runs_its_story_names_the_host_that_says_so() -> None:
    async def main(world: _World) -> None:
        async def wait_and_beat(run: Running) -> None:
            await asyncio.sleep(5)
            await run.beat_for(1_000)

        await world.call()
        await world.until_time(1)
        assert world.story().state == "ready"
        assert world.story().lost[0].reason == "nobody answers on 'pmq.default.call.s.f'"
        await world.host(wait_and_beat, name="host-1")
        await world.until_time(4)
        assert (world.story().state, world.story().worker) == ("ready", "")
        await world.until_time(8)
        assert (world.story().state, world.story().worker) == ("running", "host-1")

    _simulate(main)


def test_the_same_seed_gives_the_same_calls() -> None:
    def trace(seed: int) -> list[tuple[float, str, int]]:
        async def main(world: _World) -> list[tuple[float, str, int]]:
            rng = random.Random(1)
            scripts: list[Script] = [_echo, _keep_silent, Running.refuse, Running.beat]

            async def do_anything(run: Running) -> None:
                await asyncio.sleep(rng.uniform(0, 3))
                await rng.choice(scripts)(run)

            hosts = [await world.host(do_anything, name=f"h{number}") for number in range(3)]
            for number in range(20):
                await world.call(f"v{number}", attempt_timeout_s=5)
            await world.until(lambda: len(world.facts) + len(world.errors) == 20)
            return [(run.at, run.call.call, run.call.attempt) for host in hosts for run in host.runs]

        return _simulate(main, seed=seed)

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)
