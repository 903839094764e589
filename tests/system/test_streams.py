"""A text is read while real processes write it: the reader is late, its link is cut, the worker is killed."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, Delivery, open_bus
from parrot_mq.client import Client
from parrot_mq.messages import PromptTask, TaskEvent, TokenDelta, decode, encode_json, task_subject
from parrot_mq.messages.program import OutputSpec
from parrot_mq.testing import running_nats_server
from tests.bus.flaky_link import FlakyLink
from tests.coordinator.service import eventually
from tests.system.python_processes import ROOT, running_python

pytestmark = pytest.mark.timeout(120)

WORKER = ROOT / "tests" / "systemd" / "scripted_worker.py"
TEXT = "once upon a time there was a parrot \N{PARROT}, and it told this story in small pieces. " * 2
ENVIRONMENT = {"SCRIPTED_STEP_S": "0.03", "PARROT_MQ_WORKER_HEARTBEAT_S": "0.2"}


def _running(*arguments: str, log: Path) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return running_python(*arguments, log=log, environment=ENVIRONMENT)


class _Observer:
    """What goes over the bus."""

    def __init__(self) -> None:
        self.deltas: list[TokenDelta] = []
        self.events: list[TaskEvent] = []

    async def on_delta(self, delivery: Delivery) -> None:
        self.deltas.append(decode(delivery.payload, TokenDelta, delivery.headers))

    async def on_event(self, delivery: Delivery) -> None:
        self.events.append(decode(delivery.payload, TaskEvent, delivery.headers))

    @property
    def workers(self) -> list[str]:
        """To whom it was assigned, in order."""
        return [event.worker for event in self.events if event.kind == "assigned"]

    def num_written(self, attempt: int) -> int:
        """Characters of the text that this attempt has told, or had got."""
        return max((each.offset + len(each.text) for each in self.deltas if each.attempt == attempt), default=0)


async def test_a_late_reader_whose_link_is_cut_while_the_worker_is_killed_reads_the_value(tmp_path: Path) -> None:
    observer, read = _Observer(), ""
    with running_nats_server() as server:
        port = int(server.url.rpartition(":")[2])
        at = ("--servers", server.url)
        worker = (str(WORKER), "--model", "scripted", *at, "--name")
        async with (
            _running("-m", "parrot_mq", "coordinator", *at, "--lease", "1", log=tmp_path / "coordinator.log"),
            _running(*worker, "one", log=tmp_path / "one.log") as one,
            _running(*worker, "two", log=tmp_path / "two.log") as two,
            open_bus(BusConfig(servers=(server.url,))) as bus,
            FlakyLink(port) as link,
            Client.connect(config=BusConfig(servers=(link.url,), reconnect_wait_s=0.05)) as client,
            asyncio.TaskGroup() as group,
        ):
            await bus.ensure_streams()
            await bus.subscribe("pmq.default.stream.tales.>", observer.on_delta)
            await bus.subscribe("pmq.default.event.tales.>", observer.on_event)
            task = PromptTask(template=TEXT + "{{story}}", outputs={"story": OutputSpec(variable="story")})
            await bus.publish_once(task_subject("default", "tales", "task-1"), encode_json(task))
            await eventually(lambda: observer.num_written(1) >= 10, within_s=60)  # processes start meanwhile

            async def follow() -> str:
                nonlocal read
                async with client.session("tales") as session:
                    async for piece in session.variable("story").stream(60):
                        read += piece
                        assert TEXT.upper().startswith(read)
                return read

            following = group.create_task(follow())
            await eventually(lambda: len(read) >= 20)
            link.cut()
            {"one": one, "two": two}[observer.workers[0]].kill()
            await eventually(lambda: observer.num_written(2) >= 30)
            assert not following.done()
            link.mend()
            assert await following == TEXT.upper()
            assert len(set(observer.workers)) == 2
