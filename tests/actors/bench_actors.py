"""How fast are actors? `python -m tests.actors.bench_actors` prints the numbers of the README of `parrot_mq.actors`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from parrot_mq.actors import Actor, ActorRef, ActorSystem
from parrot_mq.bus import Bus, BusConfig, MemoryBus, MemoryServer, NatsServer, open_bus
from parrot_mq.messages import CoordinatorStarted
from parrot_mq.observability import configure_logging

NUM_TELLS = 400_000
NUM_ASKS = 40_000
NUM_REMOTE = 20_000
NUM_SENDERS = 8
NUM_ASKERS = 32
MESSAGE = CoordinatorStarted(node="bench")


class Sink(Actor):
    """Does nothing, as fast as possible."""

    async def receive(self, message: object) -> None:
        pass


class Echo(Actor):
    """Answers with the question."""

    async def receive(self, message: object) -> object:
        return message


async def measure_local() -> None:
    async with ActorSystem("bench") as system:
        sink = await system.spawn(Sink, name="sink")
        echo = await system.spawn(Echo, name="echo")
        await _tell(sink, NUM_TELLS)  # warm up
        started = time.perf_counter()
        await _tell(sink, NUM_TELLS)
        await sink.ask(None, timeout_s=30)
        _report("local tell, handled", NUM_TELLS, started)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_SENDERS):
                group.create_task(_tell(sink, NUM_TELLS // NUM_SENDERS))
        await sink.ask(None, timeout_s=30)
        _report(f"local tell, {NUM_SENDERS} senders", NUM_TELLS, started)
        started = time.perf_counter()
        for number in range(NUM_ASKS):
            await echo.ask(number, timeout_s=5)
        _report("local ask", NUM_ASKS, started)


async def _tell(ref: ActorRef, num: int) -> None:
    for number in range(num):
        await ref.tell(number)


async def measure_remote(label: str, open_a_bus: Callable[[], AbstractAsyncContextManager[Bus]]) -> None:
    async with (
        open_a_bus() as bus,
        open_a_bus() as other_bus,
        ActorSystem("bench-a", bus=bus) as system,
        ActorSystem("bench-b", bus=other_bus) as other,
    ):
        await system.spawn(Sink, name="sink", accepts=CoordinatorStarted)
        await system.spawn(Echo, name="echo", accepts=CoordinatorStarted)
        echo = other.remote("bench-a/echo", answers=CoordinatorStarted)
        durations_s = []
        for _ in range(NUM_REMOTE // 8):
            started = time.perf_counter()
            await echo.ask(MESSAGE, timeout_s=5)
            durations_s.append(time.perf_counter() - started)
        durations_s.sort()
        p50, p99 = (1e6 * durations_s[int(len(durations_s) * part)] for part in (0.5, 0.99))
        sys.stdout.write(f"{label}: ask p50 {p50:.0f} µs, p99 {p99:.0f} µs\n")

        async def ask() -> None:
            for _ in range(NUM_REMOTE // NUM_ASKERS):
                await echo.ask(MESSAGE, timeout_s=30)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_ASKERS):
                group.create_task(ask())
        _report(f"{label}: ask, {NUM_ASKERS} askers", NUM_REMOTE, started)
        sink = other.remote("bench-a/sink")
        started = time.perf_counter()
        for _ in range(NUM_REMOTE):
            await sink.tell(MESSAGE)
        await sink.ask(MESSAGE, timeout_s=30)
        _report(f"{label}: tell", NUM_REMOTE, started)


def _report(what: str, num: int, started: float) -> None:
    duration_s = time.perf_counter() - started
    sys.stdout.write(f"{what}: {num / duration_s:,.0f} /s ({1e6 * duration_s / num:.1f} µs)\n")


async def main() -> None:
    configure_logging("warning")
    await measure_local()
    world = MemoryServer()
    await measure_remote("memory", lambda: MemoryBus(world))
    server = NatsServer()
    await server.start()
    try:
        await measure_remote("nats", lambda: open_bus(BusConfig(servers=(server.url,))))
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
