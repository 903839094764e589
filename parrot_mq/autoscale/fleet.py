"""All slots of a machine and the workers in them: what the policy sees of them, and what follows from its decisions.

Pure. Times are seconds since 1970, those of the policy monotonic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from parrot_mq.autoscale.observation import Decision, Observation
from parrot_mq.autoscale.settings import AutoscalerConfig
from parrot_mq.autoscale.slots import Slot, SlotEvent, SlotMemory
from parrot_mq.autoscale.turns import count_starting, may_grow, may_shrink
from parrot_mq.autoscale.units import Unit
from parrot_mq.messages import AutoscalerStatus, ModelDemand, ServiceReport, WorkerStatus

__all__ = ["Action", "Fleet"]


REPORT_GAP_S = 10.0
"""After so long without a report, a worker that is not in the next one may still be finding its coordinator."""


class Action(NamedTuple):
    """Something to be done with a slot.

    Attributes:
        verb: `stand_by` and `resume` are said to the worker, the others to the service manager.
        slot: With which.
        reason: Why, if that does not follow from a decision.
    """

    verb: Literal["start", "stop", "stand_by", "resume"]
    slot: Slot
    reason: str = ""

    def __str__(self) -> str:
        words = f"{self.verb.replace('_', ' ')} {self.slot.unit.name}"
        return f"{words}: {self.reason}" if self.reason else words


class Fleet:
    """The slots of a machine.

    Args:
        config: Settings.
        memories: What is known of slots from before a restart.
        name: Who we are, among the autoscalers of other machines.

    Attributes:
        slots: By number.
    """

    def __init__(self, config: AutoscalerConfig, memories: Mapping[int, SlotMemory], name: str) -> None:
        self._config = config
        self._name = name
        self._autoscalers: list[AutoscalerStatus] = []
        self.slots = {
            number: Slot(number, Unit(name=config.unit_of(number)), model, config, memories.get(number) or SlotMemory())
            for model, settings in config.models.items()
            for number in settings.slots
        }
        self._others: list[WorkerStatus] = []
        self._reported_at = 0.0

    def of(self, model: str) -> list[Slot]:
        """The slots of a model, in the order in which they are used."""
        return [slot for slot in self.slots.values() if slot.model == model]

    # -- what is seen ------------------------------------------------------------------------------------------------

    def note_units(self, units: Mapping[str, Unit], now: float) -> list[tuple[Slot, SlotEvent]]:
        """Take in how the units stand; returns what happened to them by itself."""
        events = [(slot, slot.note_unit(units[slot.unit.name], now)) for slot in self.slots.values()]
        return [(slot, event) for slot, event in events if event is not None]

    def note_report(self, report: ServiceReport, now: float) -> None:
        """Take in what the workers say, by the coordinator."""
        if now - self._reported_at > REPORT_GAP_S:
            self._expect_words(now)
        self._reported_at = now
        by_invocation = {worker.invocation: worker for worker in report.workers if worker.invocation}
        known = set()
        for slot in self.slots.values():
            worker = by_invocation.get(slot.unit.invocation) if slot.is_live else None
            if worker is not None:
                slot.note_worker(worker, now)
                known.add(worker.worker)
        self._autoscalers = report.autoscalers
        self._others = [worker for worker in report.workers if worker.worker not in known]

    def mistake(self, model: str) -> str:
        """Why the workers of a model cannot be counted; empty if they can."""
        for slot in self.of(model):
            if slot.is_live and slot.worker is not None and slot.worker.model != model:
                return f"{slot.unit.name} serves {slot.worker.model!r}, and the settings say {model!r}"
        return ""

    def _expect_words(self, now: float) -> None:
        """Nobody was heard of for a while, through no fault of the workers: their time to be heard begins anew."""
        for slot in self.slots.values():
            slot.heard_at = now

    def observe(self, model: str, demand: ModelDemand | None, *, age_s: float, at: float, now: float) -> Observation:
        """What the policy sees.

        Args:
            model: Of which model.
            demand: What there is to do.
            age_s: How old that is.
            at: The time for the policy.
            now: The time for the slots.
        """
        slots = self.of(model)
        roles = {slot.number: slot.role(now) for slot in slots}
        ready = [slot for slot in slots if roles[slot.number] == "ready"]
        starting = [slot for slot in slots if roles[slot.number] == "starting"]
        retiring = [slot for slot in slots if roles[slot.number] == "retiring"]
        others = [worker.state for worker in self._others if worker.model == model]
        num_ready, num_starting = len(ready) + others.count("ready"), len(starting) + others.count("loading")
        num_starting += count_starting(self._name, model, self._autoscalers)
        num_fixed = num_ready + num_starting - sum(slot.is_ours for slot in ready + starting)
        num_startable = sum(slot.can_start(now) for slot in slots)
        return Observation(
            now=at,
            demand=demand,
            age_s=age_s,
            num_ready=num_ready,
            num_starting=num_starting,
            num_stopping=len(retiring),
            num_young=num_ready - len(self._stoppable(model, now)),
            num_fixed=num_fixed,
            num_usable=num_ready + num_starting + len(retiring) + num_startable,
            loads_s=tuple(_measure(slots)),
        )

    def _stoppable(self, model: str, now: float) -> list[Slot]:
        """Slots whose workers may be given up, those first that are missed least: the least busy, then the newest."""
        old = now - self._config.models[model].policy.min_uptime_s
        ready = [slot for slot in self.of(model) if slot.role(now) == "ready"]
        able = [slot for slot in ready if slot.is_ours and slot.unit.ready_at <= old]
        return sorted(able, key=lambda slot: (_num_running(slot), -slot.unit.ready_at))

    # -- what follows ------------------------------------------------------------------------------------------------

    def plan(self, model: str, decision: Decision, now: float) -> list[Action]:
        """What a decision means.

        One that stands by is taken back before another is started; one is asked to stand by before it is stopped.
        Nothing if it is the turn of another machine.
        """
        may_act = may_shrink if decision.change < 0 else may_grow
        if not may_act(self._name, model, self._autoscalers):
            return []
        if decision.change < 0:
            return [Action("stand_by", slot) for slot in self._stoppable(model, now)[: -decision.change]]
        retiring = [slot for slot in self.of(model) if slot.role(now) == "retiring"]
        retiring.sort(key=lambda slot: slot.retiring_since or 0.0, reverse=True)
        startable = [slot for slot in self.of(model) if slot.can_start(now)]
        actions = [Action("resume", slot) for slot in retiring] + [Action("start", slot) for slot in startable]
        return actions[: decision.change]

    def upkeep(self, now: float) -> list[Action]:
        """What is to be done whatever is decided."""
        actions = []
        for slot in self.slots.values():
            if reason := slot.must_stop(now):
                actions.append(Action("stop", slot, reason))
            elif slot.role(now) == "retiring" and slot.worker is not None:
                actions.append(Action("stand_by", slot, "it is still to be stopped"))
        return actions


def _num_running(slot: Slot) -> int:
    return len(slot.worker.running) if slot.worker is not None else 0


def _measure(slots: Iterable[Slot]) -> Iterable[float]:
    """Seconds that each start took that was not measured yet."""
    for slot in slots:
        unit = slot.unit
        if unit.was_ready and unit.invocation != slot.measured:
            slot.measured = unit.invocation
            yield unit.ready_at - unit.started_at
