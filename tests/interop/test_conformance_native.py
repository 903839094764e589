"""Native functions, transforms and lists, through clients that nobody here wrote: who submits, and who serves.

A client over MQTT submits and hears, and cannot serve: the table "What each client can do" of `schemas/README.md`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parrot_mq.bus import Delivery, set_variable
from parrot_mq.client import Client
from parrot_mq.messages import (
    STREAM_DEAD,
    STREAM_TASKS,
    DeadEvent,
    ErrorInfo,
    NativeCall,
    call_subject,
    control_subject,
    decode,
    encode_text,
    session_subjects,
    set_subject,
    task_subject,
    variable_subject,
)
from parrot_mq.pipelines.dead import bury_event
from parrot_mq.types import fresh_id
from tests.interop.agent import Agent
from tests.interop.rows import (
    TAKEN,
    TENANT,
    address_of,
    all_clients,
    both_encodings,
    nats_clients,
    prompt,
    read_text,
    store_large,
    stored_at,
)

pytestmark = pytest.mark.node

ERROR = {"Pmq-Status": "error"}
RUNNING = {"Pmq-Status": "running"}


@pytest.fixture
def function() -> str:
    """A function that only this test has."""
    return fresh_id("function")


def _native(function: str | dict[str, str], *outputs: str, **fields: Any) -> dict[str, Any]:
    """A native task whose results have the names of the variables."""
    return {
        "type": "task.native",
        "function": function,
        "outputs": {name: {"variable": name} for name in outputs or ("reply",)},
        **fields,
    }


async def _serve(agent: Agent, session: str, function: str) -> None:
    """Let the client take the calls, and hear what is set."""
    await agent.subscribe(call_subject(TENANT, "*", function), queue="native")
    await agent.subscribe(set_subject(TENANT, session, "reply"))


async def _submit(
    agent: Agent, session: str, record: dict[str, Any], *, task: str = "task-1", encoding: str = "json"
) -> None:
    await agent.publish(task_subject(TENANT, session, task), **{encoding: record})


@asynccontextmanager
async def _shouting(client: Client, function: str) -> AsyncIterator[None]:
    """A function that somebody else serves: its text in capitals."""

    async def shout(delivery: Delivery) -> None:
        call = decode(delivery.payload, NativeCall, delivery.headers)
        payload, headers = encode_text(str(call.arguments["text"]).upper())
        await client.bus.publish(delivery.reply, payload, headers=headers)

    subscription = await client.bus.subscribe(call_subject(TENANT, "*", function), shout, queue="native")
    try:
        yield
    finally:
        await subscription.aclose()


# -- native functions: who submits -----------------------------------------------------------------------------------


@all_clients
@both_encodings
async def test_a_native_task_is_run(agent: Agent, client: Client, session: str, function: str, encoding: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    async with _shouting(client, function):
        task = _native(function, inputs={"text": {"variable": "topic"}})
        await _submit(agent, session, task, encoding=encoding)
        await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots")
        assert (await agent.hear()).text == "PARROTS"


@nats_clients
@both_encodings
async def test_a_native_task_is_written_once(
    agent: Agent, client: Client, session: str, function: str, encoding: str
) -> None:
    subject, task = task_subject(TENANT, session, "task-1"), _native(function, inputs={"text": {"variable": "topic"}})
    assert (await agent.request(subject, json=task)).json["stream"] == STREAM_TASKS
    assert (await agent.request(subject, **{encoding: task})).json["error"]["err_code"] == TAKEN


@all_clients
async def test_a_variable_says_which_function_runs(agent: Agent, client: Client, session: str, function: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    async with _shouting(client, function):
        choices = [function, "another"]
        await _submit(agent, session, _native({"variable": "tool"}, choices=choices, inputs={"text": "hello"}))
        await agent.publish(variable_subject(TENANT, session, "tool"), text=f" {function}\n")
        assert (await agent.hear()).text == "HELLO"


@all_clients
async def test_a_variable_that_names_no_choice_is_an_error(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await _submit(agent, session, _native({"variable": "tool"}, choices=["search", "calculate"]))
    await agent.publish(variable_subject(TENANT, session, "tool"), text="delete_everything")
    heard = (await agent.hear()).json
    assert heard["code"] == "function_not_served"
    assert "search, calculate" in heard["message"]


@all_clients
async def test_a_function_that_nobody_serves_is_an_error(
    agent: Agent, client: Client, session: str, function: str
) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await _submit(agent, session, _native(function))
    heard = (await agent.hear()).json
    assert heard["code"] == "function_not_served"
    assert call_subject(TENANT, "*", function) in heard["message"]


@pytest.mark.parametrize("kind", ["mqtt"])
async def test_over_mqtt_a_call_is_seen_and_cannot_be_answered(
    agent: Agent, client: Client, session: str, function: str
) -> None:
    """So somebody else has to serve it."""
    await agent.subscribe(call_subject(TENANT, "*", function))
    async with _shouting(client, function):
        await _submit(agent, session, _native(function, inputs={"text": "hello"}))
        heard = await agent.hear()
    assert (heard.json["type"], heard.reply) == ("native.call", "")


# -- native functions: who serves ------------------------------------------------------------------------------------


@nats_clients
@both_encodings
async def test_a_function_is_served(agent: Agent, client: Client, session: str, function: str, encoding: str) -> None:
    await _serve(agent, session, function)
    inputs: dict[str, Any] = {"topic": {"variable": "topic"}, "notes": ["one", "two"]}
    task = _native(function, inputs=inputs, separators={"notes": "; "})
    await _submit(agent, session, task, encoding=encoding)
    await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots 🦜")
    call = await agent.hear()
    assert call.subject == call_subject(TENANT, session, function)
    assert call.headers == {"Content-Type": "application/json", "Pmq-Schema": "1"}
    assert call.json.pop("deadline") > 1.7e9
    assert call.json == {
        "type": "native.call",
        "call": f"{TENANT}.{session}.reply",
        "function": function,
        "arguments": {"topic": "parrots 🦜", "notes": "one; two"},
        "outputs": ["reply"],
    }
    await agent.publish(call.reply, text="as I said 🦜")
    assert (await agent.hear()).text == "as I said 🦜"
    assert await read_text(client, session, "reply") == "as I said 🦜"


@nats_clients
async def test_calls_are_shared_by_those_who_serve(agent: Agent, client: Client, session: str, function: str) -> None:
    """Two subscriptions in the queue group: each call comes once."""
    await _serve(agent, session, function)
    await agent.subscribe(call_subject(TENANT, "*", function), queue="native")
    names = [f"reply-{number}" for number in range(8)]
    for name in names:
        await _submit(agent, session, _native(function, name), task=name)
    calls = [await agent.hear() for _ in names]
    assert sorted(call.json["outputs"][0] for call in calls) == names
    for call in calls:
        await agent.publish(call.reply, text="done")
    await _submit(agent, session, prompt("Hello{{reply}}"))
    assert (await agent.hear()).text == "<Hello>"


@nats_clients
async def test_a_function_may_have_several_results(agent: Agent, client: Client, session: str, function: str) -> None:
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function, "reply", "sources"))
    call = await agent.hear()
    assert call.json["outputs"] == ["reply", "sources"]
    await agent.publish(call.reply, json={"reply": "yes", "sources": ["a", "b"]})
    assert (await agent.hear()).text == "yes"
    assert json.loads(await _stored_text(agent, session, "sources")) == ["a", "b"]


async def _stored_text(agent: Agent, session: str, variable: str) -> str:
    """What a variable is, as soon as it is set."""
    await agent.subscribe(set_subject(TENANT, session, variable))
    read = await agent.request(stored_at("PMQ_VARS", variable_subject(TENANT, session, variable)))
    return read.text if "status" not in read.headers else (await agent.hear()).text


@nats_clients
@both_encodings
async def test_large_arguments_and_answers_are_claim_checks(
    agent: Agent, client: Client, session: str, function: str, encoding: str
) -> None:
    await _serve(agent, session, function)
    book = f"All about parrots 🦜, told in {session}. " * 8_000
    await set_variable(client.bus, address_of(session, "book"), book)
    await _submit(agent, session, _native(function, inputs={"book": {"variable": "book"}}))
    call = await agent.hear()
    given = call.json["arguments"]["book"]
    assert (given["type"], given["size_bytes"]) == ("blob", len(book.encode()))
    claim = await store_large(agent, book.upper())
    await agent.publish(call.reply, {"Pmq-Blob": claim["digest"]}, **{encoding: claim})
    heard = await agent.hear()
    assert heard.headers["Pmq-Blob"] == claim["digest"]
    assert await read_text(client, session, "reply") == book.upper()


@nats_clients
@both_encodings
async def test_an_error_of_a_function_is_the_value(
    agent: Agent, client: Client, session: str, function: str, encoding: str
) -> None:
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function))
    error = {"type": "error", "code": "no_such_page", "message": "page 7 is not there", "facts": {"page": 7}}
    await agent.publish((await agent.hear()).reply, ERROR, **{encoding: error})
    heard = await agent.hear()
    assert heard.headers["Pmq-Status"] == "error"
    assert (heard.json["code"], heard.json["message"]) == ("no_such_page", "page 7 is not there")


@nats_clients
@both_encodings
async def test_what_may_pass_is_tried_again(
    agent: Agent, client: Client, session: str, function: str, encoding: str
) -> None:
    """No room does not count as an attempt."""
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function, max_attempts=2))
    full = {"code": "capacity_exhausted", "message": "all places are taken", "retryable": True}
    away = {"code": "database_away", "message": "try again", "retryable": True}
    for attempt, error in ((1, full), (1, away), (2, full)):
        call = await agent.hear()
        assert call.json.get("attempt", 1) == attempt
        await agent.publish(call.reply, ERROR, **{encoding: error})
    call = await agent.hear()
    assert call.json["attempt"] == 2
    await agent.publish(call.reply, ERROR, **{encoding: away})
    assert (await agent.hear()).json["code"] == "database_away"


@nats_clients
@both_encodings
async def test_who_is_not_heard_of_any_more_is_lost(
    agent: Agent, client: Client, session: str, function: str, encoding: str
) -> None:
    """Long before the time of the attempt is over."""
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function, attempt_timeout_s=3600, timeout_s=3600))
    running = {"type": "native.running", "host": "a laptop", "beat_s": 0.05}
    await agent.publish((await agent.hear()).reply, RUNNING, **{encoding: running})
    call = await agent.hear()
    assert call.json["attempt"] == 2
    await agent.publish(call.reply, text="done")
    assert (await agent.hear()).text == "done"


@nats_clients
@both_encodings
async def test_who_beats_learns_that_nobody_wants_the_result(
    agent: Agent, client: Client, session: str, function: str, encoding: str
) -> None:
    await _serve(agent, session, function)
    inbox = f"_INBOX.{function}"
    await agent.subscribe(inbox)
    await _submit(agent, session, _native(function))
    running = {"type": "native.running", "host": "a laptop", "beat_s": 60}
    await agent.publish((await agent.hear()).reply, RUNNING, reply=inbox, **{encoding: running})
    await agent.request(control_subject(TENANT, session, "cancel"), json={})
    heard = {each.subject: each for each in [await agent.hear(), await agent.hear()]}
    assert heard[inbox].payload == b""
    assert heard[set_subject(TENANT, session, "reply")].json["code"] == "task_cancelled"


@nats_clients
async def test_no_answer_is_an_error_in_the_end(agent: Agent, client: Client, session: str, function: str) -> None:
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function, attempt_timeout_s=0.1, max_attempts=2))
    assert [(await agent.hear()).json.get("attempt", 1) for _ in range(2)] == [1, 2]
    assert (await agent.hear()).json["code"] == "function_timed_out"


UNUSABLE: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "bytes": ({}, {"base64": "/w=="}, "no UTF-8"),
    "one result of two": ({}, {"json": {"reply": "yes"}}, "lacks sources"),
    "a text instead of two results": ({}, {"text": "yes"}, "no JSON"),
    "a claim check that is none": ({"Pmq-Blob": "00" * 32}, {"text": "yes"}, "cannot be read"),
    "an error that is none": (ERROR, {"json": {"reason": "no"}}, "missing required field `code`"),
    "another version": ({**ERROR, "Pmq-Schema": "99"}, {"json": {"code": "x", "message": "y"}}, "version '99'"),
    "a beat that is none": (RUNNING, {"json": {"beat_s": -1}}, "its beat cannot be read"),
}


@pytest.mark.parametrize("kind", ["tcp"])
@pytest.mark.parametrize(("headers", "payload", "says"), UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_an_answer_that_cannot_be_used_is_an_error(
    agent: Agent,
    client: Client,
    session: str,
    function: str,
    headers: dict[str, str],
    payload: dict[str, Any],
    says: str,
) -> None:
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function, "reply", "sources"))
    await agent.publish((await agent.hear()).reply, headers, **payload)
    heard = (await agent.hear()).json
    assert heard["code"] == "function_failed"
    assert says in heard["message"]


@nats_clients
async def test_the_first_value_wins_over_the_answer(agent: Agent, client: Client, session: str, function: str) -> None:
    await _serve(agent, session, function)
    await _submit(agent, session, _native(function))
    call = await agent.hear()
    await agent.publish(variable_subject(TENANT, session, "reply"), text="mine")
    await agent.publish(call.reply, text="too late")
    assert (await agent.hear()).text == "mine"
    await _submit(agent, session, prompt("{{reply}}{{echo}}", reads=["reply"], writes="echo"), task="task-2")
    assert await _stored_text(agent, session, "echo") == "<mine>"


# -- transforms and lists --------------------------------------------------------------------------------------------


@all_clients
@both_encodings
async def test_a_text_is_transformed(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(session_subjects(TENANT, session, "set"))
    transforms = [{"op": "regex", "pattern": "<(?P<inside>.*)>", "group": "inside"}, {"op": "strip", "characters": "!"}]
    task = {"template": "!Hello!{{reply}}", "outputs": {"reply": {"variable": "reply", "transforms": transforms}}}
    await _submit(agent, session, task, encoding=encoding)
    heard = {each.subject: each.text for each in [await agent.hear(), await agent.hear()]}
    assert heard == {
        set_subject(TENANT, session, "reply-raw"): "<!Hello!>",
        set_subject(TENANT, session, "reply"): "Hello",
    }


@all_clients
@both_encodings
async def test_a_text_becomes_a_list(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(session_subjects(TENANT, session, "set"))
    transforms = [{"op": "strip", "characters": "<>"}, {"op": "split", "separator": ","}, {"op": "strip"}]
    task = {"template": "one, two{{list}}", "outputs": {"list": {"variable": "list", "transforms": transforms}}}
    await _submit(agent, session, task, encoding=encoding)
    heard = [await agent.hear() for _ in range(4)]
    texts = {each.subject.rpartition(".")[2]: each.text for each in heard}
    assert texts == {"list-raw": "<one, two>", "list": '["one","two"]', "list-0": "one", "list-1": "two"}
    assert heard[-1].subject.endswith(".list")  # where it stands, its items stand, too


@all_clients
@both_encodings
async def test_a_list_is_gone_through(agent: Agent, client: Client, session: str, encoding: str) -> None:
    """A list that a client sets; what comes of it is read by another task."""
    await agent.subscribe(session_subjects(TENANT, session, "set"))
    each = prompt("Hello {{name}}{{greeting}}", reads=["name"], writes="greeting", each=["name"])
    each["inputs"]["name"]["variable"] = "names"
    whole = prompt("{{greeting}}{{all}}", reads=["greeting"], writes="all", separators={"greeting": " & "})
    whole["inputs"]["greeting"]["items"] = True
    await _submit(agent, session, whole, task="whole", encoding=encoding)
    await _submit(agent, session, each, task="each", encoding=encoding)
    await agent.publish(variable_subject(TENANT, session, "names"), json=["Ana", "Bob"])
    texts: dict[str, str] = {}
    while "all" not in texts:
        heard = await agent.hear()
        texts[heard.subject.rpartition(".")[2]] = heard.text
    del texts["names"]
    assert texts == {
        "greeting-0": "<Hello Ana>",
        "greeting-1": "<Hello Bob>",
        "greeting": '["<Hello Ana>","<Hello Bob>"]',
        "all": "<<Hello Ana> & <Hello Bob>>",
    }


@all_clients
async def test_an_empty_list_gives_an_empty_list(agent: Agent, client: Client, session: str, function: str) -> None:
    """Nobody has to serve the function."""
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await _submit(agent, session, _native(function, inputs={"text": {"variable": "texts"}}, each=["text"]))
    await agent.publish(variable_subject(TENANT, session, "texts"), text="[]")
    assert (await agent.hear()).text == "[]"


@all_clients
async def test_an_item_that_is_set_is_not_made_again(agent: Agent, client: Client, session: str, function: str) -> None:
    """Written once, whoever writes."""
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await agent.publish(variable_subject(TENANT, session, "reply-1"), text="mine")
    async with _shouting(client, function):
        await _submit(agent, session, _native(function, inputs={"text": {"variable": "texts"}}, each=["text"]))
        await agent.publish(variable_subject(TENANT, session, "texts"), json=["a", "b", "c"])
        assert (await agent.hear()).json == ["A", "mine", "C"]


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a transform that does not fit": (
        {"outputs": {"reply": {"variable": "reply", "transforms": [{"op": "regex", "pattern": "Answer: (.*)"}]}}},
        "transform",
        "Answer: (.*)",
    ),
    "a text where a list has to be": (
        {"inputs": {"word": {"variable": "topic"}}, "each": ["word"], "template": "{{word}}{{reply}}"},
        "transform",
        "'topic' is no list",
    ),
    "each names an unknown input": ({"each": ["words"]}, "malformed_message", "$.each"),
    "a pattern that is none": (
        {"outputs": {"reply": {"variable": "reply", "transforms": [{"op": "regex", "pattern": "("}]}}},
        "malformed_message",
        "$.outputs.reply.transforms[0]",
    ),
    "an unknown transform": (
        {"outputs": {"reply": {"variable": "reply", "transforms": [{"op": "upper"}]}}},
        "malformed_message",
        "$.outputs.reply.transforms[0].op",
    ),
    "a choice without choices": (
        {"type": "task.native", "function": {"variable": "tool"}},
        "malformed_message",
        "`choices`",
    ),
}


@pytest.mark.parametrize("kind", ["tcp"])
@pytest.mark.parametrize(("changes", "code", "says"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_is_said(
    agent: Agent, client: Client, session: str, changes: dict[str, Any], code: str, says: str
) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots")
    await _submit(agent, session, {**prompt("Hello{{reply}}"), **changes})
    heard = (await agent.hear()).json
    assert heard["code"] == code
    assert says in heard["message"]


# -- large values, dead letters --------------------------------------------------------------------------------------


@nats_clients
@both_encodings
async def test_a_claim_check_of_what_is_not_there_is_an_error(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    claim = {"type": "blob", "digest": "00" * 32, "size_bytes": 5}
    await agent.publish(variable_subject(TENANT, session, "book"), {"Pmq-Blob": "00" * 32}, **{encoding: claim})
    await _submit(agent, session, prompt("{{book}}{{reply}}", reads=["book"]))
    heard = (await agent.hear()).json
    assert heard["code"] == "blob_missing"


@all_clients
async def test_an_event_that_a_pipeline_gave_up_is_on_dead(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(f"pmq.{TENANT}.dead.*")
    reason = ErrorInfo(code="event_mismatch", message="the event does not fit")
    dead = DeadEvent(pipeline="triage", event_id=session, reason=reason, subject="tickets.new", payload=b"\xff")
    await bury_event(client.bus, TENANT, dead)
    heard = await agent.hear()
    assert heard.subject.startswith(f"pmq.{TENANT}.dead.triage-")
    assert (heard.json["type"], heard.json["reason"]["code"]) == ("pipeline.dead", "event_mismatch")
    assert heard.json["payload"] == "/w=="
    if agent.kind != "mqtt":
        stored = await agent.request(stored_at(STREAM_DEAD, heard.subject))
        assert stored.payload == heard.payload
