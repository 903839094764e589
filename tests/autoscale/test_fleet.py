"""The slots of a machine as the policy sees them, and what its decisions mean for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import msgspec

from parrot_mq.autoscale import Decision, Observation, PolicyConfig
from parrot_mq.autoscale.fleet import Fleet
from parrot_mq.autoscale.settings import AutoscalerConfig, ModelSettings
from parrot_mq.autoscale.slots import SlotMemory
from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.messages import AutoscalerStatus, ServiceReport, SlotState, SlotStatus, WorkerStatus

NOW = 1_763_800_000.0
POLICY = PolicyConfig(min_uptime_s=120)
CONFIG = AutoscalerConfig(
    models={
        "small": ModelSettings(slots=(0, 1, 2, 3), policy=POLICY),
        "large": ModelSettings(slots=(7,), policy=POLICY),
    }
)


def _name(slot: int) -> str:
    return CONFIG.unit_of(slot)


def _running(slot: int, *, uptime_s: float = 1000.0) -> Unit:
    return Unit(
        name=_name(slot),
        phase=UnitPhase.RUNNING,
        invocation=f"run-{slot}",
        started_at=NOW - uptime_s - 20,
        ready_at=NOW - uptime_s,
    )


def _worker(slot: int, state: str = "ready", *, num_running: int = 0) -> WorkerStatus:
    status = WorkerStatus(
        worker=f"worker-{slot}",
        model="small",
        state="ready",
        num_slots=8,
        running=[f"t.s.{number}" for number in range(num_running)],
        invocation=f"run-{slot}",
    )
    return msgspec.structs.replace(status, state=state)


def _fleet(*units: Unit, workers: tuple[WorkerStatus, ...] = (), ours: tuple[int, ...] = (0, 1, 2, 3)) -> Fleet:
    fleet = Fleet(CONFIG, {slot: SlotMemory(invocation=f"run-{slot}") for slot in ours}, "host-b")
    known = {unit.name: unit for unit in units}
    fleet.note_units({_name(slot): known.get(_name(slot), Unit(name=_name(slot))) for slot in fleet.slots}, NOW)
    for slot in fleet.slots.values():
        slot.memory.held_until = 0.0  # what is off here was not just stopped by somebody
    fleet.note_report(ServiceReport(workers=list(workers)), NOW)
    return fleet


def _see(fleet: Fleet, model: str = "small") -> Observation:
    return fleet.observe(model, None, age_s=0.0, at=5.0, now=NOW)


def _plan(fleet: Fleet, have: int, target: int) -> list[str]:
    return [str(action) for action in fleet.plan("small", Decision(target, target, have, "up", ""), NOW)]


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_workers_are_counted_by_what_they_are() -> None:
    starting = Unit(name=_name(2), phase=UnitPhase.STARTING, invocation="run-2", started_at=NOW - 5)
    fleet = _fleet(_running(0), _running(1), starting, workers=(_worker(0), _worker(1, "standby")))
    seen = _see(fleet)
    assert (seen.num_ready, seen.num_starting, seen.num_stopping) == (1, 1, 1)
    assert (seen.num_fixed, seen.num_young, seen.num_usable) == (0, 0, 4)
    assert _see(fleet, "large").num_workers == 0


def test_workers_elsewhere_and_those_of_others_count_and_are_fixed() -> None:
    elsewhere = WorkerStatus(worker="elsewhere", model="small", state="ready", num_slots=8)
    fleet = _fleet(_running(0), _running(1), workers=(_worker(0), _worker(1), elsewhere), ours=(1,))
    seen = _see(fleet)
    assert (seen.num_ready, seen.num_fixed, seen.num_usable) == (3, 2, 5)


def test_slots_in_quarantine_and_masked_ones_are_not_usable() -> None:
    fleet = _fleet(replace(_running(0), phase=UnitPhase.UNAVAILABLE), ours=())
    fleet.slots[1].memory.held_until = NOW + 1
    assert _see(fleet).num_usable == 2


def test_a_start_is_measured_once() -> None:
    fleet = _fleet(_running(0), workers=(_worker(0),))
    assert _see(fleet).loads_s == (20.0,)
    assert _see(fleet).loads_s == ()


def test_a_worker_that_is_not_heard_of_counts_for_a_while() -> None:
    """A coordinator that has just taken over may not have heard of it yet."""
    fleet = _fleet(_running(0))
    assert _see(fleet).num_starting == 1
    late = NOW + CONFIG.silent_s + 1
    for at in range(int(NOW), int(late), 5):
        fleet.note_report(ServiceReport(), float(at))
    assert fleet.observe("small", None, age_s=0.0, at=5.0, now=late).num_workers == 0


def test_after_a_gap_all_workers_have_time_to_be_heard_of_again() -> None:
    fleet = _fleet(_running(0), workers=(_worker(0),))
    fleet.note_report(ServiceReport(), NOW + 600)
    assert fleet.observe("small", None, age_s=0.0, at=5.0, now=NOW + 600).num_ready == 1


def test_a_worker_that_serves_another_model_is_a_mistake_in_the_settings() -> None:
    fleet = _fleet(_running(0), workers=(msgspec.structs.replace(_worker(0), model="other"),))
    assert fleet.mistake("small") == "parrot-worker@0.service serves 'other', and the settings say 'small'"
    assert fleet.mistake("large") == ""


# -- other machines --------------------------------------------------------------------------------------------------


def _other(name: str, state: SlotState, *, owner: Literal["", "autoscaler"] = "", problem: str = "") -> ServiceReport:
    slot = SlotStatus(slot=0, unit="parrot-worker@0.service", model="small", state=state, owner=owner)
    return ServiceReport(autoscalers=[AutoscalerStatus(autoscaler=name, slots=[slot], problem=problem)])


def test_a_machine_whose_name_comes_first_starts_workers_first() -> None:
    fleet = _fleet(ours=())
    fleet.note_report(_other("host-a", "off"), NOW)
    assert _plan(fleet, 0, 1) == []
    fleet.note_report(_other("host-a", "off", problem="the connection was closed"), NOW)
    assert _plan(fleet, 0, 1) == ["start parrot-worker@0.service"]
    fleet.note_report(_other("host-c", "off"), NOW)
    assert _plan(fleet, 0, 1) == ["start parrot-worker@0.service"]


def test_what_starts_on_another_machine_counts() -> None:
    fleet = _fleet(ours=())
    fleet.note_report(_other("host-a", "starting", owner="autoscaler"), NOW)
    assert (_see(fleet).num_starting, _see(fleet).num_fixed) == (1, 1)
    assert _plan(fleet, 1, 2) == ["start parrot-worker@0.service"]


def test_a_machine_whose_name_comes_last_gives_up_workers_first() -> None:
    fleet = _fleet(_running(0), workers=(_worker(0),))
    fleet.note_report(_other("host-c", "running", owner="autoscaler"), NOW)
    assert _plan(fleet, 2, 1) == []
    fleet.note_report(_other("host-c", "running"), NOW)
    assert _plan(fleet, 2, 1) == ["stand by parrot-worker@0.service"]


# -- what follows ----------------------------------------------------------------------------------------------------


def test_the_lowest_free_slots_are_used_first() -> None:
    fleet = _fleet(_running(1), workers=(_worker(1),))
    assert _plan(fleet, 1, 3) == ["start parrot-worker@0.service", "start parrot-worker@2.service"]


def test_one_that_stands_by_is_taken_back_before_another_is_started() -> None:
    fleet = _fleet(_running(0), _running(1), workers=(_worker(0), _worker(1, "standby", num_running=1)))
    assert _plan(fleet, 1, 3) == ["resume parrot-worker@1.service", "start parrot-worker@2.service"]


def test_the_least_busy_is_given_up_first_and_of_equals_the_newest() -> None:
    workers = (_worker(0, num_running=1), _worker(1, num_running=1), _worker(2, num_running=5))
    fleet = _fleet(_running(0), _running(1, uptime_s=500), _running(2), workers=workers)
    assert _plan(fleet, 3, 2) == ["stand by parrot-worker@1.service"]


def test_neither_a_young_one_nor_one_of_others_is_given_up() -> None:
    fleet = _fleet(_running(0), _running(1, uptime_s=60), workers=(_worker(0), _worker(1)), ours=(1,))
    assert _plan(fleet, 2, 1) == []
    assert _see(fleet).num_young == 2


def test_who_is_to_be_stopped_is_told_so_until_it_is_idle() -> None:
    fleet = _fleet(_running(0), workers=(_worker(0, "standby", num_running=1),))
    (told,) = fleet.upkeep(NOW)
    assert told.verb == "stand_by"
    fleet.note_report(ServiceReport(workers=[_worker(0, "standby")]), NOW + 2)
    (stopped,) = fleet.upkeep(NOW + 2)
    assert stopped.verb == "stop"
