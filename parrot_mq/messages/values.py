"""The value of a semantic variable on the wire: plain text, a claim check for a large text, or an error."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from parrot_mq.errors import MalformedMessage, ParrotError
from parrot_mq.messages.codec import decode, encode_json
from parrot_mq.messages.results import BlobRef, ErrorInfo, Usage
from parrot_mq.messages.subjects import (
    CONTENT_JSON,
    CONTENT_TEXT,
    HEADER_BLOB,
    HEADER_CONTENT_TYPE,
    HEADER_SCHEMA,
    HEADER_STATUS,
    HEADER_USAGE,
    SCHEMA_VERSION,
    STATUS_ERROR,
)

__all__ = ["MAX_INLINE_BYTES", "Value", "decode_value", "encode_blob_ref", "encode_error", "encode_text", "read_usage"]

MAX_INLINE_BYTES = 256 * 1024
"""Larger texts travel as blobs."""

Value = str | BlobRef | ErrorInfo
"""A text, where to fetch a large text, or why there is none."""

Encoded = tuple[bytes, dict[str, str]]


def encode_text(text: str) -> Encoded:
    """Payload and headers of a text. A client of any language may leave the headers out."""
    return text.encode(), {HEADER_CONTENT_TYPE: CONTENT_TEXT}


def encode_blob_ref(ref: BlobRef) -> Encoded:
    """Payload and headers of a claim check."""
    return encode_json(ref), {**_STRUCTURED, HEADER_BLOB: ref.digest}


def encode_error(error: BaseException | ErrorInfo) -> Encoded:
    """Payload and headers of a failure."""
    info = error if isinstance(error, ErrorInfo) else ErrorInfo.from_error(error)
    return encode_json(info), {**_STRUCTURED, HEADER_STATUS: STATUS_ERROR}


def decode_value(payload: bytes, headers: Mapping[str, str]) -> Value:
    """Read a value; one that cannot be read is an error as a value, so that whoever waits for it learns why."""
    try:
        if headers.get(HEADER_STATUS) == STATUS_ERROR:
            return decode(payload, ErrorInfo, headers)
        if HEADER_BLOB in headers:
            return decode(payload, BlobRef, headers)
        return payload.decode()
    except UnicodeDecodeError as error:
        reason = f"Expected UTF-8 text, got byte {payload[error.start]:#04x} at offset {error.start}"
        return ErrorInfo.from_error(MalformedMessage(message_type="value", path="$", expected=reason))
    except ParrotError as error:
        return ErrorInfo.from_error(error)


def read_usage(headers: Mapping[str, str]) -> Usage | None:
    """What a value cost, if whoever set it said so in a form that can be read."""
    text = headers.get(HEADER_USAGE)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Usage)
    except msgspec.MsgspecError:
        return None


_STRUCTURED = {HEADER_CONTENT_TYPE: CONTENT_JSON, HEADER_SCHEMA: SCHEMA_VERSION}
