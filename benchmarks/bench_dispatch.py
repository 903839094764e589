"""How fast does a graph run when the model costs nothing? Tasks per second, and the time of one hop.

A hop is the way from a variable that is set to the task that reads it, at a worker. Everything is real (nats-server,
coordinator and worker as processes of their own) but the model. The baseline runs in the same service at the same time
of day: a client that awaits each result and then submits the next request itself, as one does with a request-at-a-time
API.

    python benchmarks/bench_dispatch.py [--tasks 3000] [--hops 300] [--json FILE]
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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from parrot_mq.bus import NatsServer
from parrot_mq.cli.process import EXIT_WITH_PARENT, run_async
from parrot_mq.client import Client, Session
from parrot_mq.observability import configure_logging
from parrot_mq.program import Input, Output, SemanticVariable, semantic_function

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


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--hops", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    configure_logging("warning")
    result = run_async(run(arguments.tasks, arguments.hops))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
