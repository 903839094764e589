"""What the bus promises, whatever carries it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable

import pytest

from parrot_mq.bus import Bus, Delivery, FencedBus, Stored
from parrot_mq.errors import (
    BlobMissing,
    ConnectionClosed,
    ConsumerTakenOver,
    InvalidName,
    NoResponders,
    ParrotError,
    PayloadTooLarge,
    RecordChanged,
    RequestTimeout,
    SubjectTaken,
)
from parrot_mq.messages.subjects import (
    STREAM_BLOBS,
    STREAM_LEASES,
    STREAM_TASKS,
    STREAM_VARS,
    blob_subject,
    dead_subject,
    session_subjects,
    set_subject,
    stream_subject,
    task_subject,
    variable_subject,
)
from parrot_mq.types import fresh_id
from tests.bus.worlds import WAIT_S, Mailbox, World, eventually

KIB = 1024

# -- core --------------------------------------------------------------------------------------------------------------


async def test_messages_of_one_publisher_arrive_in_order(bus: Bus, other: Bus, world: World) -> None:
    mailbox = Mailbox()
    await other.subscribe(stream_subject(world.tenant, "s", "v"), mailbox)
    sent = [str(number).encode() for number in range(500)]
    for payload in sent:
        await bus.publish(stream_subject(world.tenant, "s", "v"), payload)
    await mailbox.wait_for(500)
    assert mailbox.payloads == sent


async def test_a_message_carries_subject_reply_and_headers(bus: Bus, other: Bus, world: World) -> None:
    mailbox = Mailbox()
    await other.subscribe(f"pmq.{world.tenant}.stream.*.>", mailbox)
    subject = stream_subject(world.tenant, "s", "v")
    await bus.publish(subject, b"text", headers={"Pmq-Schema": "1", "Name": " ü: x "}, reply="answers.here")
    (got,) = await mailbox.wait_for(1)
    assert (got.subject, got.payload, got.reply, got.sequence) == (subject, b"text", "answers.here", 0)
    assert (got.headers["pmq-schema"], got.headers["NAME"], sorted(got.headers)) == (
        "1",
        "ü: x",
        ["Name", "Pmq-Schema"],
    )


async def test_a_message_without_headers_has_none(bus: Bus, world: World) -> None:
    mailbox = Mailbox()
    await bus.subscribe(f"{world.tenant}.x", mailbox)
    await bus.publish(f"{world.tenant}.x", b"")
    (got,) = await mailbox.wait_for(1)
    assert (len(got.headers), got.headers.get("Pmq-Status"), got.payload) == (0, None, b"")


async def test_handlers_run_after_the_publisher_and_one_at_a_time(bus: Bus, world: World) -> None:
    running, seen, done = 0, [], asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0)
        seen.append((delivery.payload, running))
        running -= 1
        if delivery.payload == b"2":
            done.set()

    await bus.subscribe(f"{world.tenant}.x", handler)
    for payload in (b"0", b"1", b"2"):
        await bus.publish(f"{world.tenant}.x", payload)
        assert not seen
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    assert seen == [(b"0", 1), (b"1", 1), (b"2", 1)]


async def test_a_handler_that_raises_gets_the_next_message(bus: Bus, world: World) -> None:
    mailbox = Mailbox()

    async def handler(delivery: Delivery) -> None:
        await mailbox(delivery)
        raise ValueError("handler")

    await bus.subscribe(f"{world.tenant}.x", handler)
    await bus.publish(f"{world.tenant}.x", b"1")
    await bus.publish(f"{world.tenant}.x", b"2")
    await mailbox.wait_for(2)


async def test_members_of_a_queue_group_share_messages(bus: Bus, other: Bus, world: World) -> None:
    members, alone = [Mailbox(), Mailbox()], Mailbox()
    for connection, member in zip((bus, other), members, strict=True):
        await connection.subscribe(f"{world.tenant}.work", member, queue="workers")
    await bus.subscribe(f"{world.tenant}.>", alone)
    for _ in range(100):
        await bus.publish(f"{world.tenant}.work", b"")
    await alone.wait_for(100)

    async def is_shared() -> bool:
        await bus.last_sequence(STREAM_VARS)  # a round trip
        return sum(len(member.deliveries) for member in members) == 100

    await eventually(is_shared)
    assert all(member.deliveries for member in members)


async def test_a_closed_subscription_delivers_no_more(bus: Bus, world: World) -> None:
    closed, kept = Mailbox(), Mailbox()
    subscription = await bus.subscribe(f"{world.tenant}.x", closed)
    await bus.subscribe(f"{world.tenant}.x", kept)
    await subscription.aclose()
    await subscription.aclose()
    await bus.publish(f"{world.tenant}.x", b"")
    await kept.wait_for(1)
    assert not closed.deliveries
    await subscription.wait_closed()


async def test_a_drained_subscription_handles_what_came_before(bus: Bus, world: World) -> None:
    drained, kept = Mailbox(), Mailbox()

    async def handler(delivery: Delivery) -> None:
        await asyncio.sleep(0)
        await drained(delivery)

    subscription = await bus.subscribe(f"{world.tenant}.x", handler, queue="workers")
    await bus.subscribe(f"{world.tenant}.x", kept)
    for number in range(500):
        await bus.publish(f"{world.tenant}.x", str(number).encode())
    await subscription.drain()
    assert [delivery.payload for delivery in drained.deliveries] == [str(number).encode() for number in range(500)]
    await subscription.drain()
    await bus.publish(f"{world.tenant}.x", b"late")
    await kept.wait_for(501)
    assert len(drained.deliveries) == 500
    await subscription.wait_closed()


async def test_closing_a_subscription_cancels_the_handler_that_runs(bus: Bus, world: World) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    subscription = await bus.subscribe(f"{world.tenant}.x", handler)
    await bus.publish(f"{world.tenant}.x", b"")
    async with asyncio.timeout(WAIT_S):
        await began.wait()
        await subscription.aclose()
    assert ended.is_set()


async def test_a_handler_may_close_its_own_subscription(bus: Bus, world: World) -> None:
    mailbox = Mailbox()

    async def handler(delivery: Delivery) -> None:
        await subscription.aclose()
        await mailbox(delivery)

    subscription = await bus.subscribe(f"{world.tenant}.x", handler)
    await bus.publish(f"{world.tenant}.x", b"1")
    await bus.publish(f"{world.tenant}.x", b"2")
    await mailbox.wait_for(1)
    async with asyncio.timeout(WAIT_S):
        await subscription.wait_closed()
    assert mailbox.payloads == [b"1"]


@pytest.mark.parametrize("subject", ["", "a b", "a..b", ".a", "a.", "a.*", "a.>", "a\r\nPUB x", "*"])
async def test_a_subject_that_cannot_be_published_on_is_refused(bus: Bus, subject: str) -> None:
    with pytest.raises(InvalidName):
        await bus.publish(subject, b"")
    with pytest.raises(InvalidName):
        await bus.publish_once(subject, b"")
    with pytest.raises(InvalidName):
        await bus.request(subject, b"", timeout_s=1)


@pytest.mark.parametrize("subject", ["", "a b", "a..b", "a.>.b", "a*", ">a", "a.b\n"])
async def test_a_subject_that_cannot_be_subscribed_to_is_refused(bus: Bus, subject: str) -> None:
    with pytest.raises(InvalidName):
        await bus.subscribe(subject, Mailbox())


@pytest.mark.parametrize("headers", [{"Nats-Rollup": "all"}, {"a b": "x"}, {"": "x"}, {"a": "x\r\nb: y"}])
async def test_a_header_that_cannot_be_sent_is_refused(bus: Bus, world: World, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidName):
        await bus.publish(f"{world.tenant}.x", b"", headers=headers)


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_request_gets_its_own_answer(bus: Bus, other: Bus, world: World) -> None:
    async def echo(delivery: Delivery) -> None:
        await other.publish(delivery.reply, delivery.payload, headers={"Pmq-Schema": delivery.headers["Pmq-Schema"]})

    await other.subscribe(f"{world.tenant}.echo", echo)

    async def ask(number: int) -> None:
        payload = str(number).encode()
        answer = await bus.request(f"{world.tenant}.echo", payload, headers={"Pmq-Schema": "7"}, timeout_s=WAIT_S)
        assert (answer.payload, answer.headers["pmq-schema"]) == (payload, "7")

    await asyncio.gather(*(ask(number) for number in range(200)))


async def test_a_request_that_nobody_hears_fails_at_once(bus: Bus, world: World) -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(NoResponders) as caught:
            await bus.request(f"{world.tenant}.nobody", b"", timeout_s=600)
    assert caught.value.subject == f"{world.tenant}.nobody"


async def test_a_request_that_nobody_answers_times_out(bus: Bus, world: World) -> None:
    await bus.subscribe(f"{world.tenant}.silent", Mailbox())
    with pytest.raises(RequestTimeout) as caught:
        await bus.request(f"{world.tenant}.silent", b"", timeout_s=0.05)
    assert caught.value.facts == {"subject": f"{world.tenant}.silent", "timeout_s": 0.05}


async def test_a_request_may_wait_for_a_later_answer(bus: Bus, other: Bus, world: World) -> None:
    seen: list[bytes] = []

    async def answer_slowly(delivery: Delivery) -> None:
        for payload in (b"wait", b"wait more", b"done", b"too late"):
            await other.publish(delivery.reply, payload, reply="talk.back", headers={"Number": str(len(payload))})

    def is_last(answer: Delivery) -> bool:
        seen.append(answer.payload)
        assert (answer.reply, answer.headers["number"]) == ("talk.back", str(len(answer.payload)))
        return answer.payload == b"done"

    await other.subscribe(f"{world.tenant}.slow", answer_slowly)
    answer = await bus.request(f"{world.tenant}.slow", b"", timeout_s=WAIT_S, is_last=is_last)
    assert (answer.payload, seen) == (b"done", [b"wait", b"wait more", b"done"])


async def test_a_request_ends_with_what_is_raised_about_an_answer(bus: Bus, other: Bus, world: World) -> None:
    async def echo(delivery: Delivery) -> None:
        await other.publish(delivery.reply, delivery.payload)

    def is_last(answer: Delivery) -> bool:
        raise ValueError(answer.payload.decode())

    await other.subscribe(f"{world.tenant}.echo", echo)
    with pytest.raises(ValueError, match="unexpected"):
        await bus.request(f"{world.tenant}.echo", b"unexpected", timeout_s=WAIT_S, is_last=is_last)
    assert (await bus.request(f"{world.tenant}.echo", b"next", timeout_s=WAIT_S)).payload == b"next"


async def test_a_request_for_a_later_answer_that_nobody_hears_fails_at_once(bus: Bus, world: World) -> None:
    with pytest.raises(NoResponders):
        await bus.request(f"{world.tenant}.nobody", b"", timeout_s=600, is_last=lambda answer: False)


async def test_a_request_whose_last_answer_does_not_come_times_out(bus: Bus, other: Bus, world: World) -> None:
    async def echo(delivery: Delivery) -> None:
        await other.publish(delivery.reply, delivery.payload)

    await other.subscribe(f"{world.tenant}.echo", echo)
    with pytest.raises(RequestTimeout):
        await bus.request(f"{world.tenant}.echo", b"", timeout_s=0.05, is_last=lambda answer: False)


async def test_a_cancelled_request_leaves_the_connection_in_order(bus: Bus, world: World) -> None:
    silent = Mailbox()
    await bus.subscribe(f"{world.tenant}.silent", silent)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await bus.request(f"{world.tenant}.silent", b"", timeout_s=WAIT_S)
    await silent.wait_for(1)
    await bus.publish(silent.deliveries[0].reply, b"too late")
    with pytest.raises(NoResponders):
        await bus.request(f"{world.tenant}.nobody", b"", timeout_s=WAIT_S)


# -- facts: written once -----------------------------------------------------------------------------------------------


async def test_the_first_value_of_a_subject_wins(bus: Bus, other: Bus, world: World) -> None:
    subject = variable_subject(world.tenant, "s", "v")
    first = await bus.publish_once(subject, b"first")
    again = await other.publish_once(subject, b"first")
    assert (first.is_new, again) == (True, Stored(first.sequence, False))
    with pytest.raises(SubjectTaken) as caught:
        await other.publish_once(subject, b"second")
    assert caught.value.subject == subject
    assert (await bus.get(STREAM_VARS, [subject]))[subject].payload == b"first"


async def test_a_status_makes_the_same_payload_another_value(bus: Bus, world: World) -> None:
    subject = variable_subject(world.tenant, "s", "v")
    await bus.publish_once(subject, b"x", headers={"Pmq-Status": "error"})
    with pytest.raises(SubjectTaken):
        await bus.publish_once(subject, b"x")
    again = await bus.publish_once(subject, b"x", headers={"Pmq-Status": "error", "Pmq-Producer": "worker-2"})
    assert not again.is_new


async def test_one_of_many_concurrent_writers_wins(bus: Bus, other: Bus, world: World) -> None:
    subject = variable_subject(world.tenant, "s", "v")

    async def write(number: int) -> bool:
        try:
            return (await (bus, other)[number % 2].publish_once(subject, str(number).encode())).is_new
        except SubjectTaken:
            return False

    outcomes = await asyncio.gather(*(write(number) for number in range(50)))
    assert outcomes.count(True) == 1
    standing = (await bus.get(STREAM_VARS, [subject]))[subject]
    assert standing.payload == str(outcomes.index(True)).encode()


async def test_a_bare_publish_sets_a_variable_and_cannot_overwrite_one(bus: Bus, other: Bus, world: World) -> None:
    free, taken = (variable_subject(world.tenant, "s", name) for name in ("free", "taken"))
    await bus.publish_once(taken, b"first")
    await other.publish(taken, b"overwritten")
    await other.publish(free, b"bare")
    await eventually(lambda: _is_set(bus, free))
    found = await bus.get(STREAM_VARS, [free, taken])
    assert {subject: delivery.payload for subject, delivery in found.items()} == {free: b"bare", taken: b"first"}
    with pytest.raises(SubjectTaken):
        await bus.publish_once(free, b"second")


async def test_only_what_was_stored_is_announced(bus: Bus, other: Bus, world: World) -> None:
    mailbox, headers = Mailbox(), {"Content-Type": "text/plain"}
    await other.subscribe(f"pmq.{world.tenant}.set.>", mailbox)
    await bus.publish_once(variable_subject(world.tenant, "s1", "a"), b"1", headers=headers)
    with pytest.raises(SubjectTaken):
        await bus.publish_once(variable_subject(world.tenant, "s1", "a"), b"2")
    await bus.publish(variable_subject(world.tenant, "s1", "a"), b"3")
    await bus.publish_once(variable_subject(world.tenant, "s2", "b"), b"4")
    first, second = await mailbox.wait_for(2)
    assert (first.subject, first.payload) == (set_subject(world.tenant, "s1", "a"), b"1")
    assert (second.subject, second.payload) == (set_subject(world.tenant, "s2", "b"), b"4")
    assert dict(first.headers) == headers


async def test_dead_letters_are_kept_beside_each_other(bus: Bus, world: World) -> None:
    first = await bus.publish_once(dead_subject(world.tenant, "k"), b"1")
    second = await bus.publish_once(dead_subject(world.tenant, "k"), b"2")
    assert first.is_new
    assert second.is_new


# -- facts: read -------------------------------------------------------------------------------------------------------


async def test_what_is_not_written_is_absent(bus: Bus, world: World) -> None:
    written, missing = (variable_subject(world.tenant, "s", name) for name in ("written", "missing"))
    stored = await bus.publish_once(written, b"text", headers={"Content-Type": "text/plain"})
    for subjects in ([written, missing], [written]):
        found = await bus.get(STREAM_VARS, subjects)
        assert list(found) == [written]
        got = found[written]
        assert (got.payload, got.sequence, dict(got.headers)) == (
            b"text",
            stored.sequence,
            {"Content-Type": "text/plain"},
        )
        assert got.timestamp > 0
    assert await bus.get(STREAM_VARS, [missing]) == {}
    assert await bus.get(STREAM_VARS, [missing, missing + "2"]) == {}
    assert await bus.get(STREAM_VARS, []) == {}


async def test_many_subjects_are_read_at_once(bus: Bus, world: World) -> None:
    subjects = [variable_subject(world.tenant, "s", f"v{number}") for number in range(600)]
    written = subjects[::2]
    await asyncio.gather(*(bus.publish_once(subject, subject.encode()) for subject in written))
    found = await bus.get(STREAM_VARS, subjects + subjects[:3])
    assert {subject: delivery.payload for subject, delivery in found.items()} == {s: s.encode() for s in written}


async def test_a_subject_to_read_has_no_wildcards(bus: Bus) -> None:
    with pytest.raises(InvalidName):
        await bus.get(STREAM_VARS, ["pmq.t.var.s.*"])


async def test_the_last_sequence_is_that_of_the_newest_fact(bus: Bus, world: World) -> None:
    stored = await bus.publish_once(variable_subject(world.tenant, "s", "v"), b"")
    assert await bus.last_sequence(STREAM_VARS) == stored.sequence
    await bus.purge(STREAM_VARS, session_subjects(world.tenant, "s", "var"))
    assert await bus.last_sequence(STREAM_VARS) == stored.sequence


async def test_purging_a_session_removes_its_facts_only(bus: Bus, world: World) -> None:
    for session in ("s1", "s2"):
        for name in ("a", "b"):
            await bus.publish_once(variable_subject(world.tenant, session, name), b"x")
    assert not await bus.is_empty(STREAM_VARS, session_subjects(world.tenant, "s1", "var"))
    assert await bus.purge(STREAM_VARS, session_subjects(world.tenant, "s1", "var")) == 2
    assert await bus.is_empty(STREAM_VARS, session_subjects(world.tenant, "s1", "var"))
    assert await bus.is_empty(STREAM_VARS, variable_subject(world.tenant, "s1", "a"))
    assert not await bus.is_empty(STREAM_VARS, variable_subject(world.tenant, "s2", "a"))
    assert not await bus.is_empty(STREAM_VARS, session_subjects(world.tenant, "s2", "var"))
    assert await bus.purge(STREAM_VARS, session_subjects(world.tenant, "s1", "var")) == 0
    assert (await bus.publish_once(variable_subject(world.tenant, "s1", "a"), b"other")).is_new


# -- follow ------------------------------------------------------------------------------------------------------------


async def test_following_delivers_what_is_stored_after_a_place_in_order(bus: Bus, other: Bus, world: World) -> None:
    before = await bus.publish_once(variable_subject(world.tenant, "s", "before"), b"before")
    await bus.publish_once(variable_subject(world.tenant, "s", "between"), b"between", headers={"Pmq-Status": "error"})
    mailbox = Mailbox()
    await other.follow(STREAM_VARS, mailbox, after_sequence=before.sequence)
    await bus.publish_once(variable_subject(world.tenant, "s", "after"), b"after")
    first, second = await mailbox.wait_for(2)
    assert (first.subject, first.payload) == (variable_subject(world.tenant, "s", "between"), b"between")
    assert (first.headers["Pmq-Status"], first.sequence, first.reply) == ("error", before.sequence + 1, "")
    assert first.timestamp > 0
    assert second.payload == b"after"


async def test_following_many_facts_has_no_gap_and_no_repeat(bus: Bus, other: Bus, world: World) -> None:
    start = await bus.last_sequence(STREAM_VARS)
    mailbox = Mailbox()
    subscription = await other.follow(STREAM_VARS, mailbox, after_sequence=start)
    subjects = [variable_subject(world.tenant, "s", f"v{number}") for number in range(1500)]
    await asyncio.gather(*(bus.publish_once(subject, b"x") for subject in subjects))
    got = await mailbox.wait_for(1500)
    assert [delivery.sequence for delivery in got] == list(range(start + 1, start + 1501))
    assert {delivery.subject for delivery in got} == set(subjects)
    await subscription.aclose()


async def test_a_slow_reader_gets_everything(bus: Bus, other: Bus, world: World) -> None:
    start = await bus.last_sequence(STREAM_VARS)
    mailbox, gate = Mailbox(), asyncio.Event()

    async def slow(delivery: Delivery) -> None:
        await gate.wait()
        await mailbox(delivery)

    await other.follow(STREAM_VARS, slow, after_sequence=start)
    subjects = [variable_subject(world.tenant, "s", f"v{number}") for number in range(1200)]
    await asyncio.gather(*(bus.publish_once(subject, b"x") for subject in subjects))
    gate.set()
    got = await mailbox.wait_for(1200)
    assert [delivery.sequence for delivery in got] == list(range(start + 1, start + 1201))


# -- take --------------------------------------------------------------------------------------------------------------


async def test_taking_over_delivers_what_is_not_acknowledged_and_ends_the_holder(world: World) -> None:
    old_bus, new_bus = await world.connect(), await world.connect()
    old, new = Mailbox(), Mailbox()
    old_holder = await old_bus.take(STREAM_TASKS, old, consumer=world.tenant)
    for name in ("a", "b", "c"):
        await old_bus.publish_once(task_subject(world.tenant, "s", name), name.encode())
    for delivery in await old.wait_for(3):
        assert (delivery.num_delivered, delivery.timestamp > 0, delivery.sequence > 0) == (1, True, True)
        if delivery.payload == b"b":
            await old_bus.acknowledge(delivery)
    await eventually(lambda: old_bus.is_empty(STREAM_TASKS, task_subject(world.tenant, "s", "b")))

    new_holder = await new_bus.take(STREAM_TASKS, new, consumer=world.tenant)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ConsumerTakenOver):
            await old_holder.wait_closed()
    await new.wait_for(2)
    await new_bus.publish_once(task_subject(world.tenant, "s", "d"), b"d")
    await new.wait_for(3)
    assert (new.payloads, len(old.deliveries)) == ([b"a", b"c", b"d"], 3)
    for delivery in new.deliveries:
        await new_bus.acknowledge(delivery)
    await eventually(lambda: new_bus.is_empty(STREAM_TASKS, session_subjects(world.tenant, "s", "task")))
    await new_holder.aclose()
    await new_holder.wait_closed()


async def test_two_that_take_at_once_leave_one_holder(world: World) -> None:
    buses = [await world.connect() for _ in range(3)]
    mailboxes = [Mailbox() for _ in buses]
    holders = await asyncio.gather(
        *(bus.take(STREAM_TASKS, mailbox, consumer=world.tenant) for bus, mailbox in zip(buses, mailboxes, strict=True))
    )
    taken_over: list[int] = []
    two_ended = asyncio.Event()

    async def wait_end(index: int) -> None:
        try:
            await holders[index].wait_closed()
        except ConsumerTakenOver:
            taken_over.append(index)
        if len(taken_over) == 2:
            two_ended.set()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        for index in range(3):
            group.create_task(wait_end(index))
        await two_ended.wait()
        (winner,) = {0, 1, 2}.difference(taken_over)
        await buses[0].publish_once(task_subject(world.tenant, "s", "k"), b"")
        (delivery,) = await mailboxes[winner].wait_for(1)
        await buses[winner].acknowledge(delivery)
        await holders[winner].aclose()


async def test_a_task_is_refused_while_it_is_pending_and_taken_again_after(bus: Bus, world: World) -> None:
    mailbox = Mailbox()
    holder = await bus.take(STREAM_TASKS, mailbox, consumer=world.tenant)
    subject = task_subject(world.tenant, "s", "k")
    assert (await bus.publish_once(subject, b"1")).is_new
    assert not (await bus.publish_once(subject, b"1")).is_new
    with pytest.raises(SubjectTaken):
        await bus.publish_once(subject, b"2")
    (first,) = await mailbox.wait_for(1)
    await bus.acknowledge(first)
    await bus.acknowledge(first)
    await eventually(lambda: bus.is_empty(STREAM_TASKS, subject))
    assert (await bus.publish_once(subject, b"2")).is_new
    _, second = await mailbox.wait_for(2)
    assert second.payload == b"2"
    await bus.acknowledge(second)
    await eventually(lambda: bus.is_empty(STREAM_TASKS, subject))
    await holder.aclose()


async def test_tasks_that_wait_are_delivered_to_who_comes(bus: Bus, world: World) -> None:
    for number in range(700):
        await bus.publish_once(task_subject(world.tenant, "s", f"k{number}"), str(number).encode())
    mailbox = Mailbox()
    holder = await bus.take(STREAM_TASKS, mailbox, consumer=world.tenant)
    got = await mailbox.wait_for(700)
    assert [delivery.payload for delivery in got] == [str(number).encode() for number in range(700)]
    for delivery in got:
        await bus.acknowledge(delivery)
    await eventually(lambda: bus.is_empty(STREAM_TASKS, session_subjects(world.tenant, "s", "task")))
    await holder.aclose()


# -- blobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 5 * KIB * KIB])
async def test_a_blob_comes_back_as_it_was(bus: Bus, other: Bus, world: World, size: int) -> None:
    data = os.urandom(size)
    digest = await bus.put_blob(world.tenant, data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert await other.put_blob(world.tenant, data) == digest
    assert await other.get_blob(world.tenant, digest) == data


async def test_an_unknown_blob_is_missing(bus: Bus, world: World) -> None:
    with pytest.raises(BlobMissing):
        await bus.get_blob(world.tenant, hashlib.sha256(b"never stored").hexdigest())


async def test_a_blob_that_lost_a_chunk_is_missing(bus: Bus, world: World) -> None:
    digest = await bus.put_blob(world.tenant, os.urandom(300 * KIB))
    await bus.purge(STREAM_BLOBS, blob_subject(world.tenant, digest, 2))
    with pytest.raises(BlobMissing):
        await bus.get_blob(world.tenant, digest)


async def test_a_blob_with_other_content_is_missing(bus: Bus, world: World) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    await bus.publish_once(blob_subject(world.tenant, digest, 0), b"wrong", headers={"Pmq-Chunks": "1"})
    with pytest.raises(BlobMissing):
        await bus.get_blob(world.tenant, digest)


# -- limits and life ---------------------------------------------------------------------------------------------------


async def test_a_message_as_large_as_the_limit_is_sent_and_a_larger_one_is_not(bus: Bus, world: World) -> None:
    subject, headers = variable_subject(world.tenant, "s", "v"), {"Content-Type": "text/plain"}
    num_header_bytes = len(b"NATS/1.0\r\nContent-Type: text/plain\r\n\r\n")
    payload = bytes(bus.max_payload - num_header_bytes)
    with pytest.raises(PayloadTooLarge) as caught:
        await bus.publish_once(subject, payload + b"x", headers=headers)
    assert caught.value.facts["size_bytes"] == bus.max_payload + 1
    with pytest.raises(PayloadTooLarge):
        await bus.publish(subject, bytes(bus.max_payload + 1))
    with pytest.raises(PayloadTooLarge):
        await bus.request(subject, bytes(bus.max_payload + 1), timeout_s=1)
    assert (await bus.publish_once(subject, payload, headers=headers)).is_new
    assert len((await bus.get(STREAM_VARS, [subject]))[subject].payload) == len(payload)


async def test_what_was_published_before_closing_arrives(bus: Bus, other: Bus, world: World) -> None:
    mailbox = Mailbox()
    await other.subscribe(f"{world.tenant}.x", mailbox)
    for _ in range(100):
        await bus.publish(f"{world.tenant}.x", bytes(1000))
    await bus.aclose()
    await mailbox.wait_for(100)


async def test_closing_twice_is_fine_and_nothing_works_after(bus: Bus, world: World) -> None:
    mailbox = Mailbox()
    subscription = await bus.subscribe(f"{world.tenant}.x", mailbox)
    follower = await bus.follow(STREAM_VARS, mailbox, after_sequence=await bus.last_sequence(STREAM_VARS))
    await bus.aclose()
    await bus.aclose()
    for ended in (subscription, follower):
        with pytest.raises(ConnectionClosed):
            await ended.wait_closed()
        await ended.aclose()
    subject = variable_subject(world.tenant, "s", "v")
    for attempt in (
        bus.publish(subject, b""),
        bus.publish_once(subject, b""),
        bus.request(subject, b"", timeout_s=1),
        bus.subscribe(subject, mailbox),
        bus.get(STREAM_VARS, [subject]),
        bus.last_sequence(STREAM_VARS),
        bus.follow(STREAM_VARS, mailbox, after_sequence=0),
        bus.take(STREAM_TASKS, mailbox, consumer=world.tenant),
    ):
        with pytest.raises(ConnectionClosed):
            await attempt


async def test_closing_ends_a_request_that_waits(bus: Bus, world: World) -> None:
    silent = Mailbox()
    await bus.subscribe(f"{world.tenant}.silent", silent)

    async def ask() -> ParrotError:
        with pytest.raises(ConnectionClosed) as caught:
            await bus.request(f"{world.tenant}.silent", b"", timeout_s=600)
        return caught.value

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(ask())
        await silent.wait_for(1)
        await bus.aclose()


async def test_a_handler_may_close_the_bus(bus: Bus, world: World) -> None:
    async def handler(delivery: Delivery) -> None:
        await bus.aclose()

    subscription = await bus.subscribe(f"{world.tenant}.x", handler)
    await bus.publish(f"{world.tenant}.x", b"")
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ConnectionClosed):
            await subscription.wait_closed()


async def _is_set(bus: Bus, subject: str) -> bool:
    return bool(await bus.get(STREAM_VARS, [subject]))


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def record(bus: Bus) -> str:
    """A record that only this test writes."""
    return f"$KV.pmq-leader.{fresh_id('test')}"


async def test_a_record_is_replaced_by_who_has_read_the_newest(bus: Bus, other: Bus, record: str) -> None:
    assert await bus.newest(STREAM_LEASES, record) is None
    first = await bus.replace(record, b"1", expected_sequence=0, timeout_s=WAIT_S)
    second = await other.replace(record, b"2", expected_sequence=first, timeout_s=WAIT_S)
    for outdated in (0, first):
        with pytest.raises(RecordChanged):
            await bus.replace(record, b"3", expected_sequence=outdated, timeout_s=WAIT_S)
    for reader in (bus, other):
        found = await reader.newest(STREAM_LEASES, record)
        assert found is not None
        assert (found.subject, found.payload, found.sequence) == (record, b"2", second)
        assert found.timestamp > 0
    assert await bus.replace(record, b"3", expected_sequence=second, timeout_s=WAIT_S) > second


async def test_one_of_many_that_replace_a_record_wins(bus: Bus, other: Bus, record: str) -> None:
    async def replace(number: int) -> int:
        try:
            bus_of_mine = (bus, other)[number % 2]
            await bus_of_mine.replace(record, b"%d" % number, expected_sequence=0, timeout_s=WAIT_S)
        except RecordChanged:
            return 0
        return 1

    assert sum(await asyncio.gather(*[replace(number) for number in range(20)])) == 1


async def test_who_listens_hears_that_a_record_is_written(bus: Bus, other: Bus, record: str) -> None:
    mailbox = Mailbox()
    await other.subscribe(record, mailbox)
    await bus.replace(record, b"1", expected_sequence=0, timeout_s=WAIT_S)
    assert [delivery.payload for delivery in await mailbox.wait_for(1)] == [b"1"]


async def test_a_record_that_no_stream_takes_is_refused(bus: Bus, world: World) -> None:
    with pytest.raises(NoResponders):
        await bus.replace(f"{world.tenant}.nowhere", b"1", expected_sequence=0, timeout_s=1)


async def test_the_newest_task_is_the_last_that_is_not_acknowledged(bus: Bus, world: World) -> None:
    assert await bus.newest(STREAM_TASKS, "pmq.*.task.>") is None
    sequences = [
        (await bus.publish_once(task_subject(world.tenant, "s", f"k{number}"), b"x")).sequence for number in range(3)
    ]
    mailbox = Mailbox()
    await bus.take(STREAM_TASKS, mailbox, consumer="c")
    deliveries = await mailbox.wait_for(3)
    for number in (2, 1, 0):
        newest = await bus.newest(STREAM_TASKS, "pmq.*.task.>")
        assert newest is not None
        assert newest.sequence == sequences[number]
        await bus.acknowledge(deliveries[number])
        await eventually(lambda: bus.is_empty(STREAM_TASKS, task_subject(world.tenant, "s", f"k{number}")))  # noqa: B023
    assert await bus.newest(STREAM_TASKS, "pmq.*.task.>") is None


# -- cutting ---------------------------------------------------------------------------------------------------------


async def test_what_is_cut_sends_nothing_more_and_leaves_nobody_waiting(bus: Bus, other: Bus, world: World) -> None:
    asked = Mailbox()
    await other.subscribe(f"{world.tenant}.x", asked)
    subscription = await bus.subscribe(f"{world.tenant}.x", Mailbox())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_error_of(bus.request(f"{world.tenant}.x", b"", timeout_s=60)))
        await asked.wait_for(1)
        bus.abort()
        bus.abort()
        assert isinstance(await waiting, ConnectionClosed)
        for late in (
            bus.publish(f"{world.tenant}.x", b"late"),
            bus.publish_once(variable_subject(world.tenant, "s", "late"), b"late"),
            bus.replace("$KV.pmq-leader.late", b"late", expected_sequence=0, timeout_s=1),
        ):
            assert isinstance(await _error_of(late), ConnectionClosed)
    await bus.aclose()
    with pytest.raises(ConnectionClosed):
        await subscription.wait_closed()
    await other.publish(f"{world.tenant}.x", b"last")
    assert [delivery.payload for delivery in await asked.wait_for(2)] == [b"", b"last"]
    assert await other.get(STREAM_VARS, [variable_subject(world.tenant, "s", "late")]) == {}


async def _error_of(waiting: Awaitable[object]) -> BaseException:
    try:
        await waiting
    except ParrotError as error:
        return error
    raise AssertionError("no error")


async def test_a_fenced_bus_says_nothing_once_it_may_not(bus: Bus, other: Bus, world: World) -> None:
    mailbox, is_allowed = Mailbox(), True
    await other.subscribe(f"{world.tenant}.x", mailbox)
    fenced = FencedBus(bus, lambda: is_allowed, reason="it is not its turn")
    await fenced.publish(f"{world.tenant}.x", b"1")
    await mailbox.wait_for(1)
    is_allowed = False
    error = await _error_of(fenced.publish(f"{world.tenant}.x", b"2"))
    assert isinstance(error, ConnectionClosed)
    assert "it is not its turn" in str(error)
    is_allowed = True
    for operation in (
        fenced.publish(f"{world.tenant}.x", b"3"),
        fenced.publish_once(variable_subject(world.tenant, "s", "v"), b"3"),
        fenced.take(STREAM_TASKS, Mailbox(), consumer="c"),
        fenced.purge(STREAM_VARS, session_subjects(world.tenant, "s", "var")),
        bus.publish(f"{world.tenant}.x", b"4"),
    ):
        assert isinstance(await _error_of(operation), ConnectionClosed)
    await other.publish(f"{world.tenant}.x", b"last")
    assert [delivery.payload for delivery in await mailbox.wait_for(2)] == [b"1", b"last"]
