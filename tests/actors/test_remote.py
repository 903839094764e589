"""Actors across processes: the same behaviour over the bus in memory and over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from parrot_mq.actors import ActorSystem, RestartPolicy
from parrot_mq.bus import Delivery
from parrot_mq.errors import (
    ActorFailed,
    ActorNotFound,
    ActorStopped,
    AskTimeout,
    ContextLengthExceeded,
)
from parrot_mq.types import fresh_id
from tests.actors.helpers import ask_for_error, wait_until
from tests.actors.processes import OpenBus, remote_parrot, spawn_parrot, two_systems
from tests.actors.protocol import Do, Parrot, Recall, Said, Say


async def test_ask_is_answered_by_another_process(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert await remote_parrot(other, node).ask(Say(text="hello"), timeout_s=5) == Said(texts=["hello"])


async def test_actors_of_two_processes_reach_each_other(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        await spawn_parrot(other)
        assert await remote_parrot(other, node).ask(Say(text="there"), timeout_s=5) == Said(texts=["there"])
        assert await remote_parrot(system, f"{node}-b").ask(Say(text="back"), timeout_s=5) == Said(texts=["back"])


async def test_tells_arrive_in_the_order_in_which_they_were_sent(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system, mailbox_capacity=4)
        remote = remote_parrot(other, node)
        for number in range(50):
            await remote.tell(Say(text=str(number)))
        answer = await remote.ask(Recall(), timeout_s=5)
        assert answer.texts == [str(number) for number in range(50)]


async def test_answer_of_none_arrives_as_none(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert await remote_parrot(other, node).ask(Do(what="nothing"), timeout_s=5) is None


async def test_error_of_the_actor_arrives_as_the_same_class(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        with pytest.raises(ContextLengthExceeded, match="the model takes 10 in all") as raised:
            await remote_parrot(other, node).ask(Do(what="refuse"), timeout_s=5)
        assert raised.value.facts["limit"] == 10


async def test_failure_of_the_actor_reaches_the_asker_and_the_actor_is_restarted(
    open_a_bus: OpenBus, node: str
) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        remote = remote_parrot(other, node)
        with pytest.raises(ActorFailed, match="OSError: no space"):
            await remote.ask(Do(what="crash"), timeout_s=5)
        assert await remote.ask(Recall(), timeout_s=5) == Said(texts=[])


async def test_ask_to_nobody_is_known_at_once(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (_, other):
        with pytest.raises(ActorNotFound, match=f"{node}/parrot"):
            await remote_parrot(other, node).ask(Recall(), timeout_s=5)


async def test_actor_that_stopped_is_not_found(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        parrot = await spawn_parrot(system)
        await parrot.stop()
        await _flush(system)
        with pytest.raises(ActorNotFound):
            await remote_parrot(other, node).ask(Recall(), timeout_s=5)


async def test_actor_without_accepts_is_not_on_the_bus(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await system.spawn(Parrot, name="parrot")
        with pytest.raises(ActorNotFound):
            await remote_parrot(other, node).ask(Recall(), timeout_s=5)


async def test_remote_ask_times_out(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        parrot = Parrot()
        await spawn_parrot(system, parrot)
        with pytest.raises(AskTimeout, match=f"{node}/parrot"):
            await remote_parrot(other, node).ask(Do(what="wait"), timeout_s=0.05)
        parrot.gate.set()


async def test_remote_asks_still_queued_at_stop_are_answered(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other), asyncio.TaskGroup() as group:
        parrot = Parrot()
        ref = await spawn_parrot(system, parrot, mailbox_capacity=1)
        remote = remote_parrot(other, node)
        await remote.tell(Do(what="wait"))
        askers = [group.create_task(ask_for_error(remote, Recall())) for _ in range(2)]  # one waits for room
        await _wait_mailbox(system, depth=1, num_waiting=1)
        stopping = group.create_task(ref.stop())
        for asker in askers:
            assert isinstance(await asker, ActorStopped)
        parrot.gate.set()
        await stopping


async def test_actor_that_works_on_an_ask_holds_up_nobody_else(open_a_bus: OpenBus, node: str) -> None:
    """The subscription goes on while the actor works: what comes next is in the mailbox."""
    async with two_systems(open_a_bus, node) as (system, other), asyncio.TaskGroup() as group:
        parrot = Parrot()
        await spawn_parrot(system, parrot)
        remote = remote_parrot(other, node)
        waiting = group.create_task(remote.ask(Do(what="wait"), timeout_s=5))
        asker = group.create_task(remote.ask(Recall(), timeout_s=5))
        await _wait_mailbox(system, depth=1)
        parrot.gate.set()
        assert await waiting is None
        assert await asker == Said(texts=[])


async def test_messages_are_held_up_by_a_full_mailbox_and_not_lost(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        parrot = Parrot()
        await spawn_parrot(system, parrot, mailbox_capacity=1)
        remote = remote_parrot(other, node)
        await remote.tell(Do(what="wait"))
        for number in range(20):
            await remote.tell(Say(text=str(number)))
        await _wait_mailbox(system, depth=1, num_waiting=1)
        parrot.gate.set()
        assert len((await remote.ask(Recall(), timeout_s=5)).texts) == 20


async def test_messages_sent_during_a_restart_wait_for_it(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        remote = remote_parrot(other, node)
        await remote.tell(Do(what="crash"))
        await remote.tell(Say(text="after"))
        assert await remote.ask(Recall(), timeout_s=5) == Said(texts=["after"])


async def test_loss_of_the_subscription_is_logged(
    open_a_bus: OpenBus, node: str, logs: list[MutableMapping[str, Any]]
) -> None:
    """Nothing else would tell why an actor that runs is reached by nobody."""
    async with two_systems(open_a_bus, node) as (system, _):
        parrot = await spawn_parrot(system)
        assert system.bus is not None
        await system.bus.aclose()
        await parrot.ask(Recall(), timeout_s=5)
    assert [event["actor"] for event in logs if event["event"] == "actor_unreachable"] == [f"{node}/parrot"]


async def test_actor_may_stop_itself_while_it_answers(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system, restart=RestartPolicy.TRANSIENT)
        assert await remote_parrot(other, node).ask(Do(what="stop"), timeout_s=5) is None


async def test_name_can_be_used_again_after_a_stop(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        remote = remote_parrot(other, node)
        for text in ("first", "second"):
            parrot = await spawn_parrot(system)
            await remote.ask(Say(text=text), timeout_s=5)
            assert await remote.ask(Recall(), timeout_s=5) == Said(texts=[text])
            await parrot.stop()
            await _flush(system)


async def _flush(system: ActorSystem) -> None:
    """Return when the server has handled what this system sent: a connection is served in order."""
    assert system.bus is not None
    await (await system.bus.subscribe(fresh_id("flush"), _ignore)).aclose()


async def _ignore(_: Delivery) -> None:
    pass


async def _wait_mailbox(system: ActorSystem, *, depth: int, num_waiting: int = 0) -> None:
    def is_reached() -> bool:
        mailbox = system.statistics().actors[0].mailbox
        return (mailbox.depth, mailbox.num_waiting) == (depth, num_waiting)

    await wait_until(is_reached)
