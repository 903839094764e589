"""The queues of ready generations against models that are plain lists."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator.dispatch.job import Job
from parrot_mq.coordinator.dispatch.queue import DEADLINE_SLACK_S, LATENCY_LEAD_S, Agenda, Lane, TenantQueue, due
from parrot_mq.program import Standing
from parrot_mq.types import Objective
from tests.coordinator.jobs import LATENCY, THROUGHPUT, make_job

MAX_WAIT_S = 10.0

names = st.integers(0, 15).map(lambda number: f"v{number}")
prompts = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)
standings = st.builds(
    Standing,
    objective=st.sampled_from([Objective(), Objective(kind="throughput"), Objective(ttft_ms=100.0)]),
    group=st.sampled_from(["", "", "g1", "g2"]),
    group_kind=st.sampled_from(["", "latency"]),
    stage=st.integers(0, 2),
)
times = st.floats(0, 100)


def _names(jobs: list[Job]) -> list[str]:
    return [job.generation.address.variable for job in jobs]


def _rank(job: Job) -> tuple[float, ...]:
    return due(job), -job.standing.stage, job.number


# -- agendas ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(names, times, st.booleans()), max_size=300))
def test_an_agenda_knows_the_first_whatever_was_added_and_removed(steps: list[tuple[str, float, bool]]) -> None:
    agenda = Agenda(lambda job: (job.arrived_at,))
    model: dict[str, float] = {}
    for name, at, is_added in steps:
        key = f"t.s.{name}"
        if is_added and key not in model:
            agenda.add(make_job(name, arrived_at=at))
            model[key] = at
        elif not is_added:
            agenda.remove(key)
            model.pop(key, None)
        first = agenda.first()
        assert (first is None) == (not model)
        assert first is None or (first[0][0] == min(model.values()) and model[first[1]] == first[0][0])
        assert len(agenda) == len(model)
        assert len(agenda._heap) <= 2 * len(model) + 65


# -- lanes -----------------------------------------------------------------------------------------------------------


def _belong(leader: Job, other: Job) -> int:
    """How much another job belongs to the one that leads: 0 not at all, most if it is of the same node group."""
    if leader.standing.group and leader.standing.group == other.standing.group:
        return 1000
    num_shared = 0
    for one, two in zip(leader.prefixes, other.prefixes, strict=False):
        num_shared += one == two
    return num_shared


def _next_plainly(leader: Job | None, queued: list[Job]) -> Job:
    """The rule, told plainly: who belongs most to the leader, the one that was put in first of equals; else who is
    due first."""
    if leader is not None and (best := max(_belong(leader, job) for job in queued)):
        return next(job for job in queued if _belong(leader, job) == best)
    return min(queued, key=_rank)


class LaneModel(RuleBasedStateMachine):
    """Holds the same jobs in a list, in the order in which they were put in."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane()
        self.model: list[Job] = []
        self.leader: Job | None = None

    @rule(name=names, prompt=prompts, standing=standings, place=times, expires_at=st.sampled_from([20.0, 1e9]))
    def add(self, name: str, prompt: list[str], standing: Standing, place: float, expires_at: float) -> None:
        job = make_job(name, prompt, standing=standing, place=place, expires_at=expires_at)
        if job.key not in self.lane:
            self.lane.add(job)
            self.model.append(job)

    @rule(name=names)
    def remove(self, name: str) -> None:
        assert self.lane.remove(f"t.s.{name}") in [*(job for job in self.model if job.key == f"t.s.{name}"), None]
        self.model = [job for job in self.model if job.key != f"t.s.{name}"]

    @rule()
    def begin_round(self) -> None:
        self.lane.begin_round()
        self.leader = None

    @rule(num_wanted=st.integers(1, 6))
    def take(self, num_wanted: int) -> None:
        for _ in range(num_wanted):
            job = self.lane.peek()
            assert (job is None) == (not self.model)
            if job is None:
                return
            assert job is _next_plainly(self.leader, self.model)
            if self.leader is None or not _belong(self.leader, job):
                self.leader = job
            self.lane.take(job)
            self.model.remove(job)

    @invariant()
    def agrees(self) -> None:
        self.lane.check_integrity()
        assert list(self.lane) == self.model
        assert len(self.lane) == len(self.model)


TestLaneModel = LaneModel.TestCase
TestLaneModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _take_all(lane: Lane) -> list[Job]:
    taken = []
    while (job := lane.peek()) is not None:
        lane.take(job)
        taken.append(job)
    return taken


def test_after_the_one_that_is_due_first_come_those_that_share_most_with_it() -> None:
    lane = Lane()
    for name, prompt in [("old", "ab"), ("other", "xy"), ("half", "ac"), ("same", "ab"), ("longer", "abc")]:
        lane.add(make_job(name, prompt))
    assert _names(_take_all(lane)) == ["old", "same", "longer", "half", "other"]


def test_a_node_group_goes_as_a_whole_whatever_its_members_share() -> None:
    lane = Lane()
    member = replace(THROUGHPUT, group="t.s.sum", group_size=3)
    for name, prompt, standing in [
        ("map1", "a1", member),
        ("other", "a2", THROUGHPUT),
        ("map2", "b", member),
        ("map3", "c", member),
    ]:
        lane.add(make_job(name, prompt, standing=standing))
    assert _names(_take_all(lane)) == ["map1", "map2", "map3", "other"]


def test_without_groups_the_order_is_that_of_arrival() -> None:
    lane = Lane(is_grouping=False)
    for name, prompt in [("1", "ab"), ("2", "xy"), ("3", "ab")]:
        lane.add(make_job(name, prompt, standing=replace(LATENCY, group="g")))
    assert _names(_take_all(lane)) == ["1", "2", "3"]


def test_equal_text_of_different_salts_does_not_belong_together() -> None:
    lane = Lane()
    for name, tenant in [("1", "a"), ("2", "b"), ("3", "a")]:
        lane.add(make_job(name, "xy", tenant=tenant))
    assert _names(_take_all(lane)) == ["1", "3", "2"]


def test_whoever_is_due_first_leads_every_round_however_many_share_another_prefix() -> None:
    lane = Lane()
    for number in range(5):
        lane.add(make_job(f"hot{number}", "hot"))
    lane.add(make_job("cold", "cold"))
    for number in range(5, 100):
        lane.add(make_job(f"hot{number}", "hot"))
    led = []
    for _ in range(6):
        lane.begin_round()
        job = lane.peek()
        assert job is not None
        lane.take(job)
        led.append(job)
    assert _names(led)[-1] == "cold"


def test_of_one_session_what_is_further_from_the_end_goes_first() -> None:
    lane = Lane()
    for name, stage in [("near", 0), ("far", 2), ("middle", 1)]:
        lane.add(make_job(name, name, standing=replace(LATENCY, stage=stage), place=5.0))
    assert _names(_take_all(lane)) == ["far", "middle", "near"]


def test_what_has_to_be_there_soon_overtakes_what_came_shortly_before() -> None:
    lane = Lane()
    lane.add(make_job("early", "1", arrived_at=0.0))
    lane.add(make_job("plain", "2", arrived_at=100.0))
    lane.add(make_job("tight", "3", arrived_at=101.0, expires_at=106.0))
    ttft = Standing(objective=Objective(ttft_ms=200))
    lane.add(make_job("impatient", "4", arrived_at=101.0, standing=ttft))
    assert _names(_take_all(lane)) == ["early", "impatient", "tight", "plain"]
    assert due(make_job("x", arrived_at=101.0, standing=ttft)) == 101.2 - DEADLINE_SLACK_S


def test_what_is_read_as_it_comes_overtakes_a_group_that_somebody_waits_for() -> None:
    lane = Lane()
    member = replace(THROUGHPUT, group="t.s.sum", group_size=2, group_kind="latency")
    for number in range(2):
        lane.add(make_job(f"map{number}", f"{number}", standing=member, arrived_at=0.0))
    lane.add(make_job("soon", "s", arrived_at=LATENCY_LEAD_S - 1))
    lane.add(make_job("late", "l", arrived_at=LATENCY_LEAD_S + 1))
    assert _names(_take_all(lane)) == ["soon", "map0", "map1", "late"]


# -- the queue of a tenant -------------------------------------------------------------------------------------------


class TenantQueueModel(RuleBasedStateMachine):
    """Knows of each job whether it is urgent, and what is left of its time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TenantQueue(max_wait_s=MAX_WAIT_S)
        self.jobs: dict[str, Job] = {}
        self.now = 0.0

    @rule(name=names, prompt=prompts, standing=standings, time_s=st.sampled_from([1.0, 35.0, 1e6]))
    def add(self, name: str, prompt: list[str], standing: Standing, time_s: float) -> None:
        job = make_job(name, prompt, standing=standing, arrived_at=self.now, expires_at=self.now + time_s)
        if job.key not in self.queue:
            self.queue.add(job)
            self.jobs[job.key] = job

    @rule(name=names)
    def remove(self, name: str) -> None:
        assert self.queue.remove(f"t.s.{name}") is self.jobs.pop(f"t.s.{name}", None)

    @rule(name=names, standing=standings)
    def judge(self, name: str, standing: Standing) -> None:
        self.queue.judge(f"t.s.{name}", standing)
        if (job := self.jobs.get(f"t.s.{name}")) is not None:
            assert job.standing is standing

    @rule(passed_s=st.floats(0, 12), num_wanted=st.integers(0, 5))
    def take_round(self, passed_s: float, num_wanted: int) -> None:
        self.now += passed_s
        expected_late = {key for key, job in self.jobs.items() if job.expires_at <= self.now}
        assert {job.key for job in self.queue.begin_round(self.now)} == expected_late
        self.jobs = {key: job for key, job in self.jobs.items() if key not in expected_late}
        for job in self.jobs.values():
            waited_long = job.arrived_at + MAX_WAIT_S <= self.now or job.expires_at - DEADLINE_SLACK_S <= self.now
            assert job.standing.is_urgent or job.has_aged or not waited_long
        for _ in range(num_wanted):
            urgent = self.queue.peek(only_urgent=True)
            assert (urgent is not None) is any(job.is_urgent for job in self.jobs.values())
            taken = self.queue.peek()
            if taken is None:
                assert not self.jobs
                return
            assert urgent is None or taken is urgent
            self.queue.take(taken)
            assert self.jobs.pop(taken.key) is taken

    @invariant()
    def agrees(self) -> None:
        self.queue.check_integrity()
        assert {job.key for job in self.queue} == self.jobs.keys()
        assert len(self.queue) == len(self.jobs)
        assert self.queue.num_urgent == sum(job.is_urgent for job in self.jobs.values())


TestTenantQueueModel = TenantQueueModel.TestCase
TestTenantQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 200), st.lists(standings, min_size=1, max_size=5), st.booleans())
def test_nothing_starves_however_urgent_what_comes_later_is(
    num_before: int, later: list[Standing], is_old_session: bool
) -> None:
    """One place a second, and each second one more urgent job, of a session that came up to 60 s before."""
    queue = TenantQueue(max_wait_s=MAX_WAIT_S)
    victim = make_job("victim", "v", standing=THROUGHPUT)
    queue.add(victim)
    for number in range(num_before):
        queue.add(make_job(f"before{number}", "b"))
    for second in range(num_before + 200):
        queue.begin_round(float(second))
        job = queue.peek()
        assert job is not None
        queue.take(job)
        if job is victim:
            break
        place = second - 60.0 if is_old_session else float(second)
        name, standing = f"later{second}", later[second % len(later)]
        queue.add(make_job(name, "b", standing=standing, arrived_at=float(second), place=place))
    else:
        raise AssertionError("it starved")
    assert second <= num_before + MAX_WAIT_S + 60 + max(DEADLINE_SLACK_S, LATENCY_LEAD_S) + 1


def _next_name(queue: TenantQueue) -> str:
    job = queue.peek()
    assert job is not None
    return job.generation.address.variable


def test_a_job_that_is_judged_again_keeps_its_time_of_arrival() -> None:
    queue = TenantQueue(max_wait_s=MAX_WAIT_S)
    queue.add(make_job("first", "1", standing=THROUGHPUT, arrived_at=0.0))
    queue.add(make_job("second", "2", arrived_at=1.0))
    assert _next_name(queue) == "second"
    queue.judge("t.s.first", LATENCY)
    assert _next_name(queue) == "first"
    queue.judge("t.s.nobody", LATENCY)
