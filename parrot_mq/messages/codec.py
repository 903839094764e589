"""Bytes to typed messages and back: msgpack or JSON, one set of types, one error for bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, overload

import msgpack
import msgspec

from parrot_mq.errors import MalformedMessage, UnknownMessageType, UnsupportedSchemaVersion
from parrot_mq.messages.base import NAME_PATTERN, Message
from parrot_mq.messages.subjects import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    HEADER_CONTENT_TYPE,
    HEADER_SCHEMA,
    SCHEMA_VERSION,
)
from parrot_mq.program.transforms import Transform
from parrot_mq.types import NAME_RULE, is_name

__all__ = ["decode", "encode", "encode_json", "salvage_outputs"]

M = TypeVar("M", bound=Message)

_PATH = re.compile(r" - at (?P<is_key>`key` in )?`(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_ANY_KEY = "[...]"
_LONG_NUMBER = re.compile(rb"[0-9]{19,}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NAME = f"`str` matching regex {NAME_PATTERN!r}"
_TRANSFORMS = " or ".join(sorted(f"`{cls.__struct_config__.tag}`" for cls in get_args(Transform)))
_BECAUSE_TEXT = ", got `str`"
"""What msgspec says of a key that is no number: all keys are text."""
_MAX_SHOWN = 200


def encode(message: Message) -> bytes:
    """Encode as msgpack: the form between processes of this project. Keys are text, as in JSON."""
    packed: bytes = msgpack.packb(msgspec.to_builtins(message, str_keys=True), use_bin_type=True)
    return packed


def encode_json(message: Message) -> bytes:
    """Encode as JSON (UTF-8): the form of everything that programs in other languages, and people, read."""
    return msgspec.json.encode(message)


@overload
def decode(payload: bytes, expected: type[M], headers: Mapping[str, str] | None = None) -> M: ...


@overload
def decode(
    payload: bytes,
    expected: UnionType,
    headers: Mapping[str, str] | None = None,
    *,
    default: type[Message] | None = None,
) -> Any: ...


def decode(
    payload: bytes,
    expected: type[M] | UnionType,
    headers: Mapping[str, str] | None = None,
    *,
    default: type[Message] | None = None,
) -> Any:
    """Decode and check a message.

    Args:
        payload: msgpack or JSON, told apart by the `Content-Type` header, or else by the first byte.
        expected: A message class, or a union of them; the `type` field picks the member.
        headers: Headers of the message, read in any case when they are `bus.Headers`.
        default: Which of several is meant if the message does not say it.

    Raises:
        UnsupportedSchemaVersion: The `Pmq-Schema` header names another version.
        UnknownMessageType: The `type` field is none of the expected.
        MalformedMessage: The bytes or a field have the wrong form; names the field's path and what was expected.
    """
    headers = headers or {}
    version = headers.get(HEADER_SCHEMA, SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UnsupportedSchemaVersion(found=_short(version), supported=[SCHEMA_VERSION])
    tags = _tags(expected)
    name = " or ".join(sorted(tags))
    plain = _parse(payload, name, headers.get(HEADER_CONTENT_TYPE, ""))
    if not isinstance(plain, dict):
        raise MalformedMessage(message_type=name, path="$", expected=f"Expected an object, got {type(plain).__name__}")
    if default is not None:
        plain.setdefault("type", str(default.__struct_config__.tag))
    if "type" not in plain and len(tags) > 1:
        raise MalformedMessage(message_type=name, path="$.type", expected=f"Expected {name}, got nothing")
    found = plain.setdefault("type", name)
    if not isinstance(found, str) or found not in tags:
        raise UnknownMessageType(found=_short(str(found)), known=sorted(tags))
    try:
        return msgspec.convert(plain, expected, str_keys=True)
    except msgspec.ValidationError as error:
        path, reason = _explain(error, plain, expected)
        raise MalformedMessage(message_type=found, path=path, expected=reason) from error


def salvage_outputs(payload: bytes) -> list[str]:
    """The output variables that a malformed task seems to name: whoever waits for them has to learn of the failure."""
    try:
        plain = _parse_leniently(payload)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return []
    outputs = plain.get("outputs") if isinstance(plain, dict) else None
    specs = outputs.values() if isinstance(outputs, dict) else ()
    names = [spec.get("variable") for spec in specs if isinstance(spec, dict)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and is_name(name)))


def _tags(expected: Any) -> set[str]:
    members = get_args(expected) or (expected,)
    return {str(member.__struct_config__.tag) for member in members}


# -- bytes -----------------------------------------------------------------------------------------------------------


def _parse(payload: bytes, name: str, content_type: str) -> object:
    content_type = content_type.partition(";")[0].strip().lower()
    is_said = content_type in (CONTENT_JSON, CONTENT_MSGPACK)
    is_json = content_type == CONTENT_JSON if is_said else _seems_json(payload)
    try:
        return _parse_json(payload) if is_json else msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        guess = "JSON" if is_json else "JSON that begins with { or msgpack"
        form = f"{content_type} (its Content-Type)" if is_said else guess
        reason = "it is empty" if not payload else _short(str(error)) or "it is nested too deeply"
        if "strict_map_key" in reason:
            reason = "a key is no text; numbers, too, are written as text there"
        raise MalformedMessage(message_type=name, path="$", expected=f"Expected {form}: {reason}") from error


def _seems_json(payload: bytes) -> bool:
    """No msgpack object begins with a brace."""
    return payload.lstrip()[:1] == b"{"


def _parse_json(payload: bytes) -> object:
    """Strict JSON, all of which msgpack can say too: valid Unicode, whole numbers of 64 bits."""
    try:
        plain = msgspec.json.decode(payload)
    except msgspec.DecodeError as error:
        hint = "; half of a surrogate pair, such as a cut emoji, is no text" if _SURROGATE.search(payload) else ""
        raise ValueError(f"{error}{hint}") from error
    if _LONG_NUMBER.search(payload) is not None:
        try:
            msgpack.packb(plain)
        except OverflowError as error:
            raise ValueError("a whole number has more than 64 bits") from error
    return plain


def _parse_leniently(payload: bytes) -> object:
    """What `_parse` refuses, too: text that is not Unicode, numbers that are too long, keys of any kind."""
    if _seems_json(payload):
        return json.loads(payload)
    return msgpack.unpackb(payload, raw=False, strict_map_key=False, unicode_errors="replace")


# -- words -----------------------------------------------------------------------------------------------------------


def _explain(error: msgspec.ValidationError, plain: dict[str, Any], expected: Any) -> tuple[str, str]:
    """The path of the field and what was expected of it, in words that name the key where msgspec leaves it out."""
    text = str(error)
    match = _PATH.search(text)
    if match is None:
        return "$", _short(text)
    reason = _short(text[: match.start()].replace(_NAME, f"a name ({NAME_RULE})"))

    def is_wrong() -> bool:
        return _has_error_at(match["path"], plain, expected)

    path, place = _name_keys(match["path"], plain, is_wrong)
    if match["is_key"]:
        wrong, _ = _first_wrong(place, is_wrong)
        return path, f"{reason.removesuffix(_BECAUSE_TEXT)} as key, got {_short(repr(wrong))}"
    if path.endswith(".op"):
        reason = reason.replace("Invalid value", f"Expected {_TRANSFORMS}, got", 1)
    return path, reason


def _name_keys(path: str, plain: dict[str, Any], is_wrong: Callable[[], bool]) -> tuple[str, Any]:
    """Put keys where msgspec writes `[...]`. Returns: the path, and what is there."""
    head, *tails = path.split(_ANY_KEY)
    place = _at(plain, head)
    for tail in tails:
        key, value = _first_wrong(place, is_wrong)
        head += f".{_short(key)}{tail}"
        place = _at(value, tail)
    return head, place


def _first_wrong(entries: dict[str, Any], is_wrong: Callable[[], bool]) -> tuple[str, Any]:
    """The first entry that makes the document wrong, found by halving the entries; the others are taken out."""
    items = list(entries.items())
    while len(items) > 1:
        half = items[: len(items) // 2]
        entries.clear()
        entries.update(half)
        items = half if is_wrong() else items[len(half) :]
    entries.clear()
    entries.update(items)
    return items[0]


def _has_error_at(path: str, plain: dict[str, Any], expected: Any) -> bool:
    try:
        msgspec.convert(plain, expected, str_keys=True)
    except msgspec.ValidationError as error:
        match = _PATH.search(str(error))
        return match is not None and match["path"] == path
    return False


def _at(plain: Any, path: str) -> Any:
    """What is at a path such as `$.workers[2].error`."""
    for name, index in _STEP.findall(path):
        plain = plain[name or int(index)]
    return plain


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
