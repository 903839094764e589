"""What a worker tells the service manager of itself."""

from __future__ import annotations

import pytest
from parrot_workers.board import WorkerBoard
from parrot_workers.condition import DRAIN_PATIENCE_S, WorkerCondition

from parrot_mq.messages import EngineReport, LoadProgress, WorkerStatus


class _Worker:
    """A worker as its board shows it, and a clock."""

    def __init__(self) -> None:
        self.now, self.step_s = 100.0, 0.0
        self.board = WorkerBoard(read_step_s=lambda: self.step_s)
        self.condition = WorkerCondition(self.board, max_step_s=10, max_stage_s=60, monotonic=lambda: self.now)

    def loads(self, stage: str, fraction: float) -> None:
        self._become("loading", loading=LoadProgress(stage=stage, fraction=fraction))

    def runs(self, *, num: int = 0, num_tokens: int = 0, state: str = "ready") -> None:
        report = EngineReport(num_output_tokens=num_tokens)
        self._become(state, running=[str(number) for number in range(num)], engine=report)

    def _become(self, state: str, **facts: object) -> None:
        status = WorkerStatus(worker="w", model="m", state=state, num_slots=8, **facts)  # type: ignore[arg-type]
        self.board.read_status = lambda: status


@pytest.fixture
def worker() -> _Worker:
    return _Worker()


def test_a_worker_is_ready_when_its_model_is_loaded(worker: _Worker) -> None:
    assert (worker.condition.read().phase, worker.condition.read().status) == ("starting", "starting")
    worker.loads("weights", 0.4)
    assert (worker.condition.read().phase, worker.condition.read().status) == ("starting", "m: weights 40%")
    worker.runs()
    assert (worker.condition.read().phase, worker.condition.read().status) == ("ready", "m: 0/8 running, 0 tok/s")


def test_the_status_tells_load_and_speed(worker: _Worker) -> None:
    worker.runs(num=3, num_tokens=100)
    worker.condition.read()
    worker.now += 2
    worker.runs(num=3, num_tokens=182)
    assert worker.condition.read().status == "m: 3/8 running, 41 tok/s"
    worker.runs(num=3, num_tokens=182, state="draining")
    assert worker.condition.read().status == "m: 3/8 running, 0 tok/s, draining"


def test_loading_is_progress_by_stage_and_fraction(worker: _Worker) -> None:
    seen = []
    for stage, fraction in (("weights", 0.1), ("weights", 0.2), ("warm up", 0.2)):
        worker.loads(stage, fraction)
        seen.append(worker.condition.read().progress)
    assert len(set(seen)) == 3
    assert worker.condition.read().patience_s == 60


def test_a_drain_makes_progress_with_every_token(worker: _Worker) -> None:
    worker.runs(num=2, num_tokens=5)
    worker.condition.stop()
    first = worker.condition.read()
    worker.runs(num=2, num_tokens=6)
    assert worker.condition.read().progress != first.progress
    assert (first.phase, first.patience_s) == ("stopping", DRAIN_PATIENCE_S)


def test_a_worker_that_is_stopped_while_it_loads_stops(worker: _Worker) -> None:
    worker.loads("weights", 0.1)
    worker.condition.stop()
    assert worker.condition.read().phase == "stopping"


def test_a_long_step_is_stuck_and_an_idle_engine_is_not(worker: _Worker) -> None:
    worker.runs(num=1)
    worker.step_s = 9
    assert worker.condition.read().is_alive
    worker.step_s = 11
    stuck = worker.condition.read()
    assert not stuck.is_alive
    assert stuck.status == "stuck: the engine is in one step for 11 s"
    worker.step_s = 0
    worker.now += 10_000
    assert worker.condition.read().is_alive


def test_an_engine_that_is_loaded_again_must_get_on(worker: _Worker) -> None:
    worker.runs()
    worker.condition.read()
    worker.loads("weights", 0.1)
    assert worker.condition.read().phase == "ready", "the service manager is told once"
    worker.now += 59
    assert worker.condition.read().is_alive
    worker.loads("weights", 0.2)
    worker.condition.read()
    worker.now += 61
    assert not worker.condition.read().is_alive


def test_the_first_load_is_left_to_the_service_manager(worker: _Worker) -> None:
    worker.loads("weights", 0.1)
    worker.condition.read()
    worker.now += 10_000
    assert worker.condition.read().is_alive
