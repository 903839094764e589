"""Bytes to messages and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot_mq.bus import Headers
from parrot_mq.errors import CodecError, MalformedMessage, UnknownMessageType, UnsupportedSchemaVersion
from parrot_mq.messages import (
    Assign,
    BlobRef,
    CancelGenerations,
    ErrorInfo,
    Message,
    NativeCall,
    NativeRunning,
    NativeTask,
    OutputSpec,
    PromptTask,
    ResultSpec,
    ServiceQuery,
    SessionCancel,
    TaskEvent,
    TaskRecord,
    TokenDelta,
    WorkerStatus,
    decode,
    encode,
    encode_json,
    salvage_outputs,
)
from parrot_mq.types import Sampling
from tests.wire.strategies import (
    MESSAGE_TYPES,
    broken,
    json_documents,
    messages,
    messages_of,
    msgpack_documents,
    unhurried,
)

JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}
OUTPUT = {"variable": "x"}
TASK = {"template": "a {{o}}", "outputs": {"o": OUTPUT}}
NAME = "a name (use 1 to 64 of the characters A-Z a-z 0-9 _ -)"

classes = st.sampled_from(MESSAGE_TYPES)
headers = st.sampled_from([{}, JSON, MSGPACK, {"Content-Type": "text/plain"}, {"Pmq-Schema": "2"}])


# -- good input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MESSAGE_TYPES, ids=lambda cls: str(cls.__struct_config__.tag))
@settings(unhurried, max_examples=30)
@given(data=st.data())
def test_a_message_comes_back_from_msgpack_and_from_json(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages_of(cls))
    assert decode(encode(message), cls) == message
    assert decode(encode_json(message), cls) == message
    assert decode(encode(message), cls, MSGPACK) == message
    assert decode(encode_json(message), cls, JSON) == message


@unhurried
@given(message=messages)
def test_both_forms_say_the_same(message: Message) -> None:
    assert msgpack.unpackb(encode(message)) == json.loads(encode_json(message))


@pytest.mark.parametrize("encoder", [encode, encode_json])
def test_a_union_is_told_apart_by_its_type(encoder: Any) -> None:
    message = CancelGenerations(keys=["t.s.v"])
    assert decode(encoder(message), Assign | CancelGenerations) == message


def test_the_type_may_be_left_out_where_one_message_is_expected() -> None:
    assert decode(b'{"variables": ["x"]}', SessionCancel) == SessionCancel(variables=["x"])


@pytest.mark.parametrize("encoder", [encode, encode_json])
def test_a_task_without_a_type_is_a_prompt(encoder: Any) -> None:
    native = NativeTask(function="search", outputs={"o": ResultSpec(variable="x")})
    assert decode(encoder(native), TaskRecord, default=PromptTask) == native
    assert isinstance(decode(json.dumps(TASK).encode(), TaskRecord, default=PromptTask), PromptTask)


@pytest.mark.parametrize(
    "payload",
    [
        b' \r\n\t{"attempt": 1, "offset": 0, "text": "\xf0\x9f\xa6\x9c"} \n',
        rb'{"attempt": 1, "offset": 0, "text": "\ud83e\udd9c", "type": "token.delta"}',
        msgpack.packb({"text": "🦜", "offset": 0, "attempt": 1}),
    ],
)
def test_the_first_byte_says_which_form_it_is(payload: bytes) -> None:
    assert decode(payload, TokenDelta) == TokenDelta(attempt=1, offset=0, text="🦜")


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "text/plain", ""])
def test_the_content_type_is_read_as_http_does(content_type: str) -> None:
    assert decode(b"{}", SessionCancel, Headers({"content-type": content_type})) == SessionCancel()


@pytest.mark.parametrize("encoder", [json.dumps, msgpack.packb])
def test_unknown_fields_of_a_message_are_ignored(encoder: Any) -> None:
    payload = encoder({**TASK, "priority": {"level": 3}, "outputs": {"o": {**OUTPUT, "format": "json"}}})
    payload = payload if isinstance(payload, bytes) else payload.encode()
    assert decode(payload, PromptTask) == PromptTask(template="a {{o}}", outputs={"o": OutputSpec(variable="x")})


@pytest.mark.parametrize("encoder", [encode, encode_json])
def test_biases_have_numbers_as_keys_whichever_form_they_come_in(encoder: Any) -> None:
    sampling = Sampling(logit_bias={0: -100.0, 50256: 1.5})
    task = PromptTask(template="a {{o}}", outputs={"o": OutputSpec(variable="x", sampling=sampling)})
    assert decode(encoder(task), PromptTask).outputs["o"].sampling.logit_bias == {0: -100.0, 50256: 1.5}


def test_a_whole_number_can_stand_for_a_number() -> None:
    assert decode(json.dumps({**TASK, "timeout_s": 5}).encode(), PromptTask).timeout_s == 5.0


@unhurried
@given(data=st.data(), cls=classes)
def test_what_was_decoded_can_be_encoded(data: st.DataObject, cls: type[Message]) -> None:
    """So nothing that a stranger sends fails later, when it is sent on."""
    payload = json.dumps(data.draw(messages_of(cls).flatmap(lambda message: broken(message, json_documents)))).encode()
    with suppress(CodecError):
        message = decode(payload, cls)
        assert decode(encode(message), cls) == message


# -- bad input -------------------------------------------------------------------------------------------------------


@settings(unhurried, max_examples=300)
@given(payload=st.binary(), cls=classes, headers=headers)
def test_random_bytes_are_a_codec_error(payload: bytes, cls: type[Message], headers: dict[str, str]) -> None:
    with suppress(CodecError):
        decode(payload, cls, headers)
    salvage_outputs(payload)


@settings(unhurried, max_examples=300)
@given(document=json_documents, cls=classes, headers=headers)
def test_random_json_is_a_codec_error(document: object, cls: type[Message], headers: dict[str, str]) -> None:
    payload = json.dumps(document).encode()
    with suppress(CodecError):
        decode(payload, cls, headers)
    salvage_outputs(payload)


@settings(unhurried, max_examples=300)
@given(document=msgpack_documents, cls=classes)
def test_random_msgpack_is_a_codec_error(document: object, cls: type[Message]) -> None:
    payload = msgpack.packb(document)
    with suppress(CodecError):
        decode(payload, cls)
    salvage_outputs(payload)


@settings(unhurried, max_examples=300)
@given(data=st.data(), cls=classes)
def test_a_message_with_a_broken_place_is_a_codec_error(data: st.DataObject, cls: type[Message]) -> None:
    payload = msgpack.packb(data.draw(messages_of(cls).flatmap(lambda message: broken(message, msgpack_documents))))
    with suppress(CodecError):
        decode(payload, cls)
    salvage_outputs(payload)


class Bad(NamedTuple):
    """Plain data that is no message, and what the error has to say."""

    document: Any
    expected: Any
    path: str
    says: str


def _task(**changes: Any) -> dict[str, Any]:
    return {**TASK, **changes}


def _sampling(**fields: Any) -> dict[str, Any]:
    return _task(outputs={"fine": OUTPUT, "o": {"variable": "y", "sampling": fields}})


def _transform(transform: Any) -> dict[str, Any]:
    return _task(outputs={"o": {"variable": "x", "transforms": [{"op": "strip"}, transform]}})


def _native(**changes: Any) -> dict[str, Any]:
    return {"function": "search", "outputs": {"o": OUTPUT}, **changes}


BAD_DOCUMENTS = {
    "no template": Bad({"outputs": {"o": OUTPUT}}, PromptTask, "$", "missing required field `template`"),
    "template is a number": Bad(_task(template=3), PromptTask, "$.template", "Expected `str`, got `int`"),
    "template is empty": Bad(_task(template=""), PromptTask, "$.template", "length >= 1"),
    "no outputs": Bad(_task(outputs={}), PromptTask, "$.outputs", "length >= 1"),
    "outputs is a list": Bad(_task(outputs=["x"]), PromptTask, "$.outputs", "Expected `object`, got `array`"),
    "inputs is null": Bad(_task(inputs=None), PromptTask, "$.inputs", "Expected `object`, got `null`"),
    "an output without variable": Bad(
        _task(outputs={"a": OUTPUT, "o": {}, "z": OUTPUT}), PromptTask, "$.outputs.o", "required field `variable`"
    ),
    "a variable that is no name": Bad(
        _task(outputs={"o": {"variable": "a.b"}}), PromptTask, "$.outputs.o.variable", f"Expected {NAME}"
    ),
    "a variable that ends in a line break": Bad(
        _task(outputs={"o": {"variable": "a\n"}}), PromptTask, "$.outputs.o.variable", f"Expected {NAME}"
    ),
    "a key that is no name": Bad(
        _task(inputs={"a": "x", "b c": "x"}), PromptTask, "$.inputs", f"Expected {NAME} as key, got 'b c'"
    ),
    "the last of many outputs": Bad(
        _task(outputs={**{f"o{i}": OUTPUT for i in range(50)}, "o50": {"variable": 1}}),
        PromptTask,
        "$.outputs.o50.variable",
        "Expected `str`, got `int`",
    ),
    "the first of two wrong outputs": Bad(
        _task(outputs={"a": OUTPUT, "b": {"variable": 1}, "c": {"variable": 2}, "d": OUTPUT}),
        PromptTask,
        "$.outputs.b.variable",
        "Expected `str`, got `int`",
    ),
    "too many tokens": Bad(
        _sampling(max_tokens=0), PromptTask, "$.outputs.o.sampling.max_tokens", "Expected `int` >= 1"
    ),
    "a misspelled option": Bad(_sampling(max_token=9), PromptTask, "$.outputs.o.sampling", "unknown field `max_token`"),
    "temperature out of range": Bad(
        _sampling(temperature=11), PromptTask, "$.outputs.o.sampling.temperature", "Expected `float` <= 10"
    ),
    "fewer tokens at most than at least": Bad(
        _sampling(min_tokens=9, max_tokens=8),
        PromptTask,
        "$.outputs.o.sampling",
        "Expected `min_tokens` <= `max_tokens` (8), got 9",
    ),
    "min_p out of range": Bad(
        _sampling(min_p=1.5), PromptTask, "$.outputs.o.sampling.min_p", "Expected `float` <= 1.0"
    ),
    "a repetition penalty of nothing": Bad(
        _sampling(repetition_penalty=0), PromptTask, "$.outputs.o.sampling.repetition_penalty", "Expected `float` > 0"
    ),
    "too strong a penalty": Bad(
        _sampling(presence_penalty=-2.5), PromptTask, "$.outputs.o.sampling.presence_penalty", "Expected `float` >= -2"
    ),
    "too many alternatives": Bad(
        _sampling(logprobs=21), PromptTask, "$.outputs.o.sampling.logprobs", "Expected `int` <= 20"
    ),
    "a stop token that is none": Bad(
        _sampling(stop_token_ids=[2, -1]), PromptTask, "$.outputs.o.sampling.stop_token_ids[1]", "Expected `int` >= 0"
    ),
    "too many stop tokens": Bad(
        _sampling(stop_token_ids=[1] * 257), PromptTask, "$.outputs.o.sampling.stop_token_ids", "length <= 256"
    ),
    "ignore_eos is a number": Bad(
        _sampling(ignore_eos=1), PromptTask, "$.outputs.o.sampling.ignore_eos", "Expected `bool`, got `int`"
    ),
    "a bias of a word": Bad(
        _sampling(logit_bias={"7": 1, "cat": 1, "dog": 1}),
        PromptTask,
        "$.outputs.o.sampling.logit_bias",
        "Expected `int` as key, got 'cat'",
    ),
    "a bias of a token that cannot be": Bad(
        _sampling(logit_bias={"7": 1, "2147483648": 1}),
        PromptTask,
        "$.outputs.o.sampling.logit_bias",
        "Expected `int` <= 2147483647 as key, got '2147483648'",
    ),
    "a bias out of range": Bad(
        _sampling(logit_bias={"7": 1, "8": 101, "9": 1}),
        PromptTask,
        "$.outputs.o.sampling.logit_bias.8",
        "Expected `float` <= 100",
    ),
    "too many biases": Bad(
        _sampling(logit_bias={str(token_id): 1 for token_id in range(1025)}),
        PromptTask,
        "$.outputs.o.sampling.logit_bias",
        "length <= 1024",
    ),
    "an empty stop text": Bad(_sampling(stop=["x", ""]), PromptTask, "$.outputs.o.sampling.stop[1]", "length >= 1"),
    "a misspelled reference": Bad(
        _task(inputs={"o": {"variables": "x"}}), PromptTask, "$.inputs.o", "unknown field `variables`"
    ),
    "a wrong item of a list": Bad(
        _task(inputs={"o": ["x", {"variable": "?"}]}), PromptTask, "$.inputs.o[1].variable", f"Expected {NAME}"
    ),
    "a separator that is no text": Bad(_task(separators={"o": 1}), PromptTask, "$.separators.o", "got `int`"),
    "no time": Bad(_task(timeout_s=0), PromptTask, "$.timeout_s", "Expected `float` > 0"),
    "time as text": Bad(_task(timeout_s="60"), PromptTask, "$.timeout_s", "Expected `float`, got `str`"),
    "more than a week": Bad(_task(timeout_s=604_801), PromptTask, "$.timeout_s", "Expected `float` <= 604800"),
    "a list that is read with a misspelling": Bad(
        _task(inputs={"o": {"variable": "x", "item": True}}), PromptTask, "$.inputs.o", "unknown field `item`"
    ),
    "each is a text": Bad(_task(each="point"), PromptTask, "$.each", "Expected `array`, got `str`"),
    "each names something that is no name": Bad(_task(each=["a", "b c"]), PromptTask, "$.each[1]", f"Expected {NAME}"),
    "a transform that is none": Bad(
        _transform("strip"), PromptTask, "$.outputs.o.transforms[1]", "Expected `object`, got `str`"
    ),
    "a transform without a name": Bad(
        _transform({"separator": ","}), PromptTask, "$.outputs.o.transforms[1]", "missing required field `op`"
    ),
    "an unknown transform": Bad(
        _transform({"op": "upper"}),
        PromptTask,
        "$.outputs.o.transforms[1].op",
        "Expected `join` or `json` or `regex` or `split` or `strip`, got 'upper'",
    ),
    "a misspelled option of a transform": Bad(
        _transform({"op": "strip", "chars": "."}), PromptTask, "$.outputs.o.transforms[1]", "unknown field `chars`"
    ),
    "a pattern that is none": Bad(
        _transform({"op": "regex", "pattern": "(\\d+"}),
        PromptTask,
        "$.outputs.o.transforms[1]",
        "the pattern '(\\\\d+' is no regular expression: missing )",
    ),
    "a group that the pattern does not have": Bad(
        _transform({"op": "regex", "pattern": "(a)", "group": 2}),
        PromptTask,
        "$.outputs.o.transforms[1]",
        "the pattern '(a)' has no group 2; groups: 0 to 1",
    ),
    "a pattern without a character": Bad(
        _transform({"op": "regex", "pattern": ""}), PromptTask, "$.outputs.o.transforms[1].pattern", "length >= 1"
    ),
    "a pointer that is none": Bad(
        _transform({"op": "json", "pointer": "a/b"}),
        PromptTask,
        "$.outputs.o.transforms[1]",
        "a JSON pointer begins with `/`: write '/a/b' instead of 'a/b'",
    ),
    "a separator of nothing": Bad(
        _transform({"op": "split", "separator": ""}), PromptTask, "$.outputs.o.transforms[1].separator", "length >= 1"
    ),
    "more items than a list may have": Bad(
        _transform({"op": "split", "max_items": 10_001}),
        PromptTask,
        "$.outputs.o.transforms[1].max_items",
        "Expected `int` <= 10000",
    ),
    "too many transforms": Bad(
        _task(outputs={"o": {"variable": "x", "transforms": [{"op": "strip"}] * 17}}),
        PromptTask,
        "$.outputs.o.transforms",
        "length <= 16",
    ),
    "a function that is no name": Bad(_native(function="a.b"), NativeTask, "$.function", f"Expected {NAME}"),
    "a function that is a number": Bad(_native(function=3), NativeTask, "$.function", "Expected `str | object`"),
    "a variable that says the function, without choices": Bad(
        _native(function={"variable": "tool"}),
        NativeTask,
        "$",
        "Expected `choices` exactly where `function` is a variable",
    ),
    "choices where there is nothing to choose": Bad(
        _native(choices=["search"]), NativeTask, "$", "Expected `choices` exactly where `function` is a variable"
    ),
    "a choice that is no name": Bad(
        _native(function={"variable": "tool"}, choices=["a", "b c"]), NativeTask, "$.choices[1]", f"Expected {NAME}"
    ),
    "a native task without outputs": Bad(_native(outputs={}), NativeTask, "$.outputs", "length >= 1"),
    "a native task without function": Bad(
        {"type": "task.native", "outputs": {"o": OUTPUT}}, TaskRecord, "$", "missing required field `function`"
    ),
    "no attempt": Bad(_native(max_attempts=0), NativeTask, "$.max_attempts", "Expected `int` >= 1"),
    "too many attempts": Bad(_native(max_attempts=101), NativeTask, "$.max_attempts", "Expected `int` <= 100"),
    "no time for an attempt": Bad(
        _native(attempt_timeout_s=0), NativeTask, "$.attempt_timeout_s", "Expected `float` > 0"
    ),
    "an argument that is a number": Bad(
        {"call": "t.s.v", "function": "f", "arguments": {"a": "x", "n": 3}, "outputs": ["o"]},
        NativeCall,
        "$.arguments.n",
        "got `int`",
    ),
    "a host that is never heard of again": Bad(
        {"host": "a", "beat_s": 3601}, NativeRunning, "$.beat_s", "Expected `float` <= 3600"
    ),
    "an unknown kind": Bad({"kind": "exploded", "task": "k"}, TaskEvent, "$.kind", "Invalid enum value 'exploded'"),
    "an error inside an event": Bad(
        {"kind": "failed", "task": "k", "error": {"code": "x", "message": "y", "facts": {"a": 1, "b": {}}}},
        TaskEvent,
        "$.error.facts.b",
        "got `object`",
    ),
    "a digest that is none": Bad({"digest": "AB" * 32, "size_bytes": 1}, BlobRef, "$.digest", "matching regex"),
    "a negative size": Bad({"digest": "ab" * 32, "size_bytes": -1}, BlobRef, "$.size_bytes", "Expected `int` >= 0"),
    "no type in a union": Bad({"keys": []}, Assign | CancelGenerations, "$.type", "worker.assign or worker.cancel"),
    "a list": Bad([TASK], PromptTask, "$", "Expected an object, got list"),
    "a text": Bad("task", PromptTask, "$", "Expected an object, got str"),
    "nothing": Bad(None, PromptTask, "$", "Expected an object, got NoneType"),
}


@pytest.mark.parametrize("bad", BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS.keys())
def test_an_error_names_the_place_and_what_was_expected(bad: Bad) -> None:
    for payload, content in (json.dumps(bad.document).encode(), JSON), (msgpack.packb(bad.document), MSGPACK):
        with pytest.raises(MalformedMessage) as caught:
            decode(payload, bad.expected, content)
        error = caught.value
        assert error.path == bad.path
        assert bad.says in error.expected
        assert error.path in error.message
        assert error.expected in error.message


DEEP = 100_000


@pytest.mark.parametrize(
    ("payload", "content", "says"),
    [
        (b"", {}, "Expected JSON that begins with { or msgpack: it is empty"),
        (b"", JSON, r"Expected application/json \(its Content-Type\): it is empty"),
        (b"hello", {}, "Expected JSON that begins with { or msgpack: "),
        (b"{", {}, "Expected JSON: .*truncated"),
        (b'{"a": 1} {"b": 2}', {}, "Expected JSON: .*trailing characters"),
        (b"{'a': 1}", {}, "Expected JSON: .*malformed"),
        (b'{"a": NaN}', {}, "Expected JSON: .*malformed"),
        (b'{"a": 1e999}', {}, "Expected JSON: .*out of range"),
        (b'{"timeout_s": 18446744073709551616}', {}, "Expected JSON: a whole number has more than 64 bits"),
        (b'{"a": "\xff"}', {}, "Expected JSON: 'utf-8' codec can't decode"),
        (rb'{"a": "\ud83e"}', {}, "Expected JSON: .*half of a surrogate pair"),
        (b'{"a": ' + b"[" * DEEP, {}, "Expected JSON: .*recursion"),
        (b'{"a": 1}', MSGPACK, r"Expected application/msgpack \(its Content-Type\): "),
        (b"\x81\xa1a\x01", JSON, r"Expected application/json \(its Content-Type\): "),
        (b"\x81\xa1a", {}, "incomplete input"),
        (b"\x81\xa1a\x01\x01", {}, "extra data"),
        (b"\x81\xa1\xff\x01", {}, "'utf-8' codec can't decode"),
        (b"\x81\x01\x01", {}, "a key is no text; numbers, too, are written as text there"),
        (b"\x81\xa1a" + b"\x91" * DEEP, {}, "nested too deeply"),
        (b"\xdd\xff\xff\xff\xff", {}, "exceeds max_array_len"),
    ],
)
def test_bytes_that_are_no_document_say_why(payload: bytes, content: Mapping[str, str], says: str) -> None:
    with pytest.raises(MalformedMessage, match=says) as caught:
        decode(payload, PromptTask, content)
    assert caught.value.path == "$"


@pytest.mark.parametrize("found", ["session.cancel", "", None, 3, True, ["task.prompt"], {"task": "prompt"}])
def test_an_unknown_type_names_those_that_are_known(found: object) -> None:
    for payload in (json.dumps({**TASK, "type": found}).encode(), msgpack.packb({**TASK, "type": found})):
        with pytest.raises(UnknownMessageType, match=r"service\.query, task\.prompt") as caught:
            decode(payload, ServiceQuery | PromptTask)
        assert caught.value.facts == {"found": str(found), "known": ["service.query", "task.prompt"]}


def test_another_schema_version_is_refused() -> None:
    with pytest.raises(UnsupportedSchemaVersion, match="version '2' is not supported; supported: 1") as caught:
        decode(encode(ServiceQuery()), ServiceQuery, Headers({"pmq-schema": "2"}))
    assert caught.value.found == "2"
    assert decode(encode(ServiceQuery()), ServiceQuery, {"Pmq-Schema": "1"}) == ServiceQuery()


@pytest.mark.parametrize(
    "document",
    [
        {"type": "x" * 500_000},
        {**TASK, "model": "x" * 500_000, "outputs": {"o" * 500_000: {}}},
        {**TASK, "outputs": {"o": {"variable": "x", "sampling": {"y" * 500_000: 1}}}},
    ],
)
def test_an_error_is_short_however_long_the_mistake_is(document: dict[str, Any]) -> None:
    """It has to fit into a message."""
    with pytest.raises(CodecError) as caught:
        decode(json.dumps(document).encode(), PromptTask)
    assert len(encode(ErrorInfo.from_error(caught.value))) < 4_000


# -- what can be saved of a task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (json.dumps(_task(template=3)).encode(), ["x"]),
        (json.dumps({"type": "task.unheard", "outputs": {"a": OUTPUT, "b": {"variable": "y"}}}).encode(), ["x", "y"]),
        (json.dumps(_task(outputs={"a": OUTPUT, "b": OUTPUT})).encode(), ["x"]),
        (json.dumps(_task(function="\ud83e", seed=2**100)).encode(), ["x"]),
        (
            json.dumps({"outputs": {"a": {"variable": "a.b"}, "b": {"variable": "*"}, "c": {"variable": 3}}}).encode(),
            [],
        ),
        (json.dumps({"outputs": ["x"]}).encode(), []),
        (json.dumps({"outputs": {"a": "x"}}).encode(), []),
        (msgpack.packb({3: 4, "function": "\udc00", "outputs": {"o": OUTPUT}}, unicode_errors="surrogatepass"), ["x"]),
        (msgpack.packb({(1, 2): 3, "outputs": {"o": OUTPUT}}), []),
        (b'{"outputs": {"o": {"variable": "x"}}', []),
        (b'{"a": ' + b"[" * DEEP, []),
        (b"\x91" * DEEP, []),
        (b"", []),
    ],
)
def test_outputs_of_a_malformed_task_are_found_as_far_as_they_are_names(payload: bytes, found: list[str]) -> None:
    with pytest.raises(CodecError):
        decode(payload, PromptTask | WorkerStatus)
    assert salvage_outputs(payload) == found


@unhurried
@given(data=st.data(), task=messages_of(PromptTask))
def test_what_stands_beside_the_outputs_does_not_hide_them(data: st.DataObject, task: Message) -> None:
    assert isinstance(task, PromptTask)
    plain = data.draw(broken(task, json_documents))
    wanted = list(dict.fromkeys(output.variable for output in task.outputs.values()))
    if isinstance(plain, dict) and plain.get("outputs") == json.loads(encode_json(task))["outputs"]:
        assert salvage_outputs(json.dumps(plain).encode()) == wanted
