"""Outputs that are transformed, lists, and maps over them, as a program sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from parrot_workers.engine import GenerationRequest

from parrot_mq.client import Client, Session
from parrot_mq.client import session as session_module
from parrot_mq.errors import (
    CallError,
    EngineFailure,
    InputFailed,
    InvalidName,
    TransformError,
    VariableAlreadySet,
)
from parrot_mq.program import (
    Input,
    Join,
    JsonPointer,
    Output,
    Regex,
    SemanticFunction,
    Split,
    Strip,
    Transform,
    semantic_function,
)
from parrot_mq.types import MAX_NAME_LENGTH
from tests.coordinator.holding_engine import Gate, HoldingEngine
from tests.coordinator.service import Service, answer, eventually, expected, make_engine, raised_by, running_service

MANY = 10_000


@semantic_function
def recite(text: Input, reply: Output = Output(max_tokens=MANY)) -> None:
    """Recite <<{{text}}>>: {{reply}}"""


@semantic_function
def split(text: Input, parts: Output = Output(max_tokens=MANY, transform=[Strip(), Split()])) -> None:
    """Recite <<{{text}}>>: {{parts}}"""


@semantic_function
def review(part: Input, verdict: Output = Output(), style: Input = "dry") -> None:
    """Part: {{part}} Style: {{style}} {{verdict}}"""


@semantic_function
def conclude(verdicts: Input, result: Output = Output()) -> None:
    """All: [{{verdicts}}] {{result}}"""


def reviewed(part: str, style: str = "dry") -> str:
    """What `review` answers."""
    return expected(f"Part: {part} Style: {style} ")


def _write(request: GenerationRequest) -> str:
    """What stands in the last <<…>> that nothing but `: ` follows; else as all workers of these tests."""
    text = request.text.removesuffix(">>: ")
    return text.rpartition("<<")[2] if text != request.text else answer(request)


@asynccontextmanager
async def _reciting_service() -> AsyncIterator[tuple[Service, Session]]:
    async with running_service(workers=()) as service:
        await service.add_worker("worker", lambda: make_engine(_write, num_slots=64))
        async with service.client().session() as session:
            yield service, session


def _reciting(*transforms: Transform) -> SemanticFunction[...]:
    @semantic_function
    def function(text: Input, reply: Output = Output(max_tokens=MANY, transform=transforms)) -> None:
        """Recite <<{{text}}>>: {{reply}}"""

    return function


# -- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transforms", "text", "made"),
    [
        ([Strip()], "  a b \n", "a b"),
        ([Regex(r"answer: (\d+)", group=1)], "The answer: 42.", "42"),
        ([JsonPointer("/who/name")], '{"who": {"name": "Ann"}}', "Ann"),
        ([JsonPointer("/n")], '{"n": [1, 2.5]}', "[1,2.5]"),
        ([Split(","), Strip(), Join(" + ")], "a, b ,c", "a + b + c"),
        ([Split(",", keep_empty=True), Join(";")], "a,,b", "a;;b"),
    ],
)
async def test_an_output_is_what_its_transforms_make(transforms: list[Transform], text: str, made: str) -> None:
    async with _reciting_service():
        reply = _reciting(*transforms)(text=text)
        assert await review(part=reply) == reviewed(made)
        assert await reply == made


async def test_an_output_that_ends_in_a_list_is_awaited_as_a_list() -> None:
    async with _reciting_service() as (_, session):
        parts = split(text=" a\nb\n\nc ").as_list()
        assert await parts == ["a", "b", "c"]
        assert await parts.item(2) == "c"
        assert json.loads(await session.variable(parts.id)) == ["a", "b", "c"]
        assert await conclude(verdicts=parts) == expected("All: [a\nb\nc] ")


async def test_later_outputs_go_on_after_the_text_as_it_was_generated() -> None:
    @semantic_function
    def function(text: Input, first: Output = Output(transform=Regex("b")), second: Output = Output()) -> None:
        """Recite <<{{text}}>>: {{first}} Then: {{second}}"""

    async with _reciting_service():
        first, second = function.outputs(text="abc")
        assert await second == expected("Recite <<abc>>: abc Then: ")
        assert await first == "b"


async def test_a_transform_that_does_not_fit_is_heard_by_all_who_wait_and_by_nobody_else() -> None:
    async with _reciting_service():
        count = _reciting(Regex(r"\d+"))
        failed, fine = count(text="none"), count(text="12")
        waiting = [raised_by(asyncio.wait_for(failed, 20)), raised_by(review(part=failed)), raised_by(failed)]
        first, reader, again = await asyncio.gather(*waiting)
        assert isinstance(first, TransformError)
        assert first.message == again.message
        assert first.message.startswith(r"transforms[0] (regex): the pattern '\\d+' matches nothing; ")
        assert first.message.endswith("it was given 'none'")
        assert isinstance(reader, InputFailed)
        assert reader.facts["cause_code"] == "transform"
        assert await fine == "12"


async def test_a_transformed_output_is_streamed_when_it_is_made() -> None:
    async with _reciting_service() as (_, session):
        reply = _reciting(Regex("b.*"))(text="abc")
        assert "".join([piece async for piece in reply.stream()]) == "bc"
        raw = session.variable(f"{reply.id}-raw")
        assert "".join([piece async for piece in raw.stream()]) == "abc"
        parts = split(text="a\nb")
        assert "".join([piece async for piece in parts.stream()]) == '["a","b"]'


# -- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [0, 1, 200])
async def test_a_map_and_a_reduce_over_as_many_parts_as_the_model_writes(num: int) -> None:
    written = [f"part {number}" for number in range(num)]
    async with _reciting_service():
        parts = split(text="\n".join(written) or " ")
        verdicts = review.map(part=parts, style="short")
        result = conclude(verdicts=verdicts)
        reviews = [reviewed(part, "short") for part in written]
        joined = "\n".join(reviews)
        assert await result == expected(f"All: [{joined}] ")
        assert await verdicts == reviews


async def test_lists_are_gone_through_side_by_side_and_the_rest_is_the_same_for_all() -> None:
    async with _reciting_service() as (_, session):
        style = session.list_variable("styles")
        verdicts = review.map(split(text="a\nb"), style=style)
        await style.set(["x", "y"])
        assert await verdicts == [reviewed("a", "x"), reviewed("b", "y")]


async def test_lists_of_different_lengths_are_an_error_that_names_them() -> None:
    async with _reciting_service() as (_, session):
        await session.set("xs", ["a", "b"])
        await session.set("ys", ["c"])
        verdicts = review.map(part=session.list_variable("xs"), style=session.list_variable("ys"))
        error = await raised_by(verdicts)
        assert isinstance(error, TransformError)
        assert "'xs' has 2 items, 'ys' has 1 items" in error.message


async def test_a_map_of_several_outputs_has_a_list_of_each() -> None:
    @semantic_function
    def function(part: Input, first: Output = Output(), second: Output = Output(transform=Regex("^.."))) -> None:
        """{{part}}: {{first}} and {{second}}"""

    async with _reciting_service() as (_, session):
        await session.set("xs", ["a", "b"])
        first, second = function.map_outputs(part=session.list_variable("xs"))
        ones = [expected(f"{part}: ") for part in "ab"]
        assert await first == ones
        assert await second == [expected(f"{part}: {one} and ")[:2] for part, one in zip("ab", ones, strict=True)]


async def test_items_are_known_before_the_list_is_complete() -> None:
    async with running_service(workers=()) as service:
        gate = Gate()
        await service.add_worker("worker", lambda: HoldingEngine(make_engine(answer, num_slots=16), gate))
        async with service.client().session() as session:
            await session.set("xs", ["a", "HOLD"])
            verdicts = review.map(part=session.list_variable("xs"))
            assert await verdicts.item(0) == reviewed("a")
            assert service.num_stored[f"{session.name}.{verdicts.id}"] == 0
            gate.open()
            assert await verdicts == [reviewed("a"), reviewed("HOLD")]


async def test_an_item_is_waited_for_as_long_as_its_list_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "GRACE_S", 0.0)
    async with running_service(workers=()) as service, service.client().session(timeout_s=1e-6) as session:
        await session.set("xs", ["a"])
        verdicts = review.using(timeout_s=60).map(part=session.list_variable("xs"))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(verdicts.item(0).get())
            await eventually(lambda: bool(service.kinds(verdicts.item(0).id)))
            await service.add_worker()
        assert waiting.result() == reviewed("a")


async def test_maps_of_lists_that_maps_made() -> None:
    async with _reciting_service():
        inner = split.map(text=recite.map(text=split(text="a,b;c")))
        assert await inner == ['["a,b;c"]']
        assert await review.map(part=inner.item(0).as_list()) == [reviewed("a,b;c")]


async def test_an_item_that_fails_is_the_error_of_the_list_and_the_others_are_there() -> None:
    async with _reciting_service():
        verdicts = review.map(part=split(text="a\nFAIL\nc"))
        assert isinstance(await raised_by(verdicts), EngineFailure)
        assert await verdicts.item(2) == reviewed("c")


async def test_a_map_goes_on_when_the_coordinator_is_killed_in_the_middle_of_it() -> None:
    async with running_service(workers=()) as service:
        gate = Gate()
        await service.add_worker("worker", lambda: HoldingEngine(make_engine(answer, num_slots=16), gate))
        parts = [f"{'HOLD ' * (number % 2)}{number}" for number in range(20)]
        async with service.client().session() as session:
            verdicts = review.map(part=session.list_variable("parts"))
            result = conclude(verdicts=verdicts)
            await session.set("parts", parts)
            assert await verdicts.item(18) == reviewed("18")
            await service.coordinators[0].kill()
            await service.add_coordinator()
            gate.open()
            assert await verdicts == [reviewed(part) for part in parts]
            joined = "\n".join(reviewed(part) for part in parts)
            assert await result == expected(f"All: [{joined}] ")
            await eventually(service.is_all_done)


# -- lists that somebody sets ----------------------------------------------------------------------------------------


async def test_a_list_is_set_once_with_its_items() -> None:
    async with running_service() as service, service.client().session() as session:
        await session.set("xs", ["a", "", "ü\n"])
        xs = session.list_variable("xs")
        assert await xs == await xs.get(timeout_s=5) == ["a", "", "ü\n"]
        assert await xs.item(2) == "ü\n"
        await xs.set(["a", "", "ü\n"])
        assert isinstance(await raised_by(xs.set(["a", "b", "ü\n"])), VariableAlreadySet)
        await session.set("none", [])
        assert await session.list_variable("none") == []


async def test_what_is_no_list_says_so() -> None:
    async with running_service() as service, service.client().session() as session:
        await session.set("x", "text")
        error = await raised_by(session.list_variable("x").get())
        assert isinstance(error, TransformError)
        assert error.message.startswith("variable 'x' is no list: JSON is malformed")
        assert isinstance(await raised_by(session.list_variable("y").set("text")), CallError)
        assert isinstance(await raised_by(session.set("x" * 60, ["a"] * 2000)), InvalidName)


# -- names -----------------------------------------------------------------------------------------------------------


async def test_names_that_the_session_makes_up_have_room_for_all_that_goes_with_them() -> None:
    """Also in a session of several programs, where they are long, and for items of transformed lists of lists."""

    @semantic_function
    def a_name_that_says_all_of_what_it_is_about(
        parts: Input,
        an_output_of_which_the_name_is_long_too: Output = Output(transform=Split()),
    ) -> None:
        """{{parts}}{{an_output_of_which_the_name_is_long_too}}"""

    async with running_service() as service, Client(service.bus).session("shared") as session:
        await session.set("xs", ["a"])
        made = a_name_that_says_all_of_what_it_is_about.map(parts=session.list_variable("xs"))
        assert len(f"{made.id}-9999-9999") <= MAX_NAME_LENGTH
        assert await made == [json.dumps([expected("a")])]


async def test_a_name_without_room_is_refused_where_it_is_chosen() -> None:
    async with running_service() as service, service.client().session() as session:
        named = split.using(names={"parts": "x" * 60})
        with pytest.raises(InvalidName, match=r"use at most 59 characters, so that there is room for -9999$"):
            named(text="a")
        split.using(names={"parts": "x" * 59})(text="a")
        with pytest.raises(InvalidName, match="use at most 54 characters, so that there is room for -9999 and -9999"):
            split.using(names={"parts": "y" * 59}).map(text=session.list_variable("xs"))
        with pytest.raises(InvalidName, match="use at most 60 characters, so that there is room for -raw"):
            _reciting(Strip()).using(names={"reply": "z" * 61})(text="a")


async def test_a_made_up_name_is_never_that_of_an_item() -> None:
    async with _reciting_service():
        first = split(text="1")
        named = split.using(names={"parts": "parts"})(text="\n".join("abcdefgh")).as_list()
        others = [split(text=str(number)) for number in range(8)]
        assert await named == list("abcdefgh")
        assert [await other.as_list() for other in others] == [[str(number)] for number in range(8)]
        assert await first.as_list() == ["1"]
