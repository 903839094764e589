"""Child processes: kept running, given up with their last words, gone with their parent."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from parrot_mq.cli.children import Child
from parrot_mq.errors import ProcessFailed


async def _wait_process(child: Child, *, other_than: int = 0) -> int:
    async with asyncio.timeout(20):
        while child.process is None or child.process.pid == other_than:  # noqa: ASYNC110, another process
            await asyncio.sleep(0.01)
    return child.process.pid


async def test_an_error_that_was_reported_ends_it_at_once_with_its_last_line(tmp_path: Path) -> None:
    child = Child("worker", ["get", "bad name", "v"], log_file=tmp_path / "log")
    with pytest.raises(ProcessFailed, match="session name 'bad name'") as caught:
        await child.run()
    assert caught.value.facts == {"name": "worker", "status": 1}


async def test_a_child_that_cannot_start_is_given_up_after_a_few_times(tmp_path: Path) -> None:
    child = Child("wrong", ["no-such-command"], log_file=tmp_path / "log")
    with pytest.raises(ProcessFailed, match="No such command"):
        await child.run()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
async def test_a_killed_child_is_started_again_and_stopped_in_the_end(tmp_path: Path) -> None:
    # It waits for a server: `watch` connects for as long as `connect_timeout_s` says.
    child = Child("watch", ["watch"], log_file=tmp_path / "log", env={"PARROT_MQ_CONNECT_TIMEOUT_S": "60"})
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(child.run())
        first = await _wait_process(child)
        assert child.process is not None
        child.process.send_signal(signal.SIGKILL)
        second = await _wait_process(child, other_than=first)
        assert second != first
        keeper.cancel()
    assert child.process is None
