"""A slot knows whose run is whose, whatever operators and the service manager do meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parrot_mq.autoscale import PolicyConfig
from parrot_mq.autoscale.settings import AutoscalerConfig, ModelSettings
from parrot_mq.autoscale.slots import Slot, SlotMemory
from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.messages import WorkerStatus

NAME = "parrot-worker@0.service"
MODELS = {"small": ModelSettings(slots=(0,), policy=PolicyConfig())}
CONFIG = AutoscalerConfig(models=MODELS)
NOW = 1_763_800_000.0


def _slot(config: AutoscalerConfig = CONFIG, memory: SlotMemory | None = None) -> Slot:
    return Slot(0, Unit(name=NAME), "small", config, memory or SlotMemory())


def _running(invocation: str = "a", *, started_at: float = NOW, num_restarts: int = 0) -> Unit:
    return Unit(
        name=NAME,
        phase=UnitPhase.RUNNING,
        invocation=invocation,
        started_at=started_at,
        ready_at=started_at + 10,
        num_restarts=num_restarts,
    )


def _ours(invocation: str = "a") -> Slot:
    """A slot with a run that we have started."""
    slot = _slot()
    slot.note_asked(NOW)
    slot.note_unit(_running(invocation), NOW + 10)
    assert slot.is_ours
    return slot


def _worker(state: str = "ready", *, running: tuple[str, ...] = ()) -> WorkerStatus:
    status = WorkerStatus(worker="w", model="small", state="ready", num_slots=8, running=list(running), invocation="a")
    return msgspec.structs.replace(status, state=state)


# -- whose is it -----------------------------------------------------------------------------------------------------


def test_the_run_that_appears_after_a_start_was_asked_for_is_ours() -> None:
    slot = _slot()
    slot.note_asked(NOW)
    assert slot.role(NOW) == "starting"
    starting = Unit(name=NAME, phase=UnitPhase.STARTING, invocation="a", started_at=NOW + 0.1)
    assert slot.note_unit(starting, NOW + 1) is None
    assert slot.is_ours
    assert slot.role(NOW + 1) == "starting"
    assert slot.memory.asked_at == 0


def test_a_run_that_began_before_it_was_asked_for_is_not_ours() -> None:
    slot = _slot()
    slot.note_asked(NOW)
    event = slot.note_unit(_running(started_at=NOW - 0.1), NOW + 1)
    assert event is not None
    assert event.kind == "worker_disowned"
    assert not slot.is_ours


def test_a_process_of_an_earlier_run_says_nothing_while_the_new_one_is_not_there() -> None:
    slot = _slot()
    slot.note_asked(NOW)
    early = Unit(name=NAME, phase=UnitPhase.STARTING, invocation="b", started_at=NOW - 900)
    assert slot.note_unit(early, NOW + 1) is None
    assert slot.note_unit(replace(early, started_at=NOW + 2), NOW + 2) is None
    assert slot.memory.invocation == "b"


def test_what_was_never_asked_for_is_not_ours() -> None:
    slot = _slot()
    assert slot.note_unit(_running(), NOW + 20) is None
    assert not slot.is_ours
    assert slot.must_stop(NOW + 20) == ""


def test_with_adopt_all_that_runs_is_ours() -> None:
    slot = _slot(AutoscalerConfig(models=MODELS, adopt=True))
    slot.note_unit(_running(), NOW + 20)
    assert slot.is_ours


def test_a_restart_by_systemd_stays_ours_and_one_by_hand_does_not() -> None:
    slot = _ours()
    event = slot.note_unit(_running("b", num_restarts=1), NOW + 60)
    assert event is not None
    assert (event.kind, slot.memory.invocation) == ("worker_restarted", "b")
    event = slot.note_unit(_running("c", num_restarts=0), NOW + 90)
    assert event is not None
    assert (event.kind, slot.is_ours) == ("worker_disowned", False)


def test_what_somebody_else_stopped_is_left_alone_for_a_while() -> None:
    slot = _ours()
    event = slot.note_unit(Unit(name=NAME), NOW + 60)
    assert event is not None
    assert event.kind == "worker_stopped_by_others"
    assert not slot.can_start(NOW + 60 + CONFIG.hold_s - 1)
    assert slot.can_start(NOW + 60 + CONFIG.hold_s)


def test_what_we_have_stopped_may_be_started_again_at_once() -> None:
    slot = _ours()
    slot.note_stopping()
    assert slot.role(NOW + 60) == "stopping"
    assert slot.note_unit(Unit(name=NAME), NOW + 62) is None
    assert slot.can_start(NOW + 62)


def test_what_failed_while_it_was_stopped_is_no_failed_start() -> None:
    slot = _ours()
    slot.note_stopping()
    event = slot.note_unit(replace(_running(), phase=UnitPhase.FAILED, result="timeout"), NOW + 90)
    assert event is not None
    assert event.kind == "worker_disowned"
    assert slot.can_start(NOW + 90)


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_start_that_failed_is_stopped_and_the_slot_left_alone_twice_as_long_each_time() -> None:
    slot, at, holds = _slot(), NOW, []
    for number in range(7):
        slot.note_asked(at)
        restarting = Unit(
            name=NAME, phase=UnitPhase.RESTARTING, invocation=f"run {number}", started_at=at + 1, result="exit-code"
        )
        event = slot.note_unit(restarting, at + 2)
        assert event is not None
        assert event.kind == "worker_start_failed"
        assert slot.note_unit(restarting, at + 4) is None, "it is told once"
        assert slot.must_stop(at + 4)
        slot.note_stopping()
        slot.note_unit(Unit(name=NAME), at + 6)
        assert not slot.is_ours
        holds.append(slot.memory.held_until - at - 2)
        at = slot.memory.held_until
        assert slot.can_start(at)
    assert holds == [60, 120, 240, 480, 960, 1800, 1800]


def test_one_that_was_ready_before_it_ended_is_left_to_systemd() -> None:
    slot = _ours()
    assert slot.note_unit(replace(_running(), phase=UnitPhase.RESTARTING, result="signal"), NOW + 60) is None
    assert slot.must_stop(NOW + 60) == ""
    assert slot.role(NOW + 60) == "starting"


def test_a_unit_that_was_asked_to_start_and_did_not_has_failed() -> None:
    slot = _slot()
    slot.note_asked(NOW)
    assert slot.note_unit(Unit(name=NAME), NOW + 29) is None
    event = slot.note_unit(Unit(name=NAME), NOW + 31)
    assert event is not None
    assert event.kind == "worker_start_failed"
    assert slot.role(NOW + 31) == "off"


def test_failures_are_forgotten_when_it_has_been_ready_for_long() -> None:
    slot = _ours()
    slot.memory.num_failures = 3
    slot.note_unit(_running(), NOW + 10 + CONFIG.recovery_s - 1)
    assert slot.memory.num_failures == 3
    slot.note_unit(_running(), NOW + 10 + CONFIG.recovery_s)
    assert slot.memory.num_failures == 0


# -- roles -----------------------------------------------------------------------------------------------------------


def test_a_worker_counts_as_ready_when_it_says_so() -> None:
    slot = _ours()
    assert slot.role(NOW + 12) == "starting"
    slot.note_worker(_worker(), NOW + 12)
    assert slot.role(NOW + 12) == "ready"
    assert slot.role(NOW + 12 + CONFIG.silent_s + 1) == "silent"


def test_one_that_retires_is_stopped_when_it_has_nothing_to_do() -> None:
    slot = _ours()
    slot.note_worker(_worker(running=("a.b.c",)), NOW + 20)
    slot.retiring_since = NOW + 20
    assert slot.role(NOW + 20) == "retiring"
    slot.note_worker(_worker("standby", running=("a.b.c",)), NOW + 22)
    assert slot.must_stop(NOW + 22) == ""
    slot.note_worker(_worker("standby"), NOW + 24)
    assert slot.must_stop(NOW + 24)


def test_one_that_does_not_end_is_stopped_after_a_time_all_the_same() -> None:
    slot = _ours()
    slot.retiring_since = NOW + 20
    slot.note_worker(_worker("standby", running=("a.b.c",)), NOW + 22)
    assert slot.must_stop(NOW + 20 + CONFIG.retire_timeout_s)


def test_one_that_an_earlier_autoscaler_retired_goes_on_retiring() -> None:
    slot = _slot(memory=SlotMemory(invocation="a"))
    slot.note_unit(_running(), NOW + 30)
    slot.note_worker(_worker("standby"), NOW + 30)
    assert slot.role(NOW + 30) == "retiring"


# -- whatever happens ------------------------------------------------------------------------------------------------


@dataclass
class _Machine:
    """A unit as systemd keeps it, and the truth of who started each run."""

    unit: Unit = field(default_factory=lambda: Unit(name=NAME))
    num_runs: int = 0
    by_us: set[str] = field(default_factory=set)

    def start(self, now: float, *, is_ours: bool) -> None:
        if self.unit.phase in (UnitPhase.OFF, UnitPhase.FAILED):
            self._run(now, num_restarts=0, is_ours=is_ours)

    def _run(self, now: float, *, num_restarts: int, is_ours: bool) -> None:
        self.num_runs += 1
        invocation = f"run {self.num_runs}"
        self.by_us |= {invocation} if is_ours else set()
        self.unit = Unit(
            name=NAME, phase=UnitPhase.STARTING, invocation=invocation, started_at=now, num_restarts=num_restarts
        )

    def become(self, now: float, phase: UnitPhase) -> None:
        ready_at = now if phase is UnitPhase.RUNNING else self.unit.ready_at
        self.unit = replace(self.unit, phase=phase, ready_at=ready_at)

    def restart(self, now: float) -> None:
        self._run(now, num_restarts=self.unit.num_restarts + 1, is_ours=self.unit.invocation in self.by_us)

    def restart_by_hand(self, now: float) -> None:
        self._run(now, num_restarts=0, is_ours=False)

    def end(self) -> None:
        self.unit = Unit(name=NAME)


class SlotMachine(RuleBasedStateMachine):
    """Operators, crashes, systemd's restarts and our own doing, in any order; we look only now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.systemd = _Machine()
        self.slot = _slot()

    def _is_in(self, *phases: UnitPhase) -> bool:
        return self.systemd.unit.phase in phases

    @rule(seconds=st.sampled_from([0.5, 5, 40, 700]))
    def look(self, seconds: float) -> None:
        self.now += seconds
        self.slot.note_unit(self.systemd.unit, self.now)

    @rule()
    def forget(self) -> None:
        """The autoscaler is killed, and another one begins with what is in the file."""
        memory = msgspec.json.decode(msgspec.json.encode(self.slot.memory), type=SlotMemory)
        self.slot = _slot(memory=memory)
        self.look(0.5)

    @rule()
    def scale_up(self) -> None:
        self.look(0.5)
        if self.slot.can_start(self.now):
            self.slot.note_asked(self.now)
            self.systemd.start(self.now + 0.01, is_ours=True)
            self.look(0.5)

    @rule()
    def upkeep(self) -> None:
        self.look(0.5)
        if self.slot.must_stop(self.now):
            assert self.systemd.unit.invocation in self.systemd.by_us, "somebody else's run is stopped"
            self.systemd.end()
            self.slot.note_stopping()

    @rule()
    def retire(self) -> None:
        self.look(0.5)
        if self.slot.is_ours and self._is_in(UnitPhase.RUNNING):
            self.slot.retiring_since = self.now - CONFIG.retire_timeout_s

    @rule()
    def operator_starts(self) -> None:
        self.now += 0.5
        self.systemd.start(self.now, is_ours=False)

    @precondition(lambda self: self._is_in(UnitPhase.RUNNING, UnitPhase.RESTARTING))
    @rule()
    def operator_restarts(self) -> None:
        self.now += 0.5
        self.systemd.restart_by_hand(self.now)
        self.look(0.5)  # before the next crash: what is restarted by hand and crashes between two looks looks like ours

    @rule()
    def operator_stops(self) -> None:
        self.systemd.end()

    @precondition(lambda self: self._is_in(UnitPhase.STARTING))
    @rule(phase=st.sampled_from([UnitPhase.RUNNING, UnitPhase.RESTARTING, UnitPhase.FAILED]))
    def start_ends(self, phase: UnitPhase) -> None:
        self.now += 0.5
        self.systemd.become(self.now, phase)

    @precondition(lambda self: self._is_in(UnitPhase.RUNNING))
    @rule(phase=st.sampled_from([UnitPhase.RESTARTING, UnitPhase.FAILED]))
    def crash(self, phase: UnitPhase) -> None:
        self.systemd.become(self.now, phase)

    @precondition(lambda self: self._is_in(UnitPhase.RESTARTING))
    @rule()
    def systemd_restarts(self) -> None:
        self.now += 0.5
        self.systemd.restart(self.now)

    @invariant()
    def what_is_ours_was_started_by_us(self) -> None:
        if self.slot.memory.invocation:
            assert self.slot.memory.invocation in self.systemd.by_us


SlotMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSlotMachine = SlotMachine.TestCase
