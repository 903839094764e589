"""The example does what it says, on the tiny model, fed by a client that knows nothing of this project."""

from __future__ import annotations

import asyncio
import runpy
import sys
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.stack import StackOptions, open_stack
from tests.coordinator.service import eventually

FOLDER = Path(__file__).parents[2] / "examples" / "ticket_triage"
MAX_LINES = 60


def test_a_person_writes_little() -> None:
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) < MAX_LINES, path


@pytest.mark.timeout(180)
async def test_the_tickets_are_triaged_right(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = runpy.run_path(str(FOLDER / "publisher.py"))["main"]
    async with open_stack(StackOptions(log_level="warning")) as stack, asyncio.TaskGroup() as group:
        monkeypatch.setenv("PARROT_MQ_SERVERS", stack.url)
        publishing = group.create_task(publish())
        async with open_bus(BusConfig(servers=(stack.url,))) as bus:

            async def is_published() -> bool:
                reply = await bus.request("$JS.API.STREAM.INFO.TICKETS", b"", timeout_s=5)
                return b'"error"' not in reply.payload

            await eventually(is_published)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "parrot_mq", "pipeline", "run", f"{FOLDER / 'triage.py'}:triage"
        )
        try:
            triaged = await publishing
        finally:
            process.terminate()
            assert await process.wait() == 0
    assert triaged == {
        "T-1": {"team": "PRINTER", "loss": "5642", "urgent": True},
        "T-2": {"team": "SCANNER", "loss": "230", "urgent": False},
        "T-3": {"team": "MONITOR", "loss": "4806", "urgent": True},
        "T-4": {"team": "KEYBOARD", "loss": "3718", "urgent": False},
    }
