"""Plain functions run in threads: they keep nobody else, even if they never return."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from parrot_mq.bus import MemoryBus, MemoryServer
from parrot_mq.errors import CapacityExhausted, FunctionFailed, FunctionTimedOut
from parrot_mq.native import NativeHost
from parrot_mq.program import NativeFunction, native_function
from tests.coordinator.service import eventually
from tests.native.calling import Caller
from tests.native.functions import fail_in_thread, greet, shout, who_in_thread

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def _host(*functions: NativeFunction[..., Any], **options: Any) -> AsyncIterator[tuple[NativeHost, Caller]]:
    """A host on real time: threads do not know any other."""
    server = MemoryServer()
    server.ensure_streams()
    async with (
        MemoryBus(server) as host_bus,
        MemoryBus(server) as bus,
        NativeHost(host_bus, functions, **options) as host,
    ):
        yield host, Caller(bus)


async def test_a_plain_function_runs_in_a_thread() -> None:
    threads: list[str] = []

    @native_function
    def note(text: str) -> str:
        threads.append(threading.current_thread().name)
        return text

    async with _host(note, shout) as (_, caller):
        assert await caller.call("note", text="x") == "x"
        assert await caller.call("shout", text="x") == "X"
    assert threads == ["native"]


async def test_threads_keep_neither_each_other_nor_the_loop() -> None:
    together, released = threading.Barrier(3), threading.Event()

    @native_function
    def meet(text: str) -> str:
        together.wait(20)
        released.wait(20)
        return text

    async with _host(meet, greet, concurrency=4) as (_, caller), asyncio.TaskGroup() as group:
        meetings = [group.create_task(caller.call("meet", text=str(number))) for number in range(3)]
        assert await caller.call("greet", name="Ada") == "Hello Ada"
        assert not any(meeting.done() for meeting in meetings)
        released.set()
    assert not together.broken
    assert [meeting.result() for meeting in meetings] == ["0", "1", "2"]


async def test_code_in_a_thread_can_ask_which_call_it_runs_for() -> None:
    async with _host(who_in_thread) as (_, caller):
        assert (await caller.call("who_in_thread")).startswith("default.session.v-")


@pytest.mark.parametrize(("kind", "problem"), [("exit", "SystemExit: 3"), ("stop", "StopIteration: the end")])
async def test_whatever_is_raised_in_a_thread_is_an_answer(kind: str, problem: str) -> None:
    async with _host(fail_in_thread) as (_, caller):
        error = await caller.fail("fail_in_thread", kind=kind)
        assert isinstance(error, FunctionFailed)
        assert error.problem == problem


async def test_a_function_that_does_not_return_keeps_its_place_and_nothing_else() -> None:
    released = threading.Event()

    @native_function
    def stuck(text: str) -> str:
        released.wait()
        return text

    async with _host(stuck.using(attempt_timeout_s=0.05), shout, concurrency=2, max_waiting=0) as (host, caller):
        assert isinstance(await caller.fail("stuck", text="x"), FunctionTimedOut)
        assert host.statistics().num_overdue == 1
        assert await caller.call("shout", text="still here") == "STILL HERE"
        assert isinstance(await caller.fail("stuck", text="y"), FunctionTimedOut)
        assert isinstance(await caller.fail("shout", text="no place is left"), CapacityExhausted)
        released.set()
        await eventually(lambda: host.statistics().num_overdue == 0)
        assert await caller.call("shout", text="again") == "AGAIN"


async def test_a_process_that_can_have_no_further_thread_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with _host(shout, concurrency=1, max_waiting=0) as (_, caller):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            error = await caller.fail("shout", text="x")
        assert isinstance(error, CapacityExhausted)
        assert await caller.call("shout", text="x") == "X"


HANGS = """
import asyncio, threading
from parrot_mq.bus import MemoryBus, MemoryServer
from parrot_mq.native import NativeHost
from parrot_mq.program import native_function
from tests.native.calling import Caller

@native_function(attempt_timeout_s=0.05)
def stuck() -> str:
    threading.Event().wait()
    return ""

async def main():
    server = MemoryServer()
    server.ensure_streams()
    async with MemoryBus(server) as bus, NativeHost(bus, [stuck]):
        print(type(await Caller(bus).fail("stuck")).__name__)

asyncio.run(main())
"""


def test_a_process_ends_although_a_function_does_not_return() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "FunctionTimedOut\n")
    assert all("native_calls_abandoned" in line for line in done.stderr.splitlines()), done.stderr
