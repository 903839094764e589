"""What does it cost that another coordinator takes over? Seconds until it leads, assigns, and knows all.

nats-server, two coordinators and a worker without a model, each a process of its own. Tasks are submitted that wait for
a variable that is never set, and one more for each hundred of them that waits for one that is set while nobody leads.
Then the leader is killed, or stopped (then that one is set as soon as the other leads). Everything counts from there.

    python benchmarks/bench_takeover.py [--tasks 100 10000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import Bus, Delivery, NatsServer
from parrot_mq.cli.process import EXIT_WITH_PARENT, run_async
from parrot_mq.cli.stack import ask_registry
from parrot_mq.client import Client, Session
from parrot_mq.messages import LEASE_SUBJECT, CoordinatorLease, decode, event_subject
from parrot_mq.observability import configure_logging
from parrot_mq.program import Input, Output, SemanticVariable, semantic_function
from parrot_mq.types import fresh_id

HERE = Path(__file__).parent
RUNNABLE_PER = 100
"""One task for so many others can run as soon as somebody leads."""
PROMPT = "a sentence of a document that somebody wants to have summarised, " * 8


@semantic_function(timeout_s=3600)
def step(number: Input, text: Input, gate: Input, result: Output = Output(max_tokens=8)) -> None:
    """Continue.
    {{number}}: {{text}}
    {{gate}}
    {{result}}"""


class Seconds:
    """When things happened for the first time, in seconds since the leader went.

    Attributes:
        leader: Who led before.
    """

    def __init__(self) -> None:
        self.leader = ""
        self.began = float("inf")
        self.found: dict[str, float] = {}
        self.is_led = asyncio.Event()

    def note(self, what: str) -> None:
        if time.perf_counter() >= self.began:
            self.found.setdefault(what, time.perf_counter() - self.began)

    async def on_lease(self, delivery: Delivery) -> None:
        holder = decode(delivery.payload, CoordinatorLease).holder
        if holder not in ("", self.leader):
            self.note("leads")
            self.is_led.set()

    async def on_assigned(self, delivery: Delivery) -> None:
        if self.is_led.is_set():  # by the new leader
            self.note("first_assignment")


@asynccontextmanager
async def process(*command: str, ready: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own that has said `ready`; it ends with the block, or with this process."""
    env = {**os.environ, EXIT_WITH_PARENT: "1"}
    with tempfile.NamedTemporaryFile() as output:
        running = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env
        )
        try:
            await wait_until(lambda: _has_said(output.name, ready))
            yield running
        finally:
            if running.returncode is None:
                running.terminate()
                await running.wait()


async def _has_said(file: str, words: str) -> bool:
    return words in await asyncio.to_thread(Path(file).read_text)


def coordinator(url: str) -> tuple[str, ...]:
    return ("-m", "parrot_mq", "coordinator", "--servers", url)


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another process does."""
    while not await condition():  # noqa: ASYNC110, another process
        await asyncio.sleep(0.005)


async def take_over(num_tasks: int, number: signal.Signals) -> dict[str, float]:
    """One take-over; seconds since the leader went."""
    async with (
        NatsServer() as server,
        process(*coordinator(server.url), ready="coordinator_started") as first,
        process(*coordinator(server.url), ready="coordinator_stands_by"),
        process(str(HERE / "scripted.py"), server.url, ready="ready"),
        Client.connect(server.url) as client,
        ActorSystem(fresh_id("bench"), bus=client.bus) as system,
    ):
        return await _measure(client, system, first, num_tasks, number)


async def _measure(
    client: Client, system: ActorSystem, first: asyncio.subprocess.Process, num_tasks: int, number: signal.Signals
) -> dict[str, float]:
    bus, seconds = client.bus, Seconds()
    async with client.session() as session:
        runnable = _submit(session, num_tasks)
        await session.flush()
        await wait_until(lambda: _knows(system, num_tasks + len(runnable)))
        report = await ask_registry(system, timeout_s=30)
        assert report is not None
        seconds.leader = report.coordinator
        await _listen(bus, client.tenant, seconds)
        await asyncio.sleep(1.0)  # all is quiet
        seconds.began = time.perf_counter()
        first.send_signal(number)
        if number is not signal.SIGKILL:  # who is stopped still acts for a moment
            await seconds.is_led.wait()
        await session.set("soon", "now")
        await wait_until(lambda: _knows(system, num_tasks, unless=seconds.leader))
        seconds.note("all_tasks_known")
        for each in runnable:
            await each
        seconds.note("all_that_can_run_is_done")
        await first.wait()
    return {name: round(value, 3) for name, value in seconds.found.items()}


def _submit(session: Session, num_tasks: int) -> list[SemanticVariable]:
    """Tasks that wait; returns the outputs of those that will run."""
    never, soon = session.variable("never"), session.variable("soon")
    runnable = []
    for index in range(num_tasks):
        step(number=str(index), text=PROMPT, gate=never)
        if index % RUNNABLE_PER == 0:
            runnable.append(step(number=f"{index} again", text=PROMPT, gate=soon))
    return runnable


async def _knows(system: ActorSystem, num_tasks: int, *, unless: str = "") -> bool:
    report = await ask_registry(system, timeout_s=0.2)
    return report is not None and report.coordinator != unless and report.num_unfinished >= num_tasks


async def _listen(bus: Bus, tenant: str, seconds: Seconds) -> None:
    await bus.subscribe(LEASE_SUBJECT, seconds.on_lease)
    await bus.subscribe(event_subject(tenant, "*", "assigned"), seconds.on_assigned)


async def run(sizes: list[int]) -> dict[str, object]:
    """Each size, killed and stopped."""
    found: dict[str, object] = {}
    for num_tasks in sizes:
        found[f"{num_tasks} tasks, killed"] = await take_over(num_tasks, signal.SIGKILL)
        found[f"{num_tasks} tasks, stopped"] = await take_over(num_tasks, signal.SIGTERM)
    found["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    return found


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    configure_logging("warning")
    text = json.dumps(run_async(run(arguments.tasks)), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
