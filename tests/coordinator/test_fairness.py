"""Tenants share by tokens and weights; nobody gets ahead by leaving and coming back."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator.dispatch.fair_queue import FairQueue
from parrot_mq.coordinator.dispatch.fairness import MIN_DEBTS, QUANTUM_TOKENS, DeficitRoundRobin
from parrot_mq.coordinator.dispatch.job import Job
from parrot_mq.coordinator.tenants import TenantPolicy, Tenants
from tests.coordinator.jobs import LATENCY, THROUGHPUT, make_job

tenants = st.sampled_from(["big", "small", "tiny"])
names = st.integers(0, 9).map(lambda number: f"v{number}")
policies = Tenants({"small": TenantPolicy(weight=2.0), "tiny": TenantPolicy(max_running=2)})


# -- round robin -----------------------------------------------------------------------------------------------------


def _next(turns: DeficitRoundRobin) -> str:
    name = turns.next()
    assert name is not None
    return name


@settings(deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0, 20.0]), min_size=2, max_size=6),
    sizes=st.lists(st.integers(1, 20_000), min_size=2, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_what_is_spent_converges_to_the_weights_whatever_a_job_costs(
    weights: list[float], sizes: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    turns = DeficitRoundRobin(lambda name: weights[int(name)])
    spent = dict.fromkeys(map(str, range(len(weights))), 0.0)
    for index in range(len(weights)):
        turns.activate(str(index))
    for _ in range(3000):
        name = _next(turns)
        cost = rng.choice(sizes) * (1 + int(name)) / len(weights)
        turns.charge(name, cost)
        spent[name] += cost
    rounds = [spent[str(index)] / weight for index, weight in enumerate(weights)]
    bound = 2 * QUANTUM_TOKENS + 2 * max(sizes) / min(weights)
    assert max(rounds) - min(rounds) <= bound, "nobody is further ahead than a turn and a job"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_a_refund_and_a_break_change_nothing_in_the_long_run(seed: int) -> None:
    """One of two leaves whenever it can, and is charged twice what it costs and gets half of it back."""
    rng = random.Random(seed)
    turns = DeficitRoundRobin(lambda _: 1.0)
    turns.activate("steady")
    spent: Counter[str] = Counter()
    for _ in range(4000):
        turns.activate("fickle")
        name = _next(turns)
        cost = rng.randrange(1, 5000)
        if name == "fickle":
            turns.charge(name, 2 * cost)
            turns.deactivate(name)
            turns.charge(name, -cost)
        else:
            turns.charge(name, cost)
        spent[name] += cost
        turns.check_integrity()
    assert spent["fickle"] <= spent["steady"] + 3 * QUANTUM_TOKENS
    assert spent["fickle"] >= 0.4 * spent["steady"], "what it did not use while it was away is lost, and no more"


def test_who_was_away_long_owes_nothing_and_has_saved_nothing() -> None:
    turns = DeficitRoundRobin(lambda _: 1.0)
    for name in ("a", "b"):
        turns.activate(name)
    turns.charge("a", 10 * QUANTUM_TOKENS)
    turns.deactivate("a")
    for _ in range(100):
        assert turns.next() == "b"
        turns.charge("b", QUANTUM_TOKENS)
    turns.activate("a")
    served: Counter[str] = Counter()
    for _ in range(20):
        turns.charge(turn := _next(turns), QUANTUM_TOKENS)
        served[turn] += 1
    assert abs(served["a"] - served["b"]) <= 2


def test_who_comes_with_little_goes_before_those_who_are_busy() -> None:
    turns = DeficitRoundRobin(lambda _: 1.0)
    for name in ("a", "b"):
        turns.activate(name)
    for _ in range(20):
        turns.charge(_next(turns), 3 * QUANTUM_TOKENS)
    turns.activate("chat")
    assert turns.next() == "chat"
    turns.charge("chat", QUANTUM_TOKENS / 10)
    turns.deactivate("chat")
    served: Counter[str] = Counter()
    for _ in range(300):  # it comes again and again, and is ahead no more than once
        turns.activate("chat")
        turns.charge(turn := _next(turns), QUANTUM_TOKENS)
        served[turn] += 1
        if turn == "chat":
            turns.deactivate("chat")
    assert max(served.values()) - min(served.values()) <= 4, served


def test_who_is_skipped_makes_up_for_some_of_it() -> None:
    turns = DeficitRoundRobin(lambda _: 1.0)
    for name in ("a", "b"):
        turns.activate(name)
    for _ in range(50):
        assert turns.next({"a"}) == "b"
        turns.charge("b", QUANTUM_TOKENS)
    served = []
    for _ in range(20):
        turns.charge(turn := _next(turns), QUANTUM_TOKENS)
        served.append(turn)
    assert 10 < served.count("a") <= 13
    assert turns.next({"a", "b"}) is None


def test_debts_that_are_paid_off_are_not_kept() -> None:
    turns = DeficitRoundRobin(lambda _: 1.0)
    for number in range(5 * MIN_DEBTS):
        turns.activate(f"{number}")
        assert turns.next() == f"{number}"
        turns.charge(f"{number}", 2 * QUANTUM_TOKENS)
        turns.deactivate(f"{number}")
    assert len(turns._debts) <= 2 * MIN_DEBTS


# -- the queue of all tenants ----------------------------------------------------------------------------------------


class FairQueueModel(RuleBasedStateMachine):
    """Holds the same jobs by tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(policies.policy)
        self.model: dict[str, dict[str, Job]] = defaultdict(dict)
        self.running: list[Job] = []
        self.now = 0.0

    @rule(tenant=tenants, name=names, prompt=st.text("ab", min_size=1, max_size=3), is_urgent=st.booleans())
    def add(self, tenant: str, name: str, prompt: str, is_urgent: bool) -> None:
        standing = LATENCY if is_urgent else THROUGHPUT
        job = make_job(name, prompt, tenant=tenant, standing=standing, arrived_at=self.now, expires_at=self.now + 35)
        self.queue.add(job)
        self.model[tenant].setdefault(job.key, job)

    @rule(tenant=tenants, name=names)
    def remove(self, tenant: str, name: str) -> None:
        key = f"{tenant}.s.{name}"
        expected = self.model[tenant].pop(key, None)
        assert (key in self.queue) is (expected is not None)
        assert self.queue.remove(key) is expected

    @rule(tenant=tenants, name=names)
    def adopt(self, tenant: str, name: str) -> None:
        job = self.model[tenant].pop(f"{tenant}.s.{name}", None)
        assert self.queue.remove(f"{tenant}.s.{name}") is job
        if job is not None:
            self.queue.start(job, num_tokens=1.0)
            self.running.append(job)

    @rule(tenant=tenants, name=names)
    def judge(self, tenant: str, name: str) -> None:
        self.queue.judge(f"{tenant}.s.{name}", LATENCY)

    @rule(passed_s=st.floats(0, 20), steps=st.lists(st.sampled_from(["take", "take", "skip"]), max_size=6))
    def do_round(self, passed_s: float, steps: list[str]) -> None:
        self.now += passed_s
        self.queue.begin_round(self.now)
        skipped: set[tuple[str, bool]] = set()
        for step in steps:
            job = self.queue.peek()
            self._forget_late()
            if job is None:
                return
            assert job is self.model[job.tenant][job.key]
            assert job.expires_at > self.now, "what is late is never handed out"
            assert (job.tenant, True) not in skipped
            assert job.is_urgent or (job.tenant, False) not in skipped
            if step == "skip":
                self.queue.skip(job)
                skipped.add((job.tenant, job.is_urgent))
                continue
            self.queue.take(job, num_tokens=1000.0)
            del self.model[job.tenant][job.key]
            self.running.append(job)
            limit = policies.policy(job.tenant).max_running
            assert not limit or sum(each.tenant == job.tenant for each in self.running) <= limit

    def _forget_late(self) -> None:
        """What is late has gone at the latest when its tenant had its turn; nothing else has."""
        for jobs in self.model.values():
            for key in [key for key, job in jobs.items() if job.expires_at <= self.now and key not in self.queue]:
                del jobs[key]

    @rule(index=st.integers(0, 9))
    def end(self, index: int) -> None:
        if self.running:
            job = self.running.pop(index % len(self.running))
            self.queue.end(job)
            self.queue.charge(job, -100.0)

    @invariant()
    def agrees(self) -> None:
        self.queue.check_integrity()
        assert {job.key for job in self.queue} == {key for jobs in self.model.values() for key in jobs}
        assert len(self.queue) == sum(map(len, self.model.values()))
        assert bool(self.queue) is any(self.model.values())


TestFairQueueModel = FairQueueModel.TestCase
TestFairQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _take(queue: FairQueue, num_wanted: int, *, num_tokens: float = QUANTUM_TOKENS) -> list[Job]:
    queue.begin_round(0.0)
    taken: list[Job] = []
    while len(taken) < num_wanted and (job := queue.peek()) is not None:
        queue.take(job, num_tokens=num_tokens)
        taken.append(job)
    return taken


def test_every_tenant_is_in_the_next_batch_however_much_another_has() -> None:
    queue = FairQueue(Tenants().policy)
    for number in range(1000):
        queue.add(make_job(f"v{number}", ("same", str(number)), tenant="big"))
    for tenant in ("small", "tiny"):
        queue.add(make_job("only", tenant=tenant))
    assert Counter(job.tenant for job in _take(queue, 10)) == {"big": 8, "small": 1, "tiny": 1}


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_shares_are_of_tokens_and_not_of_jobs(weight: float) -> None:
    queue = FairQueue(Tenants({"small": TenantPolicy(weight=weight)}).policy)
    for number in range(3000):
        for tenant in ("big", "small"):
            queue.add(make_job(f"v{number}", tenant=tenant))
    tokens: Counter[str] = Counter()
    for _ in range(1500):
        queue.begin_round(0.0)
        job = queue.peek()
        assert job is not None
        cost = 3000.0 if job.tenant == "big" else 300.0
        queue.take(job, num_tokens=cost)
        tokens[job.tenant] += int(cost)
    assert tokens["small"] / tokens["big"] == pytest.approx(weight, rel=0.1)


def test_without_fairness_the_oldest_goes_first() -> None:
    queue = FairQueue(Tenants().policy, is_fair=False)
    for number in range(6):
        queue.add(make_job(f"v{number}", str(number), tenant="a" if number < 4 else "b", arrived_at=float(number)))
    assert [job.key for job in _take(queue, 6)] == [f"{'a' if n < 4 else 'b'}.s.v{n}" for n in range(6)]


@given(st.integers(1, 5), st.integers(0, 20))
def test_a_tenant_never_has_more_at_workers_than_it_may(max_running: int, num_wanted: int) -> None:
    assume(num_wanted > max_running)
    queue = FairQueue(Tenants(default=TenantPolicy(max_running=max_running)).policy)
    for number in range(20):
        queue.add(make_job(f"v{number}"))
    taken = _take(queue, num_wanted)
    assert len(taken) == max_running
    queue.end(taken[0])
    assert len(_take(queue, num_wanted)) == 1
