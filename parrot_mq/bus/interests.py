"""What is subscribed to: it outlives connections and is told to each new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from parrot_mq.bus.frames import subscribe_frame, unsubscribe_frame
from parrot_mq.bus.wire_client import Sink, WireClient
from parrot_mq.errors import PermissionDenied

__all__ = ["Interest", "Interests"]


@dataclass(slots=True, eq=False)
class Interest:
    """One subscription, as it has to be told to each new connection.

    Attributes:
        subject: What is subscribed to.
        queue: Its queue group; empty for none.
        sink: Where its messages go.
        on_denied: Called if the server refuses the subject, now or after a reconnection.
        sid: Its number on the wire, the same on all connections.
        is_retired: Whether it was unsubscribed, and only what is on its way may still come.
    """

    subject: str
    queue: str
    sink: Sink
    on_denied: Callable[[PermissionDenied], None]
    sid: int = field(init=False, default=0)
    is_retired: bool = field(init=False, default=False)


class Interests:
    """All subscriptions of a connection, by their number on the wire."""

    def __init__(self) -> None:
        self._by_sid: dict[int, Interest] = {}
        self._last_sid = 0

    def __len__(self) -> int:
        return len(self._by_sid)

    def add(self, interest: Interest, client: WireClient | None) -> None:
        """Number a subscription and tell it to the present connection, if there is one."""
        self._last_sid += 1
        interest.sid = self._last_sid
        self._by_sid[interest.sid] = interest
        if client is not None:
            _announce(client, interest)

    def remove(self, interest: Interest, client: WireClient | None) -> None:
        """End a subscription; one that has ended is left alone."""
        if self._by_sid.pop(interest.sid, None) is not None and client is not None:
            client.sinks.pop(interest.sid, None)
            client.send(unsubscribe_frame(interest.sid))

    def retire(self, interest: Interest, client: WireClient | None) -> None:
        """Unsubscribe, but let what the server has sent already come until `remove`, which still has to follow."""
        if self._by_sid.get(interest.sid) is interest and client is not None:
            client.send(unsubscribe_frame(interest.sid))
        interest.is_retired = True

    def announce_all(self, client: WireClient) -> None:
        """Tell all subscriptions to a new connection."""
        for interest in self._by_sid.values():
            if not interest.is_retired:
                _announce(client, interest)

    def deny(self, subject: str) -> None:
        """The server refused a subject, which it names in lower case."""
        for interest in list(self._by_sid.values()):
            if interest.subject.lower() == subject:
                interest.on_denied(PermissionDenied(operation="subscribe to", subject=interest.subject))


def _announce(client: WireClient, interest: Interest) -> None:
    client.sinks[interest.sid] = interest.sink
    client.send(subscribe_frame(interest.subject, interest.queue, interest.sid))
