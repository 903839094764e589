"""What an autoscaler keeps in a file across its restarts."""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from parrot_mq.autoscale.observation import Learned
from parrot_mq.autoscale.slots import SlotMemory
from parrot_mq.errors import ConfigurationError
from parrot_mq.observability import get_logger

__all__ = ["Memory", "MemoryFile"]

log = get_logger(__name__)


class Memory(msgspec.Struct, omit_defaults=True):
    """What outlives a restart.

    Attributes:
        slots: Whose each slot is, and what went wrong there.
        learned: How fast the workers of each model are.
    """

    slots: dict[int, SlotMemory] = {}
    learned: dict[str, Learned] = {}


class MemoryFile:
    """Keeps the memory in a file, for one autoscaler at a time.

    Args:
        path: The file; None keeps nothing.
        is_shared: Only read it, also while another autoscaler has it.

    Raises:
        ConfigurationError: On entering: another autoscaler has it, or it cannot be written.
    """

    def __init__(self, path: Path | None, *, is_shared: bool = False) -> None:
        self._path = path
        self._is_shared = is_shared
        self._last = b""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._path is None or self._is_shared:
            return self
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _lock(self._stack.enter_context(self._path.with_suffix(".lock").open("a")))
        except BlockingIOError as error:
            self._stack.close()
            raise ConfigurationError(f"another autoscaler runs here: it holds {self._path}") from error
        except OSError as error:
            self._stack.close()
            raise ConfigurationError(f"the autoscaler cannot keep its memory in {self._path}: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    async def load(self) -> Memory:
        """Read it. A file that cannot be read is left aside: then what runs counts as started by others."""
        if self._path is None:
            return Memory()
        try:
            return msgspec.json.decode(await asyncio.to_thread(self._path.read_bytes), type=Memory)
        except FileNotFoundError:
            return Memory()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("autoscaler_memory_lost", path=str(self._path), error=str(error))
            return Memory()

    async def save(self, memory: Memory) -> None:
        """Write it, if it has changed; a crash leaves the former one or this one.

        Raises:
            OSError: It cannot be written.
        """
        data = msgspec.json.encode(memory)
        if self._path is None or self._is_shared or data == self._last:
            return
        await asyncio.to_thread(_write, self._path, data)
        self._last = data


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _lock(file: IO[Any]) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
