"""What a coordinator tells of itself: its statistics, and the same for Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from parrot_mq.actors import ActorState, ActorStatistics, SystemStatistics
from parrot_mq.actors.mailbox import MailboxStatistics
from parrot_mq.actors.metrics import ActorCollector
from parrot_mq.coordinator import Coordinator, CoordinatorStatistics, DispatcherStatistics
from parrot_mq.coordinator.calls.counts import FunctionStatistics
from parrot_mq.coordinator.dispatch.dispatcher import DispatcherActor
from parrot_mq.coordinator.metrics import CoordinatorCollector
from parrot_mq.messages import WorkerStatus
from parrot_mq.observability import Distribution
from tests.coordinator.holding_engine import Gate
from tests.coordinator.programs import program, ref
from tests.coordinator.service import Service, eventually, running_service
from tests.coordinator.test_recovery import _fail_once


def _statistics(service: Service) -> CoordinatorStatistics:
    running: Coordinator = service.coordinators[-1].result
    return running.statistics()


def _dispatcher(service: Service) -> DispatcherStatistics:
    return _statistics(service).dispatchers["scripted"]


async def test_a_coordinator_counts_what_is_to_do_and_what_was_done() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        assert _statistics(service) == CoordinatorStatistics(num_unfinished=0, dispatchers={}, workers=())
        await service.add_holding_worker(gate=gate, num_slots=2)
        for number in range(3):
            await run.run(f"HOLD {number}{{{{out}}}}", writes=f"v{number}")
        await run.run("{{x}}{{out}}", reads={"x": ref("user")}, writes="waiting")
        await eventually(lambda: len(gate.held) == 2 and _dispatcher(service).num_ready == 1)
        found = _dispatcher(service)
        assert (found.num_running, found.num_assigned, found.num_returned) == (2, 2, 0)
        assert _statistics(service).num_unfinished == 4
        assert [worker.state for worker in _statistics(service).workers] == ["ready"]
        gate.open()
        await run.set("user", "x")
        await run.get("waiting")
        await eventually(lambda: _statistics(service).num_unfinished == 0 and not _dispatcher(service).num_running)
        found = _dispatcher(service)
        assert (found.num_ready, found.num_assigned) == (0, 4)
        assert found.num_batches >= 2


async def test_a_worker_that_gives_back_is_counted() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        stopping = await service.add_holding_worker("first", gate=gate)
        await run.run("HOLD{{out}}")
        await eventually(lambda: gate.num_held("out") == 1)
        await stopping.stop()
        await eventually(lambda: _dispatcher(service).num_returned == 1)
        assert _dispatcher(service).num_given_up == 0


async def test_the_statistics_are_those_of_the_actors_that_live(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service() as service, program(service) as run:
        await run.run("1{{out}}", writes="a")
        await run.get("a")
        raised = _fail_once(monkeypatch, DispatcherActor, "_enqueue", lambda *_: True)
        await run.run("2{{out}}", writes="b")
        await run.get("b")
        assert raised
        await eventually(lambda: _dispatcher(service).num_running == 0)
        assert _dispatcher(service).num_assigned == 1


# -- for Prometheus --------------------------------------------------------------------------------------------------


def _value(collector: object, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(collector)  # type: ignore[arg-type]
    return registry.get_sample_value(name, labels)


def _function() -> FunctionStatistics:
    duration = Distribution(bounds=(0.5, 10.0), counts=(1, 1, 0), total=2.5)
    return FunctionStatistics(
        num_waiting=1, num_running=2, num_ended={"returned": 3}, num_lost=4, num_busy=5, duration=duration
    )


def test_the_metrics_are_the_statistics() -> None:
    dispatcher = DispatcherStatistics(
        num_ready=1,
        num_running=2,
        num_batches=4,
        num_assigned=5,
        num_returned=6,
        num_given_up=7,
    )
    workers = (
        WorkerStatus(worker="w0", model="m", state="ready", num_slots=8),
        WorkerStatus(worker="w1", model="m", state="loading", num_slots=4),
    )
    found = CoordinatorStatistics(
        num_unfinished=9,
        dispatchers={"m": dispatcher, "idle": dispatcher},
        workers=workers,
        functions={"search": _function()},
    )
    collector = CoordinatorCollector(lambda: found)
    assert _value(collector, "parrot_tasks_unfinished") == 9
    assert _value(collector, "parrot_generations_ready", model="m") == 1
    assert _value(collector, "parrot_generations_running", model="m") == 2
    assert _value(collector, "parrot_batches_total", model="m") == 4
    assert _value(collector, "parrot_generations_assigned_total", model="m") == 5
    assert _value(collector, "parrot_generations_returned_total", model="m") == 6
    assert _value(collector, "parrot_generations_given_up_total", model="m") == 7
    assert _value(collector, "parrot_workers", model="m", state="ready") == 1
    assert _value(collector, "parrot_workers", model="m", state="loading") == 1
    assert _value(collector, "parrot_workers", model="idle", state="ready") == 0
    assert _value(collector, "parrot_slots", model="m") == 8, "only of those that are ready"
    assert _value(collector, "parrot_native_calls_waiting", function="search") == 1
    assert _value(collector, "parrot_native_calls_running", function="search") == 2
    assert _value(collector, "parrot_native_calls_total", function="search", result="returned") == 3
    assert _value(collector, "parrot_native_calls_total", function="search", result="not_served") == 0
    assert _value(collector, "parrot_native_attempts_lost_total", function="search") == 4
    assert _value(collector, "parrot_native_calls_refused_total", function="search") == 5
    assert _value(collector, "parrot_native_call_duration_seconds_bucket", function="search", le="0.5") == 1
    assert _value(collector, "parrot_native_call_duration_seconds_sum", function="search") == 2.5


def test_mailboxes_of_one_kind_are_taken_together() -> None:
    def actor(name: str, depth: int) -> ActorStatistics:
        mailbox = MailboxStatistics(capacity=10, depth=depth, num_waiting=0, num_put=0, num_taken=0)
        return ActorStatistics(
            address=f"node/{name}", state=ActorState.RUNNING, num_handled=0, num_restarts=0, mailbox=mailbox
        )

    actors = (actor("registry", 1), actor("session-1", 2), actor("session-22", 5), actor("a-b", 0))
    collector = ActorCollector(lambda: SystemStatistics(node="node", actors=actors))
    assert _value(collector, "parrot_actors", kind="session") == 2
    assert _value(collector, "parrot_mailbox_fill_ratio", kind="session") == 0.5
    assert _value(collector, "parrot_mailbox_fill_ratio", kind="registry") == 0.1
    assert _value(collector, "parrot_actors", kind="a-b") == 1
