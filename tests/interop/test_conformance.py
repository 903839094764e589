"""Every row of the subject table, through clients that nobody here wrote: Node over TCP, over WebSocket, over MQTT.

What MQTT has no means for is said in the table "What each client can do" of `schemas/README.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parrot_mq.bus import BusConfig, NatsServer, get_values, open_bus, set_variable
from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    REGISTRY_ADDRESS,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_TASKS,
    STREAM_VARS,
    actor_subject,
    blob_subject,
    control_subject,
    dead_subject,
    event_subject,
    session_subjects,
    set_subject,
    subjects,
    task_subject,
    variable_subject,
)
from parrot_mq.types import fresh_id
from tests.interop.agent import Agent, AgentRefused, ClientKind, open_agent
from tests.interop.gateways import Gateways
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

MAX_TRIES = 20


# -- var, set --------------------------------------------------------------------------------------------------------


@all_clients
async def test_a_variable_is_set_and_heard_of(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "topic"))
    await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots 🦜")
    heard = await agent.hear()
    assert (heard.subject, heard.text) == (set_subject(TENANT, session, "topic"), "parrots 🦜")
    assert await read_text(client, session, "topic") == "parrots 🦜"


@all_clients
async def test_the_first_value_wins_and_the_second_is_not_heard_of(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(session_subjects(TENANT, session, "set"))
    for text in ("green", "red"):
        await agent.publish(variable_subject(TENANT, session, "colour"), text=text)
    await agent.publish(variable_subject(TENANT, session, "size"), text="large")
    assert [(await agent.hear()).text for _ in range(2)] == ["green", "large"]
    assert await read_text(client, session, "colour") == "green"


@nats_clients
async def test_a_request_is_told_whether_the_value_is_stored(agent: Agent, client: Client, session: str) -> None:
    subject = variable_subject(TENANT, session, "colour")
    stored = (await agent.request(subject, text="green")).json
    assert stored["stream"] == STREAM_VARS
    refused = (await agent.request(subject, text="red")).json
    assert refused["error"]["err_code"] == TAKEN


@nats_clients
async def test_a_stored_value_is_read(agent: Agent, client: Client, session: str) -> None:
    read = stored_at(STREAM_VARS, variable_subject(TENANT, session, "answer"))
    assert (await agent.request(read)).headers["status"] == "404"
    await set_variable(client.bus, address_of(session, "answer"), "forty-two")
    assert (await agent.request(read)).text == "forty-two"


@pytest.mark.parametrize("kind", ["websocket"])
async def test_what_is_missed_while_disconnected_is_read_after_the_reconnect(
    scripts: Path, kind: ClientKind, session: str, tmp_path: Path
) -> None:
    """The client over TCP does so in the example `wait.mjs`."""
    gateways = Gateways()
    read = stored_at(STREAM_VARS, variable_subject(TENANT, session, "answer"))
    async with NatsServer(store_dir=tmp_path, extra_config=gateways.config) as server:
        async with open_bus(BusConfig(servers=(server.url,))) as bus:
            await bus.ensure_streams()
        async with open_agent(scripts, kind, gateways.urls["websocket"]) as agent:
            await agent.subscribe(session_subjects(TENANT, session, "set"))
            assert (await agent.request(read)).headers["status"] == "404"
            await server.kill()
            async with (
                NatsServer(store_dir=tmp_path) as elsewhere,
                open_bus(BusConfig(servers=(elsewhere.url,))) as bus,
            ):
                await set_variable(bus, address_of(session, "answer"), "set meanwhile")
            await server.start()
            await agent.wait_status("reconnect")
            assert (await agent.request(read)).text == "set meanwhile"
            await agent.publish(variable_subject(TENANT, session, "next"), text="still subscribed")
            assert (await agent.hear()).text == "still subscribed"


# -- task ------------------------------------------------------------------------------------------------------------


@all_clients
@both_encodings
async def test_a_task_is_run(agent: Agent, client: Client, session: str, encoding: str) -> None:
    """Told apart by the first byte, for MQTT has no headers."""
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    task = prompt("Say something about {{topic}}{{reply}}", reads=["topic"])
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots")
    assert (await agent.hear()).text == "<Say something about parrots>"


@nats_clients
@both_encodings
async def test_a_task_with_headers_is_run(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    headers = {"Content-Type": f"application/{encoding}", "Pmq-Schema": "1"}
    subject = task_subject(TENANT, session, "task-1")
    stored = await agent.request(subject, headers, **{encoding: prompt("Say hello{{reply}}")})
    assert stored.json["stream"] == STREAM_TASKS
    heard = await agent.hear()
    assert heard.text == "<Say hello>"
    assert heard.headers["Content-Type"] == "text/plain"
    assert "num_output_tokens" in heard.headers["Pmq-Usage"]


@nats_clients
async def test_a_task_that_waits_is_written_once(agent: Agent, client: Client, session: str) -> None:
    subject, task = task_subject(TENANT, session, "task-1"), prompt("{{topic}}{{reply}}", reads=["topic"])
    assert "error" not in (await agent.request(subject, json=task)).json
    assert (await agent.request(subject, msgpack=task)).json["error"]["err_code"] == TAKEN


# -- errors ----------------------------------------------------------------------------------------------------------


@all_clients
@both_encodings
async def test_what_goes_wrong_with_a_task_is_a_value(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    """Over MQTT nothing tells it from a text that looks so."""
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: prompt("{{nobody}}{{reply}}")})
    heard = await agent.hear()
    assert heard.json["code"] == "template"
    assert heard.headers.get("Pmq-Status") == (None if agent.kind == "mqtt" else "error")


@nats_clients
@both_encodings
async def test_an_error_of_a_client_fails_what_reads_it(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await agent.publish(task_subject(TENANT, session, "task-1"), json=prompt("{{topic}}{{reply}}", reads=["topic"]))
    error = {"type": "error", "code": "shop_closed", "message": "the shop is closed"}
    await agent.publish(variable_subject(TENANT, session, "topic"), {"Pmq-Status": "error"}, **{encoding: error})
    heard = await agent.hear()
    assert (heard.json["code"], heard.json["facts"]["cause_code"]) == ("input_failed", "shop_closed")


@nats_clients
@both_encodings
async def test_another_version_is_refused(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    version = {"Pmq-Schema": "99"}
    await agent.publish(task_subject(TENANT, session, "task-1"), version, **{encoding: prompt("Hello{{reply}}")})
    assert (await agent.hear()).json["code"] == "unsupported_schema_version"
    answered = await agent.request(control_subject(TENANT, session, "open"), version, **{encoding: {}})
    assert answered.headers["Pmq-Status"] == "error"
    assert answered.json["code"] == "unsupported_schema_version"


@all_clients
async def test_a_task_that_says_nothing_is_on_dead(agent: Agent, client: Client, session: str) -> None:
    task = fresh_id("task")
    await agent.subscribe(dead_subject(TENANT, task))
    await agent.publish(task_subject(TENANT, session, task), json={"template": 5})
    dead = await agent.hear()
    assert (dead.subject, dead.json["reason"]["code"]) == (dead_subject(TENANT, task), "malformed_message")
    if agent.kind != "mqtt":
        stored = await agent.request(stored_at(STREAM_DEAD, dead_subject(TENANT, task)))
        assert stored.payload == dead.payload


# -- control ---------------------------------------------------------------------------------------------------------


@nats_clients
@both_encodings
async def test_a_session_is_opened_marked_cancelled_and_closed(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    async def ask(verb: str, **fields: Any) -> Any:
        answered = await agent.request(control_subject(TENANT, session, verb), **{encoding: fields})
        assert "Pmq-Status" not in answered.headers
        return answered.json

    assert await ask("open") == {"type": "session.reply"}
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    task = prompt("{{topic}}{{reply}}", reads=["topic"])
    await agent.request(task_subject(TENANT, session, "task-1"), **{encoding: task})
    assert await ask("mark", variables=["reply"], objective={"kind": "throughput"}) == {"type": "session.reply"}
    assert await ask("cancel", variables=["reply"]) == {"type": "session.reply", "num_cancelled": 1}
    assert (await agent.hear()).json["code"] == "task_cancelled"
    for verb in ("cancel", "close", "close"):  # again does no harm
        assert (await ask(verb))["type"] == "session.reply"
    missing = await agent.request(stored_at(STREAM_VARS, variable_subject(TENANT, session, "reply")))
    assert missing.headers["status"] == "404"


@nats_clients
@both_encodings
async def test_a_wrong_request_is_answered_with_an_error(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    answered = await agent.request(control_subject(TENANT, session, "cancel"), **{encoding: {"variables": "all"}})
    assert answered.headers["Pmq-Status"] == "error"
    assert answered.json["code"] == "malformed_message"
    assert "variables" in answered.json["message"]


@both_encodings
@pytest.mark.parametrize("kind", ["mqtt"])
async def test_a_session_is_controlled_without_answers(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    """What a client without requests can do; it sees by the values that it was heard."""
    await agent.publish(control_subject(TENANT, session, "open"), **{encoding: {}})
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await agent.subscribe(event_subject(TENANT, session, "submitted"))
    task = prompt("{{topic}}{{reply}}", reads=["topic"])
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    assert (await agent.hear()).json["kind"] == "submitted"
    await agent.publish(control_subject(TENANT, session, "cancel"), **{encoding: {}})
    assert (await agent.hear()).json["code"] == "task_cancelled"
    await agent.publish(control_subject(TENANT, session, "close"), **{encoding: {}})
    while await get_values(client.bus, [address_of(session, "reply")]):
        await client.bus.request(control_subject(TENANT, session, "open"), b"", timeout_s=20)


@all_clients
@both_encodings
async def test_a_mark_is_heeded(agent: Agent, client: Client, session: str, encoding: str) -> None:
    """At once for one that waits for the answer; else for what is submitted some time after."""
    variables = [f"reply-{number}" for number in range(MAX_TRIES)]
    await agent.subscribe(event_subject(TENANT, session, "ready"))
    mark: dict[str, Any] = {"variables": variables, "objective": {"kind": "throughput"}}
    do = agent.publish if agent.kind == "mqtt" else agent.request
    await do(control_subject(TENANT, session, "mark"), **{encoding: mark})
    tries = 1 if agent.kind != "mqtt" else MAX_TRIES
    kinds = []
    for variable in variables[:tries]:
        task: dict[str, Any] = {"template": "Hello{{reply}}", "outputs": {"reply": {"variable": variable}}}
        await agent.publish(task_subject(TENANT, session, variable), **{encoding: task})
        kinds.append((await agent.hear()).json["objective"].get("kind", "latency"))
        if kinds[-1] == "throughput":
            break
    assert kinds[-1] == "throughput"


@nats_clients
@both_encodings
async def test_a_session_is_explained(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    task = prompt("Hello{{reply}}", function="greet")
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    await agent.hear()
    begin: dict[str, Any] = {"begin": 0}
    answered = await agent.request(control_subject(TENANT, session, "explain"), **{encoding: begin})
    (story,) = answered.json["stories"]
    assert (story["variable"], story["task"], story["function"]) == ("reply", "task-1", "greet")


# -- event -----------------------------------------------------------------------------------------------------------


@all_clients
async def test_events_tell_the_life_of_a_task(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(event_subject(TENANT, session, "*"))
    await agent.publish(task_subject(TENANT, session, "greet"), json=prompt("Hello{{reply}}"))
    kinds = []
    while "finished" not in kinds:
        heard = await agent.hear()
        assert heard.subject == event_subject(TENANT, session, heard.json["kind"])
        assert (heard.json["task"], heard.json["variable"]) == ("greet", "reply")
        kinds.append(heard.json["kind"])
    assert {"submitted", "ready", "assigned", "started"} < set(kinds)


# -- blob ------------------------------------------------------------------------------------------------------------


@nats_clients
@both_encodings
async def test_a_large_value_is_written_and_read_by_a_task(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    text = f"All about parrots 🦜, told in {session}. " * 8_000
    claim = await store_large(agent, text)
    await agent.request(variable_subject(TENANT, session, "book"), {"Pmq-Blob": claim["digest"]}, **{encoding: claim})
    assert await read_text(client, session, "book") == text

    await agent.subscribe(set_subject(TENANT, session, "count"))
    task = prompt("{{book}}{{count}}", reads=["book"], writes="count")
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    assert (await agent.hear()).text == f"{len(text)} characters"


@nats_clients
async def test_a_large_value_is_read(agent: Agent, client: Client, session: str) -> None:
    text = f"All about parrots 🦜, told in {session}. " * 8_000
    await set_variable(client.bus, address_of(session, "book"), text)
    claim = await agent.request(stored_at(STREAM_VARS, variable_subject(TENANT, session, "book")))
    digest = claim.headers["Pmq-Blob"]
    assert claim.json == {"type": "blob", "digest": digest, "size_bytes": len(text.encode())}
    first = await agent.request(stored_at(STREAM_BLOBS, blob_subject(TENANT, digest, 0)))
    chunks = [first.payload]
    for index in range(1, int(first.headers["Pmq-Chunks"])):
        chunks.append((await agent.request(stored_at(STREAM_BLOBS, blob_subject(TENANT, digest, index)))).payload)
    assert b"".join(chunks).decode() == text


@pytest.mark.parametrize("kind", ["mqtt"])
async def test_over_mqtt_a_large_value_is_only_known_by_its_address(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "book"))
    await set_variable(client.bus, address_of(session, "book"), "All about parrots. " * 20_000)
    heard = await agent.hear()
    assert (heard.headers, heard.json["type"]) == ({}, "blob")


# -- what is between coordinator and workers --------------------------------------------------------------------------


@nats_clients
@both_encodings
async def test_a_tool_asks_who_is_there(agent: Agent, client: Client, encoding: str) -> None:
    registry = actor_subject(*REGISTRY_ADDRESS.split("/"))
    query = {"type": "service.query"}
    report = (await agent.request(registry, **{encoding: query})).msgpack
    while not report.get("workers"):  # it begins with its first word to the coordinator
        report = (await agent.request(registry, **{encoding: query})).msgpack
    assert (report["type"], report["models"]) == ("service.report", ["scripted"])


@all_clients
async def test_a_coordinator_says_that_it_is_up(agent: Agent, own_nats_url: str) -> None:
    await agent.subscribe(COORDINATOR_STARTED)
    async with open_bus(BusConfig(servers=(own_nats_url,))) as bus, open_coordinator(bus, CoordinatorConfig()):
        assert (await agent.hear()).msgpack["type"] == "coordinator.started"


@nats_clients
async def test_without_a_coordinator_nobody_answers(agent: Agent, own_nats_url: str, session: str) -> None:
    with pytest.raises(AgentRefused, match=r"(?i)no responders"):
        await agent.request(control_subject(TENANT, session, "open"), json={})


# -- the suite -------------------------------------------------------------------------------------------------------


def test_every_subject_that_can_be_built_is_in_a_row() -> None:
    """A new subject needs one."""
    rows = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    for name in subjects.__all__:
        if name.endswith("_subject"):
            assert f"{name}(" in rows, name
