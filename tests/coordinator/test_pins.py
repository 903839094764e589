"""Workers are told which prefixes unfinished tasks need: those that are ready, and those that still wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from parrot_mq.bus import Delivery
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.coordinator.dispatch.dispatcher import DispatcherActor
from parrot_mq.messages import EngineReport, PinPrefixes, WorkerStatus, actor_subject, decode, encode
from parrot_mq.program import prefix_hashes
from tests.coordinator.programs import program, ref
from tests.coordinator.service import Service, answer, eventually, expected, make_engine, running_service
from tests.coordinator.test_recovery import _fail_once

HAS_TREE = EngineReport(page_size=16, num_pages=100)


class _Worker:
    """A worker that the test plays: it takes no work, and keeps what it is told to keep."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pins: list[list[str]] = []

    async def say(self, *, state: str = "ready", engine: EngineReport | None = HAS_TREE) -> None:
        """Send a heartbeat."""
        status = WorkerStatus(worker="played", model="scripted", state=state, num_slots=0, engine=engine)  # type: ignore[arg-type]
        await self.service.bus.publish(actor_subject("coordinator", "registry"), encode(status))

    async def pinned(self, *prefixes: list[str], **status: object) -> bool:
        """Whether, told after one more heartbeat, it is to keep these prefixes and all shorter ones."""
        await self.say(**status)  # type: ignore[arg-type]
        wanted = {name for prefix in prefixes for name in prefix_hashes(prefix)}
        return bool(self.pins) and set(self.pins[-1]) == wanted

    async def on_message(self, delivery: Delivery) -> None:
        if b"worker.pin" in delivery.payload:
            self.pins.append(decode(delivery.payload, PinPrefixes).hashes)


@asynccontextmanager
async def _playing(service: Service) -> AsyncIterator[_Worker]:
    worker = _Worker(service)
    subscription = await service.bus.subscribe(actor_subject("played", "worker"), worker.on_message)
    yield worker
    await subscription.aclose()


async def test_what_is_ready_and_what_waits_is_pinned_until_it_is_done() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("system: {{x}}{{out}}", reads={"x": "one"}, writes="a", model="scripted")
        await run.run("system: {{x}}!{{out}}", reads={"x": ref("user")}, writes="b", model="scripted")
        ready, waiting = ["system: ", "one"], ["system: "]
        await eventually(lambda: worker.pinned(ready, waiting))
        assert worker.pins[-1][0] == prefix_hashes(["system: "])[0], "what most need comes first"
        await run.set("a", "by hand")
        await eventually(lambda: worker.pinned(waiting))
        await run.set("user", "two")
        await eventually(lambda: worker.pinned(["system: ", "two", "!"]))
        await run.set("b", "by hand")
        await eventually(lambda: worker.pinned())


async def test_the_known_beginning_grows_with_every_variable_that_is_set() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        reads = {"x": [ref(f"v{number}") for number in range(4)]}
        await run.run("all:\n{{x}}{{out}}", reads=reads, model="scripted")
        await eventually(lambda: worker.pinned(["all:\n"]))
        await run.set("v1", "1")
        await run.set("v0", "0")
        await eventually(lambda: worker.pinned(["all:\n", "0", "\n", "1", "\n"]))
        await run.set("v2", "2")
        await eventually(lambda: worker.pinned(["all:\n", "0", "\n", "1", "\n", "2", "\n"]))
        await run.session.close()
        await eventually(lambda: worker.pinned())


async def test_a_task_that_fails_needs_nothing_any_more() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("first {{x}}{{out}}", reads={"x": ref("user")}, writes="a", model="scripted")
        await run.run("second {{x}} {{y}}{{out}}", reads={"x": ref("a"), "y": ref("user")}, model="scripted")
        await eventually(lambda: worker.pinned(["first "], ["second "]))
        await run.session.cancel("a")
        assert (await run.error("out")).code == "input_failed"
        await eventually(lambda: worker.pinned())


async def test_a_worker_is_told_when_it_changes_and_when_it_began_anew() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("system: {{x}}{{out}}", reads={"x": ref("user")}, model="scripted")
        await eventually(lambda: worker.pinned(["system: "]))
        num_told = len(worker.pins)
        for _ in range(5):
            await worker.say()
        await service.report()  # the registry has read them
        assert len(worker.pins) == num_told
        worker.pins.clear()
        await worker.say(state="loading", engine=None)
        await eventually(lambda: worker.pinned(["system: "]))
        assert len(worker.pins) == 1


async def test_a_worker_without_a_prefix_tree_is_told_nothing() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("system: {{x}}{{out}}", reads={"x": ref("user")}, model="scripted")
        await eventually(lambda: "submitted" in service.kinds("out"))
        for engine in (None, EngineReport(num_running=1)):
            await worker.say(engine=engine)
            await service.report()
        await worker.say(state="loading")
        await service.report()
        assert worker.pins == []


async def test_only_the_most_needed_are_told() -> None:
    config = CoordinatorConfig(lease_s=10, settle_s=0, model_grace_s=60, max_pins=2)
    async with running_service(config, workers=()) as service, program(service) as run, _playing(service) as worker:
        for number in range(6):
            template = f"s{number % 2}: {{{{x}}}}{{{{user}}}}{{{{out}}}}"
            reads = {"x": str(number), "user": ref("user")}
            await run.run(template, reads=reads, writes=f"v{number}", model="scripted")

        async def are_told() -> bool:
            await worker.say()
            return bool(worker.pins) and set(worker.pins[-1]) == {*prefix_hashes(["s0: "]), *prefix_hashes(["s1: "])}

        await eventually(are_told)


async def test_what_waits_for_a_model_that_comes_later_is_pinned_there() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("system: {{x}}{{out}}", reads={"x": ref("user")})  # for the only model, and there is none yet
        await eventually(lambda: "submitted" in service.kinds("out"))
        await eventually(lambda: worker.pinned(["system: "]))


async def test_the_next_coordinator_tells_the_same_and_clears_what_nobody_needs() -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("system: {{x}}{{out}}", reads={"x": ref("user")}, model="scripted")
        await eventually(lambda: worker.pinned(["system: "]))
        await service.coordinators[0].kill()
        worker.pins.clear()
        await service.add_coordinator()
        await eventually(lambda: worker.pinned(["system: "]))
        await service.coordinators[1].kill()
        await run.set("user", "x")
        await run.set("out", "by hand")
        await service.add_coordinator()
        await eventually(lambda: worker.pinned())


async def test_a_dispatcher_that_fails_learns_again_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(workers=()) as service, program(service) as run, _playing(service) as worker:
        await run.run("one {{x}}{{out}}", reads={"x": ref("user")}, writes="a", model="scripted")
        await run.run("two{{out}}", writes="b", model="scripted")
        await eventually(lambda: worker.pinned(["one "], ["two"]))
        raised = _fail_once(monkeypatch, DispatcherActor, "_pin", lambda *_: True)
        await run.run("three {{x}}{{out}}", reads={"x": ref("user")}, writes="c", model="scripted")
        await eventually(lambda: worker.pinned(["one "], ["two"], ["three "]))
        assert raised


async def test_the_cache_of_a_worker_keeps_what_a_waiting_task_needs() -> None:
    """The whole way: the second half of a conversation finds its beginning although much else went by."""
    system = "a system prompt of a few pages: "
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(engine=lambda: make_engine(answer, num_pages=8, page_size=16, num_slots=1))
        for name, text in (("first", "hi"), ("second", ref("user"))):
            await run.run("{{system}}{{x}}{{out}}", reads={"system": system, "x": text}, writes=name)
        await run.get("first")

        async def is_pinned() -> bool:
            (status,) = (await service.report()).workers
            return status.engine is not None and status.engine.num_pinned_pages == len(system) // 16

        await eventually(is_pinned)
        for number in range(20):
            await run.run(f"something else that is long, number {number}{{{{out}}}}", writes=f"v{number}")
            await run.get(f"v{number}")
        await run.set("user", "there")
        assert await run.get("second") == expected(f"{system}there")
        await eventually(lambda: "finished" in service.kinds("second"))
        (started,) = [event for event in service.events if (event.kind, event.variable) == ("started", "second")]
        assert started.num_shared_tokens == len(system)
