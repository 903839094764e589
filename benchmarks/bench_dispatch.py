"""How fast does a graph run when the model costs nothing? Tasks per second, and the time of one hop.

A hop is the way from a variable that is set to the task that reads it, at a worker. Everything is real (nats-server,
coordinator and worker as processes of their own) but the model. The baseline runs in the same service at the same time
of day: a client that awaits each result and then submits the next request itself, as one does with a request-at-a-time
API.

    python benchmarks/bench_dispatch.py [--tasks 3000] [--hops 300] [--json FILE]
    python benchmarks/bench_dispatch.py --pure [--json FILE]

With `--pure` only what the dispatcher decides is measured, in this process, without a bus: microseconds to take in a
generation, and to note that one has ended and assign the next, at queues of 1,000 to 100,000 generations in one
session, and of 10 each in 10,000 sessions. What counts is that they stay flat; so they are told as ratios as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from parrot_mq.bus import NatsServer
from parrot_mq.cli.process import EXIT_WITH_PARENT, run_async
from parrot_mq.client import Client, Session
from parrot_mq.coordinator import CoordinatorConfig, DispatchState, ReadyGeneration
from parrot_mq.messages import EngineReport, VariableAddress, WorkerStatus
from parrot_mq.observability import configure_logging
from parrot_mq.program import Input, Output, SemanticVariable, Standing, prefix_hashes, semantic_function
from parrot_mq.types import Objective, Sampling, SessionId, TaskId, TenantId, VariableId

HERE = Path(__file__).parent


@semantic_function
def step(text: Input, result: Output = Output(max_tokens=8)) -> None:
    """Continue.
    {{text}}
    {{result}}"""


@semantic_function
def measure(stamp: Input, age: Output = Output(max_tokens=32)) -> None:
    """How old is this?
    {{stamp}}
    {{age}}"""


@asynccontextmanager
async def service() -> AsyncIterator[str]:
    """nats-server, coordinator and scripted worker, each a process of its own."""
    async with NatsServer() as server:
        commands = (
            [sys.executable, "-m", "parrot_mq", "coordinator", "--servers", server.url, "--log-level", "warning"],
            [sys.executable, str(HERE / "scripted.py"), server.url],
        )
        processes = [await _start(command) for command in commands]
        try:
            yield server.url
        finally:
            for process in reversed(processes):
                process.terminate()
                await process.wait()


async def _start(command: list[str]) -> asyncio.subprocess.Process:
    env = {**os.environ, EXIT_WITH_PARENT: "1"}
    return await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env)


async def throughput(session: Session, num_tasks: int) -> float:
    """Independent tasks, submitted as fast as it goes; tasks per second until the last result is here."""
    start = time.perf_counter()
    results = [step(text=f"task {index}") for index in range(num_tasks)]
    for result in results:
        await result
    return num_tasks / (time.perf_counter() - start)


async def chain(num_steps: int) -> float:
    """A chain that is submitted as a whole; seconds per step."""
    start = time.perf_counter()
    variable: str | SemanticVariable = "start"
    for _ in range(num_steps):
        variable = step(text=variable)
    assert isinstance(variable, SemanticVariable)
    await variable
    return (time.perf_counter() - start) / num_steps


async def chain_by_client(num_steps: int) -> float:
    """The same chain, but the client awaits each result and submits the next step; seconds per step."""
    start = time.perf_counter()
    text = "start"
    for _ in range(num_steps):
        text = await step(text=text)
    return (time.perf_counter() - start) / num_steps


async def hop_times(session: Session, num_hops: int) -> list[float]:
    """Milliseconds from setting a variable to the arrival of the task that reads it, one at a time."""
    ages = []
    for index in range(num_hops):
        stamp = session.variable(f"stamp-{index}")
        age = measure(stamp=stamp)
        await session.flush()
        await stamp.set(f"stamp {time.time_ns()}")
        ages.append(int(await age) / 1e6)
    return ages


async def run(num_tasks: int, num_hops: int) -> dict[str, object]:
    """All measurements in one service, the baseline between two runs of ours."""
    async with service() as url, Client.connect(url) as client, client.session() as session:
        await throughput(session, 500)  # warm-up
        rates = [await throughput(session, num_tasks) for _ in range(3)]
        hops = sorted(await hop_times(session, num_hops))
        ours, theirs = [], []
        for _ in range(3):
            ours.append(await chain(num_hops))
            theirs.append(await chain_by_client(num_hops))
    return {
        "tasks_per_s": round(statistics.median(rates)),
        "tasks_per_s_by_client": round(1 / statistics.median(theirs)),
        "hop_p50_ms": round(statistics.median(hops), 2),
        "hop_p99_ms": round(hops[int(len(hops) * 0.99)], 2),
        "chain_step_ms": round(statistics.median(ours) * 1e3, 2),
        "chain_step_by_client_ms": round(statistics.median(theirs) * 1e3, 2),
        "chain_speedup": round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


# -- decisions only --------------------------------------------------------------------------------------------------

SHAPES = {"1 x 1,000": (1, 1_000), "1 x 10,000": (1, 10_000), "1 x 100,000": (1, 100_000), "10,000 x 10": (10_000, 10)}
"""Sessions, and generations in each."""
NUM_WORKERS = 4
NUM_SLOTS = 64
NUM_CYCLES = 1_000


def measure_decisions() -> dict[str, object]:
    """Cost for each generation, in microseconds and in relation to the shortest queue; the best of three runs."""
    found = {name: min(_measure_queue(*shape) for _ in range(3)) for name, shape in SHAPES.items()}
    first = found["1 x 1,000"]
    return {
        name: {
            "enqueue_us": round(enqueue_us, 1),
            "cycle_us": round(cycle_us, 1),
            "cycle_ratio": round(cycle_us / first[1], 2),
        }
        for name, (enqueue_us, cycle_us) in found.items()
    }


def _measure_queue(num_sessions: int, num_each: int) -> tuple[float, float]:
    """Microseconds to enqueue a generation, and to finish one and assign the next."""
    readies = [_make_ready(f"s{session}", number) for session in range(num_sessions) for number in range(num_each)]
    state = DispatchState(CoordinatorConfig())
    engine = EngineReport(page_size=16, num_pages=10_000)
    for number in range(NUM_WORKERS):
        status = WorkerStatus(worker=f"w{number}", model="m", state="ready", num_slots=NUM_SLOTS, engine=engine)
        state.report(status, 0.0)
    begin = time.perf_counter()
    for ready in readies:
        state.enqueue(ready, now=0.0, expires_at=1e9)
    enqueue_s = time.perf_counter() - begin
    running = deque(placed.job.key for batch in state.assign(0.0) for placed in batch.placed)
    num_cycles = min(NUM_CYCLES, len(readies) - len(running))
    begin = time.perf_counter()
    for cycle in range(num_cycles):
        now = cycle / 1e3
        state.finish([running.popleft()], now=now)
        running.extend(placed.job.key for batch in state.assign(now) for placed in batch.placed)
        state.plan_prefills()
    return enqueue_s / len(readies) * 1e6, (time.perf_counter() - begin) / num_cycles * 1e6


def _make_ready(session: str, number: int) -> ReadyGeneration:
    """Of twenty applications, each with a prompt of its own, half of them urgent."""
    prompt = ("a system prompt " * 50, f"of application {number % 20} " * 30, f"question {number}")
    kind: Literal["latency", "throughput"] = "throughput" if number % 2 else "latency"
    return ReadyGeneration(
        address=VariableAddress(TenantId("t"), SessionId(session), VariableId(f"v{number}")),
        task=TaskId("task"),
        model="m",
        segments=prompt,
        prefix_hashes=tuple(prefix_hashes(prompt)),
        sampling=Sampling(max_tokens=100),
        deadline=1e9,
        standing=Standing(objective=Objective(kind=kind)),
        salt="t",
    )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--hops", type=int, default=300)
    parser.add_argument("--pure", action="store_true", help="only what the dispatcher decides")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    configure_logging("warning")
    result = measure_decisions() if arguments.pure else run_async(run(arguments.tasks, arguments.hops))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
