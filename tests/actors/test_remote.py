"""Actors across processes: the same behaviour over the bus in memory and over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from parrot_mq.actors import ActorRef, ActorSystem, RemoteRef, RestartPolicy, Supervision
from parrot_mq.bus import Bus, BusConfig, MemoryBus, MemoryServer, open_bus
from parrot_mq.errors import (
    ActorFailed,
    ActorNotFound,
    ActorStopped,
    AskTimeout,
    BlobMissing,
    ConfigurationError,
    ContextLengthExceeded,
    InvalidName,
    MalformedMessage,
    UnknownMessageType,
)
from parrot_mq.messages import (
    HEADER_STATUS,
    STATUS_ERROR,
    BlobRef,
    ErrorInfo,
    actor_subject,
    decode,
    encode_blob_ref,
    encode_json,
)
from parrot_mq.types import fresh_id
from tests.actors.helpers import settle, wait_until
from tests.actors.protocol import Do, Parrot, Recall, Request, Said, Say

OpenBus = Callable[[], AbstractAsyncContextManager[Bus]]


@pytest.fixture(params=["memory", "nats"])
def open_a_bus(request: pytest.FixtureRequest) -> OpenBus:
    """Opens connections to one world, in memory or on the real server."""
    if request.param == "memory":
        server = MemoryServer()
        server.ensure_streams()
        return lambda: MemoryBus(server)
    config = BusConfig(servers=(request.getfixturevalue("nats_url"),))
    return lambda: open_bus(config)


@pytest.fixture
def node() -> str:
    """A name that no other test on the same server has."""
    return fresh_id("node")


@asynccontextmanager
async def _two_systems(open_a_bus: OpenBus, node: str) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
    """Systems of two processes, `node` and `node`-b, each with a connection of its own."""
    supervision = Supervision(backoff_s=0)
    async with (
        open_a_bus() as bus,
        open_a_bus() as other_bus,
        ActorSystem(node, bus=bus, supervision=supervision) as system,
        ActorSystem(f"{node}-b", bus=other_bus) as other,
    ):
        yield system, other


async def _spawn_parrot(system: ActorSystem, parrot: Parrot | None = None, **options: Any) -> ActorRef:
    return await system.spawn(lambda: parrot or Parrot(), name="parrot", accepts=Request, **options)


def _remote(system: ActorSystem, node: str) -> RemoteRef:
    return system.remote(f"{node}/parrot", answers=Said)


async def test_ask_is_answered_by_another_process(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert await _remote(other, node).ask(Say(text="hello"), timeout_s=5) == Said(texts=["hello"])


async def test_actors_of_two_processes_reach_each_other(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        await _spawn_parrot(other)
        assert await _remote(other, node).ask(Say(text="there"), timeout_s=5) == Said(texts=["there"])
        assert await _remote(system, f"{node}-b").ask(Say(text="back"), timeout_s=5) == Said(texts=["back"])


async def test_tells_arrive_in_the_order_in_which_they_were_sent(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system, mailbox_capacity=4)
        remote = _remote(other, node)
        for number in range(50):
            await remote.tell(Say(text=str(number)))
        answer = await remote.ask(Recall(), timeout_s=5)
        assert answer.texts == [str(number) for number in range(50)]


async def test_answer_of_none_arrives_as_none(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert await _remote(other, node).ask(Do(what="nothing"), timeout_s=5) is None


async def test_error_of_the_actor_arrives_as_the_same_class(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        with pytest.raises(ContextLengthExceeded, match="the model takes 10 in all") as raised:
            await _remote(other, node).ask(Do(what="refuse"), timeout_s=5)
        assert raised.value.facts["limit"] == 10


async def test_failure_of_the_actor_reaches_the_asker_and_the_actor_is_restarted(
    open_a_bus: OpenBus, node: str
) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        remote = _remote(other, node)
        with pytest.raises(ActorFailed, match="OSError: no space"):
            await remote.ask(Do(what="crash"), timeout_s=5)
        assert await remote.ask(Recall(), timeout_s=5) == Said(texts=[])


async def test_ask_to_nobody_is_known_at_once(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (_, other):
        with pytest.raises(ActorNotFound, match=f"{node}/parrot"):
            await _remote(other, node).ask(Recall(), timeout_s=5)


async def test_actor_that_stopped_is_not_found(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        parrot = await _spawn_parrot(system)
        await parrot.stop()
        await settle()
        with pytest.raises(ActorNotFound):
            await _remote(other, node).ask(Recall(), timeout_s=5)


async def test_actor_without_accepts_is_not_on_the_bus(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await system.spawn(Parrot, name="parrot")
        with pytest.raises(ActorNotFound):
            await _remote(other, node).ask(Recall(), timeout_s=5)


async def test_remote_ask_times_out(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        parrot = Parrot()
        await _spawn_parrot(system, parrot)
        with pytest.raises(AskTimeout, match=f"{node}/parrot"):
            await _remote(other, node).ask(Do(what="wait"), timeout_s=0.05)
        parrot.gate.set()


async def test_remote_asks_still_queued_at_stop_are_answered(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other), asyncio.TaskGroup() as group:
        parrot = Parrot()
        ref = await _spawn_parrot(system, parrot, mailbox_capacity=1)
        remote = _remote(other, node)
        await remote.tell(Do(what="wait"))
        askers = [group.create_task(_error_of(remote, Recall())) for _ in range(2)]  # one waits for room
        await _wait_mailbox(system, depth=1, num_waiting=1)
        stopping = group.create_task(ref.stop())
        for asker in askers:
            assert isinstance(await asker, ActorStopped)
        parrot.gate.set()
        await stopping


async def test_actor_that_works_on_an_ask_holds_up_nobody_else(open_a_bus: OpenBus, node: str) -> None:
    """The subscription goes on while the actor works: what comes next is in the mailbox."""
    async with _two_systems(open_a_bus, node) as (system, other), asyncio.TaskGroup() as group:
        parrot = Parrot()
        await _spawn_parrot(system, parrot)
        remote = _remote(other, node)
        waiting = group.create_task(remote.ask(Do(what="wait"), timeout_s=5))
        asker = group.create_task(remote.ask(Recall(), timeout_s=5))
        await _wait_mailbox(system, depth=1)
        parrot.gate.set()
        assert await waiting is None
        assert await asker == Said(texts=[])


async def test_messages_are_held_up_by_a_full_mailbox_and_not_lost(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        parrot = Parrot()
        await _spawn_parrot(system, parrot, mailbox_capacity=1)
        remote = _remote(other, node)
        await remote.tell(Do(what="wait"))
        for number in range(20):
            await remote.tell(Say(text=str(number)))
        await _wait_mailbox(system, depth=1, num_waiting=1)
        parrot.gate.set()
        assert len((await remote.ask(Recall(), timeout_s=5)).texts) == 20


async def test_messages_sent_during_a_restart_wait_for_it(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        remote = _remote(other, node)
        await remote.tell(Do(what="crash"))
        await remote.tell(Say(text="after"))
        assert await remote.ask(Recall(), timeout_s=5) == Said(texts=["after"])


async def test_actor_may_stop_itself_while_it_answers(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system, restart=RestartPolicy.TRANSIENT)
        assert await _remote(other, node).ask(Do(what="stop"), timeout_s=5) is None


async def test_name_can_be_used_again_after_a_stop(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        remote = _remote(other, node)
        for text in ("first", "second"):
            parrot = await _spawn_parrot(system)
            await remote.ask(Say(text=text), timeout_s=5)
            assert await remote.ask(Recall(), timeout_s=5) == Said(texts=[text])
            await parrot.stop()


# -- what does not fit -----------------------------------------------------------------------------------------------


async def test_malformed_message_is_answered_with_the_error(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        answer = await other.bus.request(actor_subject(node, "parrot"), b'{"type": "test.say"}', timeout_s=5)
        assert answer.headers[HEADER_STATUS] == STATUS_ERROR
        error = decode(answer.payload, ErrorInfo, answer.headers).to_error()
        assert isinstance(error, MalformedMessage)
        assert "text" in str(error)


async def test_unknown_message_is_refused_and_the_actor_goes_on(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        remote = _remote(other, node)
        with pytest.raises(UnknownMessageType, match=r"test\.recall, test\.say"):
            await remote.ask(Said(texts=[]), timeout_s=5)
        assert await remote.ask(Recall(), timeout_s=5) == Said(texts=[])


async def test_malformed_tell_is_logged_and_nothing_else(
    open_a_bus: OpenBus, node: str, logs: list[MutableMapping[str, Any]]
) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        await other.bus.publish(actor_subject(node, "parrot"), b"\xff\x00")
        assert await _remote(other, node).ask(Recall(), timeout_s=5) == Said(texts=[])
    assert [event["actor"] for event in logs if event["event"] == "actor_message_refused"] == [f"{node}/parrot"]


async def test_json_is_understood_too(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        await other.bus.publish(actor_subject(node, "parrot"), encode_json(Say(text="from anywhere")))
        assert await _remote(other, node).ask(Recall(), timeout_s=5) == Said(texts=["from anywhere"])


async def test_answer_that_is_no_message_is_an_error_of_the_actor(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        with pytest.raises(ActorFailed, match="answered with int"):
            await _remote(other, node).ask(Do(what="answer_oddly"), timeout_s=5)


async def test_answer_that_the_asker_did_not_name_is_refused(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        with pytest.raises(MalformedMessage, match="answers="):
            await other.remote(f"{node}/parrot").ask(Recall(), timeout_s=5)


# -- large messages --------------------------------------------------------------------------------------------------


async def test_message_and_answer_larger_than_the_server_takes_go_as_claim_checks(
    open_a_bus: OpenBus, node: str
) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        text = "parrot " * (other.bus.max_payload // 5)
        assert await _remote(other, node).ask(Say(text=text), timeout_s=20) == Said(texts=[text])


async def test_message_of_just_the_size_that_fits_is_sent_as_it_is(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        for spare in range(500, 560, 5):
            text = "x" * (other.bus.max_payload - spare)
            await _remote(other, node).tell(Say(text=text))
        answer = await _remote(other, node).ask(Say(text="last"), timeout_s=20)
        assert answer == Said(texts=["last"])


async def test_large_messages_keep_their_place_among_small_ones(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        large = "x" * other.bus.max_payload
        remote = _remote(other, node)
        for text in ("a", large, "b"):
            await remote.tell(Say(text=text))
        answer = await remote.ask(Recall(), timeout_s=20)
        assert [len(text) for text in answer.texts] == [1, len(large), 1]


async def test_claim_check_without_its_blob_is_answered_with_the_error(open_a_bus: OpenBus, node: str) -> None:
    async with _two_systems(open_a_bus, node) as (system, other):
        await _spawn_parrot(system)
        assert other.bus is not None
        payload, headers = encode_blob_ref(BlobRef(digest="0" * 64, size_bytes=9))
        answer = await other.bus.request(actor_subject(node, "parrot"), payload, headers=headers, timeout_s=10)
        assert isinstance(decode(answer.payload, ErrorInfo, answer.headers).to_error(), BlobMissing)


# -- references ------------------------------------------------------------------------------------------------------


async def test_remote_reference_needs_a_bus() -> None:
    async with ActorSystem("node") as system:
        with pytest.raises(ConfigurationError, match="has no bus"):
            system.remote("node/parrot")


@pytest.mark.parametrize("address", ["parrot", "node/", "/parrot", "node/a.b", "node/*", "a/b/c"])
async def test_address_is_checked(address: str) -> None:
    async with MemoryBus(MemoryServer()) as bus:
        with pytest.raises(InvalidName):
            RemoteRef(bus, address)


async def test_spawn_fails_when_it_cannot_subscribe() -> None:
    bus = MemoryBus(MemoryServer())
    await bus.aclose()
    async with ActorSystem("node", bus=bus) as system:
        with pytest.raises(Exception, match="closed"):
            await _spawn_parrot(system)
        assert system.statistics().actors == ()


async def _error_of(remote: RemoteRef, message: Request) -> Exception | None:
    try:
        await remote.ask(message, timeout_s=5)
    except ActorStopped as error:
        return error
    return None


async def _wait_mailbox(system: ActorSystem, *, depth: int, num_waiting: int = 0) -> None:
    def is_reached() -> bool:
        mailbox = system.statistics().actors[0].mailbox
        return (mailbox.depth, mailbox.num_waiting) == (depth, num_waiting)

    await wait_until(is_reached)
