"""Every row of the subject table, through clients that nobody here wrote: Node over TCP, over WebSocket, over MQTT.

What MQTT has no means for is said in the table "What each client can do" of `schemas/README.md`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from parrot_workers.engine import ScriptedEngine
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import BusConfig, NatsServer, fetch_text, get_values, open_bus, set_variable
from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    REGISTRY_ADDRESS,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_TASKS,
    STREAM_VARS,
    VariableAddress,
    actor_subject,
    blob_subject,
    control_subject,
    dead_subject,
    event_subject,
    replay_subject,
    session_subjects,
    set_subject,
    stream_subject,
    task_subject,
    variable_subject,
)
from parrot_mq.types import SessionId, TenantId, VariableId, fresh_id
from tests.bus.worlds import Mailbox, eventually
from tests.interop.agent import Agent, AgentRefused, ClientKind, Heard, open_agent
from tests.interop.conftest import STORY, answer
from tests.interop.gateways import Gateways
from tests.workers.stepped_engine import SteppedEngine

pytestmark = pytest.mark.node

TENANT = "default"
TAKEN = 10077
"""What the server says of a subject where something stands."""
MAX_TRIES = 20
CHUNK_BYTES = 128 * 1024

nats_clients = pytest.mark.parametrize("kind", ["tcp", "websocket"])
all_clients = pytest.mark.parametrize("kind", ["tcp", "websocket", "mqtt"])
both_encodings = pytest.mark.parametrize("encoding", ["json", "msgpack"])


# -- server and clients ----------------------------------------------------------------------------------------------


@pytest.fixture
async def agent(scripts: Path, kind: ClientKind, urls: dict[ClientKind, str]) -> AsyncIterator[Agent]:
    """A client of the kind that the test is about."""
    async with open_agent(scripts, kind, urls[kind]) as opened:
        yield opened


@pytest.fixture
def session() -> str:
    """A session that only this test uses."""
    return fresh_id("session")


def _address(session: str, variable: str) -> VariableAddress:
    return VariableAddress(TenantId(TENANT), SessionId(session), VariableId(variable))


async def _read(client: Client, session: str, variable: str) -> str:
    address = _address(session, variable)
    return await fetch_text(client.bus, TENANT, (await get_values(client.bus, [address]))[address])


def _task(template: str, *, reads: Sequence[str] = (), writes: str = "reply", **fields: Any) -> dict[str, Any]:
    return {
        "type": "task.prompt",
        "template": template,
        "inputs": {name: {"variable": name} for name in reads},
        "outputs": {writes: {"variable": writes}},
        **fields,
    }


def _stored(stream: str, subject: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}.{subject}"


# -- var, set --------------------------------------------------------------------------------------------------------


@all_clients
async def test_a_variable_is_set_and_heard_of(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "topic"))
    await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots 🦜")
    heard = await agent.hear()
    assert (heard.subject, heard.text) == (set_subject(TENANT, session, "topic"), "parrots 🦜")
    assert await _read(client, session, "topic") == "parrots 🦜"


@all_clients
async def test_the_first_value_wins_and_the_second_is_not_heard_of(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(session_subjects(TENANT, session, "set"))
    for text in ("green", "red"):
        await agent.publish(variable_subject(TENANT, session, "colour"), text=text)
    await agent.publish(variable_subject(TENANT, session, "size"), text="large")
    assert [(await agent.hear()).text for _ in range(2)] == ["green", "large"]
    assert await _read(client, session, "colour") == "green"


@nats_clients
async def test_a_request_is_told_whether_the_value_is_stored(agent: Agent, client: Client, session: str) -> None:
    subject = variable_subject(TENANT, session, "colour")
    stored = (await agent.request(subject, text="green")).json
    assert stored["stream"] == STREAM_VARS
    refused = (await agent.request(subject, text="red")).json
    assert refused["error"]["err_code"] == TAKEN


@nats_clients
async def test_a_stored_value_is_read(agent: Agent, client: Client, session: str) -> None:
    read = _stored(STREAM_VARS, variable_subject(TENANT, session, "answer"))
    assert (await agent.request(read)).headers["status"] == "404"
    await set_variable(client.bus, _address(session, "answer"), "forty-two")
    assert (await agent.request(read)).text == "forty-two"


@pytest.mark.parametrize("kind", ["websocket"])
async def test_what_is_missed_while_disconnected_is_read_after_the_reconnect(
    scripts: Path, kind: ClientKind, session: str, tmp_path: Path
) -> None:
    """The client over TCP does so in the example `wait.mjs`."""
    gateways = Gateways()
    read = _stored(STREAM_VARS, variable_subject(TENANT, session, "answer"))
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
                await set_variable(bus, _address(session, "answer"), "set meanwhile")
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
    task = _task("Say something about {{topic}}{{reply}}", reads=["topic"])
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    await agent.publish(variable_subject(TENANT, session, "topic"), text="parrots")
    assert (await agent.hear()).text == "<Say something about parrots>"


@nats_clients
@both_encodings
async def test_a_task_with_headers_is_run(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    headers = {"Content-Type": f"application/{encoding}", "Pmq-Schema": "1"}
    subject = task_subject(TENANT, session, "task-1")
    stored = await agent.request(subject, headers, **{encoding: _task("Say hello{{reply}}")})
    assert stored.json["stream"] == STREAM_TASKS
    heard = await agent.hear()
    assert heard.text == "<Say hello>"
    assert heard.headers["Content-Type"] == "text/plain"
    assert "num_output_tokens" in heard.headers["Pmq-Usage"]


@nats_clients
async def test_a_task_that_waits_is_written_once(agent: Agent, client: Client, session: str) -> None:
    subject, task = task_subject(TENANT, session, "task-1"), _task("{{topic}}{{reply}}", reads=["topic"])
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
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: _task("{{nobody}}{{reply}}")})
    heard = await agent.hear()
    assert heard.json["code"] == "template"
    assert heard.headers.get("Pmq-Status") == (None if agent.kind == "mqtt" else "error")


@nats_clients
@both_encodings
async def test_an_error_of_a_client_fails_what_reads_it(
    agent: Agent, client: Client, session: str, encoding: str
) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    await agent.publish(task_subject(TENANT, session, "task-1"), json=_task("{{topic}}{{reply}}", reads=["topic"]))
    error = {"type": "error", "code": "shop_closed", "message": "the shop is closed"}
    await agent.publish(variable_subject(TENANT, session, "topic"), {"Pmq-Status": "error"}, **{encoding: error})
    heard = await agent.hear()
    assert (heard.json["code"], heard.json["facts"]["cause_code"]) == ("input_failed", "shop_closed")


@nats_clients
@both_encodings
async def test_another_version_is_refused(agent: Agent, client: Client, session: str, encoding: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "reply"))
    version = {"Pmq-Schema": "99"}
    await agent.publish(task_subject(TENANT, session, "task-1"), version, **{encoding: _task("Hello{{reply}}")})
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
        stored = await agent.request(_stored(STREAM_DEAD, dead_subject(TENANT, task)))
        assert stored.payload == dead.payload


# -- stream ----------------------------------------------------------------------------------------------------------


class _Text:
    """What the page tells readers of pieces to do."""

    def __init__(self) -> None:
        self.text = ""
        self.attempts: set[int] = set()

    def take(self, delta: dict[str, Any]) -> None:
        """Keep what is new."""
        assert delta["offset"] <= len(self.text), "a gap"
        self.text += delta["text"][len(self.text) - delta["offset"] :]
        self.attempts.add(delta["attempt"])


async def _follow(agent: Agent, session: str, text: _Text) -> Heard:
    """Read pieces until the value is there."""
    while (heard := await agent.hear()).subject != set_subject(TENANT, session, "story"):
        text.take(heard.json)
    return heard


@all_clients
async def test_tokens_come_before_the_value(agent: Agent, client: Client, session: str) -> None:
    for subject in (stream_subject(TENANT, session, "story"), set_subject(TENANT, session, "story")):
        await agent.subscribe(subject)
    task = _task("Once upon a time {{story}}", writes="story")
    await agent.publish(task_subject(TENANT, session, "task-1"), json=task)
    text = _Text()
    first = await agent.hear()
    assert first.json["type"] == "token.delta"
    text.take(first.json)
    assert (await _follow(agent, session, text)).text == text.text == STORY


@all_clients
async def test_tokens_go_on_on_another_worker(agent: Agent, own_nats_url: str, session: str) -> None:
    """Without a gap and without a repeat, for a reader that goes by `offset`."""
    text = _Text()
    config = BusConfig(servers=(own_nats_url,))
    async with AsyncExitStack() as stack:
        coordinator_bus, first_bus, second_bus = [await stack.enter_async_context(open_bus(config)) for _ in range(3)]
        await stack.enter_async_context(open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)))
        for subject in (stream_subject(TENANT, session, "story"), set_subject(TENANT, session, "story")):
            await agent.subscribe(subject)
        async with scripted_worker(first_bus, answer, drain_s=0.01, engine=_slow_engine):
            task = _task("Once upon a time {{story}}", writes="story")
            await agent.publish(task_subject(TENANT, session, "task-1"), json=task)
            while len(text.text) < 4:
                text.take((await agent.hear()).json)
        async with scripted_worker(second_bus, answer, tokens_per_step=8):
            value = await _follow(agent, session, text)
    assert value.text == text.text == STORY
    assert text.attempts == {1, 2}


class _Halfway(NamedTuple):
    """A text of which the first half is generated, and nobody has listened."""

    engine: SteppedEngine
    subject: str
    half: str


@pytest.fixture
async def halfway(own_nats_url: str, session: str) -> AsyncIterator[_Halfway]:
    """The worker generates the second half when the test allows it."""
    engine = SteppedEngine(ScriptedEngine(answer, tokens_per_step=8))
    engine.allow(3)
    config, heard = BusConfig(servers=(own_nats_url,)), Mailbox()
    async with AsyncExitStack() as stack:
        coordinator_bus, worker_bus, bus = [await stack.enter_async_context(open_bus(config)) for _ in range(3)]
        await stack.enter_async_context(open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)))
        await stack.enter_async_context(scripted_worker(worker_bus, answer, drain_s=0.01, engine=lambda: engine))
        await bus.subscribe(stream_subject(TENANT, session, "story"), heard)
        task = _task("Once upon a time {{story}}", writes="story")
        await bus.publish_once(task_subject(TENANT, session, "task-1"), json.dumps(task).encode())
        await heard.wait_for(3)
        yield _Halfway(engine, replay_subject(TENANT, session, "story"), STORY[:24])
        engine.allow(100)  # so that no task is left for the next test's worker
        await eventually(lambda: bus.is_empty(STREAM_TASKS, task_subject(TENANT, session, "task-1")))


async def _read_on(agent: Agent, session: str, text: _Text, halfway: _Halfway) -> None:
    """Let the rest be generated; it must go on where the text is."""
    halfway.engine.allow(100)
    value = await _follow(agent, session, text)
    assert value.text == text.text == STORY


async def _come_late(agent: Agent, session: str) -> _Text:
    for subject in (stream_subject(TENANT, session, "story"), set_subject(TENANT, session, "story")):
        await agent.subscribe(subject)
    return _Text()


@nats_clients
@both_encodings
async def test_a_late_reader_asks_for_the_text_so_far(
    agent: Agent, halfway: _Halfway, session: str, encoding: str
) -> None:
    text = await _come_late(agent, session)
    from_the_beginning: dict[str, Any] = {"type": "token.replay", "offset": 0}
    answered = await agent.request(halfway.subject, **{encoding: from_the_beginning})
    assert (answered.json["offset"], answered.json["text"]) == (0, halfway.half)
    text.take(answered.json)
    from_there_on: dict[str, Any] = {"offset": 20}
    again = await agent.request(halfway.subject, **{encoding: from_there_on})
    assert (again.json["offset"], again.json["text"]) == (20, STORY[20:24])
    text.take(again.json)
    await _read_on(agent, session, text, halfway)


@all_clients
async def test_a_late_reader_without_an_inbox_is_answered_where_all_pieces_come(
    agent: Agent, halfway: _Halfway, session: str
) -> None:
    text = await _come_late(agent, session)
    await agent.publish(halfway.subject, text="")
    text.take((await agent.hear()).json)
    assert text.text == halfway.half
    await agent.publish(halfway.subject, msgpack={"offset": 20})
    heard = (await agent.hear()).json
    assert (heard["offset"], heard["text"]) == (20, STORY[20:24])
    await _read_on(agent, session, text, halfway)


@nats_clients
async def test_a_request_for_a_text_that_cannot_be_read_is_answered_with_an_error(
    agent: Agent, halfway: _Halfway
) -> None:
    answered = await agent.request(halfway.subject, json={"offset": -1})
    assert answered.headers["Pmq-Status"] == "error"
    assert "offset" in answered.json["message"]


def _slow_engine() -> ScriptedEngine:
    """Far from the end of the story when its first words are heard."""
    return ScriptedEngine(answer, tokens_per_step=1, step_s=0.1)


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
    task = _task("{{topic}}{{reply}}", reads=["topic"])
    await agent.request(task_subject(TENANT, session, "task-1"), **{encoding: task})
    assert await ask("mark", variables=["reply"], objective={"kind": "throughput"}) == {"type": "session.reply"}
    assert await ask("cancel", variables=["reply"]) == {"type": "session.reply", "num_cancelled": 1}
    assert (await agent.hear()).json["code"] == "task_cancelled"
    for verb in ("cancel", "close", "close"):  # again does no harm
        assert (await ask(verb))["type"] == "session.reply"
    missing = await agent.request(_stored(STREAM_VARS, variable_subject(TENANT, session, "reply")))
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
    task = _task("{{topic}}{{reply}}", reads=["topic"])
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    assert (await agent.hear()).json["kind"] == "submitted"
    await agent.publish(control_subject(TENANT, session, "cancel"), **{encoding: {}})
    assert (await agent.hear()).json["code"] == "task_cancelled"
    await agent.publish(control_subject(TENANT, session, "close"), **{encoding: {}})
    while await get_values(client.bus, [_address(session, "reply")]):
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
    task = _task("Hello{{reply}}", function="greet")
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
    await agent.publish(task_subject(TENANT, session, "greet"), json=_task("Hello{{reply}}"))
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
    digest, chunks = _chunks(text)
    for index, chunk in reversed(list(enumerate(chunks))):
        subject, headers = blob_subject(TENANT, digest, index), {"Pmq-Chunks": str(len(chunks))}
        stored = await agent.request(subject, headers, base64=base64.b64encode(chunk).decode())
        assert stored.json["stream"] == STREAM_BLOBS
    claim = {"type": "blob", "digest": digest, "size_bytes": len(text.encode())}
    await agent.request(variable_subject(TENANT, session, "book"), {"Pmq-Blob": digest}, **{encoding: claim})
    assert await _read(client, session, "book") == text

    await agent.subscribe(set_subject(TENANT, session, "count"))
    task = _task("{{book}}{{count}}", reads=["book"], writes="count")
    await agent.publish(task_subject(TENANT, session, "task-1"), **{encoding: task})
    assert (await agent.hear()).text == f"{len(text)} characters"


def _chunks(text: str) -> tuple[str, list[bytes]]:
    """The address of a large value, and its parts."""
    whole = text.encode()
    parts = [whole[begin : begin + CHUNK_BYTES] for begin in range(0, len(whole), CHUNK_BYTES)]
    return hashlib.sha256(whole).hexdigest(), parts


@nats_clients
async def test_a_large_value_is_read(agent: Agent, client: Client, session: str) -> None:
    text = f"All about parrots 🦜, told in {session}. " * 8_000
    await set_variable(client.bus, _address(session, "book"), text)
    claim = await agent.request(_stored(STREAM_VARS, variable_subject(TENANT, session, "book")))
    digest = claim.headers["Pmq-Blob"]
    assert claim.json == {"type": "blob", "digest": digest, "size_bytes": len(text.encode())}
    first = await agent.request(_stored(STREAM_BLOBS, blob_subject(TENANT, digest, 0)))
    chunks = [first.payload]
    for index in range(1, int(first.headers["Pmq-Chunks"])):
        chunks.append((await agent.request(_stored(STREAM_BLOBS, blob_subject(TENANT, digest, index)))).payload)
    assert b"".join(chunks).decode() == text


@pytest.mark.parametrize("kind", ["mqtt"])
async def test_over_mqtt_a_large_value_is_only_known_by_its_address(agent: Agent, client: Client, session: str) -> None:
    await agent.subscribe(set_subject(TENANT, session, "book"))
    await set_variable(client.bus, _address(session, "book"), "All about parrots. " * 20_000)
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
