"""What all memory buses of one simulated world share: subscribers and streams."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from parrot_mq.bus.base import Delivery
from parrot_mq.bus.matching import has_wildcard, matches
from parrot_mq.bus.memory_stream import MemoryStream
from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.clock import Clock, SystemClock
from parrot_mq.messages.subjects import STREAM_VARS

__all__ = ["FaultPolicy", "Listener", "MemoryServer"]

FaultPolicy = Callable[[Delivery], Sequence[float]]
"""For one core message to one subscriber: after how many seconds each of its copies arrives.

`[0]` is no fault, `[]` drops it, `[0, 0]` doubles it, `[0.2]` delays it (and others may overtake it).
"""


@dataclass(slots=True, eq=False)
class Listener:
    """One subscription.

    Attributes:
        pattern: What it listens to.
        queue: Its queue group.
        deliver: Takes a message; must not run the handler itself.
        is_active: False when it was closed; messages on the way are dropped.
    """

    pattern: str
    queue: str
    deliver: Callable[[Delivery], None]
    is_active: bool = field(default=True)


class MemoryServer:
    """The server that `MemoryBus` connects to.

    It does what a real one does, in one process and one event loop, in an order that depends on nothing but the seed
    and the loop. Nothing expires.

    Args:
        seed: Decides which member of a queue group gets a message.
        clock: Stamps what is stored.
        max_payload: Most bytes of one message, headers counted.
        fault: What happens to core messages; stored messages are never lost.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Clock | None = None,
        max_payload: int = 1024 * 1024,
        fault: FaultPolicy | None = None,
    ) -> None:
        self.max_payload = max_payload
        self.fault = fault
        self.streams: dict[str, MemoryStream] = {}
        self.is_up = True
        self.connections: list[Callable[[bool], None]] = []
        self.clock = clock or SystemClock()
        self._rng = random.Random(seed)
        self._exact: dict[str, list[Listener]] = {}
        self._wild: list[Listener] = []
        self._num_names = 0

    # -- faults ------------------------------------------------------------------------------------------------------

    def go_down(self) -> None:
        """Be away: requests fail with `ConnectionLost`, facts wait, core messages are dropped."""
        self.is_up = False
        self._tell_connections()

    def come_up(self) -> None:
        """Be back, with all that was stored; each bus tells its reconnect listeners."""
        self.is_up = True
        self._tell_connections()

    def _tell_connections(self) -> None:
        for tell in list(self.connections):
            tell(self.is_up)

    # -- core --------------------------------------------------------------------------------------------------------

    def fresh_name(self, prefix: str) -> str:
        """A name that this server gave to nobody else."""
        self._num_names += 1
        return f"{prefix}-{self._num_names}"

    def listen(self, listener: Listener) -> None:
        """Add a subscription."""
        self._listeners_like(listener).append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Remove a subscription; once removed, nothing happens."""
        listener.is_active = False
        peers = self._listeners_like(listener)
        if listener in peers:
            peers.remove(listener)
        if not peers:
            self._exact.pop(listener.pattern, None)

    def _listeners_like(self, listener: Listener) -> list[Listener]:
        return self._wild if has_wildcard(listener.pattern) else self._exact.setdefault(listener.pattern, [])

    def publish(self, message: Delivery) -> bool:
        """Route a message and store it where a stream takes it; returns whether anybody was there."""
        if not self.is_up:
            return False
        num_listeners = self.route(message)
        stream = self.stream_of(message.subject)
        if stream is None:
            return num_listeners > 0
        stored = self.store(stream, message)
        if message.reply:
            error = {"code": 503, "err_code": 10077, "description": "maximum messages per subject exceeded"}
            ack = {"stream": stream.name, "seq": stored.sequence} if stored else {"error": error, "stream": stream.name}
            self.route(Delivery(message.reply, json.dumps(ack).encode()))
        return True

    def route(self, message: Delivery) -> int:
        """Hand a message to whoever listens; returns how many did."""
        found = list(self._exact.get(message.subject, ()))
        found += [listener for listener in self._wild if matches(listener.pattern, message.subject)]
        groups: dict[str, list[Listener]] = {}
        for listener in found:
            if listener.queue:
                groups.setdefault(listener.queue, []).append(listener)
            else:
                self._send(listener, message)
        for members in groups.values():
            self._send(self._rng.choice(members), message)
        return len(found)

    def _send(self, listener: Listener, message: Delivery) -> None:
        delays = (0.0,) if self.fault is None else self.fault(message)
        for delay_s in delays:
            if delay_s <= 0:
                listener.deliver(message)
            else:
                asyncio.get_running_loop().call_later(delay_s, _deliver_late, listener, message)

    # -- streams -----------------------------------------------------------------------------------------------------

    def ensure_streams(self) -> None:
        """Create the streams that are not there."""
        for name in SUBJECTS:
            self.streams.setdefault(name, MemoryStream(name))

    def stream_of(self, subject: str) -> MemoryStream | None:
        """The stream that keeps a subject."""
        return next((stream for stream in self.streams.values() if matches(stream.pattern, subject)), None)

    def store(self, stream: MemoryStream, message: Delivery) -> Delivery | None:
        """Keep a fact and say so on its `set` subject; None if the subject is taken."""
        stored = stream.store(message, self.clock.now())
        if stored is not None and stream.name == STREAM_VARS:
            tokens = stored.subject.split(".")
            tokens[2] = "set"
            self.route(Delivery(".".join(tokens), stored.payload, stored.headers))
        return stored


def _deliver_late(listener: Listener, message: Delivery) -> None:
    if listener.is_active:
        listener.deliver(message)
