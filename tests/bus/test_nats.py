"""What a real server and a real connection do to the bus."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from parrot_mq.bus import BusConfig, NatsBus, NatsServer, connect, open_bus
from parrot_mq.bus.follow import FollowSubscription
from parrot_mq.bus.frames import unsubscribe_frame
from parrot_mq.errors import (
    ConnectFailed,
    ConnectionLost,
    ConsumerTakenOver,
    JetStreamUnavailable,
    NoResponders,
    PermissionDenied,
    PublishRejected,
    RequestTimeout,
    ServerTooOld,
    StreamMismatch,
    TransportError,
)
from parrot_mq.messages.subjects import STREAM_TASKS, STREAM_VARS, session_subjects, task_subject, variable_subject
from tests.bus.flaky_link import FlakyLink
from tests.bus.worlds import WAIT_S, Mailbox, eventually

USERS = """
authorization { users: [
  { user: core, password: secret }
  { user: tenant, password: secret, permissions: {
      publish: { allow: ["pmq.t1.var.>", "$JS.API.DIRECT.GET.PMQ_VARS.pmq.t1.var.>"] }
      subscribe: { allow: ["pmq.t1.set.>", "_INBOX_t1.>"] } } }
] }
"""


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """A server of this test's own, that may be killed."""
    async with NatsServer() as server:
        yield server


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[NatsBus]:
    """A quick connection to that server, with the streams."""
    async with open_bus(_config(server.url)) as bus:
        await bus.ensure_streams()
        yield bus


@pytest.fixture
async def link(server: NatsServer) -> AsyncIterator[FlakyLink]:
    """A way to that server that can be cut."""
    async with FlakyLink(server.port) as link:
        yield link


def _config(url: str, **changes: object) -> BusConfig:
    settings = {
        "servers": (url,),
        "reconnect_wait_s": 0.02,
        "ping_interval_s": 1.0,
        "connect_timeout_s": 2.0,
        **changes,
    }
    return BusConfig(**settings)  # type: ignore[arg-type]


def _reconnection_of(bus: NatsBus) -> asyncio.Event:
    event = asyncio.Event()
    bus.add_reconnect_listener(event.set)
    return event


async def _wait(event: asyncio.Event) -> None:
    async with asyncio.timeout(WAIT_S):
        await event.wait()


# -- a server that dies ------------------------------------------------------------------------------------------------


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(server: NatsServer, bus: NatsBus) -> None:
    """Publishing and following go on over a SIGKILL: every fact is stored once and followed once, in order."""
    mailbox, acknowledged = Mailbox(), {}
    await bus.follow(STREAM_VARS, mailbox, after_sequence=0)
    subjects = iter([variable_subject("t", "s", f"v{number}") for number in range(3000)])
    half_way = asyncio.Event()

    async def publish() -> None:
        for subject in subjects:
            acknowledged[subject] = (await bus.publish_once(subject, subject.encode())).sequence
            if len(acknowledged) == 1000:
                half_way.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(32):
            group.create_task(publish())
        await half_way.wait()
        await server.kill()
        await server.restart()
    assert len(acknowledged) == 3000
    got = await mailbox.wait_for(3000)
    assert [delivery.sequence for delivery in got] == sorted(acknowledged.values())
    assert {delivery.subject: delivery.sequence for delivery in got} == acknowledged


async def test_a_work_queue_goes_on_after_the_server_was_killed(server: NatsServer, bus: NatsBus) -> None:
    """What is in hand is not delivered again, what was acknowledged while the server was away goes, the rest comes."""
    mailbox, restored = Mailbox(), _reconnection_of(bus)
    await bus.take(STREAM_TASKS, mailbox, consumer="c")
    for name in ("a", "b", "c"):
        await bus.publish_once(task_subject("t", "s", name), name.encode())
    await mailbox.wait_for(3)
    await bus.acknowledge(mailbox.deliveries[0])
    await server.kill()
    await eventually(lambda: _is_disconnected(bus))
    await bus.acknowledge(mailbox.deliveries[1])
    await server.restart()
    await _wait(restored)
    await eventually(lambda: bus.is_empty(STREAM_TASKS, task_subject("t", "s", "a")))
    await eventually(lambda: bus.is_empty(STREAM_TASKS, task_subject("t", "s", "b")))
    await bus.publish_once(task_subject("t", "s", "d"), b"d")
    await mailbox.wait_for(4)
    assert mailbox.payloads == [b"a", b"b", b"c", b"d"]
    for delivery in mailbox.deliveries[2:]:
        await bus.acknowledge(delivery)
    await eventually(lambda: bus.is_empty(STREAM_TASKS, session_subjects("t", "s", "task")))


async def test_streams_in_memory_come_back_empty_and_are_followed_from_their_start(server: NatsServer) -> None:
    """Who has made the streams makes them again; reading goes on although sequences start at 1 again."""
    async with open_bus(_config(server.url, storage="memory")) as bus:
        await bus.ensure_streams()
        mailbox, tasks = Mailbox(), Mailbox()
        for number in range(10):
            await bus.publish_once(variable_subject("t", "old", f"v{number}"), b"old")
        await bus.take(STREAM_TASKS, tasks, consumer="c")
        await bus.follow(STREAM_VARS, mailbox, after_sequence=0)
        await mailbox.wait_for(10)
        await server.kill()
        await server.restart()
        await bus.publish_once(variable_subject("t", "new", "v"), b"new")
        await bus.publish_once(task_subject("t", "new", "k"), b"task")
        await tasks.wait_for(1)
        await mailbox.wait_for(11)
        assert (mailbox.deliveries[-1].payload, mailbox.deliveries[-1].sequence) == (b"new", 1)


async def test_core_subscriptions_survive_and_listeners_are_told(server: NatsServer, bus: NatsBus) -> None:
    """A listener that raises keeps neither the others nor the connection from working."""
    mailbox, restored, removed = Mailbox(), _reconnection_of(bus), asyncio.Event()

    def fail() -> None:
        raise ValueError("listener")

    bus.add_reconnect_listener(fail)
    told_after = _reconnection_of(bus)
    remove = bus.add_reconnect_listener(removed.set)
    remove()
    remove()
    await bus.subscribe("x.*", mailbox)
    await server.kill()
    await eventually(lambda: _is_disconnected(bus))
    await bus.publish("x.held", b"while away")
    await server.restart()
    await _wait(restored)
    await _wait(told_after)
    await bus.publish("x.now", b"after")
    await mailbox.wait_for(2)
    assert mailbox.payloads == [b"while away", b"after"]
    assert not removed.is_set()


async def test_a_request_in_flight_fails_at_once_when_the_server_goes(server: NatsServer, bus: NatsBus) -> None:
    silent = Mailbox()
    await bus.subscribe("silent", silent)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(_fails_with(ConnectionLost, bus, "silent"))
        await silent.wait_for(1)
        await server.kill()
        await waiting
        assert waiting.result().retryable


async def test_a_request_while_the_server_is_away_times_out(server: NatsServer, bus: NatsBus) -> None:
    await server.kill()
    await eventually(lambda: _is_disconnected(bus))
    with pytest.raises(RequestTimeout):
        await bus.request("x", b"", timeout_s=0.05)


async def test_a_fact_that_cannot_be_stored_in_time_is_an_error(server: NatsServer) -> None:
    async with open_bus(_config(server.url, publish_timeout_s=0.3)) as bus:
        await bus.ensure_streams()
        await server.kill()
        with pytest.raises(RequestTimeout) as caught:
            await bus.publish_once(variable_subject("t", "s", "v"), b"")
        assert caught.value.facts["timeout_s"] == 0.3


async def test_closing_is_quick_while_the_server_is_away(server: NatsServer, bus: NatsBus) -> None:
    await bus.follow(STREAM_VARS, Mailbox(), after_sequence=0)
    await server.kill()
    await eventually(lambda: _is_disconnected(bus))
    async with asyncio.timeout(5):
        await bus.aclose()


# -- a connection that breaks ------------------------------------------------------------------------------------------


async def test_a_cut_connection_loses_no_task_on_the_way(server: NatsServer, bus: NatsBus, link: FlakyLink) -> None:
    """Deliveries that the server sent into a broken connection come again at once, not after an hour."""
    mailbox = Mailbox()
    async with open_bus(_config(link.url)) as holder:
        restored = _reconnection_of(holder)
        await holder.take(STREAM_TASKS, mailbox, consumer="c")
        link.is_stalled = True
        for number in range(50):
            await bus.publish_once(task_subject("t", "s", f"k{number}"), b"")
        link.cut()
        link.is_stalled = False
        link.mend()
        await _wait(restored)
        got = await mailbox.wait_for(50)
        assert sorted(d.subject for d in got) == sorted(task_subject("t", "s", f"k{n}") for n in range(50))


async def test_a_take_over_during_an_outage_is_noticed_after_it(
    server: NatsServer, bus: NatsBus, link: FlakyLink
) -> None:
    old, new = Mailbox(), Mailbox()
    async with open_bus(_config(link.url)) as old_bus:
        old_holder = await old_bus.take(STREAM_TASKS, old, consumer="c")
        await bus.publish_once(task_subject("t", "s", "k"), b"")
        await old.wait_for(1)
        link.cut()
        await bus.take(STREAM_TASKS, new, consumer="c")
        link.mend()
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(ConsumerTakenOver):
                await old_holder.wait_closed()
    await new.wait_for(1)


async def test_a_deleted_follow_consumer_is_made_again(bus: NatsBus) -> None:
    mailbox = Mailbox()
    await bus.follow(STREAM_VARS, mailbox, after_sequence=0)
    await bus.publish_once(variable_subject("t", "s", "a"), b"a")
    await mailbox.wait_for(1)
    for name in await bus._jetstream.consumer_names(STREAM_VARS):
        await bus._jetstream.delete_consumer(STREAM_VARS, name)
    await bus.publish_once(variable_subject("t", "s", "b"), b"b")
    await mailbox.wait_for(2)
    assert mailbox.payloads == [b"a", b"b"]


async def test_a_consumer_that_falls_silent_is_made_again(bus: NatsBus) -> None:
    """Two heartbeats missed: something between the server and us forgot the subscription."""
    mailbox = Mailbox()
    subscription = await bus.follow(STREAM_VARS, mailbox, after_sequence=0)
    await bus.publish_once(variable_subject("t", "s", "a"), b"a")
    await mailbox.wait_for(1)
    assert isinstance(subscription, FollowSubscription)
    assert subscription._interest is not None
    bus._connection.send(unsubscribe_frame(subscription._interest.sid))
    await bus.publish_once(variable_subject("t", "s", "b"), b"b")
    await mailbox.wait_for(2)
    assert mailbox.payloads == [b"a", b"b"]


async def test_a_server_that_stands_still_is_noticed(server: NatsServer) -> None:
    """The watchdog ends a connection that says nothing; requests in flight end with it."""
    async with open_bus(_config(server.url, ping_interval_s=0.4)) as bus:
        silent, restored = Mailbox(), _reconnection_of(bus)
        await bus.subscribe("silent", silent)
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            waiting = group.create_task(_fails_with(ConnectionLost, bus, "silent"))
            await silent.wait_for(1)
            server.send_signal(signal.SIGSTOP)
            try:
                await waiting
            finally:
                server.send_signal(signal.SIGCONT)
            await restored.wait()
        await bus.publish("silent", b"")
        await silent.wait_for(2)


async def test_closing_is_bounded_while_the_server_stands_still(server: NatsServer) -> None:
    async with open_bus(_config(server.url, connect_timeout_s=0.5)) as bus:
        server.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                await bus.aclose()
        finally:
            server.send_signal(signal.SIGCONT)


async def test_an_error_of_the_server_makes_a_new_connection(bus: NatsBus) -> None:
    """nats-py closes for good when the server sends an error; the bus does not."""
    mailbox, restored = Mailbox(), _reconnection_of(bus)
    await bus.subscribe("x", mailbox)
    bus._connection.send(b"GARBAGE\r\n")
    await _wait(restored)
    await bus.publish("x", b"")
    await mailbox.wait_for(1)


async def test_a_dead_read_loop_makes_a_new_connection(bus: NatsBus) -> None:
    restored = _reconnection_of(bus)
    client = bus._connection._client
    assert client is not None
    assert client._reading_task is not None
    client._reading_task.cancel()
    await _wait(restored)
    assert (await bus.publish_once(variable_subject("t", "s", "v"), b"")).is_new


async def test_a_cancelled_flush_does_not_kill_the_read_loop(bus: NatsBus) -> None:
    """nats-py alone would set the result of the cancelled future when the late PONG comes, and read no more."""
    client = bus._connection._client
    assert client is not None
    flush = asyncio.get_running_loop().create_task(client.flush())
    await asyncio.sleep(0)
    flush.cancel()
    with suppress(asyncio.CancelledError):
        await flush
    assert await client.ping(WAIT_S)
    assert bus._connection._client is client
    assert client._reading_task is not None
    assert not client._reading_task.done()


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_port_that_nobody_listens_on_is_named(server: NatsServer) -> None:
    url = server.url
    await server.kill()
    with pytest.raises(ConnectFailed, match="connection refused") as caught:
        await connect(_config(url, connect_timeout_s=0.2))
    assert url in caught.value.message


async def test_connecting_waits_for_a_server_that_is_starting(server: NatsServer) -> None:
    await server.kill()
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        connecting = group.create_task(connect(_config(server.url, connect_timeout_s=WAIT_S)))
        await server.restart()
    await connecting.result().aclose()


async def test_something_else_on_the_port_is_a_clear_error() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as impostor:
        port = impostor.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed, match="INFO"):
            await connect(_config(f"nats://127.0.0.1:{port}", connect_timeout_s=0.2))
        with pytest.raises(ConnectFailed):
            await connect(_config("nats://no-such-host.invalid:4222", connect_timeout_s=0.2))


async def test_a_wrong_password_fails_at_once_and_is_not_shown() -> None:
    async with NatsServer(extra_config=[USERS]) as server, asyncio.timeout(WAIT_S):
        for config in (
            _config(server.url, user="core", password="guess", connect_timeout_s=60.0),
            _config(server.url.replace("//", "//core:guess@"), connect_timeout_s=60.0),
            _config(server.url, connect_timeout_s=60.0),
        ):
            with pytest.raises(ConnectFailed, match="refused the credentials") as caught:
                await connect(config)
            assert "guess" not in caught.value.message


async def test_what_a_tenant_may_not_do_is_refused_at_once() -> None:
    async with NatsServer(extra_config=[USERS]) as server, asyncio.timeout(WAIT_S):
        core = _config(server.url, user="core", password="secret")
        tenant = _config(server.url, user="tenant", password="secret", inbox_prefix="_INBOX_t1", publish_timeout_s=60.0)
        async with open_bus(core) as owner, open_bus(tenant) as bus:
            await owner.ensure_streams()
            for attempt, subject in (
                (lambda: bus.publish_once("pmq.T2.var.s.v", b""), "pmq.T2.var.s.v"),
                (lambda: bus.request("pmq.t2.control.s.open", b"", timeout_s=60), "pmq.t2.control.s.open"),
                (lambda: bus.subscribe("pmq.T2.set.>", Mailbox()), "pmq.T2.set.>"),
                (lambda: bus.get(STREAM_VARS, ["pmq.t2.var.s.v"]), "$JS.API.DIRECT.GET.PMQ_VARS.pmq.t2.var.s.v"),
                (lambda: bus.ensure_streams(), "$JS.API.INFO"),
                (lambda: bus.follow(STREAM_VARS, Mailbox(), after_sequence=0), None),
            ):
                await _is_denied(attempt, subject)
            await bus.publish("pmq.t2.var.s.v", b"dropped by the server")

            mailbox = Mailbox()
            await bus.subscribe("pmq.t1.set.>", mailbox)
            await bus.publish_once("pmq.t1.var.s.a", b"a")
            await bus.publish_once("pmq.t1.var.s.b", b"b")
            await mailbox.wait_for(2)
            found = await bus.get(STREAM_VARS, ["pmq.t1.var.s.a", "pmq.t1.var.s.b", "pmq.t1.var.s.c"])
            assert {subject: got.payload for subject, got in found.items()} == {
                "pmq.t1.var.s.a": b"a",
                "pmq.t1.var.s.b": b"b",
            }
            assert not await bus.is_empty(STREAM_VARS, "pmq.t1.var.s.a")


async def test_an_inbox_that_is_not_permitted_is_named() -> None:
    async with NatsServer(extra_config=[USERS]) as server:
        with pytest.raises(ConnectFailed, match="inbox_prefix"):
            await connect(_config(server.url, user="tenant", password="secret"))


async def test_a_server_without_jetstream_says_so() -> None:
    async with NatsServer(jetstream=False) as server, open_bus(_config(server.url, publish_timeout_s=0.3)) as bus:
        with pytest.raises(JetStreamUnavailable):
            await bus.ensure_streams()
        with pytest.raises(PublishRejected, match="no stream takes this subject"):
            await bus.publish_once(variable_subject("t", "s", "v"), b"")
        with pytest.raises(NoResponders):
            await bus.get(STREAM_VARS, [variable_subject("t", "s", "v")])


async def test_a_stream_with_other_settings_is_named(server: NatsServer) -> None:
    async with open_bus(_config(server.url)) as bus:
        foreign = {"name": STREAM_TASKS, "subjects": ["pmq.*.task.>"], "retention": "limits", "storage": "memory"}
        await bus._jetstream.call(f"STREAM.CREATE.{STREAM_TASKS}", dict, foreign)
        with pytest.raises(StreamMismatch) as caught:
            await bus.ensure_streams()
        assert caught.value.stream == STREAM_TASKS
        await bus._jetstream.call(f"STREAM.DELETE.{STREAM_TASKS}", dict)
        await bus._jetstream.call("STREAM.CREATE.OTHER", dict, {**foreign, "name": "OTHER"})
        with pytest.raises(StreamMismatch, match="another stream"):
            await bus.ensure_streams()


async def test_streams_are_brought_up_to_date(server: NatsServer, bus: NatsBus) -> None:
    await bus.publish_once(variable_subject("t", "s", "v"), b"kept")
    async with open_bus(_config(server.url, max_age_s=7200.0)) as other:
        await other.ensure_streams()
        await other.ensure_streams()
        info = await other._jetstream.stream_info(STREAM_VARS)
        assert info.config["max_age"] == 7200 * 10**9
        assert (await other.get(STREAM_VARS, [variable_subject("t", "s", "v")])) != {}


async def test_an_old_server_is_refused(bus: NatsBus) -> None:
    for version in ("2.11.9", "1.4.0", "what"):
        bus._connection.server_version = version
        with pytest.raises(ServerTooOld):
            await bus.ensure_streams()


# -- a publisher that means harm ---------------------------------------------------------------------------------------


async def test_a_published_status_does_not_pass_for_the_server_s(bus: NatsBus) -> None:
    """Whoever may publish a value may write anything into its first header line and its `Nats-` headers."""
    good, bad, last = (variable_subject("t", "s", name) for name in ("a", "b", "c"))
    block = b"NATS/1.0 204 EOB\r\nNats-Subject: pmq.other.var.s.v\r\nNats-Num-Pending: 0\r\nNats-Sequence: 9\r\n\r\n"
    await bus.publish_once(good, b"a")
    bus._connection.send(b"HPUB %b  %d %d\r\n%bb\r\n" % (bad.encode(), len(block), len(block) + 1, block))
    await bus.publish_once(last, b"c")
    found = await bus.get(STREAM_VARS, [good, bad, last])
    assert {subject: got.payload for subject, got in found.items()} == {good: b"a", bad: b"b", last: b"c"}
    assert (found[bad].sequence, dict(found[bad].headers)) == (2, {})
    assert (await bus.get(STREAM_VARS, [bad]))[bad].payload == b"b"
    mailbox = Mailbox()
    await bus.follow(STREAM_VARS, mailbox, after_sequence=0)
    await mailbox.wait_for(3)
    assert mailbox.payloads == [b"a", b"b", b"c"]


# -- helpers -----------------------------------------------------------------------------------------------------------


async def _is_disconnected(bus: NatsBus) -> bool:
    return not bus._connection.is_connected


async def _fails_with(kind: type[TransportError], bus: NatsBus, subject: str) -> TransportError:
    with pytest.raises(kind) as caught:
        await bus.request(subject, b"", timeout_s=600)
    return caught.value


async def _is_denied(attempt: Callable[[], Awaitable[object]], subject: str | None) -> None:
    with pytest.raises(PermissionDenied) as caught:
        await attempt()
    assert subject is None or caught.value.subject == subject
