"""A variable in pieces: joined they are the value, whatever was missed, repeated or written by another attempt."""

from __future__ import annotations

import asyncio
import random

import pytest

from parrot_mq.bus import Bus, MemoryBus, MemoryServer
from parrot_mq.client.streaming import stream_text
from parrot_mq.errors import DeadlineExceeded, GenerationAborted, ParrotError, TaskCancelled
from parrot_mq.messages import ErrorInfo, TokenDelta, Value, encode, encode_json, stream_subject
from parrot_mq.types import TextPiece, TokenLogprob
from tests.coordinator.service import eventually


class _Stream:
    """One variable that is being written, and who reads it."""

    def __init__(self, bus: Bus, group: asyncio.TaskGroup, timeout_s: float = 10) -> None:
        self.bus = bus
        self.value: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self.pieces: list[TextPiece] = []
        self.reading = group.create_task(self._read(timeout_s))

    async def _read(self, timeout_s: float) -> str | ParrotError:
        """The pieces joined, or the error that the stream ended with."""
        try:
            async for piece in stream_text(self.bus, "t", "s", "v", self.value, timeout_s):
                self.pieces.append(piece)
        except ParrotError as error:
            return error
        return "".join(self.pieces)

    async def write(self, text: str, offset: int, attempt: int = 1) -> None:
        """Publish a delta."""
        delta = TokenDelta(attempt=attempt, offset=offset, text=text)
        await self.bus.publish(stream_subject("t", "s", "v"), encode(delta))

    async def wait_pieces(self, *pieces: str) -> None:
        """Wait until exactly these have been read."""
        await eventually(lambda: self.pieces == [*pieces], within_s=5)


async def _listened(server: MemoryServer) -> None:
    await eventually(lambda: bool(server._exact.get(stream_subject("t", "s", "v"))))


async def test_text_comes_as_it_is_written(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("Once ", 0)
        await stream.wait_pieces("Once ")
        await stream.write("upon", 5)
        await stream.wait_pieces("Once ", "upon")
        stream.value.set_result("Once upon")
        assert await stream.reading == "Once upon"
        assert stream.pieces == ["Once ", "upon"]


async def test_what_was_missed_comes_with_the_value(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("Once ", 0)
        await stream.write("a time", 10)
        await stream.wait_pieces("Once ")
        stream.value.set_result("Once upon a time")
        assert await stream.reading == "Once upon a time"
        assert stream.pieces == ["Once ", "upon a time"]


async def test_log_probabilities_come_with_the_text_of_their_tokens(memory_server: MemoryServer) -> None:
    told = [TokenLogprob(7, -0.5, ((7, -0.5), (8, -1.5))), TokenLogprob(9, -0.25)]
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        for delta in (
            TokenDelta(attempt=1, offset=0, text="Once", logprobs=told),
            TokenDelta(attempt=2, offset=0, text="Once", logprobs=told),  # repeated
            TokenDelta(attempt=2, offset=0, text="Once upon", logprobs=told[1:]),
        ):
            await bus.publish(stream_subject("t", "s", "v"), encode_json(delta))
        await stream.wait_pieces("Once", " upon")
        stream.value.set_result("Once upon a time")
        assert await stream.reading == "Once upon a time"
        assert [piece.logprobs for piece in stream.pieces] == [tuple(told), tuple(told[1:]), ()]


async def test_what_is_repeated_is_told_once(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        for text, offset, attempt in [("ab", 0, 1), ("ab", 0, 1), ("abcd", 0, 2), ("cd", 2, 2), ("cdef", 2, 2)]:
            await stream.write(text, offset, attempt)
        await stream.wait_pieces("ab", "cd", "ef")
        stream.value.set_result("abcdef")
        assert await stream.reading == "abcdef"


async def test_another_attempt_that_writes_the_same_goes_on_unnoticed(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("abc", 0, 1)
        await stream.write("a", 0, 2)
        await stream.write("bcd", 1, 2)
        await stream.wait_pieces("abc", "d")
        stream.value.set_result("abcd")
        assert await stream.reading == "abcd"


async def test_another_attempt_that_writes_something_else_is_an_error(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("abc", 0)
        await stream.wait_pieces("abc")
        stream.value.set_result("xyz")
        error = await stream.reading
        assert isinstance(error, GenerationAborted)
        assert "await" in error.message


async def test_a_late_reader_gets_all(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("end", 100)
        stream.value.set_result("x" * 100 + "end")
        assert await stream.reading == "x" * 100 + "end"


@pytest.mark.parametrize("text", ["all of it", ""])
async def test_a_value_that_is_there_already_is_one_piece_or_none(memory_server: MemoryServer, text: str) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        stream.value.set_result(text)
        assert await stream.reading == text
        assert len(stream.pieces) == bool(text)


async def test_an_error_value_is_raised_after_what_was_written(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("half", 0)
        await stream.wait_pieces("half")
        stream.value.set_result(ErrorInfo.from_error(TaskCancelled(task="t")))
        assert isinstance(await stream.reading, TaskCancelled)
        assert stream.pieces == ["half"]


async def test_a_text_that_is_not_complete_in_time_is_an_error(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group, timeout_s=0.05)
        await _listened(memory_server)
        await stream.write("half", 0)
        error = await stream.reading
        assert isinstance(error, DeadlineExceeded)
        assert stream.pieces == ["half"]


async def test_bytes_that_are_no_delta_are_ignored(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        for payload in (b"", b"text", b"\xff\xff", b'{"type": "error", "code": "c", "message": "m"}'):
            await bus.publish(stream_subject("t", "s", "v"), payload)
        await stream.write("abc", 0)
        await stream.wait_pieces("abc")
        stream.value.set_result("abc")
        assert await stream.reading == "abc"


async def test_offsets_count_characters_and_not_bytes(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        await stream.write("\N{PARROT}é", 0)
        await stream.write("\N{PARROT}", 2)
        stream.value.set_result("\N{PARROT}é\N{PARROT}!")
        assert await stream.reading == "\N{PARROT}é\N{PARROT}!"


async def test_a_reader_that_leaves_early_leaves_nothing_behind(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        value: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        pieces = stream_text(bus, "t", "s", "v", value, 10)
        first = group.create_task(anext(pieces))
        await _listened(memory_server)
        await bus.publish(stream_subject("t", "s", "v"), encode(TokenDelta(attempt=1, offset=0, text="a")))
        assert await first == "a"
        await pieces.aclose()
        assert not memory_server._exact.get(stream_subject("t", "s", "v"))
        value.set_result("abc")


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_is_lost_doubled_or_late_the_pieces_joined_are_the_value(
    memory_server: MemoryServer, seed: int
) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("abc \N{PARROT}") for _ in range(200))
    fates: list[list[float]] = [[0.0]] * 5 + [[], [0.0, 0.0], [0.002], [0.001, 0.004]]
    memory_server.fault = lambda message: rng.choice(fates)
    async with MemoryBus(memory_server) as bus, asyncio.TaskGroup() as group:
        stream = _Stream(bus, group)
        await _listened(memory_server)
        for attempt in (1, 2):
            offset = 0
            while offset < len(text):
                size = rng.randint(1, 20)
                await stream.write(text[offset : offset + size], offset, attempt)
                offset += size
                if rng.random() < 0.2:
                    await asyncio.sleep(0.001)
        stream.value.set_result(text)
        assert await stream.reading == text
