"""Which worker a job goes to: the paper's examples, and what holds for any load."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from parrot_mq.coordinator.dispatch.job import Job, Size
from parrot_mq.coordinator.dispatch.load import MAX_SLOWDOWN, WorkerLoad
from parrot_mq.coordinator.dispatch.placement import (
    MAX_WAITERS,
    WORK_WEIGHT,
    Full,
    Option,
    Placement,
    Placer,
    Waiting,
    find_cost,
    has_room,
)
from parrot_mq.coordinator.dispatch.residents import Residents
from parrot_mq.coordinator.dispatch.step_time import StepTimes
from parrot_mq.program import Standing
from parrot_mq.types import Objective
from tests.coordinator.jobs import LATENCY, THROUGHPUT, make_job

A100_13B = StepTimes(base_s=15.9e-3, read_s=1.76e-6, prefill_s=2.6e-4)
"""Parrot, OSDI'24, its artifact."""

PLACER = Placer()


class _Pool:
    """Workers to which jobs are sent one after the other, as a dispatcher does it."""

    def __init__(self, num_workers: int, *, num_slots: int = 256, capacity: int = 0, placer: Placer = PLACER) -> None:
        self.placer = placer
        self.loads = [
            WorkerLoad(f"w{number}", times=A100_13B, num_free=num_slots, capacity=capacity)
            for number in range(num_workers)
        ]
        self.residents = Residents()
        for load in self.loads:
            self.residents.set_capacity(load.worker, 1_000_000)
        self.num_sent = 0

    def load(self, worker: str) -> WorkerLoad:
        return next(load for load in self.loads if load.worker == worker)

    def find(self, job: Job, size: Size, *, now: float = 0.0, **details: object) -> Placement | Waiting | Full:
        held = self.residents.find(job.prefixes, size.ends)
        return self.placer.find(job, size, self.loads, held, now=now, **details)  # type: ignore[arg-type]

    def put(self, job: Job, size: Size, worker: str) -> None:
        """Send a job somewhere."""
        load = self.load(worker)
        load.add(job, size, num_held=self.residents.find(job.prefixes, size.ends).get(worker, 0))
        load.num_free -= 1
        self.num_sent += 1
        load.turn = self.num_sent
        self.residents.hold(worker, job.prefixes, size.ends)

    def send(self, job: Job, size: Size) -> str:
        """Send a job where it goes; returns where."""
        found = self.find(job, size)
        assert isinstance(found, Placement), found
        self.put(job, size, found.worker)
        return found.worker


def _size(num_shared: int, num_own: int, num_output: int) -> Size:
    """Of a prompt of two segments."""
    return Size((num_shared, num_shared + num_own), num_output)


# -- the paper's examples --------------------------------------------------------------------------------------------


def test_latency_work_goes_beside_latency_work_and_not_beside_much_throughput_work() -> None:
    """The example of section 5.4: it would cut an engine of 64,000 tokens of throughput work down to a few thousand."""
    pool = _Pool(2, capacity=100_000)
    for number in range(60):
        pool.put(make_job(f"batch{number}", (f"{number}", "x"), standing=THROUGHPUT), _size(700, 300, 66), "w0")
    for number in range(8):
        pool.put(make_job(f"chat{number}", (f"c{number}", "x")), _size(500, 100, 200), "w1")
    assert pool.load("w0").num_resident > 63_000
    found = pool.find(make_job("new", ("new", "x")), _size(500, 100, 200))
    assert isinstance(found, Placement)
    assert found.worker == "w1"
    costs = [find_cost(Option(load), make_job("new"), _size(500, 100, 200)) for load in pool.loads]
    assert costs[0].harm_s > 3 * costs[1].harm_s


def test_throughput_work_stays_away_from_a_worker_with_latency_work_if_there_is_another() -> None:
    pool = _Pool(2)
    pool.put(make_job("chat", ("c", "x")), _size(500, 100, 400), "w0")
    assert pool.send(make_job("batch", ("b", "x"), standing=THROUGHPUT), _size(1000, 100, 100)) == "w1"


def test_beside_latency_work_there_is_no_more_throughput_work_than_it_bears_until_that_has_waited_too_long() -> None:
    pool = _Pool(1)
    pool.put(make_job("chat", ("c", "x")), _size(500, 100, 400), "w0")
    (load,) = pool.loads
    size = _size(1000, 10, 100)
    num = 0
    while isinstance(pool.find(make_job(f"b{num}", (f"b{num}", "x"), standing=THROUGHPUT), size), Placement):
        pool.put(make_job(f"b{num}", (f"b{num}", "x"), standing=THROUGHPUT), size, "w0")
        num += 1
    assert num > 5
    assert load.times.step_s(load.num_read) <= MAX_SLOWDOWN * A100_13B.base_s
    assert isinstance(pool.find(make_job("chat2", ("d", "x")), size), Placement)
    aged = make_job("aged", ("e", "x"), standing=THROUGHPUT)
    aged.has_aged = True
    assert isinstance(pool.find(aged, size), Placement)


def test_a_target_for_each_token_bounds_what_runs_beside() -> None:
    pool = _Pool(1)
    tight = Standing(objective=Objective(tpot_ms=20.0))
    pool.put(make_job("chat", ("c", "x"), standing=tight), _size(500, 100, 400), "w0")
    batch = make_job("batch", ("b", "x"), standing=THROUGHPUT)
    assert isinstance(pool.find(batch, _size(1000, 10, 100)), Placement)
    assert pool.find(batch, _size(3000, 10, 100)) == Full()


# -- prefixes --------------------------------------------------------------------------------------------------------


def test_the_siblings_of_a_prefix_that_is_new_everywhere_go_to_one_worker() -> None:
    """Their own parts are short against what they share: computing and reading that once more costs more."""
    pool = _Pool(4)
    workers = {pool.send(make_job(f"v{number}", ("long", f"{number}")), _size(6000, 20, 50)) for number in range(8)}
    assert len(workers) == 1


def test_a_job_goes_where_its_prefix_is_and_says_so() -> None:
    pool = _Pool(3)
    pool.residents.hold("w1", make_job("x", ("long", "1")).prefixes, (3000, 3010))
    found = pool.find(make_job("new", ("long", "2")), _size(3000, 10, 100))
    assert isinstance(found, Placement)
    assert (found.worker, found.decision, found.num_held) == ("w1", "holder", 3000)
    assert found.prefix == make_job("new", ("long", "2")).prefixes[0].hash
    assert "3000 of the 3010 tokens" in found.reason


def test_a_hot_prefix_is_brought_to_another_worker_when_its_holder_is_full() -> None:
    pool = _Pool(2)
    pool.residents.hold("w0", make_job("x", ("long", "1")).prefixes, (3000, 3010))
    for number in range(256):
        pool.put(make_job(f"v{number}", (f"{number}", "x")), _size(10, 10, 1000), "w0")
    found = pool.find(make_job("new", ("long", "2")), _size(3000, 10, 100))
    assert isinstance(found, Placement)
    assert (found.worker, found.decision) == ("w1", "replica")


def test_the_load_of_equal_workers_is_even() -> None:
    pool = _Pool(4)
    workers = Counter(
        pool.send(make_job(f"v{number}", (f"{number}", "x")), _size(500, 10, 100)) for number in range(80)
    )
    assert set(workers.values()) == {20}


@settings(deadline=None, max_examples=60)
@given(
    num_shared=st.integers(0, 8000),
    num_own=st.integers(1, 2000),
    num_output=st.integers(1, 1000),
    num_jobs=st.integers(10, 120),
)
def test_imbalance_for_the_sake_of_a_prefix_is_bounded_by_what_it_saves(
    num_shared: int, num_own: int, num_output: int, num_jobs: int
) -> None:
    """Whoever goes to a busy worker costs there, in slower steps, no more than the prefix would cost elsewhere."""
    pool = _Pool(3)
    size = _size(num_shared, num_own, num_output)
    for number in range(num_jobs):
        job = make_job(f"v{number}", ("long", f"{number}"))
        held = pool.residents.find(job.prefixes, size.ends)
        before = {load.worker: find_cost(Option(load), job, size).total_s for load in pool.loads}
        worker = pool.send(job, size)
        assert before[worker] - min(before.values()) <= _saved_s(size, pool.load(worker)) or worker not in held


def _saved_s(size: Size, load: WorkerLoad) -> float:
    """The most that having the prefix at hand can save: computing it, and reading it in each step, for all there."""
    own_s = size.ends[0] * (A100_13B.prefill_s + size.num_output * A100_13B.read_s)
    return 1e-6 + own_s * (1 + len(load)) + WORK_WEIGHT * own_s


def test_without_affinity_it_does_not_matter_who_has_what() -> None:
    pool = _Pool(2, placer=Placer(uses_affinity=False))
    workers = Counter(
        pool.send(make_job(f"v{number}", ("long", f"{number}")), _size(6000, 20, 50)) for number in range(8)
    )
    assert set(workers.values()) == {4}


def test_what_a_worker_has_is_known_whatever_the_choice_depends_on() -> None:
    """Else a prompt that is there already would count as one that has to be read."""
    for placer in (Placer(uses_affinity=False), Placer(uses_costs=False)):
        pool = _Pool(1, placer=placer)
        job, size = make_job("v", ("long", "1")), _size(6000, 20, 50)
        pool.residents.hold("w0", make_job("x", ("long", "2")).prefixes, size.ends)
        found = pool.find(job, size)
        assert isinstance(found, Placement)
        assert (found.num_held, found.decision) == (6000, "least_harm")


def test_without_costs_the_workers_take_turns() -> None:
    pool = _Pool(3, placer=Placer(uses_costs=False))
    workers = [pool.send(make_job(f"v{number}", ("long", f"{number}")), _size(6000, 20, 50)) for number in range(6)]
    assert workers == ["w0", "w1", "w2", "w0", "w1", "w2"]


# -- groups, sessions, continuation ----------------------------------------------------------------------------------


def test_the_decision_names_the_group_the_session_and_the_continuation() -> None:
    pool = _Pool(1)
    group = replace(THROUGHPUT, group="t.s.sum", group_size=3)
    found = pool.find(make_job("a"), Size((10,), 10), session_worker="w0")
    assert isinstance(found, Placement)
    assert found.decision == "session"
    found = pool.find(make_job("a"), Size((10,), 10))
    assert isinstance(found, Placement)
    assert found.decision == "least_harm"
    pool.put(make_job("m1", standing=group), Size((10,), 10), "w0")
    found = pool.find(make_job("m2", ("y",), standing=group), Size((10,), 10))
    assert isinstance(found, Placement)
    assert (found.decision, found.reason) == ("group", "1 of its node group are there")
    begun = make_job("m3", standing=group)
    begun.generation = replace(begun.generation, output_ids=(1, 2, 3))
    found = pool.find(begun, Size((10,), 10))
    assert isinstance(found, Placement)
    assert found.decision == "continued"


def test_of_workers_that_cost_the_same_the_one_where_the_session_ran_is_taken() -> None:
    pool = _Pool(3)
    found = pool.find(make_job("a"), Size((10,), 10), session_worker="w2")
    assert isinstance(found, Placement)
    assert (found.worker, found.decision) == ("w2", "session")


# -- waiting ---------------------------------------------------------------------------------------------------------


def _nearly_done(num_left: int = 1) -> _Pool:
    """The holder has no slot, but its jobs end in so many steps; another worker is idle."""
    pool = _Pool(2)
    pool.loads[0].num_free = 4
    pool.residents.hold("w0", make_job("x", ("long", "1")).prefixes, (5000, 5010))
    for number in range(4):
        pool.put(make_job(f"v{number}", (f"{number}", "x")), _size(10, 10, 100), "w0")
        pool.load("w0").progress(f"t.s.v{number}", num_generated=100 - num_left)
    return pool


def test_a_job_waits_for_the_holder_if_that_is_quicker_than_computing_its_prefix() -> None:
    pool = _nearly_done()
    job, size = make_job("new", ("long", "2")), _size(5000, 10, 100)
    found = pool.find(job, size, now=50.0)
    assert isinstance(found, Waiting)
    assert found.worker == "w0"
    assert 50.0 < found.until <= 50.0 + min(PLACER.max_wait_s, 5000 * A100_13B.prefill_s)


def test_it_waits_no_longer_than_it_was_to_and_than_computing_would_have_taken() -> None:
    pool = _nearly_done()
    job, size = make_job("new", ("long", "2")), _size(5000, 10, 100)
    first = pool.find(job, size, now=50.0)
    assert isinstance(first, Waiting)
    job.waits_since = 50.0
    second = pool.find(job, size, now=50.5)
    assert isinstance(second, Waiting)
    assert second.until == first.until
    assert isinstance(pool.find(job, size, now=first.until), Placement)


def test_nobody_waits_for_a_worker_that_is_busy_for_long_or_waited_for_by_many() -> None:
    size = _size(5000, 10, 100)
    assert isinstance(_nearly_done(num_left=100).find(make_job("new", ("long", "2")), size), Placement)
    for num_waiting in (4, MAX_WAITERS):
        pool = _nearly_done()
        pool.load("w0").progress("t.s.v3", num_generated=0)
        found = pool.find(make_job("new", ("long", "2")), size, num_waiting={"w0": num_waiting})
        assert isinstance(found, Placement), "the last slot is busy for long"


def test_a_job_waits_for_a_holder_that_has_to_read_first_rather_than_have_its_prefix_computed_elsewhere() -> None:
    pool = _Pool(2, placer=replace(PLACER, max_backlog_s=0.3))
    size = _size(5000, 10, 100)
    pool.residents.hold("w0", make_job("x", ("long", "1")).prefixes, size.ends)
    pool.put(make_job("before", ("b", "x")), _size(2000, 10, 100), "w0")
    backlog_s = pool.load("w0").backlog_s(0.0)
    assert backlog_s > 0.3
    found = pool.find(make_job("new", ("long", "2")), size)
    assert isinstance(found, Waiting)
    assert found.worker == "w0"
    assert 0.0 < found.until <= backlog_s
    short = pool.find(make_job("short", ("new", "2")), _size(100, 10, 100))
    assert isinstance(short, Placement)
    assert short.worker == "w1"


# -- room ------------------------------------------------------------------------------------------------------------


def test_a_worker_that_has_nothing_takes_anything() -> None:
    load = WorkerLoad("w", num_free=1, capacity=100)
    assert has_room(Option(load), make_job("huge"), Size((1000,), 1000))
    load.add(make_job("small"), Size((10,), 10), num_held=0)
    assert not has_room(Option(load), make_job("huge"), Size((1000,), 1000))
    assert has_room(Option(load), make_job("next", ("y",)), Size((50,), 70)), "half of the outputs counts"
    assert not has_room(Option(load), make_job("next", ("y",)), Size((50,), 71))
    assert has_room(Option(load, num_held=50, num_in_use=50), make_job("next", ("y",)), Size((50,), 71))


def test_room_that_is_too_small_is_kept_for_the_job_that_needs_more_of_it() -> None:
    pool = _Pool(2, capacity=1000)
    pool.put(make_job("a", ("a",)), Size((700,), 100), "w0")
    pool.put(make_job("b", ("b",)), Size((500,), 100), "w1")
    assert pool.find(make_job("large", ("c",)), Size((800,), 100)) == Full("w1")


def test_without_a_slot_nothing_is_kept() -> None:
    assert _Pool(2, num_slots=0).find(make_job("a"), Size((10,), 10)) == Full()
    assert Placer().find(make_job("a"), Size((10,), 10), [], {}, now=0.0) == Full()
    assert LATENCY.is_urgent


# -- pacing ----------------------------------------------------------------------------------------------------------


def test_a_worker_gets_no_more_prompts_than_it_reads_in_a_moment_and_more_when_it_has_read_some() -> None:
    pool = _Pool(1, placer=Placer(max_backlog_s=0.3))
    size = _size(10, 1000, 50)
    jobs = [make_job(f"v{number}", (f"{number}", "x"), standing=THROUGHPUT) for number in range(4)]
    for job in jobs[:2]:
        pool.send(job, size)
    found = pool.find(jobs[2], size)
    assert isinstance(found, Full)
    assert found.until is not None
    assert 0.0 < found.until < 1010 * 2 * A100_13B.prefill_s
    assert isinstance(pool.find(jobs[2], size, now=found.until), Placement)
    for job in jobs[:2]:
        pool.loads[0].progress(job.key, num_generated=0)
    assert isinstance(pool.find(jobs[2], size), Placement), "a heartbeat says that all is read"


def test_what_somebody_reads_as_it_comes_is_not_kept_back_by_prompts_of_batches() -> None:
    pool = _Pool(1, placer=Placer(max_backlog_s=0.1))
    pool.put(make_job("batch", ("b", "x"), standing=THROUGHPUT), _size(10, 1000, 50), "w0")
    assert isinstance(pool.find(make_job("more", ("m", "x"), standing=THROUGHPUT), _size(10, 10, 5)), Full)
    assert isinstance(pool.find(make_job("chat", ("c", "x")), _size(10, 10, 5)), Placement)


def test_prompts_go_where_nobody_is_in_a_hurry() -> None:
    """A step that may take 20 ms has time for few tokens of prompts beside the decoding."""
    pool = _Pool(2)
    tight = Standing(objective=Objective(tpot_ms=20.0))
    pool.put(make_job("chat", ("c", "x"), standing=tight), _size(10, 10, 400), "w0")
    pool.put(make_job("batch", ("b", "x"), standing=THROUGHPUT), _size(10, 2000, 400), "w1")
    assert pool.loads[0].prefill_s > 3 * A100_13B.prefill_s == 3 * pool.loads[1].prefill_s
    assert pool.send(make_job("long", ("l", "x"), standing=THROUGHPUT), _size(10, 1500, 20)) == "w1"


def test_where_throughput_work_will_come_latency_work_keeps_together() -> None:
    pool = _Pool(2)
    size = _size(10, 100, 200)
    pool.put(make_job("first", ("f", "x")), size, "w0")
    for share, worker in ((0.0, "w1"), (1.0, "w0")):
        found = pool.find(make_job("second", ("s", "x")), size, throughput_share=share)
        assert isinstance(found, Placement)
        assert found.worker == worker
