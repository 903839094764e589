"""Events as they come: plain JSON or text, or CloudEvents 1.0 in binary or structured mode.

Source: CloudEvents 1.0.2, its JSON format, and its NATS protocol binding, in which attributes are headers `ce-…`,
percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote

import msgspec

from parrot_mq.bus import Delivery
from parrot_mq.errors import EventMismatch
from parrot_mq.messages import CONTENT_JSON, HEADER_CONTENT_TYPE
from parrot_mq.observability import TraceContext, read_trace, trace_headers

__all__ = ["CLOUDEVENTS_JSON", "Event", "EventFormat", "encode_event", "read_event"]

CLOUDEVENTS_JSON = "application/cloudevents+json"
SPEC_VERSION = "1.0"
PREFIX = "ce-"
REQUIRED = ("specversion", "id", "source", "type")
_NAME = re.compile(r"[a-z0-9]+")
_UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

EventFormat = Literal["json", "cloudevents", "cloudevents-structured"]
"""`json`: the data alone; `cloudevents`: binary mode; `cloudevents-structured`: attributes and data in one document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event.

    Attributes:
        data: What it says: a JSON value, or a text.
        attributes: The attributes of a CloudEvent; empty for any other event.
        trace: Where it belongs in a trace.
    """

    data: Any
    attributes: Mapping[str, str]
    trace: TraceContext | None = None

    @property
    def id(self) -> str:
        """Who it is, if it says so itself: ids are unique for each source."""
        return f"{self.attributes['source']} {self.attributes['id']}" if self.attributes else ""


def read_event(delivery: Delivery) -> Event:
    """Read an event in any of its forms.

    Raises:
        EventMismatch: It says that it is a CloudEvent or JSON, and is not; or it is no UTF-8 text.
    """
    content = delivery.headers.get(HEADER_CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if content.startswith("application/cloudevents"):
        return _read_structured(delivery, content)
    attributes = {
        name[len(PREFIX) :].lower(): _unescape(name, value)
        for name, value in delivery.headers.items()
        if name.lower().startswith(PREFIX)
    }
    if attributes:
        _check_attributes(attributes)
    if content.startswith("text/"):
        data: Any = _read_text(delivery.payload)
    else:
        data = _read_data(delivery.payload, is_json=content == CONTENT_JSON or content.endswith("+json"))
    return Event(data=data, attributes=attributes, trace=read_trace(delivery.headers) or read_trace(attributes))


def _read_structured(delivery: Delivery, content: str) -> Event:
    if content != CLOUDEVENTS_JSON:
        raise EventMismatch(where=HEADER_CONTENT_TYPE, problem=f"{content} is not read here; send {CLOUDEVENTS_JSON}")
    document = _read_data(delivery.payload, is_json=True)
    if not isinstance(document, dict):
        raise EventMismatch(where="its payload", problem="a CloudEvent is a JSON object")
    data = document.pop("data", None)
    if (encoded := document.pop("data_base64", None)) is not None:
        try:
            data = _read_data(msgspec.convert(encoded, bytes), is_json=_is_json(document))
        except msgspec.ValidationError as error:
            raise EventMismatch(where="data_base64", problem=str(error)) from error
    attributes = {name: _attribute_text(name, value) for name, value in document.items() if value is not None}
    _check_attributes(attributes)
    return Event(data=data, attributes=attributes, trace=read_trace(delivery.headers) or read_trace(attributes))


def _is_json(document: Mapping[str, Any]) -> bool:
    return "json" in str(document.get("datacontenttype", CONTENT_JSON))


def _attribute_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise EventMismatch(where=f"attribute {name}", problem="it is a text, a whole number or a truth value")


def _unescape(name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise EventMismatch(where=name, problem="its percent-encoding is not UTF-8") from error


def _check_attributes(attributes: Mapping[str, str]) -> None:
    for name in REQUIRED:
        if not attributes.get(name):
            raise EventMismatch(where=f"attribute {name}", problem="a CloudEvent must have it")
    if attributes["specversion"] != SPEC_VERSION:
        problem = f"version {attributes['specversion']!r} is not read here; send {SPEC_VERSION}"
        raise EventMismatch(where="attribute specversion", problem=problem)


def _read_data(payload: bytes, *, is_json: bool) -> Any:
    """JSON if it is; a text otherwise, unless it said that it is JSON."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if is_json:
            raise EventMismatch(where="its payload", problem=f"it is not JSON: {error}") from error
    return _read_text(payload)


def _read_text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {payload[error.start]:#04x} at offset {error.start}"
        raise EventMismatch(where="its payload", problem=f"it is no UTF-8 text: {byte}") from error


def encode_event(event: Event, event_format: EventFormat) -> tuple[bytes, dict[str, str]]:
    """Payload and headers of an event; the keys of objects are sorted, so that the same event has the same bytes."""
    trace = trace_headers(event.trace)
    attributes = {name: value for name, value in {**event.attributes, **trace}.items() if _NAME.fullmatch(name)}
    if event_format == "cloudevents-structured":
        document = {**attributes, "datacontenttype": CONTENT_JSON, "data": event.data}
        return _encode(document), {**trace, HEADER_CONTENT_TYPE: CLOUDEVENTS_JSON}
    headers = {**trace, HEADER_CONTENT_TYPE: CONTENT_JSON}
    if event_format == "cloudevents":
        headers |= {PREFIX + name: quote(value, safe=_UNESCAPED) for name, value in attributes.items()}
    return _encode(event.data), headers


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
