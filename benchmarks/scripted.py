"""A worker without a model, as a process of its own: it answers with what the benchmarks measure."""

from __future__ import annotations

import sys
import time

from parrot_workers.engine import GenerationRequest
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.observability import configure_logging

STAMP = "stamp "
"""Marks a prompt that carries the time at which its variable was set, in nanoseconds."""


def answer(request: GenerationRequest) -> str:
    """The age of the prompt's stamp in nanoseconds, or a short text."""
    _, found, stamp = request.text.partition(STAMP)
    return str(time.time_ns() - int(stamp.split()[0])) if found else "done"


async def main(url: str) -> None:
    exit_with_parent()
    async with open_bus(BusConfig(servers=(url,))) as bus, scripted_worker(bus, answer, num_slots=256):
        with stop_signal() as stop:
            print("ready", flush=True)
            await stop.wait()


if __name__ == "__main__":
    configure_logging("warning")
    run_async(main(sys.argv[1]))
