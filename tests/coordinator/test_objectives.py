"""What sessions tell their dispatchers of what is wanted, and what marks, deadlines and quotas do to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer
from parrot_mq.coordinator import CoordinatorConfig, TenantPolicy, Tenants
from parrot_mq.coordinator.dispatch.dispatcher import DispatcherActor
from parrot_mq.coordinator.protocol import Done, Enqueue, Expect, Judge
from parrot_mq.coordinator.sessions.executor import GraphExecutor
from parrot_mq.errors import DeadlineExceeded, GenerationAborted, MalformedMessage, QuotaExceeded
from parrot_mq.messages import (
    OutputSpec,
    PromptTask,
    SessionMark,
    SessionReply,
    control_subject,
    decode,
    encode,
    encode_json,
)
from parrot_mq.program import Input, Output, Standing, prefix_hashes, semantic_function
from parrot_mq.program.stages import Stage, Stages
from parrot_mq.testing import LatencyModel, SimulatedWorkerConfig, run_simulation, simulated_service
from parrot_mq.types import Objective
from tests.coordinator.holding_engine import Gate
from tests.coordinator.programs import Program, program, ref, task
from tests.coordinator.service import eventually, expected, raised_by, running_service
from tests.coordinator.test_giving_up import _HeldBus as HeldBus
from tests.coordinator.test_recovery import _fail_once as fail_once

SERVED = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, models=("scripted",))
LATENCY = Objective()
THROUGHPUT = Objective(kind="throughput")


class _Dispatcher:
    """What the dispatchers were told, in order."""

    def __init__(self) -> None:
        self.messages: list[object] = []

    def enqueued(self, variable: str) -> Standing | None:
        """With which standing a generation was handed over."""
        found = [
            message.generation.standing
            for message in self.messages
            if isinstance(message, Enqueue) and message.generation.address.variable == variable
        ]
        return found[-1] if found else None

    def judged(self, variable: str) -> list[Standing]:
        """What was said of a generation afterwards."""
        judges = [message for message in self.messages if isinstance(message, Judge)]
        return [standing for judge in judges for key, standing in judge.standings if key.endswith(f".{variable}")]

    def expects(self, variable: str) -> list[Expect]:
        """How a generation was expected, in order."""
        expects = [message for message in self.messages if isinstance(message, Expect)]
        return [expect for expect in expects if expect.key.endswith(f".{variable}")]

    def is_done(self, variable: str) -> bool:
        """Whether a generation was taken back."""
        return any(
            key.endswith(f".{variable}") for each in self.messages if isinstance(each, Done) for key in each.keys
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> _Dispatcher:
    """Note down what dispatchers are told."""
    dispatcher = _Dispatcher()
    receive = DispatcherActor.receive

    async def noting(self: DispatcherActor, message: object) -> None:
        dispatcher.messages.append(message)
        await receive(self, message)

    monkeypatch.setattr(DispatcherActor, "receive", noting)
    return dispatcher


def _marked(template: str, *, writes: str, objective: Objective | None = None, **settings: Any) -> PromptTask:
    record = task(template, writes=writes, **settings)
    return PromptTask(
        template=record.template,
        inputs=record.inputs,
        outputs={"out": OutputSpec(variable=writes, objective=objective)},
        timeout_s=record.timeout_s,
    )


async def _mark(run: Program, *variables: str, objective: Objective, only_unmarked: bool = False) -> SessionReply:
    """Ask for a mark, as any client does."""
    mark = SessionMark(variables=list(variables), objective=objective, only_unmarked=only_unmarked)
    subject = control_subject(run.tenant, run.name, "mark")
    reply = await run.service.bus.request(subject, encode_json(mark), timeout_s=5)
    return decode(reply.payload, SessionReply, reply.headers)


async def _submit_map(run: Program, num: int) -> None:
    for index in range(num):
        await run.run(f"part {index}{{{{out}}}}", writes=f"m{index}")


async def _submit_reduce(run: Program, num: int, *, writes: str = "whole") -> None:
    await run.run("all: {{x}}{{out}}", reads={"x": [ref(f"m{index}") for index in range(num)]}, writes=writes)


# -- standings -------------------------------------------------------------------------------------------------------


async def test_what_comes_together_is_handed_over_with_what_is_wanted_of_it(told: _Dispatcher) -> None:
    async with running_service(None, workers=()) as service, program(service) as run:
        bus = HeldBus(service.server)
        await service.add_coordinator(SERVED, bus=bus)
        await run.run("first{{out}}", writes="first")
        await bus.is_asked.wait()
        await _submit_map(run, 5)
        await _submit_reduce(run, 5)
        marked = service.group.create_task(_mark(run, "other", objective=LATENCY))  # answered when all are entered
        bus.may_answer.set()
        await marked
        await eventually(lambda: told.enqueued("m4") is not None and bool(told.expects("whole")))
        standing = told.enqueued("m0")
        assert standing == Standing(
            THROUGHPUT, group=f"default.{run.name}.whole", group_size=5, group_kind="latency", stage=1
        )
        assert told.enqueued("m4") == standing
        assert told.expects("whole")[-1].standing == Standing(LATENCY)
        assert not any(isinstance(message, Judge) for message in told.messages)


async def test_a_graph_that_grows_changes_what_was_handed_over(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await _submit_map(run, 3)
        await eventually(lambda: told.enqueued("m2") == Standing(LATENCY))
        await _submit_reduce(run, 3)
        await eventually(lambda: bool(told.judged("m2")))
        assert {told.judged(f"m{index}")[-1].group_size for index in range(3)} == {3}
        await run.submit(_marked("{{x}}{{out}}", reads={"x": ref("whole")}, writes="report", objective=THROUGHPUT))
        await eventually(lambda: told.judged("m2")[-1].group_kind == "throughput")
        await eventually(lambda: told.judged("whole")[-1] == Standing(THROUGHPUT, stage=1))
        assert told.enqueued("whole") is None


async def test_a_mark_from_any_client_upgrades_what_runs_already(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await run.submit(_marked("a{{out}}", writes="a", objective=THROUGHPUT))
        await run.submit(_marked("{{x}}{{out}}", reads={"x": ref("a")}, writes="b", objective=THROUGHPUT))
        await eventually(lambda: told.enqueued("a") is not None)
        await _mark(run, "b", objective=Objective(tpot_ms=20))
        assert told.judged("a")[-1] == Standing(LATENCY, stage=1)


async def test_waiting_does_not_outweigh_a_mark(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await run.submit(_marked("a{{out}}", writes="a", objective=THROUGHPUT))
        await eventually(lambda: told.enqueued("a") is not None)
        await _mark(run, "a", objective=LATENCY, only_unmarked=True)
        await _mark(run, "other", objective=LATENCY)  # answered after what was sent before it
        assert told.judged("a") == []
        await _mark(run, "a", objective=LATENCY)
        assert told.judged("a") == [Standing(LATENCY)]


async def test_a_mark_holds_for_what_is_written_later(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await _mark(run, "a", objective=THROUGHPUT)
        await run.run("a{{out}}", writes="a")
        await eventually(lambda: told.enqueued("a") == Standing(THROUGHPUT))


async def test_a_mark_of_what_is_set_changes_nothing(told: _Dispatcher) -> None:
    async with running_service() as service, program(service) as run:
        await run.run("a{{out}}", writes="a")
        await run.get("a")
        await _mark(run, "a", objective=THROUGHPUT)
        assert told.judged("a") == []


async def test_a_mark_that_cannot_be_read_says_which_field_and_what_was_expected() -> None:
    async with running_service() as service, program(service) as run:
        subject = control_subject(run.tenant, run.name, "mark")
        reply = await service.bus.request(subject, b'{"objective": {"tpot_ms": -1}}', timeout_s=5)
        assert b"objective.tpot_ms" in reply.payload
        assert MalformedMessage.code.encode() in reply.payload


async def test_waiting_begins_no_session(told: _Dispatcher) -> None:
    async with running_service(None) as service:
        system = await service.add_visible_coordinator(SERVED)
        subject = control_subject("default", "nobody", "mark")
        await service.bus.request(subject, encode(SessionMark(variables=["a"], only_unmarked=True)), timeout_s=5)
        assert not [actor for actor in system.statistics().actors if "/session-" in actor.address]


async def test_who_reads_the_events_learns_what_is_wanted() -> None:
    async with running_service() as service, program(service) as run:
        await run.submit(_marked("a{{out}}", writes="a", objective=Objective(kind="throughput", tpot_ms=50)))
        await run.get("a")
        await eventually(lambda: "ready" in service.kinds("a"))
        (event,) = [event for event in service.events if event.kind == "ready" and event.variable == "a"]
        assert event.objective == Objective(kind="throughput", tpot_ms=50)


# -- expectations ----------------------------------------------------------------------------------------------------


async def test_a_dispatcher_knows_what_a_prompt_begins_with_and_what_it_waits_for(told: _Dispatcher) -> None:
    tenants = Tenants({"default": TenantPolicy(cache_group="shared")})
    config = CoordinatorConfig(settle_s=0, model_grace_s=60, models=("scripted",), tenants=tenants)
    async with running_service(config, workers=()) as service, program(service) as run:
        await run.run("m{{out}}", writes="a")
        reads = {"x": ref("a"), "y": ref("by_hand")}
        await run.run("System.\n{{x}} and {{y}}{{out}}", reads=reads, writes="answer")
        await eventually(lambda: bool(told.expects("answer")))
        expect = told.expects("answer")[0]
        assert (expect.segments, expect.salt) == (("System.\n",), "group:shared")
        assert expect.waits_for == (f"default.{run.name}.a", "")
        assert list(expect.prefixes) == prefix_hashes(["System.\n"])
        await run.set("by_hand", "two")
        await eventually(lambda: len(told.expects("answer")) == 2)
        assert told.expects("answer")[1].waits_for == (f"default.{run.name}.a",)
        await run.set("a", "one")
        await eventually(lambda: told.enqueued("answer") is not None)


async def test_the_beginning_that_is_known_grows_by_segments_and_hashes_alike(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        reads = {"x": [ref(f"v{index}") for index in range(3)]}
        await run.run("all:{{x}}{{out}}", reads=reads, writes="answer", separators={"x": ", "})
        for name, value in (("v1", "1"), ("v0", "0")):
            await run.set(name, value)
        await eventually(lambda: bool(told.expects("answer")) and len(told.expects("answer")[-1].segments) == 5)
        last = told.expects("answer")[-1]
        assert last.segments == ("all:", "0", ", ", "1", ", ")
        assert list(last.prefixes) == prefix_hashes(["all:", "0", ", ", "1", ", "])


async def test_a_producer_that_comes_later_is_told(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await run.run("to {{x}}{{out}}", reads={"x": ref("a")}, writes="answer")
        await eventually(lambda: bool(told.expects("answer")))
        assert told.expects("answer")[-1].waits_for == ("",)
        await run.run("a{{out}}", writes="a")
        await eventually(lambda: told.expects("answer")[-1].waits_for == (f"default.{run.name}.a",))


async def test_what_waits_for_many_is_told_for_which_when_few_are_left(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await _submit_map(run, 40)
        await _submit_reduce(run, 40)
        await eventually(lambda: bool(told.expects("whole")))
        assert told.expects("whole")[-1].waits_for == ("",)
        for index in range(39, 0, -1):
            await run.set(f"m{index}", "x")
        await eventually(lambda: told.expects("whole")[-1].waits_for == (f"default.{run.name}.m0",))
        assert len(told.expects("whole")) == 1 + 16
        assert told.judged("m0")[-1] == Standing(LATENCY, stage=1), "the last one of a group is raced"


async def test_what_failed_is_expected_no_more(told: _Dispatcher) -> None:
    async with running_service(SERVED, workers=()) as service, program(service) as run:
        await run.run("m{{out}}", writes="a")
        await run.run("to {{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await run.run("to {{x}}{{out}}", reads={"x": ref("b")}, writes="c")
        await eventually(lambda: bool(told.expects("c")))
        await run.session.cancel("a")
        await eventually(lambda: told.is_done("b") and told.is_done("c"))
        await eventually(service.is_all_done)


# -- deadlines of outputs --------------------------------------------------------------------------------------------

SOON = Objective(deadline_s=0.05)


async def test_what_is_of_no_use_any_more_is_not_waited_for() -> None:
    async with running_service() as service, program(service) as run:
        await run.submit(_marked("{{x}}{{out}}", reads={"x": ref("never")}, writes="a", objective=SOON))
        error = await run.error("a")
        assert isinstance(error, DeadlineExceeded)
        assert error.message == "variable 'a' was not done within 0.05 s"
        await eventually(service.is_all_done)
        assert await service.dead() == []


async def test_what_waits_for_a_worker_when_it_is_of_no_use_any_more_is_never_run() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate, num_slots=1)
        await run.run("HOLD{{out}}", writes="first")
        await eventually(lambda: gate.num_held("first") == 1)
        await run.submit(_marked("late{{out}}", writes="late", objective=SOON))
        assert isinstance(await run.error("late"), DeadlineExceeded)
        gate.open()
        assert await run.get("first") == expected("HOLD")
        await eventually(service.is_all_done)
        assert service.assignments("late") == []


async def test_what_a_worker_has_is_not_ended_by_its_own_deadline() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate)
        await run.submit(_marked("HOLD{{out}}", writes="a", objective=Objective(deadline_s=0.5)))
        await eventually(lambda: gate.num_held("a") == 1)
        clock = Objective(deadline_s=0.6)
        await run.submit(_marked("{{x}}{{out}}", reads={"x": ref("never")}, writes="clock", objective=clock))
        assert isinstance(await run.error("clock"), DeadlineExceeded)
        assert run.num_stored("a") == 0
        assert not gate.was_cancelled("a")


@pytest.mark.parametrize("is_prolonged", [False, True])
def test_what_comes_back_from_a_worker_when_it_is_of_no_use_any_more_ends(is_prolonged: bool) -> None:
    slow = SimulatedWorkerConfig(worker_id="slow", latency=LatencyModel(base_s=1.0))

    async def main() -> None:
        config = CoordinatorConfig(lease_s=3)
        async with simulated_service(coordinator=config, workers=[slow]) as service, service.client().session():
            reply = _turn(history="hello")
            await reply.mark(Objective(deadline_s=5))
            await service.clock.sleep(6)
            if is_prolonged:
                await reply.mark(Objective(deadline_s=1000))
            await service.workers["slow"].kill()
            await service.clock.sleep(5)
            if is_prolonged:
                await service.start_worker()
                assert await reply
            else:
                error = await raised_by(reply.get(timeout_s=0.1))
                assert error.message == f"variable {reply.id!r} was not done within 5 s"

    run_simulation(main, seed=1)


async def test_a_deadline_of_what_is_made_of_it_does_not_end_a_generation() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("later")}, writes="a")
        await run.submit(_marked("{{x}}{{out}}", reads={"x": ref("a")}, writes="quick", objective=SOON))
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="slow")
        assert isinstance(await run.error("quick"), DeadlineExceeded)
        await run.set("later", "1")
        assert await run.get("slow") == expected(expected("1"))


async def test_a_mark_may_bring_a_deadline_or_take_it_away() -> None:
    async with running_service() as service, program(service) as run:
        for name in ("a", "b"):
            hour = Objective(deadline_s=3600)
            await run.submit(_marked("{{x}}{{out}}", reads={"x": ref("later")}, writes=name, objective=hour))
        await _mark(run, "b", objective=Objective(deadline_s=0.2))
        await _mark(run, "a", objective=Objective(deadline_s=0.01))
        assert isinstance(await run.error("a"), DeadlineExceeded)
        await _mark(run, "b", objective=LATENCY)
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="clock", timeout_s=0.4)
        await run.error("clock")
        await run.set("later", "1")
        assert await run.get("b") == expected("1")


# -- given up --------------------------------------------------------------------------------------------------------


async def test_the_record_of_a_task_that_is_given_up_is_kept() -> None:
    gate = Gate()
    config = CoordinatorConfig(lease_s=0.5, settle_s=0, model_grace_s=60, max_attempts=1)
    async with running_service(config, workers=()) as service, program(service) as run:
        name = await run.run("HOLD {{a}} and {{b}}", writes={"a": "a", "b": "b"}, model="scripted")
        worker = await service.add_holding_worker("w", gate=gate)
        await eventually(lambda: gate.num_held("a") == 1)
        await worker.kill()
        assert isinstance(await run.error("a"), GenerationAborted)
        (dead,) = await service.dead()
        assert (dead.task, dead.reason.code) == (name, "generation_aborted")
        assert "HOLD {{a}} and {{b}}" in dead.record
        assert (await run.error("b")).facts["cause_code"] == "generation_aborted"
        await eventually(service.is_all_done)


# -- quotas ----------------------------------------------------------------------------------------------------------


def _limited(num: int) -> CoordinatorConfig:
    tenants = Tenants({"small": TenantPolicy(max_unfinished=num)})
    return CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, models=("scripted",), tenants=tenants)


async def test_what_is_over_the_quota_is_refused_and_the_rest_runs() -> None:
    async with (
        running_service(_limited(2), workers=()) as service,
        program(service, tenant="small") as run,
        program(service) as other,
    ):
        for name in ("a", "b", "c"):
            await run.run(f"{name}{{{{out}}}}", writes=name)
        await other.run("d{{out}}", writes="d")
        error = await run.error("c")
        assert isinstance(error, QuotaExceeded)
        assert (error.facts["tenant"], error.facts["limit"]) == ("small", 2)
        assert error.retryable
        await eventually(lambda: "rejected" in [event.kind for event in service.events])
        await service.add_worker()
        assert [await run.get("a"), await run.get("b")] == [expected("a"), expected("b")]
        assert await other.get("d") == expected("d")
        await eventually(service.is_all_done)
        assert await service.dead() == []
        await run.run("e{{out}}", writes="e")
        assert await run.get("e") == expected("e")


async def test_what_reads_a_task_that_was_refused_fails_with_its_cause() -> None:
    async with running_service(_limited(2), workers=()) as service, program(service, tenant="small") as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("c")}, writes="after")
        for name in ("b", "c"):
            await run.run(f"{name}{{{{out}}}}", writes=name)
        assert isinstance(await run.error("c"), QuotaExceeded)
        assert (await run.error("after")).facts["cause_code"] == "quota_exceeded"


async def test_closing_a_session_frees_its_place_in_the_quota() -> None:
    async with running_service(_limited(1), workers=()) as service:
        for _ in range(3):
            async with program(service, "again", tenant="small") as run:
                await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="a")
                assert await run.session.close() == 1
        async with program(service, tenant="small") as run:
            await run.run("a{{out}}", writes="a")
            await run.run("b{{out}}", writes="b")
            assert isinstance(await run.error("b"), QuotaExceeded)
            assert run.num_stored("a") == 0


async def test_a_session_that_fails_does_not_take_the_quota_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(_limited(2), workers=()) as service, program(service, tenant="small") as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("later")}, writes="a")
        await run.session.cancel("nothing")  # answered when the task has been entered
        failures = fail_once(monkeypatch, GraphExecutor, "store", lambda *_: True)
        await run.set("wake", "1")
        await eventually(lambda: bool(failures))
        await run.run("{{x}}{{out}}", reads={"x": ref("later")}, writes="b")
        await service.add_worker()
        await run.set("later", "2")
        assert [await run.get("a"), await run.get("b")] == [expected("2"), expected("2")]


async def test_a_take_over_refuses_nothing_that_was_let_in() -> None:
    async with running_service(_limited(3), workers=()) as service, program(service, tenant="small") as run:
        for name in ("a", "b", "c"):
            await run.run(f"{name}{{{{out}}}}", writes=name)
        await run.session.cancel("nothing")
        await service.coordinators[0].kill()
        await service.add_coordinator(_limited(1))
        await run.run("d{{out}}", writes="d")
        assert isinstance(await run.error("d"), QuotaExceeded)
        await service.add_worker()
        assert [await run.get(name) for name in "abc"] == [expected(name) for name in "abc"]


# -- loops in the program --------------------------------------------------------------------------------------------


@semantic_function
def _turn(history: Input, reply: Output = Output(max_tokens=1000)) -> None:
    """Chat.
    {{history}}
    Reply: {{reply}}"""


class _CountingBus(MemoryBus):
    """Counts what is looked up."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.num_looked_up = 0

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        self.num_looked_up += 1
        return await super().get(stream, subjects)


async def test_a_program_that_awaits_and_then_goes_on_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[Stage] = []
    weigh = Stages._weigh

    def counting(self: Stages, stage: Stage) -> None:
        weighed.append(stage)
        weigh(self, stage)

    monkeypatch.setattr(Stages, "_weigh", counting)
    async with running_service(None) as service:
        bus = _CountingBus(service.server)
        await service.add_coordinator(bus=bus)
        async with service.client().session() as session:
            waiting = [_turn(history=session.variable("never")) for _ in range(200)]
            await session.flush()
            history: list[str] = []
            for number in range(30):
                history += [f"question {number}", await _turn(history=[*history, f"question {number}"])]
                if number == 5:
                    num_before = len(weighed)
            assert bus.num_looked_up == 0
            assert len(weighed) - num_before < 30 * 4, "not the whole graph, at each step"
            assert len(waiting) == 200
