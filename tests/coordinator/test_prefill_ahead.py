"""Which beginnings of prompts are planned, against a model that looks at everything anew."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator.dispatch.prefill_ahead import MAX_PLANNED, Beginning, PrefillPlanner
from parrot_mq.coordinator.protocol import Expect
from parrot_mq.program import prefix_hashes
from tests.coordinator.jobs import LATENCY, THROUGHPUT

MIN_CHARACTERS = 5
MAX_PENDING = 2

keys = st.sampled_from("abcdef")
workers = st.sampled_from(["w0", "w1"])


def _expect(key: str, prompt: str, waits_for: tuple[str, ...]) -> Expect:
    return Expect(key, tuple(prefix_hashes([prompt])), (prompt,), waits_for, salt="t")


class PlannerModel(RuleBasedStateMachine):
    """Knows what is expected, what is being generated, and what each worker was told last."""

    def __init__(self) -> None:
        super().__init__()
        self.planner = PrefillPlanner(min_characters=MIN_CHARACTERS, max_pending=MAX_PENDING)
        self.expected: dict[str, Expect] = {}
        self.met: dict[str, set[str]] = {}  # of what each waits for: what is set already
        self.running: set[str] = set()
        self.told: dict[str, list[str]] = {}

    @rule(key=keys, prompt=st.sampled_from(["tiny", "long enough"]), waits_for=st.sets(keys, max_size=2))
    def expect(self, key: str, prompt: str, waits_for: set[str]) -> None:
        told = _expect(key, prompt, tuple(sorted(waits_for - {key})))
        former = self.expected.get(key)
        if former is None or (former.prefixes, former.waits_for) != (told.prefixes, told.waits_for):
            self.met[key] = set()
        self.expected[key] = told
        self.planner.expect(told)

    @rule(key=keys)
    def forget(self, key: str) -> None:
        self.planner.forget(key)
        self.expected.pop(key, None)

    @rule(key=keys)
    def begin(self, key: str) -> None:
        self.planner.begin(key)
        self.running.add(key)

    @rule(key=keys, is_finished=st.booleans())
    def end(self, key: str, is_finished: bool) -> None:
        self.planner.end(key, is_finished=is_finished)
        self.running.discard(key)
        for reader in self.expected:
            (self.met[reader].add if is_finished else self.met[reader].discard)(key)

    @rule(key=keys, worker=workers)
    def compute(self, key: str, worker: str) -> None:
        beginning = self.planner.compute(key, worker)
        if beginning is not None:
            assert (beginning.key, beginning.worker, beginning.is_computed) == (key, worker, True)

    @rule(worker=workers)
    def lose(self, worker: str) -> None:
        self.planner.lose(worker)
        self.told.pop(worker, None)

    @rule(worker=st.sampled_from(["w0", "w1", None]))
    def plan(self, worker: str | None) -> None:
        planned = self.planner.plan(lambda _: worker)
        assert all(each.worker == worker is not None for each in planned)
        for name, plan in self.planner.pop_changed().items():
            self.told[name] = [each.key for each in plan]
        assert self.planner.pop_changed() == {}
        told = {key for plan in self.told.values() for key in plan}
        assert told <= self._qualified(), "what does not qualify any more is given up"
        assert sum(map(len, self.told.values())) == len(told), "nothing is computed twice"

    def _qualified(self) -> set[str]:
        return {
            key
            for key, each in self.expected.items()
            if each.waits_for
            and len(each.segments[0]) >= MIN_CHARACTERS  # type: ignore[arg-type]
            and set(each.waits_for) <= self.running | self.met[key]
        }

    @invariant()
    def agrees(self) -> None:
        self.planner.check_integrity()
        assert len(self.planner) == len(self.expected)


TestPlannerModel = PlannerModel.TestCase
TestPlannerModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def _planner(*waiting: Expect) -> PrefillPlanner:
    planner = PrefillPlanner(min_characters=MIN_CHARACTERS, max_pending=100)
    for expect in waiting:
        planner.expect(expect)
    planner.begin("a")
    return planner


def _plan(planner: PrefillPlanner) -> list[str]:
    return [each.key for each in planner.plan(lambda _: "w")]


def test_a_beginning_waits_until_all_that_it_waits_for_is_being_generated() -> None:
    planner = _planner(_expect("x", "long enough", ("a", "b")))
    assert _plan(planner) == []
    planner.begin("b")
    assert _plan(planner) == ["x"]
    planner.end("a", is_finished=True)
    assert planner.pop_changed() == {"w": [planner.get("x")]}, "it still waits for the other one"
    planner.end("b", is_finished=False)
    assert planner.pop_changed() == {"w": []}


def test_when_more_of_a_prompt_is_known_more_of_it_is_planned() -> None:
    planner = _planner(_expect("x", "long enough", ("a",)))
    assert _plan(planner) == ["x"]
    planner.expect(_expect("x", "long enough and longer", ("a",)))
    assert _plan(planner) == ["x"]
    ((plan,),) = planner.pop_changed().values()
    assert plan.expect.segments == ("long enough and longer",)


def test_what_somebody_waits_for_comes_first() -> None:
    waiting = [_expect(key, "long enough", ("a",)) for key in "xyz"]
    planner = _planner(*[replace(each, standing=THROUGHPUT) for each in waiting])
    planner.judge("z", LATENCY)
    planner.judge("nobody", LATENCY)
    _plan(planner)
    assert [each.key for each in planner.pop_changed()["w"]] == ["z", "x", "y"]


def test_of_very_many_some_are_planned_in_each_round() -> None:
    planner = _planner(*[_expect(f"x{number}", "long enough", ("a",)) for number in range(60)])
    assert len(_plan(planner)) == MAX_PLANNED
    assert len(_plan(planner)) == MAX_PLANNED


def test_one_for_which_there_is_no_room_does_not_keep_another_from_its_turn() -> None:
    planner = _planner(*[_expect(key, "long enough", ("a",)) for key in "xy"])

    def choose(beginning: Beginning) -> str | None:
        return "w" if beginning.key == "y" else None

    assert planner.plan(choose) == []
    assert [each.key for each in planner.plan(choose)] == ["y"]
