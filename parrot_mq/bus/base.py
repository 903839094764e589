"""What the rest of the system knows of the bus: core messages, facts that are written once, blobs.

`NatsBus` and `MemoryBus` implement it and pass the same behaviour suite, so simulation and tests can trust the twin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

__all__ = ["Bus", "Delivery", "Handler", "Headers", "IsLast", "Stored", "Subscription"]


class Headers(Mapping[str, str]):
    """Headers of a message: read in any case, kept as written."""

    __slots__ = ("_by_folded",)

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        self._by_folded = {name.casefold(): (name, value) for name, value in pairs}

    def __getitem__(self, name: str) -> str:
        return self._by_folded[name.casefold()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._by_folded.values())

    def __len__(self) -> int:
        return len(self._by_folded)

    def __hash__(self) -> int:
        return hash(frozenset(self._by_folded.items()))

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


NO_HEADERS = Headers()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it arrived.

    Attributes:
        subject: Where it was published.
        payload: Its bytes.
        headers: Its headers.
        reply: Where an answer (request) or an acknowledgement (work queue) goes; empty if nowhere.
        sequence: Its place in the stream; 0 for core messages.
        timestamp: When the server stored it, seconds since 1970; 0 for core messages.
        num_delivered: How often a work queue has delivered it, this time included.
    """

    subject: str
    payload: bytes
    headers: Headers = field(default=NO_HEADERS)
    reply: str = ""
    sequence: int = 0
    timestamp: float = 0.0
    num_delivered: int = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """What `publish_once` did.

    Attributes:
        sequence: The message's place in its stream.
        is_new: False if the same payload stood there already (an earlier attempt of ours, or of someone else).
    """

    sequence: int
    is_new: bool


IsLast = Callable[[Delivery], bool]
"""Whether an answer to a request is the one that was waited for. It is called as answers come, and must not wait."""

Handler = Callable[[Delivery], Awaitable[None]]
"""Called with one delivery after another; the next one waits until it returns. What it raises is logged and dropped."""


class Subscription(ABC):
    """Something that delivers to a handler until it is closed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop delivering: a handler that runs is cancelled (unless it is the caller). May be called twice."""

    async def drain(self) -> None:
        """Stop listening, and end when what the server has sent until it knew of it is handled.

        May be called twice, but not by the handler.
        """
        await self.aclose()  # of a stream nothing is lost

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until it has ended.

        Raises:
            TransportError: It ended for a reason other than `aclose` (`ConsumerTakenOver`, `ConnectionClosed`).
        """


class Bus(ABC):
    """One connection to the bus. Use it as an async context manager, or call `aclose`."""

    @property
    @abstractmethod
    def max_payload(self) -> int:
        """Most bytes of one message, headers counted, as the server announced."""

    @property
    def inbox_prefix(self) -> str:
        """First tokens of subjects on which only this user may listen for answers."""
        return "_INBOX"

    # -- core: at most once ------------------------------------------------------------------------------------------

    @abstractmethod
    async def publish(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send to whoever listens now.

        While the server is away some megabytes are kept and sent after the reconnection; then it waits.

        Raises:
            PayloadTooLarge: Larger than `max_payload`.
            ConnectionClosed: The bus was closed.
            InvalidName: The subject or a header cannot be sent.
        """

    @abstractmethod
    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        is_last: IsLast | None = None,
    ) -> Delivery:
        """Send and wait for the first answer.

        Args:
            is_last: Called with one answer after the other; the wait goes on while it says False, and ends with what it
                raises.

        Raises:
            NoResponders: Nobody listens on the subject (known at once).
            RequestTimeout: Nobody answered in `timeout_s` seconds.
            PermissionDenied: The server refused the subject (known at once).
            ConnectionLost: The server went away before an answer came; it may have been delivered.
            PayloadTooLarge, ConnectionClosed, InvalidName: As for `publish`.
        """

    @abstractmethod
    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Deliver what is published on `subject` (wildcards allowed) from now on; returns when the server knows.

        Delivery: at most once. It is kept across reconnections; a slow handler loses messages beyond 65,536.

        Args:
            queue: Members of one queue group share the messages.

        Raises:
            PermissionDenied: The server refused the subject.
            RequestTimeout: No server within the publish timeout of the configuration.
            ConnectionClosed, InvalidName: As for `publish`.
        """

    def add_reconnect_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each reconnection (core messages may have been missed); returns its remover."""
        self._reconnect_listeners.append(listener)
        return lambda: self._reconnect_listeners.remove(listener) if listener in self._reconnect_listeners else None

    # -- facts: written once, kept -----------------------------------------------------------------------------------

    @abstractmethod
    async def ensure_streams(self) -> None:
        """Create the streams of this project, or bring existing ones up to date. Idempotent.

        Raises:
            JetStreamUnavailable: JetStream is off or not allowed.
            ServerTooOld: The server lacks what is needed.
            StreamMismatch: A stream exists with settings that cannot be changed.
        """

    @abstractmethod
    async def publish_once(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> Stored:
        """Store a fact; retried across reconnects until the server has acknowledged it.

        Delivery: exactly one payload per subject wins, whoever publishes. A task that was acknowledged while the answer
        to its publish was lost is stored once more: its subject was free again.

        Raises:
            SubjectTaken: Another payload stands there already.
            PublishRejected: The server refused it for another reason, or no stream takes the subject.
            PermissionDenied: The server refused the subject (known at once).
            PayloadTooLarge: Larger than `max_payload`.
            RequestTimeout: Not acknowledged within the publish timeout of the configuration.
        """

    @abstractmethod
    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        """The facts that stand on `subjects` (no wildcards), by subject; those not written are absent.

        One request per 256 subjects. In a cluster a replica may be behind: what was stored a moment ago may be absent.

        Raises:
            NoResponders: There is no such stream.
            RequestTimeout, ConnectionLost: No answer within the publish timeout of the configuration.
            PermissionDenied, ConnectionClosed, InvalidName: As for `request`.
        """

    @abstractmethod
    async def last_sequence(self, stream: str) -> int:
        """Sequence of the newest message that the stream has ever stored; 0 if none."""

    @abstractmethod
    async def newest(self, stream: str, subject: str) -> Delivery | None:
        """The newest message that the stream holds on `subject` (wildcards allowed); None if it holds none.

        It is the leader of the stream that answers, so it is never stale; `get` asks any replica, and is cheaper.

        Raises:
            PublishRejected, NoResponders, RequestTimeout, ConnectionLost, PermissionDenied, ConnectionClosed: As `get`.
        """

    @abstractmethod
    async def replace(self, subject: str, payload: bytes, *, expected_sequence: int, timeout_s: float) -> int:
        """Write a record of `STREAM_LEASES` anew if nobody else has; returns the sequence that it stands at now.

        Delivery: at most once, and one attempt. After any error but `RecordChanged` it may or may not be stored.

        Args:
            expected_sequence: Where the record stood when it was read; 0 if there was none.

        Raises:
            RecordChanged: It stands elsewhere now.
            PublishRejected: The server refused it for another reason, or has no leader now.
            NoResponders, RequestTimeout, ConnectionLost, PermissionDenied, ConnectionClosed, InvalidName: As `request`.
        """

    @abstractmethod
    async def is_empty(self, stream: str, subject: str) -> bool:
        """Whether the stream holds nothing on `subject` (wildcards allowed)."""

    @abstractmethod
    async def follow(self, stream: str, handler: Handler, *, after_sequence: int) -> Subscription:
        """Deliver every message of the stream after `after_sequence`, in order, each once.

        Survives reconnects, server restarts and a lost consumer: it goes on after the last one delivered. If the stream
        was in memory and is empty after a restart, it goes on with the new stream's first.

        Raises:
            PublishRejected: There is no such stream.
            RequestTimeout, NoResponders, ConnectionLost, PermissionDenied, ConnectionClosed: As for `get`.
        """

    @abstractmethod
    async def take(self, stream: str, handler: Handler, *, consumer: str) -> Subscription:
        """Take over a work queue: deliver all that is not acknowledged, then what comes.

        One process at a time holds the queue, under the name `consumer`: whoever held it before ends with
        `ConsumerTakenOver`.

        Delivery: at least once; to one holder once, unless it keeps a message for more than an hour. What a handler
        fails on stays in the queue for the next holder.
        Ordering: as stored, at first delivery.
        """

    @abstractmethod
    async def acknowledge(self, delivery: Delivery) -> None:
        """Remove a delivery of `take` from its work queue.

        It is sent and not awaited; an acknowledgement that is lost with a connection is repeated by itself. That of a
        former holder has no effect.
        """

    @abstractmethod
    async def purge(self, stream: str, subject: str) -> int:
        """Remove what stands on `subject` (wildcards allowed); returns how many messages went."""

    # -- blobs: large values, content-addressed ----------------------------------------------------------------------

    @abstractmethod
    async def put_blob(self, tenant: str, data: bytes) -> str:
        """Store `data` in chunks under its SHA-256; returns the hex digest. Storing it again is free."""

    @abstractmethod
    async def get_blob(self, tenant: str, digest: str) -> bytes:
        """Read a blob back and check its digest.

        Raises:
            BlobMissing: It is not complete in the store.
        """

    # -- life --------------------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        self._reconnect_listeners: list[Callable[[], None]] = []

    @abstractmethod
    def abort(self) -> None:
        """Cut the connection now: nothing is sent any more, and what waits for an answer ends with `ConnectionClosed`.

        `aclose` still has to follow: subscriptions end there. May be called twice, and after it.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection; what was published is flushed first. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()
