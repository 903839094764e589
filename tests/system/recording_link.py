"""A TCP relay that keeps what a client says to its server."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import Self

__all__ = ["RecordingLink"]

_PUBLISH = re.compile(rb"(?:^|\n)H?PUB (\S+) ")


class RecordingLink:
    """Relays to a port of this machine."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: list[bytes] = []

    @property
    def url(self) -> str:
        """Where to connect."""
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def forget(self) -> None:
        """Keep only what is said from now on."""
        self._said.clear()

    def published(self) -> list[str]:
        """The subjects that were published on."""
        return [subject.decode() for said in self._said for subject in _PUBLISH.findall(said)]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, there}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, there, writer, is_kept=True))
                group.create_task(self._copy(there_reader, writer, there, is_kept=False))
        finally:
            self._writers -= {writer, there}
            self._tasks.discard(task)

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, other: asyncio.StreamWriter, *, is_kept: bool
    ) -> None:
        try:
            while data := await source.read(1 << 20):
                if is_kept:
                    self._said.append(data)
                sink.write(data)
        except OSError:
            pass
        finally:
            sink.transport.abort()
            other.transport.abort()
