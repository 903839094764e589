"""Bytes of the NATS protocol: what is sent, header blocks, and the facts inside reply subjects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from parrot_mq.bus.base import NO_HEADERS, Delivery, Headers
from parrot_mq.bus.matching import check_subject
from parrot_mq.errors import InvalidName, PayloadTooLarge

__all__ = [
    "Status",
    "ACK_PREFIX",
    "MESSAGE_ID",
    "core_delivery",
    "encode_headers",
    "expectation_block",
    "message_block",
    "parse_headers",
    "parse_status",
    "publish_frame",
    "split_ack",
    "stream_delivery",
    "subscribe_frame",
    "unsubscribe_frame",
    "without_server_headers",
]

_FIRST_LINE = b"NATS/1.0"
_STORED = b"\r\nNats-Stream: "
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[^\r\n\0]*")
_OURS_TO_SET = "a header name is letters, digits and -_. ; names that start with Nats- belong to the server"
MESSAGE_ID = "Nats-Msg-Id"
"""The one header of the server's that may be set: a stream keeps one message of each id in its duplicate window."""
ACK_PREFIX = b"$JS.ACK."


# -- out -------------------------------------------------------------------------------------------------------------


def encode_headers(headers: Mapping[str, str] | None) -> bytes:
    """The header block of a message; empty if there are none.

    Raises:
        InvalidName: A name or a value cannot be sent, or a name is the server's (`Nats-…`, but for `Nats-Msg-Id`).
    """
    if not headers:
        return b""
    lines = [_FIRST_LINE.decode()]
    for name, value in headers.items():
        if _HEADER_NAME.fullmatch(name) is None or (name[:5].casefold() == "nats-" and name != MESSAGE_ID):
            raise InvalidName(kind="header", name=name, rule=_OURS_TO_SET)
        if _HEADER_VALUE.fullmatch(value) is None:
            raise InvalidName(kind="header", name=name, rule="its value must be one line")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def expectation_block(sequence: int) -> bytes:
    """The header that lets the server store a message only if its subject was last written at `sequence`."""
    return b"%b\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % (_FIRST_LINE, sequence)


def message_block(subject: str, payload: bytes, headers: Mapping[str, str] | None, *, limit_bytes: int) -> bytes:
    """Check a message and return its header block; one too large would make the server end the connection.

    Raises:
        InvalidName: The subject or a header cannot be sent.
        PayloadTooLarge: Headers and payload together are larger than the limit.
    """
    check_subject(subject)
    block = encode_headers(headers)
    size_bytes = len(block) + len(payload)
    if size_bytes > limit_bytes:
        raise PayloadTooLarge(subject=subject, size_bytes=size_bytes, limit_bytes=limit_bytes)
    return block


def publish_frame(subject: str, reply: str, block: bytes, payload: bytes) -> bytes:
    """One message on the way to the server; `block` comes from `encode_headers`."""
    if block:
        head = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n"
        return b"".join((head.encode(), block, payload, b"\r\n"))
    return b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, b"\r\n"))


def subscribe_frame(subject: str, queue: str, sid: int) -> bytes:
    """Interest in a subject."""
    return f"SUB {subject} {queue} {sid}\r\n".encode()


def unsubscribe_frame(sid: int) -> bytes:
    """The end of an interest."""
    return f"UNSUB {sid}\r\n".encode()


# -- in --------------------------------------------------------------------------------------------------------------


class Status(NamedTuple):
    """A message of the server itself: `NATS/1.0 409 Consumer Deleted`."""

    code: int
    text: str


def parse_status(block: bytes | None) -> Status | None:
    """The status of a message, if it is one of the server's own.

    A stored message is none, whatever its publisher wrote into the first line: a tenant could end a batch with it.
    """
    if not block or block[8:9] != b" " or _STORED in block:
        return None
    line = block[9 : block.index(b"\r\n")].decode("utf-8", "replace")
    code, _, text = line.partition(" ")
    return Status(int(code), text) if code.isdigit() else None


def parse_headers(block: bytes) -> dict[str, str]:
    """All headers of a block; the server's own come last and win over equal ones that a publisher wrote."""
    found: dict[str, str] = {}
    for line in block.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


class _LazyHeaders(Headers):
    """Headers that are parsed when someone asks; those of the server are left out."""

    __slots__ = ("_block",)

    def __init__(self, block: bytes) -> None:
        self._block = block

    def __getattr__(self, name: str) -> object:
        if name != "_by_folded":
            raise AttributeError(name)
        Headers.__init__(self, without_server_headers(parse_headers(self._block)))
        return self._by_folded


def without_server_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What a user may see of the headers."""
    return {name: value for name, value in headers.items() if name[:5].casefold() != "nats-"}


def core_delivery(subject: bytes, reply: bytes, payload: bytes, block: bytes | None) -> Delivery:
    """A message of a plain subscription."""
    return Delivery(subject.decode(), payload, _LazyHeaders(block) if block else NO_HEADERS, reply.decode())


def stream_delivery(
    subject: bytes, reply: str, payload: bytes, block: bytes | None, *, sequence: int, facts: list[bytes]
) -> Delivery:
    """A message of a pull consumer; `facts` are in its reply subject (see `split_ack`)."""
    headers = _LazyHeaders(block) if block else NO_HEADERS
    return Delivery(subject.decode(), payload, headers, reply, sequence, int(facts[3]) / 1e9, int(facts[0]))


def split_ack(reply: bytes) -> list[bytes]:
    """Number of deliveries, stream sequence, consumer sequence, time in ns, pending: from the reply subject.

    It is `$JS.ACK.<stream>.<consumer>.<5 facts>`, with `<domain>.<account>` before the stream in larger set-ups.
    Source: ADR-15 of NATS.
    """
    tokens = reply.split(b".")
    return tokens[4:9] if len(tokens) == 9 else tokens[6:11]
