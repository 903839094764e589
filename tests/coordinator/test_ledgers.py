"""What a dispatcher knows of workers: what they run, hold and have generated, and how fast they are."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator.dispatch.job import CHARACTERS_PER_TOKEN, Job, Size, SizeModel, measure, name_prefixes
from parrot_mq.coordinator.dispatch.ledger import Running, Transcript, WorkerLedger
from parrot_mq.coordinator.dispatch.load import WorkerLoad
from parrot_mq.coordinator.dispatch.places import SessionPlaces
from parrot_mq.coordinator.dispatch.residents import Residents
from parrot_mq.coordinator.dispatch.step_time import PRIOR, StepTimeModel, StepTimes
from parrot_mq.messages import BlobRef, EngineReport, GenerationProgress, WorkerStatus
from parrot_mq.program import Standing, prefix_hashes
from parrot_mq.types import Objective
from tests.coordinator.jobs import LATENCY, THROUGHPUT, make_job

names = st.integers(0, 9).map(lambda number: f"v{number}")
prompts = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)
workers = st.sampled_from(["w0", "w1", "w2"])
standings = st.sampled_from(
    [LATENCY, THROUGHPUT, Standing(objective=Objective(tpot_ms=20.0), group="g"), Standing(group="h")]
)


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_a_large_value_counts_with_its_bytes() -> None:
    assert measure(["abc", BlobRef(digest="0" * 64, size_bytes=1000), ""]) == (3, 1003, 1003)


@given(per_token=st.floats(1.0, 8.0), share=st.floats(0.05, 1.0))
def test_sizes_are_learned(per_token: float, share: float) -> None:
    sizes = SizeModel()
    job = make_job("a", ("x" * 4000,), max_tokens=1000)
    assert sizes.size(job) == Size((int(4000 / CHARACTERS_PER_TOKEN) + 1,), 1000)
    for _ in range(200):
        sizes.learn_prompt(num_characters=4000, num_tokens=int(4000 / per_token))
        sizes.learn_output(max_tokens=1000, num_tokens=int(1000 * share))
    size = sizes.size(job)
    assert size.num_prompt == pytest.approx(4000 / per_token, rel=0.05, abs=2)
    assert size.num_output == pytest.approx(1000 * share, rel=0.05, abs=2)


def test_a_short_prompt_says_nothing_about_characters_per_token() -> None:
    sizes = SizeModel()
    sizes.learn_prompt(num_characters=10, num_tokens=10)
    assert sizes.tokens([4000]) == (1001,)


# -- step times ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    factors=st.tuples(*[st.floats(0.2, 50.0)] * 3),
    noise=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 2**32),
)
def test_what_steps_cost_is_learned_from_the_sums_of_reports(
    factors: tuple[float, float, float], noise: float, seed: int
) -> None:
    rng = random.Random(seed)
    true = StepTimes(*(prior * factor for prior, factor in zip(PRIOR, factors, strict=True)))
    model, report = StepTimeModel(), EngineReport()
    for _ in range(40):
        num_steps = rng.randrange(5, 60)
        num_read, num_output = num_steps * rng.randrange(100, 60_000), num_steps * rng.randrange(1, 60)
        num_prefill = rng.choice([0, rng.randrange(1, 20_000)])
        took_s = num_steps * true.base_s + num_read * true.read_s + num_prefill * true.prefill_s
        report = EngineReport(
            num_steps=report.num_steps + num_steps,
            num_read_tokens=report.num_read_tokens + num_read,
            num_output_tokens=report.num_output_tokens + num_output,
            num_computed_tokens=report.num_computed_tokens + num_output + num_prefill,
            step_s=report.step_s + took_s * rng.uniform(1 - noise, 1 + noise),
        )
        model.learn(report)
    for num_read in (1_000, 30_000):
        assert model.times.step_s(num_read) == pytest.approx(true.step_s(num_read), rel=0.4)
    longest_s = true.step_s(30_000) + 5_000 * true.prefill_s
    assert model.times.step_s(30_000) + 5_000 * model.times.prefill_s == pytest.approx(longest_s, rel=0.3)


def test_a_slow_machine_is_slow_in_everything_until_more_is_known() -> None:
    """A worker on a CPU that only ever decoded: prefill will not be as quick as on a GPU."""
    model = StepTimeModel()
    for number in range(1, 6):
        model.learn(
            EngineReport(
                num_steps=10 * number,
                num_output_tokens=10 * number,
                num_computed_tokens=10 * number,
                step_s=16.0 * number,
            )
        )
    assert model.times.base_s == pytest.approx(1.6, rel=0.1)
    assert model.times.prefill_s > 20 * PRIOR.prefill_s


def test_an_engine_without_steps_and_one_that_began_anew_change_nothing() -> None:
    model = StepTimeModel()
    for report in (EngineReport(), EngineReport(num_steps=5), EngineReport(num_steps=5), EngineReport(num_steps=1)):
        model.learn(report)
    assert model.times == PRIOR
    assert PRIOR.max_read(PRIOR.base_s / 2) == 0.0
    assert PRIOR.step_s(PRIOR.max_read(0.04)) == pytest.approx(0.04)


# -- residents -------------------------------------------------------------------------------------------------------


class ResidentsModel(RuleBasedStateMachine):
    """Each worker: prefixes in order of use, in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.residents = Residents()
        self.capacity: dict[str, int] = {}
        self.held: dict[str, list[tuple[str, str]]] = {}

    def _shrink(self, worker: str) -> None:
        while len(self.held[worker]) > self.capacity[worker] // 10:
            self.held[worker].pop(0)

    @rule(worker=workers, num=st.integers(0, 6))
    def set_capacity(self, worker: str, num: int) -> None:
        self.residents.set_capacity(worker, 10 * num)
        self.capacity[worker] = 10 * num
        self.held.setdefault(worker, [])
        self._shrink(worker)

    @rule(worker=workers, salt=st.sampled_from("st"), prompt=prompts)
    def hold(self, worker: str, salt: str, prompt: list[str]) -> None:
        prefixes = name_prefixes(salt, prefix_hashes(prompt))
        self.residents.hold(worker, prefixes, [10 * (n + 1) for n in range(len(prefixes))])
        if self.capacity.get(worker):
            for prefix in reversed(prefixes):
                if prefix in self.held[worker]:
                    self.held[worker].remove(prefix)
                self.held[worker].append(prefix)
            self._shrink(worker)

    @rule(worker=workers, num=st.integers(0, 3), pinned=prompts)
    def evict(self, worker: str, num: int, pinned: list[str]) -> None:
        hashes = prefix_hashes(pinned)
        self.residents.evict(worker, 10 * num, hashes)
        held = self.held.get(worker, [])
        for prefix in sorted(held, key=lambda each: each[1] in hashes)[:num]:
            held.remove(prefix)

    @rule(worker=workers)
    def forget(self, worker: str) -> None:
        self.residents.forget(worker)
        self.held.pop(worker, None)
        self.capacity.pop(worker, None)

    @rule(salt=st.sampled_from("st"), prompt=prompts)
    def find(self, salt: str, prompt: list[str]) -> None:
        prefixes = name_prefixes(salt, prefix_hashes(prompt))
        ends = [10 * (n + 1) for n in range(len(prefixes))]
        expected = {}
        for worker, held in self.held.items():
            if depths := [end for prefix, end in zip(prefixes, ends, strict=True) if prefix in held]:
                expected[worker] = max(depths)
        found = self.residents.find(prefixes, ends)
        assert found == expected
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert {worker for worker in self.held if self.residents.has(worker, prefixes[0])} == {
            worker for worker, held in self.held.items() if prefixes[0] in held
        }

    @invariant()
    def agrees(self) -> None:
        self.residents.check_integrity()


TestResidentsModel = ResidentsModel.TestCase
TestResidentsModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_prompt_longer_than_the_cache_is_held_as_far_as_it_fits() -> None:
    residents = Residents()
    residents.set_capacity("w", 25)
    prefixes = name_prefixes("s", prefix_hashes(["a", "b", "c"]))
    residents.hold("w", prefixes, [10, 20, 30])
    assert residents.find(prefixes, [10, 20, 30]) == {"w": 20}


# -- loads -----------------------------------------------------------------------------------------------------------


class LoadModel(RuleBasedStateMachine):
    """Counts anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.load = WorkerLoad("w")
        self.jobs: dict[str, tuple[Job, Size]] = {}
        self.generated: dict[str, int] = {}

    @rule(name=names, prompt=prompts, standing=standings, num_output=st.integers(1, 50), num_held=st.integers(0, 50))
    def add(self, name: str, prompt: list[str], standing: Standing, num_output: int, num_held: int) -> None:
        job = make_job(name, prompt, standing=standing)
        if job.key not in self.load:
            size = Size(tuple(10 * (n + 1) for n in range(len(prompt))), num_output)
            self.load.add(job, size, num_held=num_held)
            self.jobs[job.key] = (job, size)
            self.generated[job.key] = 0

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.load.remove(f"t.s.{name}")
        self.jobs.pop(f"t.s.{name}", None)

    @rule(name=names, num=st.integers(0, 80))
    def progress(self, name: str, num: int) -> None:
        self.load.progress(f"t.s.{name}", num_generated=num)
        if (entry := self.jobs.get(f"t.s.{name}")) is not None:
            self.generated[f"t.s.{name}"] = min(num, entry[1].num_output)

    @rule(name=names, standing=standings)
    def judge(self, name: str, standing: Standing) -> None:
        self.load.judge(f"t.s.{name}", standing)
        if (entry := self.jobs.get(f"t.s.{name}")) is not None:
            entry[0].standing = standing

    @invariant()
    def agrees(self) -> None:
        self.load.check_integrity()
        jobs = [job for job, _ in self.jobs.values()]
        assert self.load.num_prompt == 10 * len({prefix for job in jobs for prefix in job.prefixes})
        assert self.load.num_output == sum(size.num_output for _, size in self.jobs.values())
        assert self.load.num_generated == sum(self.generated[key] for key in self.jobs)
        assert self.load.num_latency == sum(job.is_latency for job in jobs)
        assert self.load.num_throughput == len(jobs) - self.load.num_latency
        assert self.load.num_members("g") == sum(job.standing.group == "g" for job in jobs)
        assert self.load.tpot_target_s == (0.02 if self.load.num_members("g") else None)
        assert 0 <= self.load.mean_left <= 50
        assert self.load.release_s(1) <= self.load.release_s(3)


TestLoadModel = LoadModel.TestCase
TestLoadModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- transcripts -----------------------------------------------------------------------------------------------------


def _progress(begin: int, *ids: int, attempt: int = 1, key: str = "t.s.a") -> GenerationProgress:
    return GenerationProgress(key=key, attempt=attempt, begin=begin, output_ids=list(ids), num_prompt_tokens=7)


def test_what_joins_to_what_is_known_is_added_and_a_gap_is_ignored() -> None:
    transcript = Transcript()
    for progress, known in [
        (_progress(0, 1, 2), [1, 2]),
        (_progress(2, 3), [1, 2, 3]),
        (_progress(5, 6), [1, 2, 3]),
        (_progress(0, 1, 2), [1, 2, 3]),
        (_progress(1, 2, 3, 4), [1, 2, 3, 4]),
        (_progress(4, 9, attempt=2), [1, 2, 3, 4]),
        (_progress(0, 8, attempt=2), [8]),
        (_progress(1, 9, attempt=2), [8, 9]),
    ]:
        transcript.note(progress)
        assert transcript.output_ids == known
    assert (transcript.attempt, transcript.num_prompt_tokens) == (2, 7)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.booleans()), max_size=30))
def test_a_transcript_is_always_the_beginning_of_the_output(steps: list[tuple[int, int, bool]]) -> None:
    """Heartbeats may be lost, and come late."""
    output = list(range(100, 130))
    transcript = Transcript()
    longest = 0
    for one, two, is_whole in steps:
        begin, end = (0 if is_whole else min(one, two)), max(one, two)
        transcript.note(_progress(begin, *output[begin:end]))
        assert transcript.output_ids == output[: len(transcript.output_ids)]
        assert len(transcript.output_ids) >= longest
        longest = len(transcript.output_ids)


# -- ledgers ---------------------------------------------------------------------------------------------------------


def _status(*running: str, **details: Any) -> WorkerStatus:
    given: dict[str, Any] = {"state": "ready", "num_slots": 4, **details}
    return WorkerStatus(worker="w", model="m", running=list(running), **given)


def _ledger(*running: str) -> WorkerLedger:
    ledger = WorkerLedger(_status(*running), WorkerLoad("w"))
    ledger.update_room()
    return ledger


def _hold(ledger: WorkerLedger, name: str, since: float = 0.0) -> None:
    running = Running(make_job(name), Size((10,), 20), 30.0, since, Transcript())
    ledger.hold(running, num_held=0)


def test_a_worker_has_room_for_what_is_neither_assigned_nor_adopted() -> None:
    ledger = _ledger()
    assert ledger.num_free == 4
    _hold(ledger, "a")
    ledger.adopted["b"] = Transcript()
    assert ledger.num_free == 2
    ledger.is_suspended = True
    assert ledger.num_free == 0


@pytest.mark.parametrize("state", ["loading", "draining", "stopped"])
def test_a_worker_that_is_not_ready_has_no_room(state: str) -> None:
    ledger = _ledger()
    ledger.hear(_status(state=state))
    assert (ledger.num_free, ledger.load.num_free) == (0, 0)


def test_lost_is_what_two_heartbeats_in_a_row_do_not_name() -> None:
    ledger = _ledger("t.s.here")
    for name, since in (("here", 0.0), ("gone", 0.0), ("just-sent", 5.0)):
        _hold(ledger, name, since)
    assert ledger.find_lost(sent_before=1.0) == ()
    assert ledger.find_lost(sent_before=1.0) == ("t.s.gone",)
    ledger.hear(_status("t.s.gone"))
    assert ledger.find_lost(sent_before=1.0) == ()
    assert ledger.find_lost(sent_before=1.0) == ("t.s.here",)


def test_a_heartbeat_tells_how_far_it_is_and_what_its_cache_gave_up() -> None:
    ledger = _ledger()
    _hold(ledger, "a")
    ledger.hear(_status(engine=EngineReport(page_size=16, num_pages=100, num_evicted_pages=5)))
    status = _status(
        engine=EngineReport(page_size=16, num_pages=100, num_evicted_pages=8), progress=[_progress(0, 1, 2, 3)]
    )
    assert ledger.hear(status) == 48
    assert ledger.capacity == ledger.load.capacity == 1600
    assert (ledger.load.num_unread, ledger.load.num_generated) == (0, 3)
    assert ledger.release("t.s.a") is not None
    assert ledger.release("t.s.a") is None
    ledger.check_integrity()


# -- places ----------------------------------------------------------------------------------------------------------


def test_a_session_keeps_its_place_between_its_generations_but_not_for_ever() -> None:
    places = SessionPlaces(keep_s=2.0, max_lead_s=60.0)
    assert places.open("t.s", "t.s.a", 10.0) == 10.0
    places.run("t.s", "w1")
    places.close("t.s", "t.s.a", 20.0)
    assert places.worker("t.s") == "w1"
    assert places.open("t.s", "t.s.b", 21.5) == 10.0, "it went on within two seconds"
    assert places.open("t.s", "t.s.c", 90.0) == 30.0, "no more than a minute ahead"
    for name in ("b", "c"):
        places.close("t.s", f"t.s.{name}", 100.0)
    assert places.open("t.s", "t.s.d", 103.0) == 103.0, "it comes anew"
    assert places.worker("t.s") == "w1"
    places.check_integrity()


def test_sessions_without_work_are_forgotten_when_they_are_many() -> None:
    places = SessionPlaces(keep_s=1.0, max_lead_s=60.0, max_quiet=10)
    for number in range(100):
        places.open(f"t.s{number}", "k", float(number))
        places.run(f"t.s{number}", "w")
        places.close(f"t.s{number}", "k", float(number))
        places.close(f"t.s{number}", "k", float(number))
        places.check_integrity()
    assert places.worker("t.s99") == "w"
    assert places.worker("t.s0") is None
