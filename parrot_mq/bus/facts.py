"""Reading facts by subject, straight from the stream, without a consumer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from parrot_mq.bus.backoff import retrying
from parrot_mq.bus.base import Delivery, Headers
from parrot_mq.bus.exchange import Reply
from parrot_mq.bus.frames import Status, parse_headers, parse_status, without_server_headers
from parrot_mq.bus.jetstream import JetStream
from parrot_mq.bus.matching import has_wildcard
from parrot_mq.bus.tasks import for_each
from parrot_mq.errors import PermissionDenied, PublishRejected

__all__ = ["MAX_SUBJECTS", "FactReader"]

MAX_SUBJECTS = 256
"""Subjects of one request."""
_NOT_FOUND = 404
_END = 204
_MAX_SINGLE = 32


class FactReader:
    """Direct gets.

    One subject is asked for by the request's own subject, which a server can permit per tenant. Several go in one
    request; a user who may not send that gets them one by one.
    """

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._may_batch = True

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        """See `Bus.get`."""
        wanted = list(dict.fromkeys(subjects))
        if len(wanted) > 1 and self._may_batch:
            try:
                parts = [wanted[i : i + MAX_SUBJECTS] for i in range(0, len(wanted), MAX_SUBJECTS)]
                return _by_subject([found for part in parts for found in await self._get_part(stream, part)])
            except PermissionDenied:
                self._may_batch = False
        found: list[Delivery] = []

        async def fetch(subject: str) -> None:
            if (delivery := await self.get_one(stream, subject)) is not None:
                found.append(delivery)

        await for_each(wanted, fetch, num_workers=_MAX_SINGLE)
        return _by_subject(found)

    async def get_one(self, stream: str, subject: str) -> Delivery | None:
        """What stands on one subject."""
        api = f"$JS.API.DIRECT.GET.{stream}.{subject}"
        reply = await retrying(
            self._jetstream.total_s, lambda timeout_s: self._jetstream.exchanges.request(api, b"", timeout_s=timeout_s)
        )
        return _read(api, reply)

    async def newest(self, stream: str, subject: str) -> Delivery | None:
        """See `Bus.newest`."""
        found = await self._jetstream.newest(stream, subject)
        if found is None:
            return None
        headers = Headers(without_server_headers(parse_headers(found.hdrs)))
        timestamp = datetime.fromisoformat(found.time).timestamp()
        return Delivery(found.subject, found.data, headers, "", found.seq, timestamp)

    async def is_empty(self, stream: str, subject: str) -> bool:
        """See `Bus.is_empty`."""
        if not has_wildcard(subject):
            return await self.get_one(stream, subject) is None
        body = msgspec.json.encode({"seq": 1, "next_by_subj": subject})
        api = f"$JS.API.DIRECT.GET.{stream}"
        reply = await retrying(
            self._jetstream.total_s, lambda timeout_s: self._jetstream.exchanges.request(api, body, timeout_s=timeout_s)
        )
        return _read(api, reply) is None

    async def _get_part(self, stream: str, subjects: list[str]) -> list[Delivery]:
        """One request, and more when the server bounds the bytes of an answer."""
        found: list[Delivery] = []
        missing = set(subjects)
        while missing:
            replies = await self._request_part(stream, missing)
            more = [delivery for reply in replies if (delivery := _read(stream, reply)) is not None]
            found += more
            missing -= {delivery.subject for delivery in more}
            if not more or _num_pending(replies[-1]) == 0:
                break
        return found

    async def _request_part(self, stream: str, subjects: Iterable[str]) -> list[Reply]:
        api = f"$JS.API.DIRECT.GET.{stream}"
        body = msgspec.json.encode({"multi_last": list(subjects)})
        replies, status = await retrying(
            self._jetstream.total_s,
            lambda timeout_s: self._jetstream.exchanges.request_many(api, body, timeout_s=timeout_s),
        )
        if status is None or status.code not in (_END, _NOT_FOUND):
            raise _refused(api, replies[-1].payload if status is None else b"", status)
        return replies


def _num_pending(reply: Reply) -> int:
    """How many messages of the batch come after this one."""
    return int(parse_headers(reply.block or b"").get("Nats-Num-Pending", "0"))


def _by_subject(deliveries: Iterable[Delivery]) -> dict[str, Delivery]:
    return {delivery.subject: delivery for delivery in deliveries}


def _read(api: str, reply: Reply) -> Delivery | None:
    """The fact inside the answer to a direct get; None for "not found"."""
    status = parse_status(reply.block)
    if status is not None and status.code == _NOT_FOUND:
        return None
    if status is not None or reply.block is None:
        raise _refused(api, reply.payload, status)
    headers = parse_headers(reply.block)
    timestamp = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
    return Delivery(
        headers["Nats-Subject"],
        reply.payload,
        Headers(without_server_headers(headers)),
        "",
        int(headers["Nats-Sequence"]),
        timestamp,
    )


def _refused(api: str, payload: bytes, status: Status | None) -> PublishRejected:
    if status is not None:
        return PublishRejected(subject=api, err_code=status.code, description=status.text)
    return PublishRejected(subject=api, err_code=0, description=payload[:200].decode("utf-8", "replace"))
