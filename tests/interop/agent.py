"""A public client in a process of its own that does what a test tells it: `conformance/agent.mjs`."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.interop.node import Line, Script, running_script

__all__ = ["SCRIPTS", "Agent", "AgentRefused", "ClientKind", "Heard", "open_agent"]

SCRIPTS = Path(__file__).parent / "conformance"

ClientKind = Literal["tcp", "websocket", "mqtt"]


class AgentRefused(Exception):
    """The client would not do it, or got no answer; the sentence is its own."""


class Heard(NamedTuple):
    """A message as the client saw it.

    Attributes:
        subject: Where it came.
        reply: Where an answer goes; empty if none is wanted.
        headers: Its headers, and as `status` that of the server.
        payload: Its bytes.
        json: The document in it, if it is one in JSON.
        msgpack: The document in it, if it is none in JSON but one in msgpack.
    """

    subject: str
    reply: str
    headers: Mapping[str, str]
    payload: bytes
    json: Any
    msgpack: Any

    @property
    def text(self) -> str:
        """The payload as text."""
        return self.payload.decode()


class Agent:
    """Sends orders to the script, and keeps what it hears meanwhile."""

    def __init__(self, kind: ClientKind, script: Script) -> None:
        self.kind = kind
        self._script = script
        self._heard: deque[Heard] = deque()
        self._statuses: deque[str] = deque()
        self._last_id = 0

    async def publish(self, subject: str, headers: Mapping[str, str] | None = None, **payload: Any) -> None:
        """Publish `text=`, `json=`, `msgpack=` or `base64=`, with `reply=` if it can be answered; returns when the
        server has it.
        """
        await self._order("publish", subject, headers, payload)

    async def request(self, subject: str, headers: Mapping[str, str] | None = None, **payload: Any) -> Heard:
        """Send a request with such a payload; returns the answer.

        Raises:
            AgentRefused: There is none.
        """
        answer = await self._order("request", subject, headers, payload)
        return _heard(answer)

    async def subscribe(self, subject: str, *, queue: str = "") -> None:
        """Listen, perhaps in a queue group; returns when the server knows."""
        await self._order("subscribe", subject, None, {"queue": queue} if queue else {})

    async def hear(self) -> Heard:
        """The next message of the subscriptions."""
        while not self._heard:
            self._sort(await self._script.next_line())
        return self._heard.popleft()

    async def wait_status(self, status: str) -> None:
        """Wait until the client says this of its connection, once more than it was waited for."""
        while status not in self._statuses:
            self._sort(await self._script.next_line())
        self._statuses.remove(status)

    async def _order(self, do: str, subject: str, headers: Mapping[str, str] | None, payload: Line) -> Line:
        self._last_id += 1
        order = {"id": self._last_id, "do": do, "subject": subject, **payload}
        await self._script.write_line(order if headers is None else {**order, "headers": dict(headers)})
        while (line := await self._script.next_line()).get("id") != self._last_id:
            self._sort(line)
        if "error" in line:
            raise AgentRefused(line["error"])
        answer: Line = line["answer"] or {}
        return answer

    def _sort(self, line: Line) -> None:
        if "heard" in line:
            self._heard.append(_heard(line["heard"]))
        elif "status" in line:
            self._statuses.append(line["status"])


@asynccontextmanager
async def open_agent(
    folder: Path, kind: ClientKind, url: str, login: Mapping[str, str] | None = None
) -> AsyncIterator[Agent]:
    """A connected client for the length of a block.

    Args:
        folder: The scripts beside their packages.
        url: Where the server listens for clients of this kind.
        login: `CLIENT_USER`, `CLIENT_PASSWORD`, and `INBOX_PREFIX`: first tokens of the subjects on which answers come.
    """
    environment = {"SERVER_URL": url, **(login or {})}
    async with running_script(folder / "agent.mjs", kind, environment=environment) as script:
        assert await script.next_line() == {"ready": True}
        yield Agent(kind, script)


def _heard(line: Line) -> Heard:
    payload = base64.b64decode(line["base64"])
    return Heard(line["subject"], line["reply"], line["headers"], payload, line.get("json"), line.get("msgpack"))
