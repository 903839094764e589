"""The page `schemas/README.md`, lived through: its examples against a real service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, Delivery, NatsServer, get_values, open_bus, set_variable
from parrot_mq.client import Client
from parrot_mq.errors import FunctionFailed, TaskCancelled, TemplateError
from parrot_mq.messages import (
    STREAM_VARS,
    BlobRef,
    NativeTask,
    OutputSpec,
    PromptTask,
    ResultSpec,
    control_subject,
    encode,
    event_subject,
    task_subject,
    variable_subject,
)
from parrot_mq.types import fresh_id
from tests.interop.conftest import STORY
from tests.interop.node import EXAMPLES, Node, Script
from tests.interop.rows import TENANT, address_of, read_text

pytestmark = pytest.mark.node

# -- variables -------------------------------------------------------------------------------------------------------


async def test_a_bare_publish_sets_a_variable(node: Node, client: Client, session: str) -> None:
    assert await node.run("set.mjs", session) == []
    subject = variable_subject(TENANT, session, "topic")
    stored = (await client.bus.get(STREAM_VARS, [subject]))[subject]
    assert stored.payload == b"parrots"
    assert not stored.headers


async def test_a_second_value_is_refused(node: Node, client: Client, session: str) -> None:
    assert await node.run("once.mjs", session) == [{"stored": "green"}, {"refused": "red", "err_code": 10077}]
    assert await read_text(client, session, "colour") == "green"


async def test_a_variable_can_be_awaited(node: Node, client: Client, session: str) -> None:
    async with node.start("wait.mjs", session) as script:
        assert await script.next_line() == {"waiting": "answer"}
        await set_variable(client.bus, address_of(session, "answer"), "forty-two")
        assert await script.rest() == [{"answer": "forty-two"}]


async def test_a_variable_that_is_set_already_is_found(node: Node, client: Client, session: str) -> None:
    await set_variable(client.bus, address_of(session, "answer"), "🦜")
    assert await node.run("wait.mjs", session) == [{"waiting": "answer"}, {"answer": "🦜"}]


async def test_what_is_missed_while_disconnected_is_read_after_the_reconnect(
    node_folder: Path, session: str, tmp_path: Path
) -> None:
    """While the script has no server, another one sets the variable in the same storage."""
    server = NatsServer(store_dir=tmp_path)
    try:
        await server.start()
        async with open_bus(BusConfig(servers=(server.url,))) as bus:
            await bus.ensure_streams()
        async with Node(node_folder, server.url).start("wait.mjs", session) as script:
            assert await script.next_line() == {"waiting": "answer"}
            await server.kill()
            async with (
                NatsServer(store_dir=tmp_path) as elsewhere,
                open_bus(BusConfig(servers=(elsewhere.url,))) as bus,
            ):
                await set_variable(bus, address_of(session, "answer"), "set meanwhile")
            await server.start()
            assert await script.rest() == [{"answer": "set meanwhile"}]
    finally:
        await server.stop()


# -- tasks -----------------------------------------------------------------------------------------------------------


async def test_a_task_in_json_is_run(node: Node, client: Client, session: str) -> None:
    haiku = "<Write a haiku about parrots:>"
    assert await node.run("task.mjs", session) == [{"stored": "PMQ_TASKS"}, {"haiku": haiku}]
    assert await read_text(client, session, "haiku") == haiku


async def test_an_error_is_a_value(node: Node, client: Client, session: str) -> None:
    (line,) = await node.run("error.mjs", session)
    assert line["error"]["type"] == "error"
    assert line["error"]["code"] == "template"
    assert "`{{text}}` is neither an input nor an output" in line["error"]["message"]
    with pytest.raises(TemplateError, match="declare it"):
        await read_text(client, session, "summary")


async def test_tokens_arrive_before_the_value(node: Node, client: Client, session: str) -> None:
    lines = await node.run("stream.mjs", session)
    pieces = [line["piece"] for line in lines if "piece" in line]
    assert len(pieces) > 1
    assert "".join(pieces) == STORY
    assert lines[-1] == {"story": STORY}


# -- native functions, lists -----------------------------------------------------------------------------------------


@pytest.fixture
async def capitals(node: Node) -> AsyncIterator[Script]:
    """A program that serves the function `capital_of`."""
    async with node.start("serve.mjs") as script:
        assert await script.next_line() == {"serving": "capital_of"}
        yield script


async def test_a_function_of_another_program_is_called(
    node: Node, client: Client, capitals: Script, session: str
) -> None:
    assert await node.run("call.mjs", session) == [{"capital": "Paris"}]
    assert await read_text(client, session, "capital") == "Paris"


async def test_a_function_that_fails_is_an_error(node: Node, client: Client, capitals: Script, session: str) -> None:
    (line,) = await node.run("call.mjs", session, "Atlantis")
    assert line["error"]["code"] == "function_failed"
    assert line["error"]["message"] == "no capital of Atlantis is known"
    with pytest.raises(FunctionFailed, match="Atlantis"):
        await read_text(client, session, "capital")


async def test_a_model_chooses_the_function(node: Node, client: Client, capitals: Script, session: str) -> None:
    assert await node.run("choose.mjs", session) == [{"answer": "Lima"}]


async def test_an_answer_becomes_a_list_that_is_gone_through(
    node: Node, client: Client, capitals: Script, session: str
) -> None:
    lines = await node.run("map.mjs", session)
    assert {name: value for line in lines for name, value in line.items()} == {
        "countries-raw": "France, Peru\n",
        "countries": '["France","Peru"]',
        "countries-0": "France",
        "countries-1": "Peru",
        "capitals": '["Paris","Lima"]',
        "capitals-0": "Paris",
        "capitals-1": "Lima",
        "sentence": "<Write a sentence about Paris and Lima:>",
    }


async def test_a_function_that_takes_long_beats_and_stops_when_it_is_not_wanted(
    node: Node, client: Client, session: str
) -> None:
    """Its time for one attempt is longer than three beats that stay away."""
    async with node.start("serve-long.mjs") as script:
        assert await script.next_line() == {"serving": "think"}
        async with client.session(session) as running:
            await client.bus.publish_once(task_subject(TENANT, session, "short"), encode(_think("2", "thought")))
            assert await running.get("thought", timeout_s=20) == "thought for 2 s"
            async with _started(client, session):
                await client.bus.publish_once(task_subject(TENANT, session, "long"), encode(_think("60", "never")))
            await client.bus.request(control_subject(TENANT, session, "cancel"), b"", timeout_s=20)
            assert await script.next_line() == {"stopped": f"{TENANT}.{session}.never"}
            with pytest.raises(TaskCancelled):
                await running.get("never", timeout_s=20)


def _think(seconds: str, variable: str) -> NativeTask:
    return NativeTask(
        function="think",
        inputs={"seconds": seconds},
        outputs={"thought": ResultSpec(variable=variable)},
        attempt_timeout_s=60,
    )


@asynccontextmanager
async def _started(client: Client, session: str) -> AsyncIterator[None]:
    """At the end of the block a host has said that it runs a call."""
    heard = asyncio.Event()

    async def hear(_: Delivery) -> None:
        heard.set()

    subscription = await client.bus.subscribe(event_subject(TENANT, session, "started"), hear)
    yield
    async with asyncio.timeout(20):
        await heard.wait()
    await subscription.aclose()


# -- large values ----------------------------------------------------------------------------------------------------


async def test_a_large_value_from_node_is_read_here_and_by_a_task(node: Node, client: Client, session: str) -> None:
    (line,) = await node.run("large-set.mjs", session)
    text = f"All about parrots 🦜, told in session {session}. " * 10_000
    assert (line["size_bytes"], line["chunks"]) == (len(text.encode()), -(-len(text.encode()) // (128 * 1024)))
    value = (await get_values(client.bus, [address_of(session, "book")]))[address_of(session, "book")]
    assert value == BlobRef(digest=line["digest"], size_bytes=line["size_bytes"])
    assert await read_text(client, session, "book") == text

    count = await _submit(client, session, template="{{book}}{{count}}", output="count")
    assert count == f"{len(text)} characters"


async def test_a_large_value_from_here_is_read_by_node(node: Node, client: Client, session: str) -> None:
    text = "All about parrots 🦜 " * 30_000
    await set_variable(client.bus, address_of(session, "book"), text)
    assert await node.run("large-get.mjs", session) == [{"length": len(text), "begins": text[:17]}]


async def test_a_large_value_that_both_store_is_stored_once(node: Node, client: Client, session: str) -> None:
    text = f"All about parrots 🦜, told in session {session}. " * 10_000
    digest = await client.bus.put_blob(TENANT, text.encode())
    (line,) = await node.run("large-set.mjs", session)
    assert line["digest"] == digest
    assert await node.run("large-get.mjs", session) == [{"length": len(text), "begins": text[:17]}]


async def _submit(client: Client, session: str, *, template: str, output: str) -> str:
    """Run a task that reads `book`."""
    task = {
        "template": template,
        "inputs": {"book": {"variable": "book"}},
        "outputs": {output: {"variable": output}},
    }
    async with client.session(session) as running:
        await client.bus.publish_once(task_subject(TENANT, session, fresh_id("task")), json.dumps(task).encode())
        return await running.get(output, timeout_s=20)


# -- sessions and events ---------------------------------------------------------------------------------------------


async def test_a_session_is_opened_cancelled_and_closed(node: Node, client: Client, session: str) -> None:
    *lines, last = await node.run("control.mjs", session)
    assert lines == [
        {"opened": {"type": "session.reply", "num_cancelled": 0}},
        {"waits_for": ["question"]},
        {"cancelled": {"type": "session.reply", "num_cancelled": 1}},
        {"code": "task_cancelled"},
    ]
    # 1 if the coordinator has not yet heard from the stream that the task has ended
    assert last["closed"]["num_cancelled"] in (0, 1)
    assert await get_values(client.bus, [address_of(session, "reply")]) == {}


async def test_events_tell_the_life_of_a_task(node: Node, client: Client, session: str) -> None:
    task = PromptTask(template="Hello {{reply}}", outputs={"reply": OutputSpec(variable="reply")})
    async with node.start("events.mjs", session) as script:
        assert await script.next_line() == {"watching": session}
        await client.bus.publish_once(task_subject(TENANT, session, "greet"), encode(task))
        events: dict[str, dict[str, object]] = {}
        while events.keys() < {"submitted", "ready", "assigned", "started", "finished"}:
            event = await script.next_line()
            events[str(event["kind"])] = event
    assert {event["task"] for event in events.values()} == {"greet"}
    assert {event["variable"] for event in events.values()} == {"reply"}
    assert events["finished"]["worker"] == events["assigned"]["worker"]
    assert events["finished"]["num_prompt_tokens"] == len("Hello ")


async def test_a_session_is_explained(node: Node, client: Client, session: str) -> None:
    task = PromptTask(template="Hello {{reply}}", outputs={"reply": OutputSpec(variable="reply")}, function="greet")
    async with client.session(session) as opened:
        await client.bus.publish_once(task_subject(TENANT, session, "greet"), encode(task))
        await opened.variable("reply")
    (story,) = await node.run("explain.mjs", session)
    assert (story["variable"], story["task"], story["function"]) == ("reply", "greet", "greet")
    assert story["state"] in ("assigned", "running", "finished")  # the coordinator may not have heard of the end yet


# -- gateways --------------------------------------------------------------------------------------------------------


async def test_a_browser_sets_a_variable(node: Node, client: Client, session: str) -> None:
    assert await node.run("websocket.mjs", session) == [{"stored": STREAM_VARS}, {"topic": "parrots"}]
    assert await read_text(client, session, "topic") == "parrots"


async def test_a_device_has_a_text_made(node: Node, client: Client, session: str) -> None:
    assert await node.run("mqtt.mjs", session) == [{"greeting": "<Greet the parrots:>"}]


# -- the page --------------------------------------------------------------------------------------------------------


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    for example in EXAMPLES.glob("*.mjs"):
        assert f'"{example.name}"' in source, example.name
