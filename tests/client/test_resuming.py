"""Readers who come late, lose the connection or read slowly: when they ask for what they missed, and what they get."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parrot_mq.bus import Delivery, Headers, MemoryBus, MemoryServer, answer_replay
from parrot_mq.client import streaming
from parrot_mq.client.streaming import ASK_AGAIN_S, stream_text
from parrot_mq.errors import PermissionDenied
from parrot_mq.messages import ALL_REPLAYS, TokenDelta, TokenReplay, Value, decode, encode_json, stream_subject
from parrot_mq.testing import run_simulation
from parrot_mq.types import TextPiece

TEXT = "Once upon a time there was a \N{PARROT}."


class _World:
    """A variable, the worker that writes it, and one who reads it. Everybody has a connection of his own.

    Attributes:
        reader_bus: The reader's connection.
        num_written: Characters that the worker has generated.
        attempt: Which attempt it is.
        is_silent: Whether it answers no requests.
        requests: From which offsets it was asked.
        pieces: What was read.
        may_read: Whether the reader takes the next piece.
    """

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.reader_bus, self.worker_bus = MemoryBus(server), MemoryBus(server)
        self.value: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self.num_written, self.attempt, self.is_silent = 0, 1, False
        self.requests: list[int] = []
        self.pieces: list[TextPiece] = []
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def generate(self, num: int = 5, *, is_told: bool = True) -> None:
        """Generate so many characters more, and tell them."""
        begin, self.num_written = self.num_written, min(len(TEXT), self.num_written + num)
        if is_told:
            delta = TokenDelta(attempt=self.attempt, offset=begin, text=TEXT[begin : self.num_written])
            await self.worker_bus.publish(stream_subject("t", "s", "v"), encode_json(delta))
        await _turn()

    async def on_request(self, request: Delivery) -> None:
        self.requests.append(decode(request.payload, TokenReplay, request.headers).offset)
        if not self.is_silent:
            await answer_replay(self.worker_bus, request, attempt=self.attempt, text=TEXT[: self.num_written])

    async def read(self) -> str:
        async for piece in stream_text(self.reader_bus, "t", "s", "v", self.value, 60):
            self.pieces.append(piece)
            await self.may_read.wait()
        return self.text

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def _turn() -> None:
    """Let what was sent arrive."""
    await asyncio.sleep(0.001)


@asynccontextmanager
async def _open_world(num_before: int = 0) -> AsyncIterator[tuple[_World, asyncio.Task[str]]]:
    """The reader comes when so many characters have been generated; in the end it must have read all."""
    server = MemoryServer()
    server.ensure_streams()
    world = _World(server)
    async with world.reader_bus, world.worker_bus, asyncio.TaskGroup() as group:
        await world.worker_bus.subscribe(ALL_REPLAYS, world.on_request)
        await world.generate(num_before)
        reading = group.create_task(world.read())
        await _turn()
        yield world, reading
        world.value.set_result(TEXT)
        assert await reading == TEXT


Main = Callable[[], Coroutine[Any, Any, None]]


def _in_virtual_time(main: Main) -> Callable[[], None]:
    def test() -> None:
        run_simulation(main)

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


@_in_virtual_time
async def test_who_is_there_from_the_beginning_asks_for_nothing() -> None:
    async with _open_world() as (world, _):
        while world.num_written < len(TEXT):
            await world.generate()
    assert world.requests == []
    assert len(world.pieces) == -(-len(TEXT) // 5)


@_in_virtual_time
async def test_who_comes_late_gets_what_there_is_and_then_the_rest() -> None:
    async with _open_world(10) as (world, _):
        assert world.text == "", "until it hears of the text it cannot know that there is one"
        await world.generate()
        assert world.text == TEXT[:15]
        await world.generate()
        assert world.text == TEXT[:20]
    assert world.requests == [0]


@_in_virtual_time
async def test_what_is_lost_on_the_way_is_asked_for_once() -> None:
    async with _open_world() as (world, _):
        await world.generate()
        for _ in range(2):
            await world.generate(is_told=False)
            await world.generate()
            assert world.text == TEXT[: world.num_written]
    assert world.requests == [5, 15]


@_in_virtual_time
async def test_if_nobody_answers_it_asks_again_after_a_while_but_only_while_text_comes() -> None:
    async with _open_world(5) as (world, _):
        world.is_silent = True
        for _ in range(3):
            await world.generate(2)
        assert world.requests == [0]
        await asyncio.sleep(10 * ASK_AGAIN_S)
        assert world.requests == [0]
        world.is_silent = False
        await world.generate()
        assert world.requests == [0, 0]
        assert world.text == TEXT[: world.num_written]


@_in_virtual_time
async def test_after_a_reconnection_it_asks_at_once() -> None:
    """What came meanwhile is lost, and perhaps nothing follows it for long."""
    async with _open_world() as (world, _):
        await world.generate()
        world.reader_bus.link.cut()
        await world.generate()
        world.reader_bus.link.mend()
        await _turn()
        assert world.text == TEXT[:10]
    assert world.requests == [5]


@_in_virtual_time
async def test_after_a_reconnection_with_nothing_heard_there_is_nothing_to_ask_for() -> None:
    async with _open_world() as (world, _):
        world.reader_bus.link.cut()
        world.reader_bus.link.mend()
        await _turn()
        await world.generate()
    assert world.requests == []


@_in_virtual_time
async def test_another_worker_has_the_text_of_the_first() -> None:
    """It goes on behind what it was told of; the reader missed that, and more."""
    async with _open_world(10) as (world, _):
        world.is_silent = True  # the first has died
        await _turn()
        world.num_written, world.attempt, world.is_silent = 8, 2, False
        await world.generate()
        assert world.text == TEXT[:13]
    assert world.requests == [0]


def test_a_slow_reader_has_a_bounded_number_of_deltas_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is asked for when it comes to it."""
    monkeypatch.setattr(streaming, "MAX_WAITING", 4)

    async def main() -> None:
        async with _open_world() as (world, _):
            world.may_read.clear()
            await world.generate(1)
            while world.num_written < len(TEXT) - 1:
                await world.generate(1)
            world.may_read.set()
            await _turn()
            assert world.text == TEXT[:-1]
        assert world.requests == [1]

    run_simulation(main)


@_in_virtual_time
async def test_an_error_in_place_of_an_answer_is_no_text() -> None:
    async with _open_world(5) as (world, _):
        world.is_silent = True
        inboxes: list[str] = []

        async def refuse(request: Delivery) -> None:
            inboxes.append(request.reply)
            payload = b'{"type":"error","code":"malformed_message","message":"no"}'
            await world.worker_bus.publish(request.reply, payload, headers=Headers({"Pmq-Status": "error"}))

        await world.worker_bus.subscribe(ALL_REPLAYS, refuse)
        await world.generate()
        assert len(inboxes) == 1
        assert world.text == ""


@pytest.mark.parametrize("step", ["subscribe", "publish"])
def test_who_may_not_ask_gets_what_is_missing_with_the_value(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Neither an inbox that is refused nor a request is an error of the reader."""

    async def main() -> None:
        async with _open_world(5) as (world, _):

            async def refuse(subject: str, *_: object, **__: object) -> None:
                raise PermissionDenied(operation=step, subject=subject)

            monkeypatch.setattr(world.reader_bus, step, refuse)
            await world.generate()
            await world.generate()
            assert world.text == ""
        assert world.requests == []

    run_simulation(main)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_doubled_late_or_cut_what_is_read_is_the_value(seed: int) -> None:
    """The reader is late, messages and requests are lost, links are cut, workers change."""
    rng = random.Random(seed)

    async def main() -> None:
        async with _open_world(rng.randint(0, 10)) as (world, _):
            fates: list[list[float]] = [[0.0]] * 5 + [[], [0.0, 0.0], [0.02], [0.01, 0.04]]
            world.server.fault = lambda message: rng.choice(fates)
            while world.num_written < len(TEXT):
                await world.generate(rng.randint(1, 4))
                if rng.random() < 0.2:
                    world.attempt += 1
                    world.num_written -= rng.randint(0, min(3, world.num_written))
                if rng.random() < 0.1:
                    world.reader_bus.link.cut()
                    await world.generate(rng.randint(0, 3))
                    world.reader_bus.link.mend()
                await asyncio.sleep(rng.choice([0, 0.01, ASK_AGAIN_S]))
                assert TEXT.startswith(world.text)
        assert world.text == TEXT

    run_simulation(main, seed=seed)
