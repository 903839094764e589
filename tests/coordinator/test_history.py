"""What is remembered of sessions: consistent whatever came in which order, and bounded."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator.stories.history import MAX_ANSWER_CHARACTERS, History, SessionHistory
from parrot_mq.coordinator.stories.story import MAX_READS, OutputRecord, StoredValue
from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import (
    ErrorInfo,
    EventKind,
    GenerationProgress,
    LostAttempt,
    TaskEvent,
    TaskStory,
    Usage,
    WorkerStatus,
)
from parrot_mq.types import Objective

BATCHED = Objective(kind="throughput")
FAILURE = ErrorInfo(code="engine_failure", message="the engine failed: no luck", facts={"cause": "no luck"})
USAGE = Usage(
    num_prompt_tokens=100,
    num_shared_tokens=60,
    num_prefilled_tokens=20,
    num_output_tokens=8,
    attempt=2,
    started_at=6.5,
    finished_at=8.0,
)

LIFE = [
    TaskEvent(kind="submitted", task="t", variable="v", at=1.0, function="write", model="small", reads=["a", "b"]),
    TaskEvent(kind="prefilling", task="t", variable="v", at=2.0, worker="w1"),
    TaskEvent(kind="ready", task="t", variable="v", at=3.0, objective=Objective()),
    TaskEvent(kind="assigned", task="t", variable="v", at=4.0, worker="w1", batch="b1", attempt=1, decision="holder"),
    TaskEvent(kind="started", task="t", variable="v", at=4.5, worker="w1", num_prompt_tokens=100),
    TaskEvent(kind="returned", task="t", variable="v", at=5.0, worker="w1", attempt=1, reason="worker 'w1' was lost"),
    TaskEvent(
        kind="assigned",
        task="t",
        variable="v",
        at=6.0,
        worker="w2",
        batch="b2",
        batch_size=3,
        attempt=2,
        decision="continued",
        reason="w2 has room",
        num_continued_tokens=5,
        objective=BATCHED,
        group="default.s.sum",
    ),
]
"""A generation whose first worker is lost."""


def _event(kind: EventKind, variable: str = "v", at: float = 1.0, **details: object) -> TaskEvent:
    return TaskEvent(kind=kind, task=f"task-{variable}", variable=variable, at=at, **details)  # type: ignore[arg-type]


def _tell_all(events: list[TaskEvent], stored: StoredValue | None = None) -> TaskStory:
    record = OutputRecord("v", "t", 1.0)
    for event in events:
        record.tell(event)
    if stored is not None:
        record.store(stored)
    return record.story({"a": 2.5, "b": 2.75}.get)  # type: ignore[arg-type]


# -- one output ------------------------------------------------------------------------------------------------------


def test_a_story_tells_why_it_waited_where_it_ran_and_what_it_cost() -> None:
    story = _tell_all(LIFE, StoredValue(9.0, "w2", USAGE))
    assert story == TaskStory(
        variable="v",
        task="t",
        function="write",
        model="small",
        reads=["a", "b"],
        state="finished",
        objective=BATCHED,
        group="default.s.sum",
        submitted_at=1.0,
        ready_at=3.0,
        last_input="b",
        prefilled_at=2.0,
        prefilled_on="w1",
        assigned_at=6.0,
        started_at=6.5,
        finished_at=9.0,
        worker="w2",
        batch="b2",
        batch_size=3,
        decision="continued",
        reason="w2 has room",
        attempts=2,
        lost=[LostAttempt(worker="w1", assigned_at=4.0, returned_at=5.0, reason="worker 'w1' was lost")],
        num_continued_tokens=5,
        usage=USAGE,
    )


@pytest.mark.parametrize(
    ("num_events", "state"),
    [(1, "waiting"), (2, "waiting"), (3, "ready"), (4, "assigned"), (5, "running"), (6, "ready"), (7, "assigned")],
)
def test_the_state_follows_what_happened(num_events: int, state: str) -> None:
    assert _tell_all(LIFE[:num_events]).state == state


def test_an_error_is_the_end_whoever_tells_of_it() -> None:
    failed = TaskEvent(kind="failed", task="t", variable="v", at=7.0, error=FAILURE)
    for story in (_tell_all([*LIFE, failed]), _tell_all(LIFE, StoredValue(7.0, error=FAILURE))):
        assert (story.state, story.finished_at) == ("failed", 7.0)
        assert story.error is not None
        assert story.error.code == "engine_failure"


def test_a_value_that_a_lost_worker_wrote_after_all_is_its_own() -> None:
    story = _tell_all(LIFE, StoredValue(9.0, "w1"))
    assert (story.worker, story.batch, story.decision) == ("w1", "b1", "holder")
    assert [each.worker for each in story.lost] == ["w2"]


def test_a_value_that_somebody_else_set_has_no_worker() -> None:
    story = _tell_all(LIFE, StoredValue(9.0))
    assert (story.state, story.worker, story.decision) == ("finished", "", "")
    assert [each.worker for each in story.lost] == ["w1", "w2"]


def test_what_was_set_before_the_submission_is_not_what_it_waited_for() -> None:
    record = OutputRecord("v", "t", 1.0)
    record.tell(LIFE[0])
    assert record.story(lambda name: 0.5).last_input == ""


def test_of_two_assignments_to_one_worker_the_newer_one_came_back() -> None:
    sent = [TaskEvent(kind="assigned", task="t", variable="v", at=at, worker="w") for at in (1.0, 3.0)]
    back = TaskEvent(kind="returned", task="t", variable="v", at=4.0, worker="w", reason="it drains")
    story = _tell_all([*sent, back])
    assert story.state == "ready"
    assert story.lost == [
        LostAttempt(worker="w", assigned_at=1.0),
        LostAttempt(worker="w", assigned_at=3.0, returned_at=4.0, reason="it drains"),
    ]


def test_events_of_the_worker_say_what_it_cost_where_the_value_does_not() -> None:
    finished = TaskEvent(kind="finished", task="t", variable="v", at=8.0, worker="w2", num_output_tokens=8)
    story = _tell_all([*LIFE, finished])
    assert (story.state, story.worker, story.finished_at) == ("finished", "w2", 8.0)
    assert story.usage is not None
    assert story.usage.num_output_tokens == 8


_AT = st.floats(1.0, 20.0).map(lambda at: round(at, 1))
_EVENTS = st.builds(
    TaskEvent,
    kind=st.sampled_from(msgspec.json.schema(TaskEvent)["$defs"]["TaskEvent"]["properties"]["kind"]["enum"]),
    task=st.just("t"),
    variable=st.just("v"),
    at=_AT,
    worker=st.sampled_from(["", "w1", "w2"]),
    attempt=st.integers(0, 2),
    reason=st.sampled_from(["", "it drains"]),
)
_STORED = st.none() | st.builds(
    StoredValue,
    _AT,
    st.sampled_from(["", "w1", "w2"]),
    st.none() | st.builds(Usage, started_at=_AT, finished_at=_AT),
    st.sampled_from([None, FAILURE]),
)


@given(st.data(), st.lists(_EVENTS, max_size=12), _STORED)
def test_a_story_depends_on_the_events_and_not_on_their_order_or_number(
    data: st.DataObject, events: list[TaskEvent], stored: StoredValue | None
) -> None:
    again = data.draw(st.lists(st.sampled_from(events))) if events else []
    shuffled = data.draw(st.permutations([*events, *again]))
    assert _tell_all(shuffled, stored) == _tell_all(events, stored)


@given(st.lists(_EVENTS, max_size=12), _STORED)
def test_a_story_is_consistent_whatever_was_lost(events: list[TaskEvent], stored: StoredValue | None) -> None:
    story = _tell_all(events, stored)
    times = [story.submitted_at, story.ready_at, story.assigned_at, story.started_at, story.finished_at]
    assert all(earlier <= later for earlier, later in pairwise(at for at in times if at))
    assert (story.finished_at > 0) == (story.state in ("finished", "failed"))
    if story.state == "assigned":
        assert story.assigned_at
    if story.state in ("waiting", "ready"):
        assert not story.assigned_at
        assert not story.worker
    if story.state == "waiting":
        assert not story.lost


# -- sessions --------------------------------------------------------------------------------------------------------


def test_an_output_that_is_written_anew_begins_a_new_story() -> None:
    history = SessionHistory()
    history.tell(TaskEvent(kind="submitted", task="t1", variable="v", at=1.0, function="first"))
    history.store("v", 2.0, producer="w")
    history.tell(TaskEvent(kind="submitted", task="t2", variable="v", at=3.0, function="second"))
    history.tell(TaskEvent(kind="assigned", task="t1", variable="v", at=1.5, worker="w"))
    (story,) = history.stories()
    assert (story.function, story.state) == ("second", "waiting")
    history.check_integrity()


@pytest.mark.parametrize("is_late", [False, True])
def test_an_event_without_a_task_belongs_to_whichever_task_writes_the_variable(is_late: bool) -> None:
    history = SessionHistory()
    events = [_event("submitted"), TaskEvent(kind="prefilling", task="", variable="v", at=2.0, worker="w")]
    for event in reversed(events) if is_late else events:
        history.tell(event)
    (story,) = history.stories()
    assert (story.task, story.prefilled_on, story.submitted_at) == ("task-v", "w", 1.0)


def test_a_generation_runs_once_its_worker_says_how_long_the_prompt_is() -> None:
    history = History()
    for event in LIFE[:4]:
        history.tell("default", "s", event)

    def hear(progress: GenerationProgress, at: float) -> TaskStory:
        status = WorkerStatus(worker="w1", model="small", state="ready", num_slots=1, progress=[progress])
        history.hear(status, at)
        history.check_integrity()
        (story,) = history.story("default", "s").stories
        return story

    assert hear(GenerationProgress(key="default.s.v"), 5.0).state == "assigned"
    story = hear(GenerationProgress(key="default.s.v", num_prompt_tokens=70), 6.0)
    assert (story.state, story.started_at) == ("running", 6.0)
    assert hear(GenerationProgress(key="default.s.v", num_prompt_tokens=70, output_ids=[1]), 7.0) == story
    for unknown in ("default.s.other", "default.other.v", "odd"):
        assert hear(GenerationProgress(key=unknown, num_prompt_tokens=70), 8.0) == story


def test_a_task_without_outputs_has_a_story_too() -> None:
    history = SessionHistory()
    history.tell(TaskEvent(kind="rejected", task="t1", at=1.0, error=FAILURE))
    (story,) = history.stories()
    assert (story.variable, story.task, story.state) == ("", "t1", "failed")


def test_a_value_that_is_heard_of_before_its_task_belongs_to_it() -> None:
    history = SessionHistory()
    history.store("v", 2.0, producer="w", usage=USAGE)
    history.tell(_event("submitted"))
    (story,) = history.stories()
    assert (story.state, story.usage) == ("finished", USAGE)
    history.check_integrity()


def test_long_texts_are_cut() -> None:
    history = SessionHistory()
    reads = [f"v{n}" for n in range(2 * MAX_READS)]
    history.tell(_event("submitted", function="f" * 10_000, reads=reads))
    history.store("v", 2.0, error=ErrorInfo(code="x", message="m" * 100_000, facts={"long": "f" * 100_000}))
    (story,) = history.stories()
    assert len(story.reads) == MAX_READS
    assert len(msgspec.json.encode(story)) < 20_000


def test_an_answer_has_a_bounded_size_and_the_rest_is_asked_for() -> None:
    history = History()
    for number in range(3_000):
        history.tell("default", "s", _event("submitted", f"v{number}", at=1.0 + number, reads=["x" * 60]))
    names: list[str] = []
    begin = 0
    while True:
        page = history.story("default", "s", begin=begin, node="n", at=5.0)
        assert len(msgspec.json.encode(page)) < MAX_ANSWER_CHARACTERS + 10_000
        names += [story.variable for story in page.stories]
        begin = page.next_begin
        if not begin:
            break
    assert names == [f"v{number}" for number in range(3_000)]


def test_a_session_that_is_not_known_has_an_empty_story() -> None:
    story = History().story("default", "nobody", node="n", at=5.0)
    assert (story.session, story.node, story.stories, story.num_forgotten) == ("nobody", "n", [], 0)


def test_the_oldest_outputs_of_a_long_session_are_forgotten() -> None:
    history = History(max_characters=40_000)
    history.tell("default", "other", _event("submitted"))
    for number in range(1_000):
        history.tell("default", "long", _event("submitted", f"v{number}"))
    story = history.story("default", "long")
    assert story.stories[-1].variable == "v999"
    assert story.num_forgotten == 1_000 - len(story.stories) > 0
    assert history.story("default", "long", begin=990).stories[0].variable == "v990"
    assert history.story("default", "other").stories, "one session does not push all others out"
    history.check_integrity()


def test_the_session_that_was_quiet_for_longest_is_forgotten_first() -> None:
    history = History(max_characters=40_000)
    history.tell("default", "quiet", _event("submitted"))
    history.tell("default", "busy", _event("submitted"))
    for number in range(100):
        history.tell("default", f"s{number}", _event("submitted"))
        history.store("default", "busy", f"input-{number % 3}", 2.0)
    assert history.story("default", "busy").stories
    assert not history.story("default", "quiet").stories
    history.check_integrity()


def test_inputs_of_a_closed_session_are_not_outputs_of_the_next() -> None:
    history = History()
    history.tell("default", "s", _event("submitted", "other"))
    history.store("default", "s", "v", 1.0)
    history.close("default", "s")
    history.close("default", "unknown")
    history.tell("default", "s", _event("submitted", "v", at=2.0))
    assert [story.state for story in history.story("default", "s").stories] == ["waiting", "waiting"]
    history.check_integrity()


def test_a_memory_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_characters"):
        History(max_characters=1)


class _Memory(RuleBasedStateMachine):
    """Whatever is told, sums are right and bounds are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History(max_characters=10_000)

    @rule(
        session=st.sampled_from("abc"),
        event=st.builds(
            TaskEvent,
            kind=st.sampled_from(["submitted", "ready", "assigned", "returned", "failed"]),
            task=st.sampled_from(["t1", "t2"]),
            variable=st.sampled_from(["", "u", "v", "w"]),
            at=_AT,
            worker=st.sampled_from(["w1", "w2"]),
            reads=st.lists(st.sampled_from(["u", "v", "w"])),
            error=st.sampled_from([None, FAILURE]),
        ),
    )
    def tell(self, session: str, event: TaskEvent) -> None:
        self.history.tell("default", session, event)

    @rule(
        session=st.sampled_from("abc"),
        variable=st.sampled_from("uvwxyz"),
        at=_AT,
        error=st.sampled_from([None, FAILURE]),
    )
    def store(self, session: str, variable: str, at: float, error: ErrorInfo | None) -> None:
        self.history.store("default", session, variable, at, error=error)

    @rule(session=st.sampled_from("abc"))
    def close(self, session: str) -> None:
        self.history.close("default", session)

    @rule(session=st.sampled_from("abcd"), begin=st.integers(0, 30))
    def read(self, session: str, begin: int) -> None:
        story = self.history.story("default", session, begin=begin)
        assert not story.next_begin

    @invariant()
    def is_whole(self) -> None:
        self.history.check_integrity()


TestMemory = _Memory.TestCase
TestMemory.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
