"""Workers come, go, break, refuse and drain: every generation is finished by somebody, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from parrot_workers.engine import GenerationRequest
from parrot_workers.worker import Drain

from parrot_mq.actors import RemoteRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator import CoordinatorConfig, registry
from parrot_mq.errors import CapacityExhausted, EngineFailure, GenerationAborted
from parrot_mq.messages import (
    REGISTRY_ADDRESS,
    Assign,
    Assigned,
    AutoscalerStatus,
    ErrorInfo,
    GenerationsReturned,
    StandBy,
    WorkerStatus,
    actor_subject,
    decode,
    encode,
    worker_address,
)
from tests.coordinator.holding_engine import Gate
from tests.coordinator.programs import program, ref
from tests.coordinator.service import Service, eventually, expected, make_engine, running_service

IMPATIENT = CoordinatorConfig(lease_s=0.3, settle_s=0, model_grace_s=60, assign_timeout_s=0.3)
"""Loses a worker quickly."""


# -- lost workers ----------------------------------------------------------------------------------------------------


async def test_what_a_lost_worker_had_goes_to_another_after_the_lease() -> None:
    gate = Gate()
    async with running_service(IMPATIENT, workers=()) as service, program(service) as run:
        lost = await service.add_holding_worker("first", gate=gate)
        for i in range(10):
            await run.run(f"HOLD {i}{{{{out}}}}", writes=f"v{i}")
        await eventually(lambda: len(gate.held) == 10)
        await lost.kill()
        await service.add_worker("second")
        for i in range(10):
            assert await run.get(f"v{i}") == expected(f"HOLD {i}")
            assert service.assignments(f"v{i}")[0] == "first"
            assert run.num_stored(f"v{i}") == 1
        await eventually(service.is_all_done)


async def test_a_worker_that_stands_by_gets_nothing_until_it_is_taken_back() -> None:
    async with running_service(IMPATIENT, workers=()) as service, program(service) as run:
        await service.add_worker("first")
        await eventually(lambda: service.states.get("first") == "ready")
        first = RemoteRef(service.bus, worker_address("first"))
        await first.ask(StandBy(duration_s=60), timeout_s=5)
        await run.run("after{{out}}")
        await service.add_worker("second")
        assert await run.get("out") == expected("after")
        assert service.assignments("out") == ["second"]
        await service.workers["second"].stop()
        await run.run("later{{out}}", writes="late")
        await first.ask(StandBy(duration_s=0), timeout_s=5)
        assert await run.get("late") == expected("later")


async def test_an_autoscaler_declares_its_models_as_long_as_it_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work for a model may come before its first worker runs; it waits, and is not refused."""
    monkeypatch.setattr(registry, "AUTOSCALER_LEASE_S", 0.3)
    async with running_service(IMPATIENT, workers=()) as service, program(service) as run:
        status = AutoscalerStatus(autoscaler="host-a", models=["scripted"])
        await RemoteRef(service.bus, REGISTRY_ADDRESS).tell(status)
        await run.run("early{{out}}")
        assert (await service.report()).autoscalers == [status]
        assert (await service.report()).models == ["scripted"]
        await service.add_worker("first")
        assert await run.get("out") == expected("early")
        await eventually(lambda: service.has_no_autoscaler())


async def test_a_worker_that_stops_in_order_is_not_waited_for() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        stopping = await service.add_holding_worker("first", gate=gate)
        await run.run("HOLD{{out}}")
        await eventually(lambda: gate.num_held("out") == 1)
        await service.add_worker("second")
        await stopping.stop()
        assert await run.get("out") == expected("HOLD")


async def test_a_worker_that_was_given_up_and_comes_back_keeps_what_it_runs() -> None:
    """Its heartbeats were lost for a while; nobody else has taken its work yet."""
    gate = Gate()
    async with running_service(IMPATIENT, workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate)
        await run.run("HOLD{{out}}")
        await eventually(lambda: gate.num_held("out") == 1)
        service.server.fault = lambda message: [] if _is_heartbeat(message) else [0]
        await eventually(service.has_no_worker)
        service.server.fault = None
        await run.run("next{{out}}", writes="next")
        assert await run.get("next") == expected("next")
        gate.open()
        assert await run.get("out") == expected("HOLD")
        assert gate.num_held("out") == 1
        assert service.assignments("out") == ["worker"]


def _is_heartbeat(message: Delivery) -> bool:
    return message.subject == actor_subject("coordinator", "registry") and b"worker.status" in message.payload


def _was_held(gate: Gate, variable: str, number: int) -> bool:
    return gate.num_held(variable) == number


async def test_a_generation_that_is_lost_again_and_again_is_given_up() -> None:
    gate = Gate()
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, max_attempts=3)
    async with running_service(config, workers=()) as service, program(service) as run:
        await run.run("HOLD{{out}}", model="scripted")
        await run.run("{{x}}{{out}}", reads={"x": ref("out")}, writes="after", model="scripted")
        for number in (1, 2, 3):
            worker = await service.add_holding_worker(f"w{number}", gate=gate)
            await eventually(partial(_was_held, gate, "out", number))
            await worker.stop()
        error = await run.error("out")
        assert isinstance(error, GenerationAborted)
        assert "3 attempts" in error.message
        assert (await run.error("after")).facts["cause_code"] == "generation_aborted"
        await eventually(service.is_all_done)


# -- workers that give back ------------------------------------------------------------------------------------------


async def test_a_worker_that_drains_finishes_what_it_has_and_takes_nothing_more() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        draining = await service.add_holding_worker("first", gate=gate)
        await run.run("HOLD 1{{out}}", writes="a")
        await eventually(lambda: gate.num_held("a") == 1)
        await draining.result.tell(Drain())
        await eventually(lambda: service.states.get("first") == "draining")
        await run.run("HOLD 2{{out}}", writes="b")
        gate.open()
        assert await run.get("a") == expected("HOLD 1")
        await draining.result.wait_stopped()
        await service.add_worker("second")
        assert await run.get("b") == expected("HOLD 2")
        assert (service.assignments("a"), service.assignments("b")) == (["first"], ["second"])


async def test_a_worker_that_drains_gives_back_what_does_not_end_in_time() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        draining = await service.add_holding_worker("first", gate=gate)
        for i in range(5):
            await run.run(f"HOLD {i}{{{{out}}}}", writes=f"v{i}")
        await eventually(lambda: len(gate.held) == 5)
        await draining.result.tell(Drain())
        await draining.result.wait_stopped()
        await service.add_worker("second")
        for i in range(5):
            assert await run.get(f"v{i}") == expected(f"HOLD {i}")
        await eventually(service.is_all_done)


async def test_an_idle_worker_drains_at_once() -> None:
    async with running_service(workers=()) as service:
        draining = await service.add_worker()
        async with asyncio.timeout(5):
            await draining.result.tell(Drain())
            await draining.result.wait_stopped()


async def test_work_that_a_worker_has_no_room_for_is_tried_again() -> None:
    """Not at once and by the same worker: it is heard of first."""
    num_refused = Counter[str]()

    def write(request: GenerationRequest) -> str:
        if num_refused[request.key] < 2:
            num_refused[request.key] += 1
            raise CapacityExhausted("no pages")
        return expected(request.text)

    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(engine=lambda: make_engine(write))
        await run.run("twice{{out}}")
        assert await run.get("out") == expected("twice")
        assert len(service.assignments("out")) == 3


# -- engines that break ----------------------------------------------------------------------------------------------


async def test_an_answer_that_raises_fails_its_own_output_only() -> None:
    def write(request: GenerationRequest) -> str:
        if "bug" in request.text:
            raise ZeroDivisionError("division by zero")
        return expected(request.text)

    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(engine=lambda: make_engine(write))
        for i in range(10):
            await run.run(f"{'bug' if i % 2 else 'fine'} {i}{{{{out}}}}", writes=f"v{i}")
        for i in range(10):
            if i % 2:
                assert isinstance(await run.error(f"v{i}"), EngineFailure)
            else:
                assert await run.get(f"v{i}") == expected(f"fine {i}")


async def test_when_the_engine_breaks_a_new_one_finishes_the_work() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate)
        for i in range(5):
            await run.run(f"HOLD {i}{{{{out}}}}", writes=f"v{i}")
        await eventually(lambda: len(gate.held) == 5)
        gate.breaks = 1
        await eventually(lambda: len(gate.held) == 10)
        gate.open()
        for i in range(5):
            assert await run.get(f"v{i}") == expected(f"HOLD {i}")
            assert run.num_stored(f"v{i}") == 1
        await eventually(service.is_all_done)


async def test_what_breaks_every_engine_is_given_up() -> None:
    gate = Gate()
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, max_attempts=2)
    async with running_service(config, workers=()) as service, program(service) as run:
        gate.breaks = 2
        await service.add_holding_worker(gate=gate)
        await run.run("poison{{out}}")
        assert isinstance(await run.error("out"), GenerationAborted)
        await run.run("fine{{out}}", writes="next")
        assert await run.get("next") == expected("fine")


# -- messages that are lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["assign", "answer", "cancel", "return"])
async def test_a_message_that_is_lost_between_coordinator_and_worker_loses_no_work(what: str) -> None:
    gate = Gate()
    num_dropped = 0

    def drop_first(message: Delivery) -> list[float]:
        nonlocal num_dropped
        if num_dropped or not _is_kind(message, what):
            return [0.0]
        num_dropped += 1
        return []

    async with running_service(IMPATIENT, workers=()) as service, program(service) as run:
        first = await service.add_holding_worker("first", gate=gate)
        service.server.fault = drop_first
        await run.run("one{{out}}", writes="a")
        assert await run.get("a") == expected("one")
        await run.run("HOLD{{out}}", writes="b")
        await run.run("HOLD 2{{out}}", writes="c")
        await eventually(lambda: gate.num_held("b") > 0 and gate.num_held("c") > 0)
        await run.set("b", "set by hand")
        await first.result.tell(Drain())
        await service.add_worker("second")
        assert await run.get("c") == expected("HOLD 2")
        assert num_dropped == 1
        await eventually(service.is_all_done)


def _is_kind(message: Delivery, what: str) -> bool:
    if what == "answer":
        return message.subject.startswith("_INBOX") and b"worker.assigned" in message.payload
    kinds = {"assign": b"worker.assign", "cancel": b"worker.cancel", "return": b"worker.returned"}
    return message.subject.startswith("pmq-sys.actor.") and kinds[what] in message.payload


async def test_messages_between_coordinator_and_worker_may_come_twice() -> None:
    async with running_service(workers=()) as service, program(service) as run:
        service.server.fault = lambda message: [0, 0.001] if message.subject.startswith("pmq-sys.actor.") else [0]
        await service.add_worker()
        for i in range(50):
            await run.run(f"{i}{{{{out}}}}", writes=f"v{i}")
        for i in range(50):
            assert await run.get(f"v{i}") == expected(str(i))
            assert run.num_stored(f"v{i}") == 1


# -- a worker that the test plays ------------------------------------------------------------------------------------


class _Played:
    """A worker whose words are the test's."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.assigned: list[Assign] = []
        self.refuses = False
        self.registry = actor_subject("coordinator", "registry")

    async def say(self, *running: str) -> None:
        """Send a heartbeat."""
        status = WorkerStatus(worker="played", model="scripted", state="ready", num_slots=4, running=[*running])
        await self.service.bus.publish(self.registry, encode(status))

    async def on_message(self, delivery: Delivery) -> None:
        if b"worker.assign" in delivery.payload:
            self.assigned.append(decode(delivery.payload, Assign))
            refused = [generation.key for generation in self.assigned[-1].generations] if self.refuses else []
            await self.service.bus.publish(delivery.reply, encode(Assigned(refused=refused)))

    @property
    def keys(self) -> list[str]:
        """What was assigned, in order."""
        return [generation.variable for assign in self.assigned for generation in assign.generations]


@asynccontextmanager
async def _played(service: Service) -> AsyncIterator[_Played]:
    played = _Played(service)
    subscription = await service.bus.subscribe(actor_subject("played", "worker"), played.on_message)
    await played.say()
    yield played
    await subscription.aclose()


async def test_a_worker_gets_no_more_than_it_has_room_for() -> None:
    async with running_service(workers=()) as service, program(service) as run, _played(service) as played:
        for i in range(10):
            await run.run(f"{i}{{{{out}}}}", writes=f"v{i}")
        await eventually(lambda: len(played.keys) == 4)
        await run.session.set("v0", "done")
        await eventually(lambda: len(played.keys) == 5)
        assert played.keys == ["v0", "v1", "v2", "v3", "v4"]


async def test_a_worker_is_not_told_to_stop_what_it_has_finished() -> None:
    async with running_service() as service, program(service) as run:
        cancels: list[Delivery] = []

        async def keep_cancels(delivery: Delivery) -> None:
            if b"worker.cancel" in delivery.payload:
                cancels.append(delivery)

        await service.bus.subscribe(actor_subject("worker", "worker"), keep_cancels)
        for i in range(20):
            await run.run(f"{'FAIL' if i % 2 else 'fine'} {i}{{{{out}}}}", writes=f"v{i}")
        await eventually(service.is_all_done)
        await run.run("{{x}}{{out}}", reads={"x": ref("last")}, writes="last-out")
        await run.set("last", "1")
        await run.get("last-out")
        assert cancels == []


async def test_a_tenant_with_much_work_does_not_starve_another() -> None:
    async with (
        running_service(workers=()) as service,
        program(service, tenant="big") as big,
        program(service, tenant="small") as small,
    ):
        for i in range(200):
            await big.run(f"{i}{{{{out}}}}", writes=f"v{i}", model="scripted")
        await small.run("quick{{out}}", writes="quick", model="scripted")
        await eventually(lambda: "submitted" in service.kinds("v199") and "submitted" in service.kinds("quick"))
        async with _played(service) as played:
            await eventually(lambda: len(played.keys) == 4)
            assert "quick" in played.keys


async def test_a_worker_gets_its_work_in_groups_that_share_a_prefix() -> None:
    async with running_service(None, workers=()) as service, program(service) as run:
        for i in range(8):
            context = "first" if i % 2 else "second"
            await run.run("{{context}}: {{x}}{{out}}", reads={"context": context, "x": str(i)}, writes=f"v{i}")
        await service.add_coordinator(CoordinatorConfig(settle_s=0.1, models=("scripted",)))
        async with _played(service) as played:
            await eventually(lambda: len(played.keys) == 4)
            assert played.keys == ["v0", "v2", "v4", "v6"]
            (assign,) = played.assigned
            assert len(assign.segments) == len(set(assign.segments)), "each segment travels once"


async def test_what_a_worker_says_it_does_not_have_is_assigned_again_but_not_at_its_first_word() -> None:
    config = CoordinatorConfig(lease_s=0.05, settle_s=0, model_grace_s=10)
    async with running_service(config, workers=()) as service, program(service) as run, _played(service) as played:
        beating = service.group.create_task(_beat(played))
        await run.run("1{{out}}")
        await eventually(lambda: len(played.keys) >= 2)
        beating.cancel()
        assert played.assigned[1].generations[0].attempt == 2


async def _beat(played: _Played) -> None:
    while True:
        await played.say()
        await asyncio.sleep(0.01)


async def test_what_a_worker_refuses_is_no_attempt_and_it_gets_nothing_before_its_next_word() -> None:
    async with running_service(workers=()) as service, program(service) as run, _played(service) as played:
        played.refuses = True
        for number in (1, 2, 3):
            if number == 1:
                await run.run("1{{out}}")
            else:
                await played.say()
            await eventually(partial(_has_assigned, played, number))
        assert {generation.attempt for assign in played.assigned for generation in assign.generations} == {1}


def _has_assigned(played: _Played, number: int) -> bool:
    return len(played.assigned) == number


async def test_an_unknown_worker_or_key_disturbs_nobody() -> None:
    async with running_service() as service, program(service) as run:
        reason = ErrorInfo.from_error(GenerationAborted("why not"))
        for worker in ("nobody", "worker"):
            returned = GenerationsReturned(worker=worker, model="scripted", keys=["a.b.c"], reason=reason)
            await service.bus.publish(actor_subject("coordinator", "registry"), encode(returned))
        await service.bus.publish(actor_subject("coordinator", "registry"), b"garbage")
        await run.run("fine{{out}}")
        assert await run.get("out") == expected("fine")
