"""A service manager for simulated services: its units run simulated workers, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace

from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.errors import ServiceManagerUnavailable, UnitRefused
from parrot_mq.testing import LatencyModel, SimulatedProcess, SimulatedService, SimulatedWorker, SimulatedWorkerConfig

__all__ = ["SimulatedUnits"]

RESTART_S = 5.0
MAX_RESTARTS = 5


@dataclass(slots=True)
class SimulatedUnits:
    """Behaves as systemd does with units of `Restart=on-failure`, as far as an autoscaler can see it.

    Attributes:
        load_s: Seconds that a worker loads.
        broken: Units that never become ready.
        masked: Units that cannot be started.
        refused: Units that nobody may start.
        is_away: It does not answer.
        calls: What was asked for over the port, in order.
        most: Units that ran at the same time, at most.
        robbed: Units that were stopped over the port although somebody else had started that run.
    """

    service: SimulatedService
    group: asyncio.TaskGroup
    load_s: float = 20.0
    num_slots: int = 8
    broken: set[str] = field(default_factory=set)
    masked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    is_away: bool = False
    calls: list[tuple[str, str]] = field(default_factory=list)
    most: int = 0
    robbed: list[str] = field(default_factory=list)
    _by_port: set[str] = field(default_factory=set)  # invocations
    _units: dict[str, Unit] = field(default_factory=dict)
    _processes: dict[str, SimulatedProcess[SimulatedWorker]] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # -- the port ----------------------------------------------------------------------------------------------------

    async def read(self, names: list[str]) -> dict[str, Unit]:
        self._check_there()
        return {name: self.unit(name) for name in names}

    async def start(self, name: str) -> None:
        self._check_there()
        self.calls.append(("start", name))
        if name in self.refused:
            raise UnitRefused(unit=name, operation="start", reason="Access denied")
        if not self._runs(self.unit(name)):
            self.begin(name)
            self._by_port.add(self.unit(name).invocation)

    async def stop(self, name: str) -> None:
        self._check_there()
        self.calls.append(("stop", name))
        if self._runs(self.unit(name)) and self.unit(name).invocation not in self._by_port:
            self.robbed.append(name)
        self.end(name)

    async def reset(self, name: str) -> None:
        self._check_there()
        self.calls.append(("reset", name))
        self._units.pop(name, None)

    def _check_there(self) -> None:
        if self.is_away:
            raise ServiceManagerUnavailable(reason="the connection was closed")

    # -- what an operator does, and what happens ---------------------------------------------------------------------

    def unit(self, name: str) -> Unit:
        """How a unit stands."""
        unit = self._units.get(name) or Unit(name=name)
        return replace(unit, phase=UnitPhase.UNAVAILABLE) if name in self.masked and not self._runs(unit) else unit

    @property
    def running(self) -> list[str]:
        """Units that are ready."""
        return sorted(unit.name for unit in self._units.values() if unit.phase is UnitPhase.RUNNING)

    def begin(self, name: str, *, num_restarts: int = 0) -> None:
        """Start a unit, as `systemctl start` does; nothing if it runs."""
        if self._runs(self.unit(name)) and not num_restarts:
            return
        invocation = f"{next(self._numbers):032x}"
        former = self._units.get(name)
        if num_restarts and former is not None and former.invocation in self._by_port:
            self._by_port.add(invocation)
        self._units[name] = Unit(
            name=name,
            phase=UnitPhase.STARTING,
            invocation=invocation,
            started_at=self.service.clock.now(),
            ready_at=former.ready_at if former is not None else 0.0,
            num_restarts=num_restarts,
        )
        self.group.create_task(self._load(name, invocation), name=f"load {name}")

    def end(self, name: str) -> None:
        """Stop a unit, as `systemctl stop` does."""
        unit = self.unit(name)
        if self._runs(unit) and unit.phase is not UnitPhase.STOPPING:
            self._units[name] = replace(unit, phase=UnitPhase.STOPPING)
            self.group.create_task(self._drain(name), name=f"drain {name}")

    async def crash(self, name: str) -> None:
        """Kill the process of a unit."""
        await self._processes.pop(name).kill()
        self._end_by_itself(name, "signal")

    async def stop_all(self) -> None:
        """End everything."""
        for process in self._processes.values():
            await process.stop()

    def _runs(self, unit: Unit) -> bool:
        return unit.phase not in (UnitPhase.OFF, UnitPhase.FAILED, UnitPhase.UNAVAILABLE)

    async def _load(self, name: str, invocation: str) -> None:
        await self.service.clock.sleep(self.load_s)
        unit = self._units.get(name)
        if unit is None or unit.invocation != invocation or unit.phase is not UnitPhase.STARTING:
            return
        if name in self.broken:
            self._end_by_itself(name, "exit-code")
            return
        self._processes[name] = await self.service.start_worker(
            SimulatedWorkerConfig(
                worker_id=f"worker-{invocation[-4:]}",
                latency=LatencyModel(base_s=0.05, prefill_s=1e-4),
                num_slots=self.num_slots,
                invocation=invocation,
                tokens_per_delta=0,
            )
        )
        self._units[name] = replace(unit, phase=UnitPhase.RUNNING, ready_at=self.service.clock.now())
        self.most = max(self.most, len(self.running))

    async def _drain(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            await process.thing.drain()
            await process.stop()
        self._units.pop(name, None)

    def _end_by_itself(self, name: str, result: str) -> None:
        unit = self._units[name]
        is_final = unit.num_restarts >= MAX_RESTARTS
        phase = UnitPhase.FAILED if is_final else UnitPhase.RESTARTING
        self._units[name] = replace(unit, phase=phase, result=result)
        if not is_final:
            self.group.create_task(self._restart(name, unit.invocation), name=f"restart {name}")

    async def _restart(self, name: str, invocation: str) -> None:
        await self.service.clock.sleep(RESTART_S)
        unit = self._units.get(name)
        if unit is not None and unit.invocation == invocation and unit.phase is UnitPhase.RESTARTING:
            self.begin(name, num_restarts=unit.num_restarts + 1)
