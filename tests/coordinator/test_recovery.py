"""A coordinator, or a part of it, may die at any moment: the next one carries on from the facts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from parrot_mq.actors import ActorContext, ActorSystem
from parrot_mq.bus import Delivery, Handler, MemoryBus, MemoryServer, Subscription
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.coordinator.coordinator import CoordinatorActor
from parrot_mq.coordinator.dispatch.dispatcher import DispatcherActor
from parrot_mq.coordinator.protocol import EnterTasks, SessionIdle, SessionKey, tell_self
from parrot_mq.coordinator.registry import RegistryActor
from parrot_mq.coordinator.sessions import session as session_module
from parrot_mq.coordinator.sessions.executor import GraphExecutor
from parrot_mq.errors import ConsumerTakenOver, RequestTimeout, TaskCancelled
from parrot_mq.messages import COORDINATOR_STARTED, STREAM_VARS, WorkerStatus, actor_subject, encode
from tests.coordinator.holding_engine import Gate
from tests.coordinator.programs import Program, program, ref
from tests.coordinator.service import FAST, Service, eventually, expected, raised_by, running_service

# -- another coordinator ---------------------------------------------------------------------------------------------


async def test_a_coordinator_takes_up_what_was_there_before_it_was() -> None:
    async with running_service(None) as service, program(service) as run:
        await run.set("x", "1")
        await run.run("{{x}}{{out}}", reads={"x": ref("x")}, writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await run.run("{{x}}{{out}}", reads={"x": ref("later")}, writes="c")
        await service.add_coordinator()
        assert await run.get("b") == expected(expected("1"))
        await run.set("later", "2")
        assert await run.get("c") == expected("2")
        await eventually(service.is_all_done)


async def test_what_was_set_and_what_failed_while_no_coordinator_ran_is_noticed() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")}, writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("failed")}, writes="b")
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="given")
        await run.run("{{x}}{{out}}", reads={"x": ref("given")}, writes="c")
        await eventually(lambda: bool(service.kinds("c")))
        await service.coordinators[0].stop()
        await run.set("x", "1")
        await run.set("given", "2")
        await run.run("FAIL{{out}}", writes="failed")
        await service.add_coordinator()
        assert await run.get("a") == expected("1")
        assert await run.get("c") == expected("2")
        assert (await run.error("b")).facts["cause_code"] == "engine_failure"
        await eventually(service.is_all_done)


async def test_a_deadline_that_passed_while_no_coordinator_ran_holds() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, timeout_s=0.3)
        await eventually(lambda: bool(service.kinds("out")))
        await service.coordinators[0].kill()
        await asyncio.sleep(0.3)
        await service.add_coordinator()
        assert (await run.error("out")).code == "deadline_exceeded"


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("seed", range(4))
async def test_coordinators_come_and_go_and_every_task_is_done_once(is_killed: bool, seed: int) -> None:
    rng = random.Random(seed)
    async with running_service(workers=("w1", "w2")) as service, program(service) as run:
        replacing = service.group.create_task(_replace_coordinators(service, rng, is_killed=is_killed))
        values = await _submit_layers(run, rng)
        for name, text in values.items():
            assert await run.get(name) == text
        replacing.cancel()
        await asyncio.wait([replacing])
        await service.add_coordinator()
        await eventually(service.is_all_done)
        assert {f"{run.name}.{name}" for name in values} <= service.num_stored.keys()
        assert set(service.num_stored.values()) == {1}
        assert await service.dead() == []


async def _replace_coordinators(service: Service, rng: random.Random, *, is_killed: bool) -> None:
    while True:
        await asyncio.sleep(rng.uniform(0, 0.03))
        old = service.coordinators.pop()
        await asyncio.shield(service.group.create_task(old.kill() if is_killed else old.stop()))
        await asyncio.shield(service.group.create_task(service.add_coordinator()))


async def _submit_layers(run: Program, rng: random.Random) -> dict[str, str]:
    """Submit tasks in layers that read the layer before, in random order; returns what each has to write."""
    values = {"v0-0": "start"}
    tasks = []
    for layer in range(1, 8):
        for i in range(12):
            above = [name for name in values if name.startswith(f"v{layer - 1}-")]
            reads = rng.sample(above, min(len(above), 3))
            values[f"v{layer}-{i}"] = expected(f"{layer} {i}: {'|'.join(values[name] for name in reads)}")
            tasks.append((layer, i, reads))
    rng.shuffle(tasks)
    for number, (layer, i, reads) in enumerate(tasks):
        if number == len(tasks) // 2:
            await run.set("v0-0", "start")
        inputs = {"all": [ref(name) for name in reads]}
        await run.run(
            f"{layer} {i}: {{{{all}}}}{{{{out}}}}", reads=inputs, separators={"all": "|"}, writes=f"v{layer}-{i}"
        )
        await asyncio.sleep(rng.uniform(0, 0.004))
    return values


async def test_work_that_a_worker_runs_already_is_left_with_it() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker("first", gate=gate, num_slots=4)
        for i in range(4):
            await run.run(f"HOLD {i}{{{{out}}}}", writes=f"v{i}")
        await eventually(lambda: len(gate.held) == 4)
        await service.coordinators.pop().kill()
        await service.add_worker("second")
        await service.add_coordinator(CoordinatorConfig(lease_s=10, settle_s=0.5, model_grace_s=60))
        await run.run("more{{out}}", writes="more")
        assert await run.get("more") == expected("more")
        gate.open()
        for i in range(4):
            assert await run.get(f"v{i}") == expected(f"HOLD {i}")
            assert service.assignments(f"v{i}") == ["first"]
        assert service.assignments("more") == ["second"], "the first worker has no room"
        await eventually(service.is_all_done)


async def test_after_a_start_workers_have_a_moment_to_say_what_they_run() -> None:
    config = CoordinatorConfig(lease_s=10, settle_s=1.0, models=("scripted",))
    async with running_service(None, workers=()) as service, program(service) as run:
        await run.run("slow{{out}}")
        await service.add_worker("early")
        await service.add_coordinator(config)
        await eventually(lambda: "ready" in service.kinds("out"))
        late = WorkerStatus(
            worker="late", model="scripted", state="ready", num_slots=1, running=[f"default.{run.name}.out"]
        )
        await service.bus.publish(actor_subject("coordinator", "registry"), encode(late))
        await run.run("next{{out}}", writes="next")
        assert await run.get("next") == expected("next")
        assert service.assignments("out") == []


async def test_what_is_cancelled_is_stopped_also_at_a_worker_that_a_former_coordinator_gave_it_to() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate)
        await run.run("HOLD{{out}}")
        await eventually(lambda: gate.num_held("out") == 1)
        await service.coordinators.pop().kill()
        await service.add_coordinator()
        await eventually(lambda: service.kinds("out").count("ready") == 2)
        assert await run.session.cancel("out") == 1
        assert isinstance(await run.error("out"), TaskCancelled)
        await eventually(lambda: gate.was_cancelled("out"))


async def test_a_coordinator_that_comes_back_after_another_has_started_is_told() -> None:
    async with running_service() as service, program(service) as run:
        old, new = service.coordinators[0], await service.add_coordinator()
        error = await raised_by(old.result.wait_closed())
        assert isinstance(error, ConsumerTakenOver)
        await old.stop()
        await run.run("fine{{out}}")
        assert await run.get("out") == expected("fine")
        waiting = service.group.create_task(new.result.wait_closed())
        await new.stop()
        await waiting


async def test_two_coordinators_at_once_do_no_harm() -> None:
    async with running_service(workers=("w1", "w2")) as service, program(service) as run:
        for i in range(40):
            await run.run("{{x}}{{out}}", reads={"x": ref(f"v{i - 1}")} if i else {"x": "0"}, writes=f"v{i}")
            if i == 20:
                await service.add_coordinator()
        await run.get("v39")
        await eventually(service.is_all_done)
        assert set(service.num_stored.values()) == {1}
        assert await service.dead() == []


# -- parts of a coordinator ------------------------------------------------------------------------------------------


def _fail_once(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    when: Callable[..., bool],
    make_error: Callable[[str], Exception] = RuntimeError,
) -> list[str]:
    """Let a method raise the first time that `when` says so, before or after it has done its work."""
    original = getattr(owner, method)
    raised: list[str] = []

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not raised and when(*args):
            raised.append(method)
            raise make_error(f"{method} broke")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, failing)
    return raised


@pytest.mark.parametrize("variable", ["x", "a", "b"])
async def test_a_session_that_fails_while_a_variable_is_stored_loses_no_task(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    raised = _fail_once(monkeypatch, GraphExecutor, "store", lambda name, *_: name == variable)
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")}, writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await run.set("x", "1")
        assert await run.get("b") == expected(expected("1"))
        await eventually(service.is_all_done)
        assert raised
        assert set(service.num_stored.values()) == {1}


@pytest.mark.parametrize("method", ["enter_arrived", "_look_up", "_enter", "_place", "_settle_output"])
async def test_a_session_that_fails_anywhere_loses_no_task(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    raised = _fail_once(monkeypatch, GraphExecutor, method, lambda *_: True)
    async with running_service() as service, program(service) as run:
        for i in range(20):
            await run.run("{{x}}{{out}}", reads={"x": ref(f"v{i - 1}") if i else "go"}, writes=f"v{i}")
        await run.get("v19")
        await eventually(service.is_all_done)
        assert raised
        assert set(service.num_stored.values()) == {1}
        assert await service.dead() == []


@pytest.mark.parametrize("method", ["_look_up", "_enter", "_place", "_deduce"])
async def test_a_request_that_fails_midway_loses_no_task(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def unreachable(subject: str) -> RequestTimeout:
        return RequestTimeout(subject=subject, timeout_s=15)

    def tell_later(context: ActorContext, message: object) -> None:
        if raised or not isinstance(message, EnterTasks):  # the request comes first
            tell_self(context, message)

    raised = _fail_once(monkeypatch, GraphExecutor, method, lambda *_: True, unreachable)
    monkeypatch.setattr(session_module, "tell_self", tell_later)
    served = replace(FAST, models=("scripted",))
    async with running_service(served, workers=()) as service, program(service) as run:
        await run.set("go", "1")
        for i in range(3):
            await run.run("{{x}}{{out}}", reads={"x": ref(f"v{i - 1}") if i else "go"}, writes=f"v{i}")
        assert isinstance(await raised_by(run.session.cancel("nothing")), RequestTimeout)
        await service.add_worker()
        await run.get("v2")
        await eventually(service.is_all_done)
        assert set(service.num_stored.values()) == {1}
        assert await service.dead() == []


@pytest.mark.parametrize("method", ["_enqueue", "_forget", "_report", "_dispatch", "_send"])
async def test_a_dispatcher_that_fails_gets_its_work_again(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate, num_slots=4)
        for i in range(10):
            await run.run(f"HOLD {i}{{{{out}}}}", writes=f"v{i}")
        await eventually(lambda: len(gate.held) == 4)
        raised = _fail_once(monkeypatch, DispatcherActor, method, lambda *_: True)
        await run.run("one more{{out}}", writes="more")
        await eventually(lambda: "ready" in service.kinds("more"))
        await eventually(lambda: bool(raised) or method in ("_forget", "_send"))
        gate.open()
        for i in range(10):
            assert await run.get(f"v{i}") == expected(f"HOLD {i}")
        assert await run.get("more") == expected("one more")
        await eventually(service.is_all_done)
        assert raised
        assert set(service.num_stored.values()) == {1}


@pytest.mark.parametrize("method", ["_renew", "_check"])
async def test_a_registry_that_fails_still_notices_that_a_worker_is_lost(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    gate = Gate()
    config = CoordinatorConfig(lease_s=0.3, settle_s=0, model_grace_s=60)
    async with running_service(config, workers=()) as service, program(service) as run:
        lost = await service.add_holding_worker("first", gate=gate)
        await run.run("HOLD{{out}}")
        await eventually(lambda: gate.num_held("out") == 1)
        raised = _fail_once(monkeypatch, RegistryActor, method, lambda *_: True)
        await lost.kill()
        await service.add_worker("second")
        assert await run.get("out") == expected("HOLD")
        assert raised


async def test_a_session_that_fails_for_ever_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = GraphExecutor.enter_arrived, list[str]()

    async def enter_arrived(self: GraphExecutor) -> None:
        if any(address.session == "bad" for address in self.state.arrived):
            failures.append("bad")
            raise RuntimeError("always")
        await original(self)

    monkeypatch.setattr(GraphExecutor, "enter_arrived", enter_arrived)
    async with running_service(None) as service, program(service, "bad") as bad, program(service) as good:
        system = await service.add_visible_coordinator()
        await bad.run("never{{out}}")
        for number in range(1, 6):
            await eventually(partial(_is_at_least, failures, number))
            await good.run(f"fine {number}{{{{out}}}}", writes=f"v{number}")
            assert await good.get(f"v{number}") == expected(f"fine {number}")
        (coordinator,) = [actor for actor in system.statistics().actors if actor.address == "coordinator/coordinator"]
        assert coordinator.num_restarts == 0


def _is_at_least(found: Sequence[object], number: int) -> bool:
    return len(found) >= number


async def test_a_session_that_fails_while_its_work_runs_leaves_it_running(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate)
        await run.run("HOLD{{out}}")
        await eventually(lambda: gate.num_held("out") == 1)
        raised = _fail_once(monkeypatch, GraphExecutor, "store", lambda *_: True)
        await run.set("anything", "x")
        await eventually(lambda: service.kinds("out").count("ready") == 2)
        await run.run("next{{out}}", writes="next")
        await run.get("next")
        gate.open()
        assert await run.get("out") == expected("HOLD")
        assert raised
        assert service.assignments("out") == ["worker"]


async def test_a_session_that_offers_to_stop_and_then_has_work_stays() -> None:
    async with running_service(None) as service, program(service) as run:
        system = await service.add_visible_coordinator()
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        await eventually(lambda: bool(service.kinds("out")))
        key = SessionKey(run.session.tenant, run.session.name)
        await system.ref("coordinator").tell(SessionIdle(key))
        await run.run("next{{out}}", writes="next")
        await run.get("next")
        await run.set("x", "1")
        assert await run.get("out") == expected("1")


async def test_a_coordinator_whose_routing_fails_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = _fail_once(monkeypatch, CoordinatorActor, "_drop", lambda *_: True)
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, session_idle_s=0.05)
    started: list[Delivery] = []

    async def note_started(delivery: Delivery) -> None:
        started.append(delivery)

    async with running_service(config) as service, program(service) as idle, program(service) as run:
        await service.bus.subscribe(COORDINATOR_STARTED, note_started)
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        await idle.run("done{{out}}")
        await idle.get("out")
        await eventually(lambda: bool(raised) and bool(started))
        await run.session.cancel("nothing")  # answered when its actor is there again
        await run.set("x", "1")
        assert await run.get("out") == expected("1")
        await service.add_coordinator()
        error = await raised_by(service.coordinators[0].result.wait_closed())
        assert isinstance(error, ConsumerTakenOver), "also after its actor was started again"


async def test_an_idle_session_is_dropped_and_works_when_it_is_needed_again() -> None:
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, session_idle_s=0.05)
    async with running_service(None) as service, program(service) as run:
        system = await service.add_visible_coordinator(config)
        await run.session.cancel()
        for number in range(3):
            await run.run("{{x}}{{out}}", reads={"x": ref(f"v{number - 1}") if number else "go"}, writes=f"v{number}")
            await run.get(f"v{number}")
            await eventually(lambda: not _sessions(system))
        assert await run.session.cancel() == 0
        assert await run.get("v2") == expected(expected(expected("go")))


def _sessions(system: ActorSystem) -> list[str]:
    return [actor.address for actor in system.statistics().actors if "/session-" in actor.address]


async def test_a_request_that_meets_a_session_on_its_way_out_is_answered_by_the_next() -> None:
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, session_idle_s=0.001)
    async with running_service(config) as service, program(service) as run:
        for _ in range(300):
            assert await run.session.cancel() == 0


async def test_a_session_with_work_is_not_dropped() -> None:
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, session_idle_s=0.02)
    async with running_service(None) as service, program(service) as run, program(service) as idle:
        system = await service.add_visible_coordinator(config)
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        await idle.run("idle{{out}}")
        await eventually(lambda: len(_sessions(system)) == 2)
        await eventually(lambda: len(_sessions(system)) == 1)
        await run.set("x", "1")
        assert await run.get("out") == expected("1")


class _LateTakeBus(MemoryBus):
    """Sets a variable when the queue is taken, but before that is known."""

    def __init__(self, server: MemoryServer, set_variable: Callable[[], Awaitable[None]]) -> None:
        super().__init__(server)
        self._set_variable = set_variable

    async def take(self, stream: str, handler: Handler, *, consumer: str) -> Subscription:
        subscription = await super().take(stream, handler, consumer=consumer)
        await self._set_variable()
        return subscription


async def test_a_variable_that_is_set_while_a_coordinator_starts_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LOOK_AGAIN_S", 1000)
    async with running_service(None) as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})

        async def set_when_entered() -> None:
            await eventually(lambda: bool(service.kinds("out")))
            await run.set("x", "1")
            await eventually(lambda: run.num_stored("x") == 1)

        await service.add_coordinator(bus=_LateTakeBus(service.server, set_when_entered))
        assert await run.get("out") == expected("1")


# -- facts that are missed -------------------------------------------------------------------------------------------


class _BehindBus(MemoryBus):
    """Finds nothing at first, as a replica of a cluster that is behind."""

    num_gets = 0

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        self.num_gets += stream == STREAM_VARS
        return await super().get(stream, subjects) if self.num_gets > 1 else {}


async def test_what_is_not_found_is_looked_up_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "LOOK_AGAIN_S", 0.02)
    async with running_service(None) as service, program(service) as run:
        bus = _BehindBus(service.server)
        await service.add_coordinator(bus=bus)
        await run.set("x", "1")
        await eventually(lambda: run.num_stored("x") == 1)
        await run.run("{{x}}{{out}}", reads={"x": ref("x")})
        assert await run.get("out") == expected("1")
        assert bus.num_gets == 2


async def test_a_fact_that_was_missed_is_noticed_at_the_latest_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "LOOK_AGAIN_S", 1000)
    raised = _fail_once(monkeypatch, CoordinatorActor, "_on_variable", lambda key, stored: stored.variable == "a")
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("x")}, writes="a", timeout_s=0.3)
        await run.run("{{x}}{{out}}", reads={"x": ref("a")}, writes="b")
        await run.set("x", "1")
        assert await run.get("a") == expected("1")
        assert raised
        assert await run.get("b") == expected(expected("1"))
        await eventually(service.is_all_done)


# -- a server that is away -------------------------------------------------------------------------------------------


async def test_the_server_goes_away_and_comes_back() -> None:
    config = CoordinatorConfig(lease_s=0.3, settle_s=0, model_grace_s=60)
    async with running_service(config) as service, program(service) as run:
        for i in range(20):
            await run.run("{{x}}{{out}}", reads={"x": ref(f"v{i - 1}")}, writes=f"v{i}")
        await run.set("v-1", "go")
        await run.get("v3")
        service.server.go_down()
        await asyncio.sleep(2 * config.lease_s)  # long enough for the worker to be given up
        service.server.come_up()
        await run.get("v19")
        await eventually(service.is_all_done)
        assert set(service.num_stored.values()) == {1}
