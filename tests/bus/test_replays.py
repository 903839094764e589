"""The text so far: what is asked of a worker, and what it answers, over every bus."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from parrot_mq.bus import Bus, Delivery, answer_replay, request_replay
from parrot_mq.messages import (
    ALL_REPLAYS,
    ErrorInfo,
    TokenDelta,
    VariableAddress,
    decode,
    replay_subject,
    stream_subject,
)
from parrot_mq.types import SessionId, TenantId, VariableId, fresh_id
from tests.bus.worlds import Mailbox, World

TEXT = "Once upon a \N{PARROT}"


class _Reader:
    """A late reader, and the worker that it asks.

    Attributes:
        address: What it reads.
        inbox: Where answers to it come.
        answers: What came there.
        stream: What came where all readers listen.
        text: What the worker has generated.
    """

    def __init__(self, bus: Bus, tenant: str) -> None:
        self.bus = bus
        self.address = VariableAddress(TenantId(tenant), SessionId("s"), VariableId("v"))
        self.inbox = f"{bus.inbox_prefix}.{fresh_id('inbox')}"
        self.answers, self.stream = Mailbox(), Mailbox()
        self.text = TEXT

    async def ask(self, payload: bytes, *, reply: str = "") -> None:
        """Ask as a program in another language does."""
        await self.bus.publish(replay_subject(*self.address), payload, reply=reply)


@pytest.fixture
async def reader(world: World, bus: Bus, other: Bus) -> AsyncIterator[_Reader]:
    """It listens; the worker, on the other connection, answers whoever asks in this tenant."""
    reader = _Reader(bus, world.tenant)

    async def answer(request: Delivery) -> None:
        if f".{world.tenant}." in request.subject:
            await answer_replay(other, request, attempt=2, text=reader.text, headers={"Pmq-Test": "1"})

    subscriptions = [
        await other.subscribe(ALL_REPLAYS, answer),
        await bus.subscribe(reader.inbox, reader.answers),
        await bus.subscribe(stream_subject(*reader.address), reader.stream),
    ]
    yield reader
    for subscription in subscriptions:
        await subscription.aclose()


def _delta(delivery: Delivery) -> TokenDelta:
    return decode(delivery.payload, TokenDelta, delivery.headers)


async def test_the_text_so_far_comes_to_who_asks(reader: _Reader) -> None:
    await request_replay(reader.bus, reader.address, reply=reader.inbox)
    (answer,) = await reader.answers.wait_for(1)
    assert _delta(answer) == TokenDelta(attempt=2, offset=0, text=TEXT)
    assert answer.headers["Pmq-Test"] == "1"
    assert reader.stream.deliveries == []


@pytest.mark.parametrize(
    ("offset", "begin", "text"),
    [(0, 0, TEXT), (12, 12, "\N{PARROT}"), (13, 13, ""), (500, 13, "")],
    ids=["from the beginning", "in characters", "from its end", "beyond its end"],
)
async def test_only_what_follows_the_offset_is_sent(reader: _Reader, offset: int, begin: int, text: str) -> None:
    await request_replay(reader.bus, reader.address, offset=offset, reply=reader.inbox)
    (answer,) = await reader.answers.wait_for(1)
    assert _delta(answer) == TokenDelta(attempt=2, offset=begin, text=text)


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"type":"token.replay"}', b"\x80"])
async def test_who_names_no_offset_gets_all(reader: _Reader, payload: bytes) -> None:
    await reader.ask(payload, reply=reader.inbox)
    assert _delta((await reader.answers.wait_for(1))[0]).text == TEXT


async def test_without_a_place_for_the_answer_it_comes_where_all_deltas_come(reader: _Reader) -> None:
    """So does MQTT ask, which knows no answers."""
    await reader.ask(b'{"offset":5}')
    (answer,) = await reader.stream.wait_for(1)
    assert _delta(answer) == TokenDelta(attempt=2, offset=5, text=TEXT[5:])


@pytest.mark.parametrize("kind", ["var", "stream", "control"])
async def test_an_answer_goes_to_no_subject_where_only_others_may_write(reader: _Reader, kind: str) -> None:
    """Whoever may ask names where the answer goes; it is the worker that publishes it."""
    forbidden = Mailbox()
    subscription = await reader.bus.subscribe(f"pmq.other.{kind}.>", forbidden)
    for payload in (b"{", b""):
        await reader.ask(payload, reply=f"pmq.other.{kind}.s.v")
    await reader.stream.wait_for(1)
    await subscription.aclose()
    assert forbidden.deliveries == []


async def test_a_text_that_no_message_can_hold_comes_in_several(reader: _Reader) -> None:
    """Each character may take six bytes in JSON."""
    reader.text = "\0\N{PARROT}" * 200_000
    await request_replay(reader.bus, reader.address, offset=1, reply=reader.inbox)
    answers = await reader.answers.wait_for(3)
    deltas = [_delta(answer) for answer in answers]
    assert "".join(delta.text for delta in deltas) == reader.text[1:]
    assert [delta.offset for delta in deltas] == [1 + sum(len(d.text) for d in deltas[:i]) for i in range(len(deltas))]


@pytest.mark.parametrize("payload", [b"{", b'{"offset":-1}', b'{"offset":"all"}', b'{"type":"token.delta"}'])
async def test_a_request_that_cannot_be_read_is_answered_with_what_is_wrong(reader: _Reader, payload: bytes) -> None:
    await reader.ask(payload)  # nowhere to say it
    await reader.ask(payload, reply=reader.inbox)
    (answer,) = await reader.answers.wait_for(1)
    assert answer.headers["Pmq-Status"] == "error"
    assert decode(answer.payload, ErrorInfo).code in ("malformed_message", "unknown_message_type")
    assert reader.stream.deliveries == []
