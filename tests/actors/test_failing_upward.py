"""Failures that go upward: too many restarts, and a failure of the root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from parrot_mq.actors import (
    ActorSystem,
    ChildSpec,
    Strategy,
    Supervision,
    Supervisor,
)
from parrot_mq.errors import RestartIntensityExceeded
from tests.actors.helpers import Crash, Recorder, seen_by, settle, wait_until

EAGER = Supervision(backoff_s=0)


Diary = list[str]


async def test_too_many_restarts_cancel_the_block_and_come_out_of_it() -> None:
    diary: Diary = []

    async def host() -> None:
        async with ActorSystem("node", supervision=Supervision(intensity=2, backoff_s=0)) as system:
            await system.spawn(_recorder(diary, "good"), name="good")
            bad = await system.spawn(Recorder, name="bad")
            for _ in range(3):
                await bad.tell("crash")
            await system.run_until_stopped()

    with pytest.raises(RestartIntensityExceeded, match=r"node/bad.*more than 2 times in 5 s") as raised:
        await host()
    assert isinstance(raised.value.__cause__, Crash)
    assert diary == ["start good", "stop good"]


async def test_failure_of_the_root_leaves_no_cancellation_behind() -> None:
    """The task that ran the block goes on, as after `asyncio.timeout`."""
    with pytest.raises(RestartIntensityExceeded):
        await _fail_root(ActorSystem.run_until_stopped)
    _assert_not_cancelling()
    await asyncio.sleep(0)


async def test_block_that_ignores_its_cancellation_still_raises_the_failure() -> None:
    async def ignore(system: ActorSystem) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await system.run_until_stopped()

    with pytest.raises(RestartIntensityExceeded):
        await _fail_root(ignore)
    _assert_not_cancelling()


async def test_error_of_the_block_is_not_hidden_by_a_failure_of_the_root() -> None:
    async def fail_too(system: ActorSystem) -> None:
        try:
            await system.run_until_stopped()
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _fail_root(fail_too)
    _assert_not_cancelling()


async def test_cancellation_from_outside_wins_over_a_failure_of_the_root() -> None:
    """Both cancelled the block; who cancelled the task from outside waits for a cancelled task."""

    async def cancel_once_more(system: ActorSystem) -> None:
        try:
            await system.run_until_stopped()
        finally:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(_fail_root(cancel_once_more))
    assert task.cancelled()


async def test_cancellation_from_outside_is_not_taken_for_a_failure_of_the_root() -> None:
    async def host() -> None:
        async with ActorSystem("node", supervision=Supervision(intensity=0)) as system:
            bad = await system.spawn(Recorder, name="bad")
            await bad.tell("crash")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await system.run_until_stopped()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(host())
    assert task.cancelled()


async def test_wait_failed_raises_what_failed_the_root() -> None:
    with pytest.raises(RestartIntensityExceeded):
        await _fail_root(ActorSystem.wait_failed)
    _assert_not_cancelling()


async def test_wait_failed_returns_when_the_system_is_closed() -> None:
    async with asyncio.TaskGroup() as group:
        async with ActorSystem("node") as system:
            waiting = group.create_task(system.wait_failed())
            await settle()
        await waiting


async def test_too_many_restarts_of_children_restart_the_parent() -> None:
    diary: Diary = []
    async with ActorSystem("node", supervision=EAGER) as system:
        await system.spawn(partial(_make_supervisor, diary, "ab", intensity=0), name="parent")
        child = system.ref("b")
        await child.tell("crash")
        await wait_until(lambda: diary.count("start b") == 2)
        assert diary == ["start a", "start b", "stop b", "stop a", "start a", "start b"]
        await child.tell("hello")  # the reference means the name, and finds the new child
        assert await seen_by(child) == ["hello"]


def _recorder(diary: Diary, name: str) -> Callable[[], Recorder]:
    return lambda: Recorder(diary, name=name)


def _make_supervisor(
    diary: Diary, names: str, *, strategy: Strategy = Strategy.ONE_FOR_ONE, intensity: int = 3
) -> Supervisor:
    supervision = Supervision(strategy=strategy, intensity=intensity, backoff_s=0)
    return Supervisor([ChildSpec(factory=_recorder(diary, name), name=name) for name in names], supervision=supervision)


async def _fail_root(block: Callable[[ActorSystem], Awaitable[None]]) -> None:
    """Run `block` inside a system whose root is about to fail."""
    async with ActorSystem("node", supervision=Supervision(intensity=0)) as system:
        await (await system.spawn(Recorder, name="bad")).tell("crash")
        await block(system)


def _assert_not_cancelling() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
