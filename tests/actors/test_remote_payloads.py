"""What travels between processes: messages that do not fit, large ones, addresses."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest

from parrot_mq.actors import ActorSystem, RemoteRef
from parrot_mq.actors.packing import pack
from parrot_mq.bus import MemoryBus, MemoryServer
from parrot_mq.errors import (
    ActorFailed,
    BlobMissing,
    ConfigurationError,
    InvalidName,
    MalformedMessage,
    UnknownMessageType,
)
from parrot_mq.messages import (
    HEADER_BLOB,
    HEADER_STATUS,
    STATUS_ERROR,
    BlobRef,
    ErrorInfo,
    actor_subject,
    decode,
    encode,
    encode_blob_ref,
    encode_json,
)
from tests.actors.processes import OpenBus, remote_parrot, spawn_parrot, two_systems
from tests.actors.protocol import Do, Recall, Said, Say


async def test_malformed_message_is_answered_with_the_error(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        answer = await other.bus.request(actor_subject(node, "parrot"), b'{"type": "test.say"}', timeout_s=5)
        assert answer.headers[HEADER_STATUS] == STATUS_ERROR
        error = decode(answer.payload, ErrorInfo, answer.headers).to_error()
        assert isinstance(error, MalformedMessage)
        assert "text" in str(error)


async def test_unknown_message_is_refused_and_the_actor_goes_on(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        remote = remote_parrot(other, node)
        with pytest.raises(UnknownMessageType, match=r"test\.recall, test\.say"):
            await remote.ask(Said(texts=[]), timeout_s=5)
        assert await remote.ask(Recall(), timeout_s=5) == Said(texts=[])


async def test_malformed_tell_is_logged_and_nothing_else(
    open_a_bus: OpenBus, node: str, logs: list[MutableMapping[str, Any]]
) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        await other.bus.publish(actor_subject(node, "parrot"), b"\xff\x00")
        assert await remote_parrot(other, node).ask(Recall(), timeout_s=5) == Said(texts=[])
    assert [event["actor"] for event in logs if event["event"] == "actor_message_refused"] == [f"{node}/parrot"]


async def test_json_is_understood_too(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        await other.bus.publish(actor_subject(node, "parrot"), encode_json(Say(text="from anywhere")))
        assert await remote_parrot(other, node).ask(Recall(), timeout_s=5) == Said(texts=["from anywhere"])


async def test_answer_that_is_no_message_is_an_error_of_the_actor(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        with pytest.raises(ActorFailed, match="answered with int"):
            await remote_parrot(other, node).ask(Do(what="answer_oddly"), timeout_s=5)


async def test_answer_that_the_asker_did_not_name_is_refused(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        with pytest.raises(MalformedMessage, match="answers="):
            await other.remote(f"{node}/parrot").ask(Recall(), timeout_s=5)


async def test_message_and_answer_larger_than_the_server_takes_go_as_claim_checks(
    open_a_bus: OpenBus, node: str
) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        text = "parrot " * (other.bus.max_payload // 5)
        assert await remote_parrot(other, node).ask(Say(text=text), timeout_s=20) == Said(texts=[text])


async def test_largest_message_that_fits_is_sent_as_it_is(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        num_other_bytes = len(encode(Say(text="x" * 2**16))) - 2**16
        fits = Say(text="x" * (other.bus.max_payload - num_other_bytes))
        payload, headers = await pack(other.bus, fits)
        assert (len(payload), headers) == (other.bus.max_payload, {})
        assert await remote_parrot(other, node).ask(fits, timeout_s=20) == Said(texts=[fits.text])
        payload, headers = await pack(other.bus, Say(text=fits.text + "x"))
        assert len(payload) < 200
        assert HEADER_BLOB in headers


async def test_large_messages_keep_their_place_among_small_ones(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        large = "x" * other.bus.max_payload
        remote = remote_parrot(other, node)
        for text in ("a", large, "b"):
            await remote.tell(Say(text=text))
        answer = await remote.ask(Recall(), timeout_s=20)
        assert [len(text) for text in answer.texts] == [1, len(large), 1]


async def test_claim_check_without_its_blob_is_answered_with_the_error(open_a_bus: OpenBus, node: str) -> None:
    async with two_systems(open_a_bus, node) as (system, other):
        await spawn_parrot(system)
        assert other.bus is not None
        payload, headers = encode_blob_ref(BlobRef(digest="0" * 64, size_bytes=9))
        answer = await other.bus.request(actor_subject(node, "parrot"), payload, headers=headers, timeout_s=10)
        assert isinstance(decode(answer.payload, ErrorInfo, answer.headers).to_error(), BlobMissing)


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
            await spawn_parrot(system)
        assert system.statistics().actors == ()
