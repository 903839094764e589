"""What a dispatcher decides, whatever happens and in whichever order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from parrot_mq.coordinator.config import CoordinatorConfig, Mechanisms
from parrot_mq.coordinator.dispatch.batches import Batch
from parrot_mq.coordinator.dispatch.dispatch_state import DispatchState
from parrot_mq.coordinator.protocol import Expect
from parrot_mq.coordinator.sessions.ready import ReadyGeneration
from parrot_mq.coordinator.tenants import TenantPolicy, Tenants
from parrot_mq.messages import EngineReport, GenerationProgress, Usage, WorkerStatus
from parrot_mq.program import Standing, prefix_hashes
from parrot_mq.types import Objective
from tests.coordinator.jobs import LATENCY, THROUGHPUT, make_ready

MAX_RUNNING = 2
TENANTS = Tenants({"few": TenantPolicy(max_running=MAX_RUNNING), "much": TenantPolicy(weight=3.0)})
CONFIG = CoordinatorConfig(tenants=TENANTS, max_attempts=3, min_prefill_chars=4, max_prefills=2, max_batch=4)
ENGINE = EngineReport(page_size=16, num_pages=1000)

tenants = st.sampled_from(["few", "much", "t"])
names = st.integers(0, 7).map(lambda number: f"v{number}")
workers = st.sampled_from(["w0", "w1", "w2"])
prompts = st.lists(st.sampled_from(["long " * 400, "b", "c"]), min_size=1, max_size=3)
standings = st.sampled_from([LATENCY, THROUGHPUT, replace(THROUGHPUT, group="g", group_size=3, group_kind="latency")])


def _status(worker: str = "w", *running: str, **details: Any) -> WorkerStatus:
    given: dict[str, Any] = {"state": "ready", "num_slots": 4, "engine": ENGINE, **details}
    return WorkerStatus(worker=worker, model="m", running=list(running), **given)


def _expect(key: str, *prompt: str, waits_for: tuple[str, ...] = ()) -> Expect:
    salt = key.partition(".")[0]
    return Expect(key, tuple(prefix_hashes(prompt)), prompt, waits_for, LATENCY, salt)


class DispatchModel(RuleBasedStateMachine):
    """Knows where each generation is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.ready: dict[str, float] = {}  # queued: when it expires
        self.running: dict[str, str] = {}  # at which worker
        self.expiry: dict[str, float] = {}  # of what was started
        self.states: dict[str, str] = {}

    @initialize(
        mechanisms=st.builds(
            Mechanisms,
            **{name: st.booleans() for name in ("objectives", "prefix_groups", "affinity", "costs", "fairness")},
        )
    )
    def start(self, mechanisms: Mechanisms) -> None:
        self.state = DispatchState(replace(CONFIG, mechanisms=mechanisms))

    @rule(tenant=tenants, name=names, prompt=prompts, standing=standings, time_s=st.sampled_from([3.0, 1e6]))
    def enqueue(self, tenant: str, name: str, prompt: list[str], standing: Standing, time_s: float) -> None:
        ready = make_ready(name, prompt, tenant=tenant, standing=standing)
        self.state.enqueue(ready, now=self.now, expires_at=self.now + time_s)
        if ready.key not in self.running and ready.key not in self.ready:
            self.ready[ready.key] = self.now + time_s

    @rule(tenant=tenants, name=names, prompt=prompts, waits_for=st.sets(names, max_size=2))
    def expect(self, tenant: str, name: str, prompt: list[str], waits_for: set[str]) -> None:
        key = f"{tenant}.s.{name}"
        if key not in self.running and key not in self.ready:
            names_there = tuple(f"{tenant}.s.{each}" for each in sorted(waits_for - {name}))
            self.state.expect(_expect(key, *prompt, waits_for=names_there), self.now)

    @rule(tenant=tenants, name=names, standing=standings)
    def judge(self, tenant: str, name: str, standing: Standing) -> None:
        self.state.judge([(f"{tenant}.s.{name}", standing)])

    @rule(tenant=tenants, name=names, is_by_worker=st.booleans())
    def finish(self, tenant: str, name: str, is_by_worker: bool) -> None:
        key = f"{tenant}.s.{name}"
        worker = self.running.pop(key, "")
        self.ready.pop(key, None)
        usage = Usage(num_prompt_tokens=10, num_output_tokens=5)
        producer = worker if is_by_worker else ""
        unwanted = self.state.finish([key], producer=producer, usage=usage, now=self.now)
        assert unwanted == ({worker: [key]} if worker and not is_by_worker else {})

    @rule(worker=workers, state=st.sampled_from(["ready", "ready", "loading", "draining"]), num_slots=st.integers(0, 5))
    def report(self, worker: str, state: str, num_slots: int) -> None:
        running = [key for key, at in self.running.items() if at == worker]
        progress = [GenerationProgress(key=key, begin=0, output_ids=[1, 2], num_prompt_tokens=9) for key in running[:2]]
        status = _status(worker, *running, state=state, num_slots=num_slots, progress=progress, prefilled=["t.s.v1"])
        assert self.state.report(status, self.now) == ()
        self.states[worker] = state

    @rule(worker=workers, has_started=st.booleans())
    def give_back(self, worker: str, has_started: bool) -> None:
        keys = [key for key, at in self.running.items() if at == worker]
        self._take_back(keys[:2], worker, has_started)

    @rule(worker=workers)
    def lose(self, worker: str) -> None:
        keys = [key for key, at in self.running.items() if at == worker]
        returned = self.state.lose(worker, self.now)
        assert [each.job.key for each in returned] == keys
        self._requeue(keys, {each.job.key for each in returned if each.is_queued})
        self.states.pop(worker, None)

    def _take_back(self, keys: list[str], worker: str, has_started: bool) -> None:
        returned = self.state.take_back(worker, keys, has_started=has_started, now=self.now)
        assert [each.job.key for each in returned] == keys
        queued = {each.job.key for each in returned if each.is_queued}
        if not has_started or self.states.get(worker) == "draining":
            assert queued == set(keys), "that does not count"
        self._requeue(keys, queued)

    def _requeue(self, keys: list[str], queued: set[str]) -> None:
        for key in keys:
            del self.running[key]
            if key in queued:
                self.ready[key] = self.expiry[key]

    @rule(passed_s=st.sampled_from([0.0, 0.5, 4.0, 12.0]))
    def assign(self, passed_s: float) -> None:
        self.now += passed_s
        for batch in self.state.assign(self.now):
            assert len(batch.placed) <= CONFIG.max_batch
            assert self.states[batch.worker] == "ready"
            for job, placement, _ in batch.placed:
                assert placement.worker == batch.worker
                expires_at = self.ready.pop(job.key)
                assert expires_at > self.now, "what is late is never started"
                self.expiry[job.key] = expires_at
                self.running[job.key] = batch.worker
        fair = self.state._config.mechanisms.fairness
        assert not fair or sum(key.startswith("few.") for key in self.running) <= MAX_RUNNING
        _, changed = self.state.plan_prefills()
        for worker, plan in changed.items():
            assert all(each.worker == worker for each in plan)
        self.ready = {key: at for key, at in self.ready.items() if at > self.now or self._is_queued(key)}

    def _is_queued(self, key: str) -> bool:
        return key in self.state._queue

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "state"):
            return
        self.state.check_integrity()
        assert self.state.num_running == len(self.running)
        assert self.state.num_ready == len(self.ready)
        assert {key: ledger.worker for key, ledger in self.state._holders.items()} == self.running


TestDispatchModel = DispatchModel.TestCase
TestDispatchModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


# -- rules -----------------------------------------------------------------------------------------------------------


def _state(**details: Any) -> DispatchState:
    return DispatchState(replace(CONFIG, **details))


def _enqueue(state: DispatchState, *readies: ReadyGeneration, now: float = 0.0) -> None:
    for ready in readies:
        state.enqueue(ready, now=now, expires_at=1e9)


def _names(batches: list[Batch]) -> list[str]:
    return [placed.job.generation.address.variable for batch in batches for placed in batch.placed]


def _placed(batches: list[Batch]) -> Iterator[tuple[str, str]]:
    for batch in batches:
        for placed in batch.placed:
            yield placed.job.generation.address.variable, batch.worker


def test_urgent_work_goes_first_and_what_is_judged_again_moves() -> None:
    state = _state()
    _enqueue(
        state, *[make_ready(f"b{n}", (f"{n}",), standing=THROUGHPUT) for n in range(4)], make_ready("chat", ("q",))
    )
    assert (state.num_ready, state.num_urgent) == (5, 1)
    state.judge([("t.s.b3", LATENCY)])
    state.report(_status(num_slots=2), 0.0)
    assert set(_names(state.assign(0.0))) == {"chat", "b3"}


def test_a_lost_worker_s_work_goes_on_where_it_was() -> None:
    state = _state()
    _enqueue(state, make_ready("a"))
    state.report(_status("w0"), 0.0)
    state.assign(0.0)
    progress = GenerationProgress(key="t.s.a", begin=0, output_ids=[5, 6, 7], num_prompt_tokens=3)
    state.report(_status("w0", "t.s.a", progress=[progress]), 1.0)
    (returned,) = state.lose("w0", 2.0)
    assert (returned.attempt, returned.is_queued) == (1, True)
    state.report(_status("w1"), 2.0)
    ((batch),) = state.assign(2.0)
    (placed,) = batch.placed
    assert (placed.job.generation.attempt, placed.job.generation.output_ids) == (2, (5, 6, 7))
    assert placed.placement.decision == "continued"
    state.report(_status("w1", "t.s.a", progress=[replace_progress(progress, 3, [8])]), 3.0)
    state.lose("w1", 4.0)
    assert state._queue.remove("t.s.a").generation.output_ids == (5, 6, 7, 8)  # type: ignore[union-attr]


def replace_progress(progress: GenerationProgress, begin: int, ids: list[int]) -> GenerationProgress:
    """What the second attempt says."""
    return GenerationProgress(key=progress.key, attempt=2, begin=begin, output_ids=ids)


def test_without_continuation_the_next_attempt_begins_anew() -> None:
    state = _state(mechanisms=Mechanisms(continuation=False))
    _enqueue(state, make_ready("a"))
    state.report(_status(), 0.0)
    state.assign(0.0)
    state.report(_status("w", "t.s.a", progress=[GenerationProgress(key="t.s.a", output_ids=[5])]), 1.0)
    (returned,) = state.lose("w", 2.0)
    assert returned.job.generation.output_ids == ()


def test_a_worker_that_drains_hands_over_as_often_as_it_likes() -> None:
    state = _state(max_attempts=2)
    _enqueue(state, make_ready("a"))
    for number in range(5):
        state.report(_status(f"w{number}"), 0.0)
        state.assign(0.0)
        state.report(_status(f"w{number}", "t.s.a", state="draining"), 0.0)
        (returned,) = state.take_back(f"w{number}", ["t.s.a"], has_started=True, now=0.0)
        assert (returned.attempt, returned.is_queued) == (number + 1, True)
    for number, is_queued in ((5, True), (6, False)):
        state.report(_status(f"w{number}"), 0.0)
        state.assign(0.0)
        (returned,) = state.lose(f"w{number}", 0.0)
        assert returned.is_queued is is_queued


def test_attempts_and_tokens_survive_in_the_words_of_the_worker() -> None:
    """A coordinator that takes over learns both from the one that runs it."""
    state = _state(max_attempts=3)
    state.report(_status("w", "t.s.a"), 0.0)
    progress = GenerationProgress(key="t.s.a", attempt=3, begin=0, output_ids=[1, 2], num_prompt_tokens=3)
    state.report(_status("w", "t.s.a", progress=[progress]), 0.1)
    _enqueue(state, make_ready("a"))
    assert state.is_running("t.s.a")
    (returned,) = state.lose("w", 1.0)
    assert (returned.attempt, returned.is_queued) == (3, False)
    assert returned.job.num_lost == 3


def test_what_waits_only_for_what_is_being_generated_is_prefilled_where_its_session_runs() -> None:
    state = _state()
    beginning = _expect("t.s.b", "system " * 100, waits_for=("t.s.a",))
    state.report(_status("w0"), 0.0)
    state.report(_status("w1"), 0.0)
    _enqueue(state, make_ready("a", ("first ",)))
    state.expect(beginning, 0.0)
    state.expect(_expect("t.s.c", "system " * 100, waits_for=("t.s.a", "")), 0.0)
    state.expect(_expect("t.s.d", "sys", waits_for=("t.s.a",)), 0.0)
    assert state.plan_prefills() == ([], {}), "nobody generates yet"
    ((_, worker),) = _placed(state.assign(0.0))
    planned, changed = state.plan_prefills()
    assert [each.key for each in planned] == ["t.s.b"], "the others wait for somebody else, or are short"
    assert {name: [each.key for each in plan] for name, plan in changed.items()} == {worker: ["t.s.b"]}
    assert state.plan_prefills() == ([], {}), "it is said once"
    state.report(_status(worker, "t.s.a", prefilled=["t.s.b"]), 1.0)
    state.finish(["t.s.a"], producer=worker, now=2.0)
    _enqueue(state, make_ready("b", ("system " * 100, "answer")), now=2.0)
    assert state.plan_prefills()[1] == {worker: []}
    (batch,) = state.assign(2.0)
    assert (batch.worker, batch.placed[0].placement.decision) == (worker, "holder")
    assert batch.placed[0].prefix == prefix_hashes(["system " * 100])[0]


def test_a_prefill_moves_when_its_worker_is_lost_and_ends_when_nobody_generates_what_it_waits_for() -> None:
    state = _state()
    state.report(_status("w0"), 0.0)
    _enqueue(state, make_ready("a"))
    state.assign(0.0)
    state.report(_status("w1"), 0.0)
    state._places.run("t.s", "w1")
    state.expect(_expect("t.s.b", "system " * 100, waits_for=("t.s.a",)), 0.0)
    assert [each.worker for each in state.plan_prefills()[0]] == ["w1"]
    state.lose("w1", 1.0)
    assert [each.worker for each in state.plan_prefills()[0]] == ["w0"]
    state.take_back("w0", ["t.s.a"], has_started=True, now=2.0)
    assert state.plan_prefills() == ([], {"w0": []})


def test_without_prefill_ahead_nothing_is_planned() -> None:
    state = _state(mechanisms=Mechanisms(prefill_ahead=False))
    state.report(_status(), 0.0)
    _enqueue(state, make_ready("a"))
    state.assign(0.0)
    state.expect(_expect("t.s.b", "system " * 100, waits_for=("t.s.a",)), 0.0)
    assert state.plan_prefills() == ([], {})


def test_what_a_value_has_cost_counts_and_not_what_was_expected() -> None:
    """Both tenants ask for as much; one of them gets short answers, and so more of them."""
    state = _state(tenants=Tenants())
    for number in range(400):
        _enqueue(state, *[make_ready(f"v{number}", (f"{number}",), tenant=name, max_tokens=4000) for name in "ab"])
    served = {"a": 0, "b": 0}
    for step in range(300):
        state.report(_status(num_slots=1), float(step))
        (batch,) = state.assign(float(step))
        (placed,) = batch.placed
        tenant = placed.job.tenant
        served[tenant] += 1
        usage = Usage(num_prompt_tokens=2, num_output_tokens=500 if tenant == "a" else 2000)
        state.finish([placed.job.key], producer="w", usage=usage, now=float(step))
    assert served["a"] / served["b"] == pytest.approx(4.0, rel=0.2)


def test_a_batch_of_one_prefix_names_it() -> None:
    state = _state()
    state.report(_status(num_slots=3), 0.0)
    _enqueue(state, *[make_ready(f"v{n}", ("long " * 100, f"{n}")) for n in range(2)], make_ready("other", ("z",)))
    (batch,) = state.assign(0.0)
    shared = prefix_hashes(["long " * 100])[0]
    assert {placed.job.generation.address.variable: placed.prefix for placed in batch.placed} == {
        "v0": shared,
        "v1": shared,
        "other": "",
    }


def test_a_program_that_began_first_ends_first_whatever_others_submit_meanwhile() -> None:
    """Two chains; each step is submitted when the one before has ended."""
    state = _state()
    order = []
    for name in ("first", "second"):
        _enqueue(state, make_ready("0", ("x",), session=name), now=0.0 if name == "first" else 0.1)
    for step in range(1, 8):
        state.report(_status(num_slots=1), float(step))
        (batch,) = state.assign(float(step))
        job = batch.placed[0].job
        order.append(job.generation.address.session)
        state.finish([job.key], producer="w", now=float(step))
        if int(job.generation.address.variable) < 3:
            follower = make_ready(f"{int(job.generation.address.variable) + 1}", ("x",), session=order[-1])
            _enqueue(state, follower, now=float(step))
    assert order == ["first"] * 4 + ["second"] * 3


def test_with_a_mark_the_kind_counts_and_targets_do_too() -> None:
    standing = Standing(objective=Objective(ttft_ms=100.0))
    state = _state()
    _enqueue(
        state, make_ready("plain", ("p",), session="a"), make_ready("soon", ("q",), session="b", standing=standing)
    )
    state.report(_status(num_slots=1), 0.0)
    assert _names(state.assign(0.0)) == ["soon"]


def test_prompts_that_a_worker_could_not_read_at_once_stay_here_where_others_can_overtake_them() -> None:
    state = _state(max_backlog_s=0.1)
    long = "long " * 1000
    _enqueue(state, *[make_ready(f"b{n}", (f"{n}", long), standing=THROUGHPUT) for n in range(3)])
    state.report(_status(), 0.0)
    assert _names(state.assign(0.0)) == ["b0"]
    assert state.wake_at is not None
    _enqueue(state, make_ready("chat", ("q",), session="other"))
    assert _names(state.assign(0.0)) == ["chat"]
    assert _names(state.assign(state.wake_at)) == ["b1"]
    state = _state(mechanisms=Mechanisms(pacing=False))
    _enqueue(state, *[make_ready(f"b{n}", (f"{n}", long), standing=THROUGHPUT) for n in range(3)])
    state.report(_status(), 0.0)
    assert len(_names(state.assign(0.0))) == 3


def test_what_waits_for_a_worker_with_its_prefix_is_neither_lost_nor_kept_for_ever() -> None:
    state = _state(max_attempts=5)
    prompt = "long " * 4000
    state.report(_status("holder", num_slots=1), 0.0)
    _enqueue(state, make_ready("first", (prompt, "1"), max_tokens=5))
    ((_, holder),) = _placed(state.assign(0.0))
    progress = GenerationProgress(key="t.s.first", output_ids=[1, 2, 3, 4], num_prompt_tokens=5000)
    state.report(_status("holder", "t.s.first", num_slots=1, progress=[progress]), 1.0)
    state.report(_status("other"), 1.0)
    for name in ("second", "third"):
        _enqueue(state, make_ready(name, (prompt, name), max_tokens=5), now=1.0)
    assert state.assign(1.0) == []
    assert (state.num_ready, holder) == (2, "holder")
    state.check_integrity()
    assert state.wake_at is not None
    assert 1.0 < state.wake_at <= 2.0
    state.judge([("t.s.third", THROUGHPUT)])
    assert state.finish(["t.s.third"], now=1.0) == {}
    state.finish(["t.s.first"], producer="holder", now=1.1)
    ((name, worker),) = _placed(state.assign(1.1))
    assert (name, worker) == ("second", "holder")
    _enqueue(state, make_ready("fourth", (prompt, "4"), max_tokens=5), now=1.2)
    state.assign(1.2)
    state.assign(3.0)
    assert (state.num_ready, state.num_running) == (0, 2), "a second is the longest wait"
