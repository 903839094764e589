"""Tasks run as soon as what they read is set, in whatever order things are published."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer, set_variable
from parrot_mq.coordinator.coordinator import SESSION_MAILBOX
from parrot_mq.errors import EngineFailure
from parrot_mq.messages import (
    STREAM_VARS,
    VariableAddress,
    control_subject,
    encode_json,
    task_subject,
    variable_subject,
)
from parrot_mq.types import Sampling, SessionId, TenantId, VariableId
from tests.coordinator.programs import program, ref, task
from tests.coordinator.service import eventually, expected, running_service


async def test_a_task_without_inputs_runs_at_once() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("Tell me a story.{{out}}")
        assert await run.get("out") == expected("Tell me a story.")


async def test_a_task_that_nobody_awaits_runs() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("eager{{out}}", writes="x")
        await eventually(lambda: run.num_stored("x") == 1)
        await eventually(service.is_all_done)


async def test_a_task_runs_when_its_input_was_set_before() -> None:
    async with running_service() as service, program(service) as run:
        await run.set("topic", "parrots")
        await run.run("About {{topic}}:{{out}}", reads={"topic": ref("topic")})
        assert await run.get("out") == expected("About parrots:")


async def test_a_task_runs_when_its_input_is_set_afterwards() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("About {{topic}}:{{out}}", reads={"topic": ref("topic")})
        await eventually(lambda: run.service.kinds("out") == ["submitted"])
        await run.set("topic", "parrots")
        assert await run.get("out") == expected("About parrots:")


async def test_a_task_waits_for_all_of_its_inputs() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{a}}+{{b}}{{out}}", reads={"a": ref("a"), "b": ref("b")})
        await run.set("a", "1")
        await run.run("{{a}}{{out}}", reads={"a": ref("a")}, writes="done")
        await run.get("done")
        assert service.kinds("out") == ["submitted"]
        await run.set("b", "2")
        assert await run.get("out") == expected("1+2")


async def test_a_text_is_an_input_as_good_as_a_variable() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{a}}, {{a}} and {{b}}{{out}}", reads={"a": "x", "b": ref("b")})
        await run.set("b", "y")
        assert await run.get("out") == expected("x, x and y")


async def test_a_list_of_variables_and_texts_is_joined_by_its_separator() -> None:
    async with running_service() as service, program(service) as run:
        reads = {"all": [ref("a"), "fixed", ref("b")], "lines": ["1", "2"]}
        await run.run("{{all}}|{{lines}}{{out}}", reads=reads, separators={"all": ", "})
        await run.set("b", "B")
        await run.set("a", "A")
        assert await run.get("out") == expected("A, fixed, B|1\n2")


async def test_several_outputs_continue_each_other() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("Plan:{{plan}} Code:{{code}} Test:{{test}}", writes={"plan": "p", "code": "c", "test": "t"})
        plan = expected("Plan:")
        code = expected(f"Plan:{plan} Code:")
        assert await run.get("t") == expected(f"Plan:{plan} Code:{code} Test:")
        assert (await run.get("p"), await run.get("c")) == (plan, code)
        await eventually(service.is_all_done)


async def test_the_consumer_may_be_submitted_before_the_producer() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}} last{{out}}", reads={"x": ref("x")}, writes="y")
        await run.run("first{{out}}", writes="x")
        assert await run.get("y") == expected(f"{expected('first')} last")


async def test_a_map_and_a_reduce() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("Sum up:\n{{parts}}{{out}}", reads={"parts": [ref(f"p{i}") for i in range(50)]}, writes="sum")
        for i in random.Random(0).sample(range(50), 50):
            await run.run(f"Part {i}: {{{{out}}}}", writes=f"p{i}")
        parts = "\n".join(expected(f"Part {i}: ") for i in range(50))
        assert await run.get("sum") == expected(f"Sum up:\n{parts}")


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
async def test_a_deep_chain(order: str) -> None:
    numbers = list(range(1, 500))
    if order != "forward":
        numbers.reverse() if order == "backward" else random.Random(1).shuffle(numbers)
    async with running_service() as service, program(service) as run:
        for i in numbers:
            await run.run("{{x}}.{{out}}", reads={"x": ref(f"v{i - 1}")}, writes=f"v{i}")
        await run.set("v0", "go")
        text = "go"
        for _ in range(1, 500):
            text = expected(f"{text}.")
        assert await run.get("v499") == text
        await eventually(service.is_all_done)
        assert set(service.num_stored.values()) == {1}


async def test_a_bare_core_publish_sets_a_variable_for_everyone() -> None:
    async with running_service() as service, program(service, "demo") as run, program(service, "demo") as other:
        await run.run("{{topic}}!{{out}}", reads={"topic": ref("topic")})
        await service.bus.publish("pmq.default.var.demo.topic", b"parrots")
        assert await other.get("topic") == "parrots"
        assert await other.get("out") == expected("parrots!")


async def test_a_task_may_be_json_without_headers_and_say_only_what_it_must() -> None:
    payload = (
        b'{"template": "Hi {{who}}:{{out}}",'
        b' "inputs": {"who": {"variable": "w"}}, "outputs": {"out": {"variable": "o"}}}'
    )
    async with running_service() as service, program(service, "demo") as run:
        await service.bus.publish("pmq.default.task.demo.t1", payload)
        await run.set("w", "you")
        assert await run.get("o") == expected("Hi you:")


async def test_a_task_published_twice_runs_once() -> None:
    record = task("once{{out}}")
    async with running_service() as service, program(service) as run:
        await run.submit(record, name="t")
        await run.submit(record, name="t")
        await run.get("out")
        await eventually(service.is_all_done)
        await run.submit(record, name="t")
        await eventually(service.is_all_done)
        assert run.num_stored("out") == 1
        assert len(service.assignments("out")) == 1
        assert await service.dead() == []


async def test_a_task_whose_output_is_set_already_is_finished_at_once() -> None:
    async with running_service() as service, program(service) as run:
        await run.set("out", "mine")
        await run.run("theirs{{out}}")
        await eventually(service.is_all_done)
        assert await run.get("out") == "mine"
        assert service.assignments("out") == []


async def test_of_a_task_with_one_of_two_outputs_set_only_the_other_runs() -> None:
    async with running_service() as service, program(service) as run:
        await run.set("a", "given")
        await run.run("A:{{x}} B:{{y}}", writes={"x": "a", "y": "b"})
        assert await run.get("b") == expected("A:given B:")
        await eventually(service.is_all_done)
        assert service.assignments("a") == []


async def test_an_output_that_somebody_sets_meanwhile_is_used_by_who_waits_for_it() -> None:
    async with running_service(workers=()) as service, program(service) as run:
        await run.run("slow{{out}}", writes="x")
        await run.run("{{x}}.{{out}}", reads={"x": ref("x")}, writes="y")
        await eventually(lambda: "submitted" in service.kinds("y"))
        await run.set("x", "faster")
        await service.add_worker()
        assert await run.get("y") == expected("faster.")
        assert service.assignments("x") == []


async def test_sampling_goes_to_the_engine_as_it_was_asked_for() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("short{{out}}", sampling=Sampling(max_tokens=3))
        assert await run.get("out") == expected("short")[:3]


async def test_a_thousand_tasks_of_one_session_all_run() -> None:
    async with running_service() as service, program(service) as run:
        for i in range(1000):
            await run.run(f"Task {i}{{{{out}}}}", writes=f"v{i}")
        for i in range(1000):
            assert await run.get(f"v{i}") == expected(f"Task {i}")
        await eventually(service.is_all_done)
        assert len(service.num_stored) == 1000


class _LateBus(MemoryBus):
    """Answers no look-up before it is told to."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.may_answer = asyncio.Event()

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        await self.may_answer.wait()
        return await super().get(stream, subjects)


async def test_more_tasks_than_a_mailbox_holds_come_while_a_session_is_busy() -> None:
    """A crowd in front of its mailbox does not keep a session from telling itself to go on."""
    async with running_service(None) as service, program(service) as run:
        for i in range(SESSION_MAILBOX + 500):
            await run.run("{{x}}{{out}}", writes=f"v{i}", reads={"x": ref("go")})
        bus = _LateBus(service.server)
        coordinator = await service.add_coordinator(bus=bus)
        await eventually(lambda: coordinator.result.statistics().num_unfinished > SESSION_MAILBOX)
        bus.may_answer.set()
        await run.run("the last{{out}}", writes="last")
        assert await run.get("last") == expected("the last")


async def test_foreign_subjects_do_not_disturb() -> None:
    async with running_service() as service, program(service, "demo") as run:
        for subject in ("var.demo.a.b", "var.demo", "var.de!mo.x", "task.demo", "task.demo.a.b", "task.d!.x"):
            await service.bus.publish(f"pmq.default.{subject}", b"{}")
        await service.bus.publish("pmq.default.control.demo.a.b", b"?", reply="nobody")
        await service.bus.publish("pmq.default.control.demo.dance", b"?")
        await run.run("fine{{out}}")
        assert await run.get("out") == expected("fine")
        await eventually(service.is_all_done)


async def test_an_answer_goes_to_no_subject_where_only_others_may_write() -> None:
    """Whoever may ask names where the answer goes; it is the coordinator that publishes it."""
    async with running_service() as service:
        for verb in ("open", "explain"):
            subject = control_subject("default", "s", verb)
            await service.bus.publish(subject, b"", reply=variable_subject("other", "s", verb))
            await service.bus.request(subject, b"", timeout_s=5)
        assert await service.bus.is_empty(STREAM_VARS, "pmq.other.var.>")


async def test_sessions_and_tenants_with_equal_names_do_not_mix() -> None:
    async with running_service(workers=("w1", "w2")) as service:
        places = [(f"tenant{t}", f"session{s}") for t in range(4) for s in range(10)]
        for tenant, session in places:
            record = task(f"{tenant}/{session}: {{{{in}}}}{{{{out}}}}", reads={"in": ref("same")})
            await service.bus.publish(task_subject(tenant, session, "task"), encode_json(record))
        for tenant, session in places:
            address = VariableAddress(TenantId(tenant), SessionId(session), VariableId("same"))
            await set_variable(service.bus, address, f"{tenant}.{session}")
        for tenant, session in places:
            async with program(service, session, tenant=tenant) as run:
                assert await run.get("out") == expected(f"{tenant}/{session}: {tenant}.{session}")


async def test_who_answers_with_an_error_fails_the_output() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("FAIL{{out}}")
        error = await run.error("out")
        assert isinstance(error, EngineFailure)
        assert "the prompt says so" in error.message
        await eventually(service.is_all_done)
