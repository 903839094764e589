"""The rows of the subject table about texts that are being generated, through clients that nobody here wrote."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
from parrot_workers.engine import ScriptedEngine
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import (
    STREAM_TASKS,
    replay_subject,
    set_subject,
    stream_subject,
    task_subject,
)
from tests.bus.worlds import Mailbox, eventually
from tests.interop.agent import Agent, Heard
from tests.interop.conftest import STORY, answer
from tests.interop.rows import TENANT, all_clients, both_encodings, nats_clients, prompt
from tests.workers.stepped_engine import SteppedEngine

pytestmark = pytest.mark.node


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
    task = prompt("Once upon a time {{story}}", writes="story")
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
            task = prompt("Once upon a time {{story}}", writes="story")
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
        task = prompt("Once upon a time {{story}}", writes="story")
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
