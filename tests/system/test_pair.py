"""A pair of coordinators as processes of their own: killed, stopped, paused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import Bus, BusConfig, Delivery, NatsBus, NatsServer, connect, open_bus
from parrot_mq.client import Client
from parrot_mq.errors import DeadlineExceeded
from parrot_mq.messages import LEASE_SUBJECT, STREAM_LEASES, STREAM_TASKS
from parrot_mq.program import Input, Output, Regex, semantic_function
from parrot_mq.types import fresh_id
from tests.bus.clusters import running_cluster
from tests.coordinator.service import Process, answer, eventually, expected, make_engine, raised_by
from tests.system.recording_link import RecordingLink

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TAKE_OVER_S = 3.0
"""What is promised: so long after a leader was killed, work goes on at the latest."""
MAY_SAY = {LEASE_SUBJECT, f"$JS.API.STREAM.MSG.GET.{STREAM_LEASES}"}
"""What a coordinator that does not lead says: it reads the record of the lease, and may try to write it."""


@semantic_function
def step(text: Input, result: Output = Output(max_tokens=100)) -> None:
    """{{text}}.{{result}}"""


@semantic_function
def cut(text: Input, pieces: Output = Output(max_tokens=100, transform=Regex("..", every=True))) -> None:
    """{{text}}.{{pieces}}"""


@semantic_function
def both(piece: Input, other: Input, result: Output = Output(max_tokens=100)) -> None:
    """{{piece}} {{other}}.{{result}}"""


@semantic_function(timeout_s=3)
def step_soon(text: Input, result: Output = Output(max_tokens=100)) -> None:
    """{{text}}.{{result}}"""


class _Coordinator:
    """`parrot-mq coordinator` as a process."""

    def __init__(self, log: Path, servers: str, environment: dict[str, str]) -> None:
        self._log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_MQ_")}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "parrot_mq", "coordinator", "--servers", servers, "--log-level", "info"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**kept, **environment},
            )

    def told(self, event: str) -> list[dict[str, object]]:
        """What its log says of one kind of event."""
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [entry for line in lines if (entry := json.loads(line))["event"] == event]

    async def wait_told(self, event: str, number: int = 1) -> dict[str, object]:
        """Wait until its log says something for the `number`-th time."""
        await eventually(lambda: len(self.told(event)) >= number)
        return self.told(event)[number - 1]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait for the end."""
        self.send(number)
        await asyncio.to_thread(self._process.wait)


class _Service:
    """A server or a cluster, a pair of coordinators, workers and a client."""

    def __init__(
        self, stack: AsyncExitStack, group: asyncio.TaskGroup, folder: Path, servers: tuple[str, ...], replicas: int
    ) -> None:
        self.config = BusConfig(servers=servers, replicas=replicas, publish_timeout_s=30, reconnect_wait_s=0.05)
        self._stack = stack
        self._group = group
        self._folder = folder
        self.coordinators: list[_Coordinator] = []

    def start(self, servers: str = "") -> _Coordinator:
        environment = {"PARROT_MQ_REPLICAS": str(self.config.replicas)}
        log = self._folder / f"coordinator-{len(self.coordinators)}.log"
        coordinator = _Coordinator(log, servers or ",".join(self.config.servers), environment)
        self._stack.push_async_callback(coordinator.end)
        self.coordinators.append(coordinator)
        return coordinator

    async def pair(self, leaders_servers: str = "") -> tuple[_Coordinator, _Coordinator]:
        """One that leads and one that stands by."""
        leader = self.start(leaders_servers)
        await leader.wait_told("coordinator_started")
        standby = self.start()
        await standby.wait_told("coordinator_stands_by")
        return leader, standby

    async def connect(self) -> NatsBus:
        return await self._stack.enter_async_context(open_bus(self.config))

    async def add_worker(self, name: str, step_s: float = 0.0, num_slots: int = 8) -> Process:
        """A worker in this process, on a connection of its own."""
        worker = Process(
            await connect(self.config),
            lambda bus: scripted_worker(
                bus,
                answer,
                name=name,
                engine=lambda: make_engine(answer, tokens_per_step=1, step_s=step_s, num_slots=num_slots),
                heartbeat_s=0.2,
            ),
        )
        await worker.start(self._group)
        self._stack.push_async_callback(worker.stop)
        return worker


@asynccontextmanager
async def _service(folder: Path, servers: tuple[str, ...], replicas: int = 1) -> AsyncIterator[_Service]:
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        yield _Service(stack, group, folder, servers, replicas)


async def _is_all_done(bus: Bus) -> bool:
    return await bus.is_empty(STREAM_TASKS, "pmq.*.task.>")


class _Stopwatch:
    """Counts seconds, but not those in which the machine stood still: then all processes did."""

    elapsed_s = 0.0

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            self.elapsed_s += min(time.monotonic() - began, 0.2)


async def _assert_work_goes_on_in_time(client: Client, leader: _Coordinator) -> None:
    """Kill the leader while a chain runs, and give it more to do: all is done in time."""
    async with client.session() as session:
        waiting = step(text=step(text=session.variable("x")))
        await session.flush()
        async with asyncio.TaskGroup() as group:
            watch = _Stopwatch()
            running = group.create_task(watch.run())
            await leader.end()
            await session.set("x", "go")
            assert await waiting == expected(expected("go.") + ".")
            running.cancel()
        assert watch.elapsed_s < TAKE_OVER_S


async def test_work_goes_on_within_three_seconds_of_a_kill(tmp_path: Path) -> None:
    async with NatsServer() as server, _service(tmp_path, (server.url,)) as service:
        leader, standby = await service.pair()
        await service.add_worker("w1")
        client = Client(await service.connect())
        for number in range(2, 4):
            await _assert_work_goes_on_in_time(client, leader)
            taken = await standby.wait_told("leadership_taken")
            assert taken["term"] == number
            assert "was not heard of for 2 s" in str(taken["reason"])
            leader, standby = standby, service.start()
            await standby.wait_told("coordinator_stands_by")


async def test_maps_go_on_when_the_leader_is_killed_in_the_middle(tmp_path: Path) -> None:
    """One map is under way, a second one waits for it, and a third one for something that is set later."""
    async with NatsServer() as server, _service(tmp_path, (server.url,)) as service:
        leader, _ = await service.pair()
        await service.add_worker("w1", step_s=0.01, num_slots=2)
        client = Client(await service.connect())
        async with client.session() as session:
            pieces = cut(text="x").as_list()
            steps = step.map(text=pieces)
            results = both.map(piece=steps, other=session.variable("other"))
            await steps.item(0)
            await leader.end()
            await session.set("other", "o")
            texts = re.findall("..", expected("x."))
            made = [expected(f"{text}.") for text in texts]
            assert await pieces == texts
            assert await steps == made
            assert await results == [expected(f"{text} o.") for text in made]
        await eventually(lambda: _is_all_done(client.bus))


async def test_a_leader_that_is_stopped_hands_over_at_once(tmp_path: Path) -> None:
    async with NatsServer() as server, _service(tmp_path, (server.url,)) as service:
        leader, standby = await service.pair()
        await leader.end(signal.SIGTERM)
        taken = await standby.wait_told("leadership_taken")
        assert taken["reason"] == "the one before has released it"
        (released,) = leader.told("leadership_released")
        assert _seconds_between(released, taken) < 1.5, "a lease that is not released ends after two seconds"


def _seconds_between(before: dict[str, object], after: dict[str, object]) -> float:
    first, second = (datetime.fromisoformat(str(each["timestamp"])) for each in (before, after))
    return (second - first).total_seconds()


async def test_a_leader_that_stood_still_says_nothing_when_it_goes_on(tmp_path: Path) -> None:
    """All that would make it act has come: a worker fell silent, a deadline has passed, requests and tasks wait."""
    async with (
        NatsServer() as server,
        RecordingLink(server.port) as link,
        _service(tmp_path, (server.url,)) as service,
    ):
        paused, standby = await service.pair(leaders_servers=link.url)
        slow = await service.add_worker("slow", step_s=1.0, num_slots=1)
        observer = await service.connect()
        client = Client(observer, tenant=fresh_id("tenant"))
        num_stored = Counter[str]()

        async def count(delivery: Delivery) -> None:
            num_stored[delivery.subject] += 1

        await observer.subscribe(f"pmq.{client.tenant}.set.>", count)
        async with client.session() as session:
            running = step(text="at the slow worker")
            late = session.variable("never")
            cancelled, expired = step(text=late), step_soon(text=late)
            await session.flush()
            await eventually(lambda: "pmq-sys.actor.slow.worker" in link.published())
            paused.send(signal.SIGSTOP)
            await slow.kill()
            await service.add_worker("fast")
            more = [step(text=f"{number}") for number in range(20)]
            await session.flush()
            await standby.wait_told("coordinator_started")
            assert [await each for each in more] == [expected(f"{number}.") for number in range(20)]
            assert await running == expected("at the slow worker.")
            assert await session.cancel(cancelled.id) == 1
            assert isinstance(await raised_by(expired.get()), DeadlineExceeded)
            link.forget()

            paused.send(signal.SIGCONT)
            await paused.wait_told("leadership_lost")
            await paused.wait_told("coordinator_stands_by")
            assert await step(text="more") == expected("more.")
            assert set(link.published()) <= MAY_SAY
            await eventually(lambda: _is_all_done(observer))
        assert set(num_stored.values()) == {1}

        await standby.end(signal.SIGTERM)
        await paused.wait_told("leadership_taken", 2)
        async with client.session():
            assert await step(text="again") == expected("again.")


async def test_a_pair_on_a_cluster_of_three(tmp_path: Path) -> None:
    """A killed leader is followed in time, and so is one that loses its server; nothing is lost."""
    async with running_cluster() as cluster:
        servers = tuple(server.url for server in cluster)
        async with _service(tmp_path, servers, replicas=3) as service:
            leader, standby = await service.pair()
            await service.add_worker("w1")
            client = Client(await service.connect())
            await _assert_work_goes_on_in_time(client, leader)
            await standby.wait_told("leadership_taken")
            service.start()
            info = await client.bus._jetstream.call(f"STREAM.INFO.{STREAM_LEASES}", dict)  # type: ignore[attr-defined]
            async with client.session() as session:
                waiting = step(text=step(text=session.variable("x")))
                await session.flush()
                await cluster[int(info["cluster"]["leader"][1])].kill()
                await session.set("x", "go")
                assert await waiting.get(60) == expected(expected("go.") + ".")
