"""Transforms, lists and maps run in the coordinator, with no client in between."""

from __future__ import annotations

import json

import pytest

from parrot_mq.errors import DeadlineExceeded, EngineFailure, InputFailed, TaskCancelled, TransformError
from parrot_mq.messages import OutputSpec, PromptTask, VariableRef
from parrot_mq.program.transforms import Join, Regex, Split, Strip, Transform
from parrot_mq.types import Sampling
from tests.coordinator.programs import program, ref
from tests.coordinator.service import eventually, expected, running_service


def _made(template: str, variable: str, *transforms: Transform) -> PromptTask:
    output = OutputSpec(variable=variable, sampling=Sampling(max_tokens=10_000), transforms=list(transforms))
    return PromptTask(template=template, outputs={"out": output})


def _items(prefix: str, num: int) -> list[str]:
    return [f"{prefix}{index}" for index in range(num)]


# -- transforms ------------------------------------------------------------------------------------------------------


async def test_the_text_as_generated_and_what_is_made_of_it_are_variables() -> None:
    text = expected("Tell.")
    async with running_service() as service, program(service) as run:
        await run.submit(_made("Tell.{{out}}", "v", Regex(pattern="^(..)(..)", group=2)))
        assert await run.get("v") == text[2:4]
        assert await run.get("v-raw") == text
        await eventually(service.is_all_done)


async def test_what_reads_the_variable_reads_what_was_made_of_it() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("About {{x}}:{{out}}", reads={"x": ref("v")}, writes="w")
        await run.submit(_made("Tell.{{out}}", "v", Split(separator=expected("Tell.")[4]), Join(separator="+")))
        made = "+".join(part for part in expected("Tell.").split(expected("Tell.")[4]) if part.strip())
        assert await run.get("w") == expected(f"About {made}:")


async def test_a_transform_that_does_not_fit_is_the_error_of_the_output_and_of_nothing_else() -> None:
    async with running_service() as service, program(service) as run:
        await run.submit(_made("Tell.{{out}}", "v", Regex(pattern="^never$")))
        await run.run("About {{x}}:{{out}}", reads={"x": ref("v")}, writes="w")
        await run.run("Else.{{out}}", writes="other")
        error = await run.error("v")
        assert isinstance(error, TransformError)
        assert "^never$" in str(error)
        assert expected("Tell.") in str(error)
        assert isinstance(await run.error("w"), InputFailed)
        assert await run.get("v-raw") == expected("Tell.")
        assert await run.get("other") == expected("Else.")
        await eventually(service.is_all_done)
        assert await service.dead() == []


async def test_what_fails_before_its_transforms_ends_with_the_same_error() -> None:
    async with running_service() as service, program(service) as run:
        await run.submit(_made("FAIL{{out}}", "v", Strip()))
        assert isinstance(await run.error("v"), EngineFailure)


async def test_a_list_has_its_items_as_variables() -> None:
    cut = expected("Tell.")[7]
    items = [part for part in expected("Tell.").split(cut) if part.strip()]
    async with running_service() as service, program(service) as run:
        await run.submit(_made("Tell.{{out}}", "v", Split(separator=cut)))
        assert json.loads(await run.get("v")) == items
        assert [await run.get(f"v-{index}") for index in range(len(items))] == items


# -- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_items", [0, 1, 3, 200])
async def test_a_map_has_as_many_results_as_its_list_has_items(num_items: int) -> None:
    items = _items("item ", num_items)
    results = [expected(f"T: {item}") for item in items]
    async with running_service() as service, program(service) as run:
        await run.run("T: {{x}}{{out}}", reads={"x": ref("xs")}, writes="ys", each=["x"])
        reads = {"all": VariableRef("ys", items=True)}
        await run.run("All: {{all}}.{{out}}", reads=reads, writes="whole", separators={"all": ", "})
        await run.set("xs", json.dumps(items))
        assert await run.get("whole") == expected(f"All: {', '.join(results)}.")
        assert json.loads(await run.get("ys")) == results
        await eventually(service.is_all_done)


async def test_maps_follow_one_another() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("A {{x}}{{out}}", reads={"x": ref("xs")}, writes="ys", each=["x"])
        await run.run("B {{x}}{{y}}{{out}}", reads={"x": ref("xs"), "y": ref("ys")}, writes="zs", each=["x", "y"])
        await run.set("xs", '["a", "b"]')
        assert json.loads(await run.get("zs")) == [expected(f"B {each}{expected(f'A {each}')}") for each in "ab"]


async def test_a_map_waits_also_for_what_all_of_its_items_read() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{t}}{{x}}{{out}}", reads={"t": ref("topic"), "x": ref("xs")}, writes="ys", each=["x"])
        await run.set("xs", '["a", "b"]')
        await eventually(lambda: service.kinds("ys-1") == ["submitted"])
        await run.set("topic", "T")
        assert json.loads(await run.get("ys")) == [expected("Ta"), expected("Tb")]


async def test_a_map_of_a_prompt_with_several_outputs_has_a_list_of_each() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{a}} and {{b}}", reads={"x": ref("xs")}, writes={"a": "as", "b": "bs"}, each=["x"])
        await run.set("xs", '["1", "2"]')
        first = [expected(each) for each in "12"]
        assert json.loads(await run.get("as")) == first
        assert json.loads(await run.get("bs")) == [expected(f"{x}{a} and ") for x, a in zip("12", first, strict=True)]
        await eventually(service.is_all_done)


async def test_one_item_that_fails_is_the_error_of_the_list() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("T {{x}}{{out}}", reads={"x": ref("xs")}, writes="ys", each=["x"])
        await run.set("xs", '["a", "FAIL", "c"]')
        assert isinstance(await run.error("ys"), EngineFailure)
        assert await run.get("ys-2") == expected("T c")
        await eventually(service.is_all_done)


@pytest.mark.parametrize("text", ["plain", '{"a": 1}', '["a", 1]', "[", '"text"'])
async def test_what_is_no_list_is_a_typed_error(text: str) -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("xs")}, writes="ys", each=["x"])
        await run.run("{{x}}{{out}}", reads={"x": VariableRef("xs", items=True)}, writes="z")
        await run.set("xs", text)
        for name in ("ys", "z"):
            error = await run.error(name)
            assert isinstance(error, TransformError)
            assert "'xs'" in str(error)


async def test_lists_of_different_lengths_are_an_error_of_all_outputs() -> None:
    async with running_service() as service, program(service) as run:
        reads = {"x": ref("xs"), "y": ref("ys")}
        await run.run("{{x}}{{y}}{{a}}+{{b}}", reads=reads, writes={"a": "as", "b": "bs"}, each=["x", "y"])
        await run.set("xs", '["a"]')
        await run.set("ys", "[]")
        assert isinstance(await run.error("as"), TransformError)
        assert isinstance(await run.error("bs"), TransformError)
        await eventually(service.is_all_done)


async def test_items_that_would_wait_for_their_own_list_are_an_error() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{y}}{{out}}", reads={"x": ref("xs"), "y": ref("ys")}, writes="ys", each=["x"])
        await run.set("xs", '["a"]')
        assert (await run.error("ys")).code == "graph_cycle"


async def test_a_map_is_cancelled_with_all_of_its_items() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{t}}{{x}}{{out}}", reads={"t": ref("never"), "x": ref("xs")}, writes="ys", each=["x"])
        await run.set("xs", '["a", "b"]')
        await eventually(lambda: service.kinds("ys-1") == ["submitted"])
        assert await run.session.cancel("ys") == 1
        for name in ("ys", "ys-0", "ys-1"):
            assert isinstance(await run.error(name), TaskCancelled)
        await eventually(service.is_all_done)


async def test_the_time_of_a_map_is_that_of_its_task() -> None:
    async with running_service() as service, program(service) as run:
        reads = {"t": ref("never"), "x": ref("xs")}
        await run.run("{{t}}{{x}}{{out}}", reads=reads, writes="ys", each=["x"], timeout_s=0.5)
        await run.set("xs", '["a"]')
        assert isinstance(await run.error("ys"), DeadlineExceeded)
        assert isinstance(await run.error("ys-0"), DeadlineExceeded)


async def test_a_coordinator_that_takes_over_goes_on_with_a_map() -> None:
    """One item is set before it starts, and the list is set while nobody leads."""
    async with running_service() as service, program(service) as run:
        reads = {"t": ref("topic"), "x": ref("xs")}
        await run.run("{{t}}{{x}}{{out}}", reads=reads, writes="ys", each=["x"])
        await run.set("xs", '["a", "b"]')
        await eventually(lambda: service.kinds("ys-1") == ["submitted"])
        await service.coordinators[0].kill()
        await service.add_coordinator()
        await run.set("topic", "T")
        assert json.loads(await run.get("ys")) == [expected("Ta"), expected("Tb")]
        assert run.num_stored("ys-0") == run.num_stored("ys") == 1
        await eventually(service.is_all_done)


async def test_a_session_that_is_closed_takes_its_maps_along() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{t}}{{x}}{{out}}", reads={"t": ref("never"), "x": ref("xs")}, writes="ys", each=["x"])
        await run.set("xs", json.dumps(_items("item ", 50)))
        await eventually(lambda: service.kinds("ys-49") == ["submitted"])
        assert await run.session.close() == 1
        await eventually(service.is_all_done)


async def test_an_item_that_somebody_sets_is_not_made_again() -> None:
    async with running_service() as service, program(service) as run:
        await run.set("ys-1", "mine")
        await run.run("{{x}}{{out}}", reads={"x": ref("xs")}, writes="ys", each=["x"])
        await run.set("xs", '["a", "b"]')
        assert json.loads(await run.get("ys")) == [expected("a"), "mine"]


async def test_a_task_with_a_map_and_a_task_without_may_not_write_the_same() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{t}}{{out}}", reads={"t": ref("never")}, writes="ys-0")
        await run.run("{{x}}{{out}}", reads={"x": ref("xs")}, writes="ys", each=["x"])
        await run.set("xs", '["a", "b"]')
        assert (await run.error("ys")).code == "duplicate_producer"


async def test_members_of_a_map_are_one_group() -> None:
    """Also behind transforms."""
    output = OutputSpec(variable="ys", sampling=Sampling(max_tokens=10_000), transforms=[Strip()])
    record = PromptTask(template="{{x}}{{out}}", inputs={"x": ref("xs")}, outputs={"out": output}, each=["x"])
    async with running_service() as service, program(service) as run:
        await run.submit(record)
        await run.set("xs", '["a", "b"]')
        await run.get("ys")
        ready = {event.variable: event.group for event in service.events if event.kind == "ready"}
        assert ready["ys-0-raw"] == ready["ys-1-raw"] != ""
