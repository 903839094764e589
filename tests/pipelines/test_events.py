"""Events in every form, and back."""

from __future__ import annotations

import string
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.bus import Delivery, Headers
from parrot_mq.errors import EventMismatch
from parrot_mq.observability import TraceContext
from parrot_mq.pipelines import Event, EventFormat, encode_event, read_event
from parrot_mq.pipelines.events import CLOUDEVENTS_JSON
from tests.pipelines.test_mapping import JSON

NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20).filter(
    lambda name: name not in ("data", "datacontenttype", "traceparent", "tracestate")
)
TEXTS = st.text(min_size=1).filter(str.strip)
ATTRIBUTES = st.builds(
    lambda more, required: {**more, **required, "specversion": "1.0"},
    st.dictionaries(NAMES, TEXTS, max_size=4),
    st.fixed_dictionaries({"id": TEXTS, "source": TEXTS, "type": TEXTS}),
)
HEX = st.integers(1, 2**64 - 1)
TRACES = st.builds(
    lambda trace, span, state: TraceContext(
        trace_id=f"{trace:032x}", span_id=f"{span:016x}", flags="01", state="k=v" if state else ""
    ),
    HEX,
    HEX,
    st.booleans(),
)


def _delivery(payload: bytes, **headers: str) -> Delivery:
    return Delivery("s", payload, Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@given(JSON, ATTRIBUTES, st.none() | TRACES, st.sampled_from(["cloudevents", "cloudevents-structured"]))
def test_what_is_written_is_read_again(
    data: object, attributes: dict[str, str], trace: TraceContext | None, event_format: EventFormat
) -> None:
    event = Event(data=data, attributes=attributes, trace=trace)
    payload, headers = encode_event(event, event_format)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    found = read_event(Delivery("s", payload, Headers(headers)))
    assert (found.data, found.trace) == (data, trace)
    assert {name: found.attributes[name] for name in attributes} == attributes
    assert found.id == f"{attributes['source']} {attributes['id']}"


@given(JSON)
def test_plain_json_has_no_attributes(data: object) -> None:
    payload, headers = encode_event(Event(data=data, attributes={}), "json")
    found = read_event(Delivery("s", payload, Headers(headers)))
    assert (found.data, found.id, found.trace) == (data, "", None)


@pytest.mark.parametrize("headers", [{}, {"Content_Type": "text/plain"}])
def test_a_text_is_an_event(headers: dict[str, str]) -> None:
    assert read_event(_delivery("größer".encode(), **headers)).data == "größer"


def test_what_says_that_it_is_a_text_is_not_read_as_json() -> None:
    assert read_event(_delivery(b"1e5", Content_Type="text/plain; charset=utf-8")).data == "1e5"


def test_the_attributes_of_binary_mode_are_read_in_any_case() -> None:
    found = read_event(_delivery(b"{}", CE_ID="a%20b", Ce_Source="/s", ce_type="t", ce_specversion="1.0"))
    assert found.id == "/s a b"


def test_data_may_be_base64() -> None:
    document = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data_base64": b'{"a":1}'}
    found = read_event(_delivery(msgspec.json.encode(document), Content_Type=CLOUDEVENTS_JSON))
    assert found.data == {"a": 1}


@pytest.mark.parametrize(
    ("payload", "headers", "where"),
    [
        (b"{", {"Content_Type": "application/json"}, "payload"),
        (b"\xff", {}, "payload"),
        (b"[]", {"Content_Type": CLOUDEVENTS_JSON}, "payload"),
        (b"{}", {"Content_Type": CLOUDEVENTS_JSON}, "specversion"),
        (b"{}", {"Content_Type": "application/cloudevents-batch+json"}, "Content-Type"),
        (b'{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}', {"Content_Type": CLOUDEVENTS_JSON}, "0.3"),
        (b'{"specversion": "1.0", "id": [], "source": "s", "type": "t"}', {"Content_Type": CLOUDEVENTS_JSON}, "id"),
        (b"{}", {"ce_id": "1", "ce_source": "s", "ce_specversion": "1.0"}, "type"),
        (b"{}", {"ce_id": "%ff"}, "ce-id"),
    ],
)
def test_what_is_not_what_it_says_is_refused(payload: bytes, headers: dict[str, str], where: str) -> None:
    with pytest.raises(EventMismatch, match=where):
        read_event(_delivery(payload, **headers))


@given(st.binary(), st.dictionaries(st.sampled_from(["Content-Type", "ce-id", "ce-type", "traceparent"]), st.text()))
def test_nothing_that_comes_does_harm(payload: bytes, headers: dict[str, str]) -> None:
    with suppress(EventMismatch):
        read_event(Delivery("s", payload, Headers(headers)))
