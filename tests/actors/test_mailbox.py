"""The mailbox: bounded, in order, and unchanged by whoever is cancelled while waiting."""

from __future__ import annotations

import asyncio

import pytest

from parrot_mq.actors import Mailbox
from parrot_mq.errors import ActorStopped, MailboxFull
from tests.actors.helpers import settle


def _make_mailbox(capacity: int) -> Mailbox[int]:
    return Mailbox(capacity, address="node/actor")


async def test_messages_come_out_in_the_order_they_went_in() -> None:
    mailbox = _make_mailbox(3)
    for number in range(3):
        await mailbox.put(number)
    assert [await mailbox.get() for _ in range(3)] == [0, 1, 2]


async def test_full_mailbox_raises_in_the_nowait_form() -> None:
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    with pytest.raises(MailboxFull, match=r"node/actor.*1 messages"):
        mailbox.put_nowait(2)


async def test_full_mailbox_makes_put_wait_for_room() -> None:
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    async with asyncio.TaskGroup() as group:
        sender = group.create_task(mailbox.put(2))
        await settle()
        assert not sender.done()
        assert mailbox.statistics().num_waiting == 1
        assert mailbox.get_nowait() == 1
        await sender
    assert mailbox.get_nowait() == 2


async def test_waiting_sender_is_not_overtaken_by_a_later_one() -> None:
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    async with asyncio.TaskGroup() as group:
        sender = group.create_task(mailbox.put(2))
        await settle()
        mailbox.get_nowait()
        with pytest.raises(MailboxFull):
            mailbox.put_nowait(3)
        await sender
    assert mailbox.get_nowait() == 2


async def test_cancelled_put_puts_nothing_and_passes_its_slot_on() -> None:
    """The hard moment: room was made for the first sender, and it is cancelled before it runs."""
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(mailbox.put(2))
        second = group.create_task(mailbox.put(3))
        await settle()
        mailbox.get_nowait()
        first.cancel()
        await second
    assert first.cancelled()
    assert mailbox.get_nowait() == 3
    mailbox.check_integrity()


async def test_sender_that_was_cancelled_and_has_not_run_since_gets_no_slot() -> None:
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(mailbox.put(2))
        second = group.create_task(mailbox.put(3))
        await settle()
        first.cancel()
        mailbox.get_nowait()
        await second
    assert first.cancelled()
    assert mailbox.get_nowait() == 3
    mailbox.check_integrity()


async def test_cancelled_get_takes_nothing() -> None:
    mailbox = _make_mailbox(1)
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(mailbox.get())
        await settle()
        mailbox.put_nowait(1)
        reader.cancel()
    assert mailbox.get_nowait() == 1


async def test_close_wakes_waiting_senders_and_gives_back_what_is_left() -> None:
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    async with asyncio.TaskGroup() as group:
        sender = group.create_task(_put_into_closed(mailbox))
        await settle()
        assert mailbox.close() == [1]
        await sender
    with pytest.raises(ActorStopped):
        mailbox.put_nowait(3)
    with pytest.raises(ActorStopped):
        await mailbox.put(3)


async def test_close_between_grant_and_put_refuses_the_message() -> None:
    mailbox = _make_mailbox(1)
    mailbox.put_nowait(1)
    async with asyncio.TaskGroup() as group:
        group.create_task(_put_into_closed(mailbox))
        await settle()
        mailbox.get_nowait()
        assert mailbox.close() == []
    assert len(mailbox) == 0


async def test_close_wakes_the_reader() -> None:
    mailbox = _make_mailbox(1)
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(_get_from_closed(mailbox))
        await settle()
        mailbox.close()
        await reader


async def test_second_reader_is_refused() -> None:
    mailbox = _make_mailbox(1)
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(mailbox.get())
        await settle()
        with pytest.raises(RuntimeError, match="has a reader already"):
            await mailbox.get()
        reader.cancel()


async def test_statistics_count_what_went_through() -> None:
    mailbox = _make_mailbox(4)
    for number in range(3):
        mailbox.put_nowait(number)
    mailbox.get_nowait()
    statistics = mailbox.statistics()
    assert (statistics.capacity, statistics.depth, statistics.num_put, statistics.num_taken) == (4, 2, 3, 1)


def test_capacity_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _make_mailbox(0)


async def _put_into_closed(mailbox: Mailbox[int]) -> None:
    with pytest.raises(ActorStopped):
        await mailbox.put(2)


async def _get_from_closed(mailbox: Mailbox[int]) -> None:
    with pytest.raises(ActorStopped):
        await mailbox.get()
