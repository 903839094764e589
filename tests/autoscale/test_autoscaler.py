"""An autoscaler in a simulated service: real coordinator, real policy, units and workers in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from structlog.testing import capture_logs

from parrot_mq import Input, Output, semantic_function
from parrot_mq.actors import ActorRef, ActorSystem, RemoteRef
from parrot_mq.autoscale import PolicyConfig
from parrot_mq.autoscale.autoscaler import AutoscalerActor, AutoscalerBoard
from parrot_mq.autoscale.memory import MemoryFile
from parrot_mq.autoscale.settings import AutoscalerConfig, ModelSettings
from parrot_mq.autoscale.units import UnitPhase
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.messages import REGISTRY_ADDRESS, STREAM_DEAD, AutoscalerStatus, ServiceQuery, ServiceReport
from parrot_mq.tasks import task_group
from parrot_mq.testing import SimulatedService, run_simulation, simulated_service
from parrot_mq.types import fresh_id
from tests.autoscale.simulated_units import SimulatedUnits

MODEL = "simulated"
QUICK = PolicyConfig(max_workers=4, down_window_s=60, down_step_s=10, min_uptime_s=20, idle_to_zero_s=60)


@semantic_function
def write(about: Input, text: Output = Output(max_tokens=40, ignore_eos=True)) -> None:
    """Write about {{about}}: {{text}}"""


def _unit(slot: int) -> str:
    return f"parrot-worker@{slot}.service"


def _config(policy: PolicyConfig = QUICK, **settings: object) -> AutoscalerConfig:
    model = ModelSettings(slots=(0, 1, 2, 3), policy=policy)
    return AutoscalerConfig(models={MODEL: model}, **settings)  # type: ignore[arg-type]


@dataclass(slots=True)
class World:
    """A service without workers, and units to run them."""

    service: SimulatedService
    units: SimulatedUnits

    @asynccontextmanager
    async def autoscaler(
        self,
        config: AutoscalerConfig | None = None,
        path: Path | None = None,
        *,
        name: str = "host-a",
        is_dry_run: bool = False,
    ) -> AsyncIterator[AutoscalerBoard]:
        """Run an autoscaler during the block."""
        board = AutoscalerBoard()
        bus = self.service.connect()
        with MemoryFile(path) as file:

            def make() -> AutoscalerActor:
                return AutoscalerActor(
                    bus,
                    self.units,
                    config or _config(),
                    name=name,
                    file=file,
                    board=board,
                    is_dry_run=is_dry_run,
                )

            async with bus, ActorSystem(fresh_id("autoscaler"), bus=bus, clock=self.service.clock) as system:
                ref: ActorRef = await system.spawn(make, name="autoscaler")
                yield board
                await ref.stop()

    async def work(self, num_tasks: int) -> list[str]:
        """Let so many tasks be done; returns the results."""
        async with self.service.client().session(fresh_id("work")) as session:
            variables = [write.using(session=session)(f"subject {number}") for number in range(num_tasks)]
            return list(await asyncio.gather(*(variable.get(timeout_s=3000) for variable in variables)))

    async def wait(self, condition: Callable[[], bool], within_s: float = 600) -> None:
        """Let simulated time pass until a condition holds."""
        async with asyncio.timeout(within_s):
            while not condition():
                await self.service.clock.sleep(0.5)

    def started(self) -> list[str]:
        """Units that the autoscaler has asked to start, in order."""
        return [name for verb, name in self.units.calls if verb == "start"]

    def stopped(self) -> list[str]:
        """Units that the autoscaler has asked to stop, in order."""
        return [name for verb, name in self.units.calls if verb == "stop"]


def _simulate(main: Callable[[World], Awaitable[None]], *, models: tuple[str, ...] = ()) -> None:
    async def run() -> None:
        coordinator = CoordinatorConfig(settle_s=0.1, model_grace_s=600.0, models=models)
        async with simulated_service(coordinator=coordinator, workers=()) as service, task_group() as group:
            units = SimulatedUnits(service, group)
            await main(World(service, units))
            await units.stop_all()

    run_simulation(run)


def test_workers_come_with_the_work_and_go_after_it() -> None:
    """From none to several and back; the model is served although no worker has ever run."""

    async def main(world: World) -> None:
        async with world.autoscaler() as board:
            await world.wait(lambda: board.num_ticks > 0)
            texts = await world.work(300)
            assert len(texts) == 300
            assert all(texts)
            assert world.units.most > 1
            await world.wait(lambda: not world.units.running)
            assert set(world.stopped()) == set(world.started())
            assert board.status == f"{MODEL}: 0 ready, 0 wanted"

    _simulate(main)


def test_what_an_operator_has_started_is_used_and_never_stopped() -> None:
    async def main(world: World) -> None:
        world.units.begin(_unit(0))
        await world.wait(lambda: world.units.running == [_unit(0)])
        async with world.autoscaler():
            await world.work(300)
            assert _unit(0) not in world.started()
            await world.wait(lambda: world.units.running == [_unit(0)])
            await world.service.clock.sleep(3600)
            assert world.units.running == [_unit(0)]
            assert _unit(0) not in world.stopped()

    _simulate(main)


def test_an_autoscaler_that_may_adopt_stops_what_others_have_started() -> None:
    async def main(world: World) -> None:
        world.units.begin(_unit(0))
        async with world.autoscaler(_config(adopt=True)):
            await world.wait(lambda: world.stopped() == [_unit(0)])

    _simulate(main)


def test_one_that_was_killed_knows_its_workers_when_it_is_back(tmp_path: Path) -> None:
    """Also those that it had only asked to start."""

    async def main(world: World) -> None:
        path = tmp_path / "autoscaler.json"
        async with task_group() as group:
            async with world.autoscaler(path=path):
                work = group.create_task(world.work(100), name="work")
                await world.wait(lambda: bool(world.started()))
            assert not world.units.running
            async with world.autoscaler(path=path):
                assert all(await work)
                await world.wait(lambda: not world.units.running)

    _simulate(main)


def test_without_its_memory_it_leaves_alone_what_runs() -> None:
    async def main(world: World) -> None:
        async with world.autoscaler():
            await world.work(20)
        running = world.units.running
        assert running
        async with world.autoscaler():
            await world.service.clock.sleep(1800)
        assert world.units.running == running

    _simulate(main)


def test_a_slot_where_no_worker_starts_is_left_alone_for_ever_longer() -> None:
    async def main(world: World) -> None:
        world.units.broken = {_unit(0)}
        with capture_logs() as logs:
            async with world.autoscaler(_config(PolicyConfig(min_workers=4, max_workers=4))):
                await world.wait(lambda: world.units.running == [_unit(1), _unit(2), _unit(3)])
                await world.service.clock.sleep(900)
        failures = [entry["reason"] for entry in logs if entry["event"] == "worker_start_failed"]
        assert [reason.rpartition("for ")[2] for reason in failures] == ["60 s", "120 s", "240 s", "480 s"]
        assert world.started().count(_unit(0)) == 4

    _simulate(main)


def test_a_slot_that_is_masked_or_refused_is_passed_over() -> None:
    async def main(world: World) -> None:
        world.units.masked, world.units.refused = {_unit(0)}, {_unit(1)}
        async with world.autoscaler():
            assert all(await world.work(5))
        assert world.units.running == [_unit(2)]

    _simulate(main)


def test_what_somebody_has_stopped_is_not_started_again_at_once() -> None:
    async def main(world: World) -> None:
        config = _config(PolicyConfig(min_workers=1, max_workers=1))
        async with world.autoscaler(config):
            await world.wait(lambda: world.units.running == [_unit(0)])
            world.units.end(_unit(0))
            await world.wait(lambda: world.units.running == [_unit(1)])

    _simulate(main)


def test_a_worker_that_crashed_is_restarted_by_systemd_and_stays_the_autoscalers() -> None:
    async def main(world: World) -> None:
        async with task_group() as group, world.autoscaler():
            work = group.create_task(world.work(200), name="work")
            await world.wait(lambda: bool(world.units.running))
            (name, *_) = world.units.running
            await world.units.crash(name)
            await world.wait(lambda: world.units.unit(name).num_restarts == 1)
            assert all(await work)
            await world.wait(lambda: not world.units.running)
            assert name in world.stopped()

    _simulate(main)


def test_autoscalers_of_several_machines_do_not_do_the_same_thing_twice() -> None:
    async def main(world: World) -> None:
        async with task_group() as group:
            other = World(world.service, SimulatedUnits(world.service, group))
            async with world.autoscaler(name="host-a"), other.autoscaler(name="host-b"):
                await world.service.clock.sleep(5)
                assert all(await world.work(5))
                assert len(world.started() + other.started()) == 1
                await world.wait(lambda: not world.units.running)
                assert all(await world.work(600))
                assert world.units.running
                await world.wait(lambda: not world.units.running + other.units.running, within_s=3600)
            await other.units.stop_all()

    _simulate(main)


def test_a_worker_is_not_stopped_while_something_runs_on_it() -> None:
    async def main(world: World) -> None:
        async with task_group() as group, world.autoscaler():
            work = group.create_task(world.work(300), name="work")
            while not work.done():
                for name in world.stopped():
                    assert world.units.unit(name).phase is not UnitPhase.RUNNING
                await world.service.clock.sleep(0.5)
            assert all(work.result())
        dead = world.service.server.streams[STREAM_DEAD].after(0)
        assert not list(dead)

    _simulate(main)


def test_while_the_service_manager_is_away_nothing_is_changed() -> None:
    async def main(world: World) -> None:
        world.units.is_away = True
        async with task_group() as group, world.autoscaler() as board:
            work = group.create_task(world.work(5), name="work")
            await world.service.clock.sleep(60)
            assert "D-Bus" in board.problem
            assert not world.units.calls
            world.units.is_away = False
            assert all(await work)
            assert board.problem == ""

    _simulate(main)


def test_while_no_coordinator_answers_nothing_is_changed() -> None:
    async def main(world: World) -> None:
        async with world.autoscaler() as board:
            await world.work(100)
            running = world.units.running
            calls = list(world.units.calls)
            await world.service.coordinators[0].stop()
            await world.service.clock.sleep(1800)
            assert board.problem
            assert world.units.running == running
            assert world.units.calls == calls
            await world.service.start_coordinator()
            await world.wait(lambda: not world.units.running)

    _simulate(main)


def test_a_dry_run_says_what_it_would_do_and_does_nothing() -> None:
    async def main(world: World) -> None:
        async with task_group() as group:
            work = group.create_task(world.work(5), name="work")
            async with world.autoscaler(is_dry_run=True) as board:
                await world.wait(lambda: board.num_ticks > 2)
                decision = board.decisions[MODEL]
                assert decision.kind == "activate"
                assert decision.actions == [f"would start {_unit(0)}"]
                assert world.units.calls == []
            async with world.autoscaler():
                await world.wait(lambda: bool(world.started()))
                async with world.autoscaler(is_dry_run=True) as beside:
                    await world.wait(lambda: beside.num_ticks > 2)
                assert all(await work)

    _simulate(main, models=(MODEL,))


def test_while_a_slot_serves_another_model_nothing_is_changed_for_this_one() -> None:
    async def main(world: World) -> None:
        other = ModelSettings(slots=(0, 1), policy=PolicyConfig(min_workers=1, max_workers=2))
        async with world.autoscaler(AutoscalerConfig(models={"other": other})) as board:
            await world.wait(lambda: "serves 'simulated', and the settings say 'other'" in board.problem)
            await world.service.clock.sleep(600)
        assert world.units.calls == [("start", _unit(0))]

    _simulate(main)


def test_it_tells_the_coordinator_what_it_knows_and_decided() -> None:
    async def main(world: World) -> None:
        async with world.autoscaler():
            await world.work(5)
            status = await _status(world)
        assert status.autoscaler == "host-a"
        assert status.models == [MODEL]
        assert [slot.state for slot in status.slots] == ["running", "off", "off", "off"]
        assert status.slots[0].owner == "autoscaler"
        assert status.slots[0].worker.startswith("worker-")
        decision = next(each for each in status.decisions if each.kind == "activate")
        assert decision.actions == [f"start {_unit(0)}"]
        assert decision.reason

    _simulate(main)


async def _status(world: World) -> AutoscalerStatus:
    await world.service.clock.sleep(3)
    async with world.service.connect() as bus:
        report: ServiceReport = await RemoteRef(bus, REGISTRY_ADDRESS, answers=ServiceReport).ask(
            ServiceQuery(), timeout_s=5
        )
    (status,) = report.autoscalers
    return status
