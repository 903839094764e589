"""What an autoscaler keeps across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from parrot_mq.autoscale import Learned
from parrot_mq.autoscale.memory import Memory, MemoryFile
from parrot_mq.autoscale.slots import SlotMemory
from parrot_mq.errors import ConfigurationError

MEMORY = Memory(
    slots={0: SlotMemory(invocation="5f0c", num_restarts=1), 3: SlotMemory(held_until=1.5, reason="it failed")},
    learned={"small": Learned(load_s=20.0)},
)


async def test_what_is_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "autoscaler.json"
    with MemoryFile(path) as file:
        assert await file.load() == Memory()
        await file.save(MEMORY)
        await file.save(MEMORY)
    with MemoryFile(path) as file:
        assert await file.load() == MEMORY


async def test_one_autoscaler_at_a_time_has_it_and_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.json"
    with MemoryFile(path) as file:
        await file.save(MEMORY)
        with pytest.raises(ConfigurationError, match="another autoscaler runs here"), MemoryFile(path):
            pass
        with MemoryFile(path, is_shared=True) as reader:
            assert await reader.load() == MEMORY
            await reader.save(Memory())
            assert await reader.load() == MEMORY
    with MemoryFile(path):
        pass


async def test_a_file_that_cannot_be_read_is_said_and_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.json"
    path.write_text("{")
    with capture_logs() as logs, MemoryFile(path) as file:
        assert await file.load() == Memory()
    assert [entry["event"] for entry in logs] == ["autoscaler_memory_lost"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot keep its memory"), MemoryFile(tmp_path / "file" / "a.json"):
        pass


async def test_without_a_path_nothing_is_kept() -> None:
    with MemoryFile(None) as file:
        await file.save(MEMORY)
        assert await file.load() == Memory()
