"""An actor of another process, really: asked, stopped, killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.errors import ActorNotFound, ContextLengthExceeded
from parrot_mq.types import fresh_id
from tests.actors.protocol import Do, Said, Say

ROOT = Path(__file__).parents[2]


async def test_actor_of_another_process_answers_until_it_is_killed(nats_url: str) -> None:
    node = fresh_id("process")
    async with (
        _run_process(nats_url, node) as process,
        open_bus(BusConfig(servers=(nats_url,))) as bus,
        ActorSystem(fresh_id("here"), bus=bus) as system,
    ):
        remote = system.remote(f"{node}/parrot", answers=Said)
        assert await remote.ask(Say(text="hello"), timeout_s=5) == Said(texts=["hello"])
        with pytest.raises(ContextLengthExceeded):
            await remote.ask(Do(what="refuse"), timeout_s=5)
        process.kill()
        await process.wait()
        with pytest.raises(ActorNotFound):
            await remote.ask(Say(text="anybody?"), timeout_s=5)


async def test_process_ends_cleanly(nats_url: str) -> None:
    async with _run_process(nats_url, fresh_id("process")) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


@asynccontextmanager
async def _run_process(url: str, node: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.actors.parrot_process", url, node, cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
