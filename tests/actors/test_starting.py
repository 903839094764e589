"""Starting actors, their names, references to them, and their logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

import pytest
import structlog

from parrot_mq.actors import Actor, ActorState, ActorSystem, Supervision
from parrot_mq.errors import (
    ActorNameTaken,
    ActorNotFound,
    ActorStopped,
    InvalidName,
    ParrotError,
)
from tests.actors.helpers import Crash, Recorder, keep_logs, seen_by, settle, wait_until


async def test_spawn_returns_when_the_actor_is_ready() -> None:
    diary: list[str] = []

    class Slow(Recorder):
        async def on_start(self) -> None:
            await settle()
            diary.append("ready")

    async with ActorSystem("node") as system:
        await system.spawn(Slow, name="slow")
        diary.append("spawned")
    assert diary == ["ready", "spawned"]


async def test_failure_of_on_start_reaches_the_starter_and_frees_the_name() -> None:
    class Unable(Recorder):
        async def on_start(self) -> None:
            raise Crash("cannot start")

    async with ActorSystem("node") as system:
        with pytest.raises(Crash, match="cannot start"):
            await system.spawn(Unable, name="actor")
        await system.spawn(Recorder, name="actor")


async def test_failure_to_start_is_the_starters_and_not_its_supervisors() -> None:
    class Unable(Recorder):
        async def on_start(self) -> None:
            raise Crash("cannot start")

    async with ActorSystem("node", supervision=Supervision(intensity=0)) as system:
        with pytest.raises(Crash):
            await system.spawn(Unable, name="actor")
        await settle()


async def test_failure_of_the_factory_reaches_the_starter() -> None:
    def make() -> Actor:
        raise Crash("no such thing")

    async with ActorSystem("node") as system:
        with pytest.raises(Crash, match="no such thing"):
            await system.spawn(make, name="actor")


async def test_cancelled_spawn_leaves_no_actor() -> None:
    diary: list[str] = []

    class Endless(Recorder):
        async def on_start(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                diary.append("cleaned up")

    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        starter = group.create_task(system.spawn(Endless, name="actor"))
        await settle()
        starter.cancel()
        await wait_until(starter.done)
        assert diary == ["cleaned up"]
        assert system.statistics().actors == ()


async def test_name_is_unique_in_its_system() -> None:
    async with ActorSystem("node") as system:
        await system.spawn(Recorder, name="actor")
        with pytest.raises(ActorNameTaken, match="node/actor"):
            await system.spawn(Recorder, name="actor")


async def test_name_is_one_token_of_a_subject() -> None:
    async with ActorSystem("node") as system:
        with pytest.raises(InvalidName):
            await system.spawn(Recorder, name="two.tokens")
    with pytest.raises(InvalidName):
        ActorSystem("no/slash")


async def test_reference_is_looked_up_by_name() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        assert system.ref("recorder") == recorder
        assert len({system.ref("recorder"), recorder}) == 1
        assert recorder.address == "node/recorder"
        assert repr(recorder) == "ActorRef('node/recorder')"
        with pytest.raises(ActorNotFound):
            system.ref("nobody")


async def test_reference_finds_a_successor_under_the_same_name() -> None:
    async with ActorSystem("node") as system:
        reference = await system.spawn(Recorder, name="actor")
        await reference.stop()
        with pytest.raises(ActorStopped):
            await reference.tell("nobody there")
        with pytest.raises(ActorStopped):
            reference.tell_nowait("nobody there")
        await system.spawn(Recorder, name="actor")
        await reference.tell("hello")
        assert await seen_by(reference) == ["hello"]


async def test_actor_cannot_be_spawned_in_a_closed_system() -> None:
    system = ActorSystem("node")
    with pytest.raises(ActorStopped):
        await system.spawn(Recorder, name="actor")
    async with system:
        pass
    with pytest.raises(ActorStopped):
        await system.spawn(Recorder, name="actor")


async def test_statistics_tell_how_actors_stand() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", mailbox_capacity=8)
        await seen_by(recorder)
        (statistics,) = system.statistics().actors
    assert (statistics.address, statistics.state) == ("node/recorder", ActorState.RUNNING)
    assert (statistics.num_handled, statistics.num_restarts, statistics.mailbox.capacity) == (1, 0, 8)


async def test_log_of_an_actor_names_its_address_and_module(logs: list[MutableMapping[str, Any]]) -> None:
    async def log(recorder: Recorder) -> None:
        recorder.context.log.info("thing_happened")

    async with ActorSystem("node") as system:
        await (await system.spawn(Recorder, name="recorder")).ask(log, timeout_s=1)
    (event,) = [event for event in logs if event["event"] == "thing_happened"]
    assert (event["actor"], event["source"]) == ("node/recorder", Recorder.__module__)


async def test_context_of_whoever_spawns_is_not_the_actors() -> None:
    """An actor lives longer than the request that spawned it; its logs must not carry that request's fields."""

    async def look(_: Recorder) -> dict[str, Any]:
        return structlog.contextvars.get_contextvars()

    with structlog.contextvars.bound_contextvars(request="of the spawner"):
        async with ActorSystem("node") as system:
            recorder = await system.spawn(Recorder, name="recorder")
            assert await recorder.ask(look, timeout_s=1) == {"actor": "node/recorder"}


async def test_messages_are_logged_only_for_debugging(logs: list[MutableMapping[str, Any]]) -> None:
    async with ActorSystem("node") as system:
        await seen_by(await system.spawn(Recorder, name="recorder"))
    assert not [event for event in logs if event["event"] == "message_received"]


async def test_debug_logs_have_one_line_per_message() -> None:
    events: list[MutableMapping[str, Any]] = []

    keep_logs(events, level=logging.DEBUG)
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        await seen_by(recorder)
        with pytest.raises(ParrotError):
            await recorder.ask("refuse", timeout_s=1)
    lines = [event for event in events if event["event"] == "message_received"]
    assert [line["outcome"] for line in lines] == ["handled", "failed"]
    assert {line["actor"] for line in lines} == {"node/recorder"}
