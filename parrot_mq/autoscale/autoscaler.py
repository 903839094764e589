"""The actor that joins the policy and the units: it looks, decides, acts, and says what it did and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from parrot_mq.actors import Actor
from parrot_mq.autoscale.fleet import Action, Fleet
from parrot_mq.autoscale.memory import Memory, MemoryFile
from parrot_mq.autoscale.observation import Decision, Learned
from parrot_mq.autoscale.policy import PolicyState, decide
from parrot_mq.autoscale.settings import AutoscalerConfig
from parrot_mq.autoscale.slots import SlotMemory
from parrot_mq.autoscale.units import UnitPhase, Units
from parrot_mq.bus import Bus, Delivery
from parrot_mq.errors import (
    ActorError,
    ActorStopped,
    ConnectionClosed,
    ParrotError,
    ServiceManagerError,
    TransportError,
    UnitRefused,
)
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    REGISTRY_ADDRESS,
    AutoscalerStatus,
    ModelDemand,
    ScalingDecision,
    ServiceQuery,
    ServiceReport,
    StandBy,
    worker_address,
)

__all__ = ["AutoscalerActor", "AutoscalerBoard"]

ASK_TIMEOUT_S = 2.0
MAX_DECISIONS = 50
"""Of all models together, decisions that are told to those who ask."""

STANDBY_TICKS = 15
"""A worker takes work again by itself if nobody has told it for so many ticks to stand by, or half a minute."""

SAVE_S = 60.0
"""How often is kept what was learned; what changes in the slots is kept at once."""


@dataclass(frozen=True, slots=True)
class _Tick:
    """Look, decide, act."""


@dataclass(frozen=True, slots=True)
class _Tell:
    """Say how things are."""


@dataclass(slots=True)
class AutoscalerBoard:
    """What is to be seen of an autoscaler from outside its actor.

    Attributes:
        num_ticks: How often it has looked.
        ticked_at: When it has looked last (monotonic seconds); None before the first time.
        problem: Why it changes nothing at present; empty if all is well.
        decisions: The last decision of each model.
        counts: By model, workers that are ready and that start.
        on_decision: Told each decision that is new.
        on_tick: Called after each look.
    """

    num_ticks: int = 0
    ticked_at: float | None = None
    problem: str = ""
    decisions: dict[str, ScalingDecision] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    on_decision: Callable[[ScalingDecision], None] = lambda _: None
    on_tick: Callable[[], None] = lambda: None

    @property
    def status(self) -> str:
        """How it stands, in one line."""
        parts = []
        for model, (num_ready, num_starting) in self.counts.items():
            starting = f" and {num_starting} starting" if num_starting else ""
            parts.append(f"{model}: {num_ready} ready{starting}, {self.decisions[model].wanted} wanted")
        return "; ".join([*([f"nothing is changed: {self.problem}"] if self.problem else []), *parts])


class AutoscalerActor(Actor):
    """Starts and stops the workers of one machine as the work comes and goes.

    Every `tick_s` it reads how the units stand and what the coordinator says, lets the policy decide for each model,
    and begins what follows from that. It waits for nothing that takes long: what came of it is seen at the next tick.
    So there is one decision at a time, and one that is interrupted anywhere is completed or made anew.

    It changes nothing as long as the units or the work to do are unknown. What others have started counts, and is never
    stopped. When it ends, the workers go on.

    Args:
        bus: A connection.
        units: The service manager.
        config: Settings.
        name: Who this is: the machine, and the user if it runs for one.
        file: Keeps what outlives a restart.
        board: Where it leaves what is to be seen of it.
        is_dry_run: Change nothing, and say what would be done.
    """

    def __init__(
        self,
        bus: Bus,
        units: Units,
        config: AutoscalerConfig,
        *,
        name: str,
        file: MemoryFile | None = None,
        board: AutoscalerBoard | None = None,
        is_dry_run: bool = False,
    ) -> None:
        self._bus = bus
        self._units = units
        self._config = config
        self._name = name
        self._file = file or MemoryFile(None)
        self._board = board or AutoscalerBoard()
        self._is_dry_run = is_dry_run
        self._decisions: deque[ScalingDecision] = deque(maxlen=MAX_DECISIONS)
        self._standby_s = max(30.0, STANDBY_TICKS * config.tick_s)
        self._demands: dict[str, ModelDemand] = {}
        self._heard_at: float | None = None
        self._saved = b""
        self._saved_at = 0.0

    async def on_start(self) -> None:
        """Remember, make the models known, and begin to tick."""
        memory = await self._file.load()
        self._fleet = Fleet(self._config, memory.slots, self._name)
        self._states = {
            model: PolicyState(learned=memory.learned.get(model) or Learned()) for model in self._config.models
        }
        self._names = [slot.unit.name for slot in self._fleet.slots.values()]
        self._registry = self.context.system.remote(REGISTRY_ADDRESS, answers=ServiceReport)
        self._subscription = await self._bus.subscribe(COORDINATOR_STARTED, self._on_coordinator)
        self.context.tell_self_nowait(_Tell())
        self.context.tell_self_nowait(_Tick())
        self.context.every(self._config.tick_s, _Tick())

    async def on_stop(self) -> None:
        await self._subscription.aclose()
        await self._save(at_once=True)

    async def receive(self, message: object) -> None:
        match message:
            case _Tick():
                await self._tick()
            case _Tell():
                await self._tell()

    async def _on_coordinator(self, _: Delivery) -> None:
        """A new coordinator has to know at once for which models workers can be started."""
        await self.context.ref.tell(_Tell())

    # -- look, decide, act -------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        try:
            units = await self._units.read(self._names)
        except ServiceManagerError as error:
            self._note_problem(error.message)
        else:
            for slot, event in self._fleet.note_units(units, self._now()):
                self.context.log.warning(
                    event.kind, slot=slot.number, unit=slot.unit.name, model=slot.model, reason=event.reason
                )
            await self._read_report()
            for model in self._config.models:
                await self._scale(model)
            await self._act(self._fleet.upkeep(self._now()))
        await self._save()
        await self._tell()
        self._board.num_ticks += 1
        self._board.ticked_at = self.context.clock.monotonic()
        self._board.on_tick()

    async def _read_report(self) -> None:
        """Ask the coordinator; without an answer the former one gets older."""
        try:
            report: ServiceReport = await self._registry.ask(ServiceQuery(), timeout_s=ASK_TIMEOUT_S)
        except ConnectionClosed:
            raise
        except (ActorError, TransportError) as error:
            self._note_problem(error.message)
            return
        self._heard_at = self.context.clock.monotonic()
        self._demands = {demand.model: demand for demand in report.demand}
        self._fleet.note_report(report, self._now())
        self._note_problem("; ".join(filter(None, map(self._fleet.mistake, self._config.models))))

    async def _scale(self, model: str) -> None:
        if self._fleet.mistake(model):
            return
        at = self.context.clock.monotonic()
        age_s = at - self._heard_at if self._heard_at is not None else 0.0
        seen = self._fleet.observe(model, self._demands.get(model), age_s=age_s, at=at, now=self._now())
        self._board.counts[model] = seen.num_ready, seen.num_starting
        decision = decide(self._states[model], seen, self._config.models[model].policy)
        actions = self._fleet.plan(model, decision, self._now()) if decision.change else []
        self._note_decision(model, decision, actions)
        await self._act(actions)

    async def _act(self, actions: list[Action]) -> None:
        if self._is_dry_run:
            return
        starts = [action for action in actions if action.verb == "start"]
        for action in starts:
            action.slot.note_asked(self._now())
        if starts:
            await self._save()  # before the first of them runs: else nobody would know whose it is
        for action in actions:
            await self._do(action)

    async def _do(self, action: Action) -> None:
        """Do one thing; what cannot be done now is decided anew at the next tick."""
        slot, name = action.slot, action.slot.unit.name
        log = self.context.log.bind(slot=slot.number, unit=name, model=slot.model)
        try:
            match action.verb:
                case "start":
                    if slot.unit.phase is UnitPhase.FAILED:
                        await self._units.reset(name)
                    await self._units.start(name)
                    log.info("worker_start_asked")
                    # Look at once whose run it is: before anybody can start it anew, and so that no tick is lost.
                    slot.note_unit((await self._units.read([name]))[name], self._now())
                case "stop":
                    await self._units.stop(name)
                    slot.note_stopping()
                    log.info("worker_stop_asked", reason=action.reason)
                case "stand_by":
                    await self._tell_worker(action, self._standby_s)
                    slot.retiring_since = slot.retiring_since or self._now()
                case "resume":
                    await self._tell_worker(action, 0.0)
                    slot.retiring_since = None
                    log.info("worker_resumed")
        except ConnectionClosed:
            raise
        except (ServiceManagerError, ActorError, TransportError) as error:
            self._note_failed(action, error)

    async def _tell_worker(self, action: Action, duration_s: float) -> None:
        worker = action.slot.worker
        if worker is None:
            raise ActorStopped(address=action.slot.unit.name)
        remote = self.context.system.remote(worker_address(worker.worker))
        await remote.ask(StandBy(duration_s=duration_s), timeout_s=ASK_TIMEOUT_S)

    def _note_failed(self, action: Action, error: ParrotError) -> None:
        slot, reason = action.slot, error.message
        if action.verb == "start" and isinstance(error, UnitRefused):  # after other errors it may start all the same
            reason = slot.fail(self._now(), reason).reason
        self.context.log.warning("scaling_action_failed", action=action.verb, slot=slot.number, reason=reason)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _note_problem(self, problem: str) -> None:
        if bool(problem) != bool(self._board.problem):
            event = "autoscaler_held" if problem else "autoscaler_resumed"
            self.context.log.warning(event, reason=problem or "all is known again")
        self._board.problem = problem

    def _note_decision(self, model: str, decision: Decision, actions: list[Action]) -> None:
        """Tell a decision, unless it is the former one once more."""
        told = ScalingDecision(
            at=self._now(),
            model=model,
            kind=decision.kind,
            num_workers=decision.num_workers,
            target=decision.target,
            wanted=decision.wanted,
            reason=decision.reason,
            actions=[f"would {action}" if self._is_dry_run else str(action) for action in actions],
        )
        former = self._board.decisions.get(model)
        self._board.decisions[model] = told
        if former is not None and not actions and _gist(former) == _gist(told):
            return
        self._decisions.append(told)
        self._board.on_decision(told)
        self.context.log.info(
            "scaling_decided",
            model=model,
            kind=told.kind,
            have=told.num_workers,
            target=told.target,
            want=told.wanted,
            reason=told.reason,
            actions=", ".join(told.actions),
        )

    async def _tell(self) -> None:
        """Let the coordinator know, and with it everyone who asks; it serves the models as long as it hears of us."""
        slots = [slot.status() for slot in self._fleet.slots.values()]
        status = AutoscalerStatus(
            autoscaler=f"{self._name} (dry run)" if self._is_dry_run else self._name,
            at=self._now(),
            models=[] if self._is_dry_run else sorted(self._config.models),
            is_dry_run=self._is_dry_run,
            problem=self._board.problem,
            slots=slots,
            decisions=list(self._decisions),
        )
        try:
            await self._registry.tell(status)
        except ConnectionClosed:
            raise
        except TransportError as error:
            self.context.log.debug("autoscaler_status_lost", reason=error.message)

    async def _save(self, *, at_once: bool = False) -> None:
        if self._is_dry_run:
            return
        slots = {number: slot.memory for number, slot in self._fleet.slots.items() if slot.memory != SlotMemory()}
        packed = msgspec.json.encode(slots)
        now = self.context.clock.monotonic()
        if packed == self._saved and now - self._saved_at < SAVE_S and not at_once:
            return
        memory = Memory(slots=slots, learned={model: state.learned for model, state in self._states.items()})
        try:
            await self._file.save(memory)
            self._saved, self._saved_at = packed, now
        except OSError as error:  # it can still be told from the units what runs, but not any more whose it is
            self.context.log.error("autoscaler_memory_not_kept", error=str(error))

    def _now(self) -> float:
        return self.context.clock.now()


def _gist(decision: ScalingDecision) -> tuple[object, ...]:
    return decision.kind, decision.num_workers, decision.target, decision.wanted
