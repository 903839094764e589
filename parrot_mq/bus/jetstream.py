"""The JetStream API: JSON requests, typed answers, retried while the server is away or electing."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from parrot_mq.bus.backoff import TryAgain, retrying
from parrot_mq.bus.exchange import Exchanges
from parrot_mq.errors import JetStreamUnavailable, NoResponders, PublishRejected

__all__ = [
    "CONSUMER_NOT_FOUND",
    "MESSAGE_NOT_FOUND",
    "STREAM_EXISTS",
    "STREAM_NOT_FOUND",
    "STREAM_OVERLAP",
    "SUBJECT_WRITTEN",
    "TEMPORARY",
    "WORK_QUEUE_HELD",
    "WRONG_LAST_SEQUENCE",
    "ApiError",
    "JetStream",
    "StoredMessage",
]

_T = TypeVar("_T")

CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
STREAM_EXISTS = 10058
STREAM_NOT_FOUND = 10059
STREAM_OVERLAP = 10065
WRONG_LAST_SEQUENCE = 10071
SUBJECT_WRITTEN = 10077
WORK_QUEUE_HELD = 10099
TEMPORARY = frozenset({10008, 10009, 10023, 10041, 10074})
"""No leader now, peers offline, insufficient resources, server not ready: try again."""
_DISABLED = frozenset({10039, 10076})


class ApiError(msgspec.Struct, frozen=True):
    """What the server says is wrong."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    last_seq: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream as it is."""

    state: StreamState = StreamState()
    config: dict[str, Any] = {}


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer as it is."""

    name: str = ""


class ConsumerNames(msgspec.Struct, frozen=True):
    """The consumers of a stream."""

    consumers: list[str] | None = None


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as it is kept; `hdrs` and `data` are base64 on the wire, `time` is RFC 3339."""

    subject: str
    seq: int
    time: str
    hdrs: bytes = b""
    data: bytes = b""


class _Found(msgspec.Struct, frozen=True):
    message: StoredMessage


class Purged(msgspec.Struct, frozen=True):
    """What a purge removed."""

    purged: int = 0


class _NothingThere(Exception):
    """Nobody listens on the API's own subject."""


class JetStream:
    """Requests to `$JS.API`."""

    def __init__(self, exchanges: Exchanges, *, total_s: float) -> None:
        self.exchanges = exchanges
        self.total_s = total_s

    async def call(self, operation: str, answer: type[_T], body: object = None) -> _T:
        """Send one request, again while the server is away or has no leader, and decode its answer.

        Raises:
            PublishRejected: The server refused; `err_code` says why.
            JetStreamUnavailable: JetStream is off or not allowed.
            PermissionDenied: The user may not ask this.
            RequestTimeout, NoResponders, ConnectionLost: No answer in all that time.
        """
        subject = f"$JS.API.{operation}"
        payload = b"" if body is None else msgspec.json.encode(body)

        async def attempt(timeout_s: float) -> bytes:
            data = (await self.exchanges.request(subject, payload, timeout_s=timeout_s)).payload
            error = msgspec.json.decode(data, type=_Envelope).error
            if error is None:
                return data
            rejected = PublishRejected(subject=subject, err_code=error.err_code, description=error.description)
            if error.err_code in TEMPORARY:
                raise TryAgain(rejected)
            if error.err_code in _DISABLED:
                raise JetStreamUnavailable(reason=error.description)
            raise rejected

        return msgspec.json.decode(await retrying(self.total_s, attempt), type=answer)

    async def check_available(self) -> None:
        """Raise `JetStreamUnavailable` if JetStream is off, without waiting for it."""
        try:
            await retrying(self.total_s, self._ask_account)
        except _NothingThere:
            raise JetStreamUnavailable(reason="the server does not answer on $JS.API.INFO") from None

    async def _ask_account(self, timeout_s: float) -> None:
        try:
            reply = await self.exchanges.request("$JS.API.INFO", b"", timeout_s=timeout_s)
        except NoResponders as nobody:
            raise _NothingThere from nobody
        error = msgspec.json.decode(reply.payload, type=_Envelope).error
        if error is not None and error.err_code in _DISABLED:
            raise JetStreamUnavailable(reason=error.description)

    async def stream_info(self, stream: str) -> StreamInfo:
        """Settings and state of a stream."""
        return await self.call(f"STREAM.INFO.{stream}", StreamInfo)

    async def newest(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message on `subject` (wildcards allowed), from the leader of the stream."""
        try:
            return (await self.call(f"STREAM.MSG.GET.{stream}", _Found, {"last_by_subj": subject})).message
        except PublishRejected as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return None
            raise

    async def purge(self, stream: str, subject: str) -> int:
        """Remove what matches `subject`; returns how many messages went."""
        return (await self.call(f"STREAM.PURGE.{stream}", Purged, {"filter": subject})).purged

    async def create_consumer(self, stream: str, config: dict[str, Any]) -> ConsumerInfo:
        """Create a consumer that does not exist yet."""
        body = {"stream_name": stream, "config": config, "action": "create"}
        return await self.call(f"CONSUMER.CREATE.{stream}.{config['name']}", ConsumerInfo, body)

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer; one that is gone already is fine."""
        try:
            await self.call(f"CONSUMER.DELETE.{stream}.{name}", _Envelope)
        except PublishRejected as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise

    async def consumer_names(self, stream: str) -> list[str]:
        """The first consumers of a stream; ours has one or two."""
        return (await self.call(f"CONSUMER.NAMES.{stream}", ConsumerNames)).consumers or []
