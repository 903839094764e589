"""The value of a variable: a text, a claim check, or an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.bus import Headers
from parrot_mq.errors import MalformedMessage, ModelNotServed
from parrot_mq.messages import (
    BlobRef,
    ErrorInfo,
    decode_value,
    encode,
    encode_blob_ref,
    encode_error,
    encode_json,
    encode_text,
)
from tests.wire.strategies import messages_of, unhurried

DIGEST = "ab" * 32
ERROR_HEADER = {"Pmq-Status": "error"}
BLOB_HEADER = {"Pmq-Blob": DIGEST}


@unhurried
@given(text=st.text())
def test_a_text_comes_back(text: str) -> None:
    payload, headers = encode_text(text)
    assert payload == text.encode()
    assert decode_value(payload, headers) == text
    assert decode_value(payload, {}) == text


@unhurried
@given(ref=messages_of(BlobRef))
def test_a_claim_check_comes_back(ref: BlobRef) -> None:
    payload, headers = encode_blob_ref(ref)
    assert headers["Pmq-Blob"] == ref.digest
    assert decode_value(payload, headers) == ref
    assert decode_value(encode_json(ref), {"Pmq-Blob": ref.digest}) == ref


@unhurried
@given(info=messages_of(ErrorInfo))
def test_an_error_comes_back(info: ErrorInfo) -> None:
    payload, headers = encode_error(info)
    assert headers["Pmq-Status"] == "error"
    assert decode_value(payload, headers) == info
    assert decode_value(encode_json(info), ERROR_HEADER) == info


def test_an_exception_becomes_a_value() -> None:
    payload, headers = encode_error(ModelNotServed(model="large", served=["small"]))
    value = decode_value(payload, headers)
    assert isinstance(value, ErrorInfo)
    assert value.code == "model_not_served"


def test_headers_are_read_in_any_case() -> None:
    info = ErrorInfo(code="demo", message="no")
    assert decode_value(encode(info), Headers({"pmq-status": "error"})) == info


def test_text_that_looks_like_a_message_is_text() -> None:
    assert decode_value(b'{"type": "error"}', {}) == '{"type": "error"}'
    assert decode_value(b"x", {"Pmq-Status": "fine"}) == "x"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"abc\xff", "Expected UTF-8 text, got byte 0xff at offset 3"),
        (b"\xed\xa0\x80", "Expected UTF-8 text, got byte 0xed at offset 0"),
    ],
)
def test_text_that_is_not_utf8_is_an_error(payload: bytes, says: str) -> None:
    value = decode_value(payload, {})
    assert isinstance(value, ErrorInfo)
    assert isinstance(value.to_error(), MalformedMessage)
    assert says in value.message


@pytest.mark.parametrize("headers", [ERROR_HEADER, BLOB_HEADER])
@pytest.mark.parametrize("payload", [b"", b"oops", b"{}", b'{"digest": "ab", "size_bytes": 1}', b"\xff"])
def test_a_value_that_cannot_be_read_is_an_error(payload: bytes, headers: dict[str, str]) -> None:
    value = decode_value(payload, headers)
    assert isinstance(value, ErrorInfo)
    assert value.code == "malformed_message"


def test_a_value_of_another_schema_version_is_an_error() -> None:
    value = decode_value(encode(ErrorInfo(code="x", message="y")), {**ERROR_HEADER, "Pmq-Schema": "9"})
    assert isinstance(value, ErrorInfo)
    assert value.code == "unsupported_schema_version"


@unhurried
@given(
    payload=st.binary(),
    headers=st.dictionaries(st.sampled_from(["Pmq-Status", "Pmq-Blob", "Pmq-Schema", "Content-Type"]), st.text()),
)
def test_reading_a_value_never_raises(payload: bytes, headers: dict[str, str]) -> None:
    assert isinstance(decode_value(payload, headers), str | BlobRef | ErrorInfo)
