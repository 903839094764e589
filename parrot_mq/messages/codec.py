"""Bytes to typed messages and back: msgpack or JSON, one set of types, one error for bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, overload

import msgpack
import msgspec

from parrot_mq.errors import MalformedMessage, UnknownMessageType, UnsupportedSchemaVersion
from parrot_mq.messages.subjects import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    HEADER_CONTENT_TYPE,
    HEADER_SCHEMA,
    SCHEMA_VERSION,
)
from parrot_mq.messages.wire import Message
from parrot_mq.types import is_name

__all__ = ["decode", "encode", "encode_json", "salvage_outputs"]

M = TypeVar("M", bound=Message)
_PATH = re.compile(r" - at `(?P<path>[^`]*)`$")


def encode(message: Message) -> bytes:
    """Encode as msgpack, the form that processes of this project send."""
    packed: bytes = msgpack.packb(msgspec.to_builtins(message), use_bin_type=True)
    return packed


def encode_json(message: Message) -> bytes:
    """Encode as JSON (UTF-8), the form that people and other languages read."""
    return msgspec.json.encode(message)


@overload
def decode(payload: bytes, expected: type[M], headers: Mapping[str, str] | None = None) -> M: ...


@overload
def decode(payload: bytes, expected: UnionType, headers: Mapping[str, str] | None = None) -> Any: ...


def decode(payload: bytes, expected: type[M] | UnionType, headers: Mapping[str, str] | None = None) -> Any:
    """Decode and check a message.

    Args:
        payload: msgpack or JSON, told apart by the `Content-Type` header, or else by the first byte.
        expected: A message class, or a union of them; the `type` field picks the member.
        headers: Headers of the message, read in any case when they are `bus.Headers`.

    Raises:
        UnsupportedSchemaVersion: The `Pmq-Schema` header names another version.
        UnknownMessageType: The `type` field is none of the expected.
        MalformedMessage: The bytes or a field have the wrong form; names the field's path and what was expected.
    """
    headers = headers or {}
    version = headers.get(HEADER_SCHEMA, SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UnsupportedSchemaVersion(found=version, supported=[SCHEMA_VERSION])
    tags = _tags(expected)
    name = " or ".join(sorted(tags))
    plain = _parse(payload, name, _is_json(payload, headers.get(HEADER_CONTENT_TYPE, "")))
    if not isinstance(plain, dict):
        raise MalformedMessage(message_type=name, path="$", expected=f"Expected an object, got {type(plain).__name__}")
    found = plain.get("type")
    if found not in tags:
        if found is not None or len(tags) > 1:
            raise UnknownMessageType(found=str(found), known=sorted(tags))
        plain = {**plain, "type": name}
    try:
        return msgspec.convert(plain, expected)
    except msgspec.ValidationError as error:
        raise _malformed(str(found or name), error) from error


def salvage_outputs(payload: bytes) -> list[str]:
    """The output variables that a malformed task seems to name: whoever waits for them has to learn of the failure."""
    try:
        plain = _parse(payload, "task", _is_json(payload, ""))
    except MalformedMessage:
        return []
    outputs = plain.get("outputs") if isinstance(plain, dict) else None
    specs = outputs.values() if isinstance(outputs, dict) else ()
    names = [spec.get("variable") for spec in specs if isinstance(spec, dict)]
    return [name for name in names if isinstance(name, str) and is_name(name)]


def _tags(expected: Any) -> set[str]:
    members = get_args(expected) or (expected,)
    return {str(member.__struct_config__.tag) for member in members}


def _is_json(payload: bytes, content_type: str) -> bool:
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type in (CONTENT_JSON, CONTENT_MSGPACK):
        return content_type == CONTENT_JSON
    return payload.lstrip()[:1] == b"{"


def _parse(payload: bytes, name: str, is_json: bool) -> object:
    try:
        if is_json:
            return json.loads(payload)
        return msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        form = "JSON" if is_json else "msgpack"
        remedy = f"set Content-Type to {CONTENT_JSON} or {CONTENT_MSGPACK}"
        reason = f"Expected {form} ({remedy}): {error or type(error).__name__}"
        raise MalformedMessage(message_type=name, path="$", expected=reason) from error


def _malformed(name: str, error: msgspec.ValidationError) -> MalformedMessage:
    text = str(error)
    match = _PATH.search(text)
    if match is None:
        return MalformedMessage(message_type=name, path="$", expected=text)
    return MalformedMessage(message_type=name, path=match["path"], expected=text[: match.start()])
