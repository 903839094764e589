"""The AsyncAPI document says what the code does: every subject, every message, everyone who takes part."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.coordinator.coordinator import CONTROL, REGISTRY_ACCEPTS
from parrot_mq.messages import WorkerMessage, subjects
from parrot_mq.observability.tracing import TRACEPARENT, TRACESTATE

FOLDER = Path(__file__).parents[2] / "schemas"
PAGE = (FOLDER / "README.md").read_text()
DOCUMENT: dict[str, Any] = json.loads((FOLDER / "asyncapi.json").read_text())
CHANNELS: dict[str, dict[str, Any]] = DOCUMENT["channels"]
OPERATIONS: dict[str, dict[str, Any]] = DOCUMENT["operations"]
MESSAGES: dict[str, dict[str, Any]] = DOCUMENT["components"]["messages"]
BUILDERS = [getattr(subjects, name) for name in subjects.__all__ if name.endswith("_subject")]
NESTED = {"generation"}
"""Messages that travel only inside others."""


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _tags(union: Any) -> set[str]:
    return {str(cls.__struct_config__.tag) for cls in typing.get_args(union)}


def _operations_on(channel: str, action: str) -> Iterator[dict[str, Any]]:
    for operation in OPERATIONS.values():
        if _name(operation["channel"]) == channel and operation["action"] == action:
            yield operation


# -- subjects --------------------------------------------------------------------------------------------------------


def _rows() -> set[str]:
    """The subjects of the page's table, with the names of the document's parameters."""
    table = PAGE.partition("\n| subject |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    return {address for cell in cells for address in _addresses(cell)}


def _addresses(cell: str) -> Iterator[str]:
    """The subjects in a cell: of the second and further ones only the last token is written."""
    names = {
        "t": "tenant",
        "s": "session",
        "v": "variable",
        "k": "task",
        "f": "function",
        "sha256": "digest",
        "n": "chunk",
    }
    first, *others = re.findall(r"`([^`]+)`", cell)
    for subject in (first, *(first.rpartition(".")[0] + other for other in others)):
        yield re.sub(r"\{(\w+)\}", lambda match: "{" + names.get(match[1], match[1]) + "}", subject)


def test_every_row_of_the_subject_table_is_a_channel() -> None:
    rows = _rows()
    assert len(rows) >= 12
    assert rows <= {channel["address"] for channel in CHANNELS.values()}


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: str(build.__name__))
def test_every_subject_that_can_be_built_is_a_channel(build: Callable[..., str]) -> None:
    tokens = build(*("x" for _ in typing.get_type_hints(build) if _ != "return")).split(".")
    patterns = [str(channel["address"]).split(".") for channel in CHANNELS.values()]
    assert any(
        len(pattern) == len(tokens)
        and all(token == "x" or token == place for token, place in zip(tokens, pattern, strict=True))
        for pattern in patterns
    )


@pytest.mark.parametrize("verb", sorted(CONTROL))
def test_every_control_is_a_channel_with_its_message(verb: str) -> None:
    assert list(CHANNELS[f"control.{verb}"]["messages"]) == [str(CONTROL[verb].__struct_config__.tag)]


@pytest.mark.parametrize("stream", sorted(SUBJECTS))
def test_every_stream_is_named_where_it_keeps_something(stream: str) -> None:
    assert any(f"`{stream}`" in channel.get("description", "") for channel in CHANNELS.values())


def test_the_table_of_clients_has_every_row_and_agrees_with_the_document() -> None:
    """What it says that MQTT cannot do at all, the document does not offer there."""
    table = PAGE.partition("\n| row | NATS |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \|.*\| ([^|]+) \|$", table, re.MULTILINE))
    addresses: dict[str, set[str]] = {}
    for names, over_mqtt in rows.items():
        for address in _addresses(names):
            addresses.setdefault(address, set()).add(over_mqtt.partition(":")[0].partition(",")[0])
    assert _rows() <= addresses.keys()
    for channel in CHANNELS.values():
        if (says := addresses.get(channel["address"])) is not None:
            assert ("servers" in channel) == (says == {"no"}), channel["address"]


def test_parameters_are_those_of_the_address() -> None:
    for channel in CHANNELS.values():
        places = re.findall(r"\{(\w+)\}", channel["address"] or "")
        assert list(channel.get("parameters", {})) == places


# -- messages --------------------------------------------------------------------------------------------------------


def test_every_message_is_on_a_channel() -> None:
    tags = {path.stem for path in (FOLDER / "json").iterdir()}
    assert {name for channel in CHANNELS.values() for name in channel["messages"]} == MESSAGES.keys()
    assert tags - NESTED <= MESSAGES.keys()
    for tag in tags - NESTED:
        assert MESSAGES[tag]["payload"] == {"$ref": f"json/{tag}.json"}


def test_mailboxes_take_what_the_actors_accept() -> None:
    """And claim checks of it."""
    assert CHANNELS["worker"]["messages"].keys() == _tags(WorkerMessage) | {"blob"}
    assert CHANNELS["registry"]["messages"].keys() == _tags(REGISTRY_ACCEPTS) | {"blob"}


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_examples_fit_what_they_are_examples_of(name: str) -> None:
    payload = MESSAGES[name]["payload"]
    schema = json.loads((FOLDER / payload["$ref"]).read_text()) if "$ref" in payload else payload
    for example in MESSAGES[name].get("examples", []):
        Draft202012Validator(schema).validate(example["payload"])


def test_every_header_is_described() -> None:
    described = {name for message in MESSAGES.values() for name in message.get("headers", {}).get("properties", {})}
    own = {value for name, value in vars(subjects).items() if name.startswith("HEADER_")}
    assert described == {*own, TRACEPARENT, TRACESTATE}


# -- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["program", "coordinator", "worker", "tool", "function"])
def test_everyone_who_takes_part_sends_and_receives(role: str) -> None:
    actions = {each["action"] for name, each in OPERATIONS.items() if name.startswith(f"{role}.")}
    assert actions == {"send", "receive"}


@pytest.mark.parametrize("name", sorted(CHANNELS.keys() - {"answers"}))
def test_what_is_sent_is_received(name: str) -> None:
    """But for what the server itself answers or keeps."""
    is_of_server = name.startswith("stored.") or name in ("blob", "lease")
    assert any(_operations_on(name, "send"))
    assert any(_operations_on(name, "receive")) or is_of_server


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_both_sides_of_a_request_expect_the_same_answers(name: str) -> None:
    """Those who receive answer with nothing that those who send do not expect."""
    operation = OPERATIONS[name]
    if operation["action"] == "receive" and "reply" in operation:
        answers = {_name(each) for each in operation["reply"]["messages"]}
        expected: set[str] = set()
        for sender in _operations_on(_name(operation["channel"]), "send"):
            expected |= {_name(each) for each in sender.get("reply", {}).get("messages", [])}
        assert answers <= expected
