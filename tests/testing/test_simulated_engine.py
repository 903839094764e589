"""What holds of the simulated engine whatever is asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot_mq.errors import ContextLengthExceeded, DeadlineExceeded, TaskCancelled
from parrot_mq.testing.latency_model import A100_7B, A100_13B, LatencyModel
from parrot_mq.testing.simulated_engine import SimulatedEngine
from parrot_mq.testing.simulated_requests import (
    EngineEvent,
    Failed,
    Finished,
    Prefilled,
    SimulatedPrefill,
    SimulatedRequest,
    SimulatedSegment,
    Started,
    Token,
    count_tokens,
)

ROUND = LatencyModel(base_s=1.0, read_s=0.0, prefill_s=0.01)


def _path(*sizes: int, name: str = "p") -> tuple[SimulatedSegment, ...]:
    """Segments that chain: equal sizes so far mean equal prefixes."""
    return tuple(SimulatedSegment(f"{name}:{sizes[: index + 1]}", size) for index, size in enumerate(sizes))


def _request(
    key: str, *sizes: int, num_output_tokens: int = 4, name: str = "p", **settings: object
) -> SimulatedRequest:
    segments = _path(*sizes, name=name)
    return SimulatedRequest(key=key, segments=segments, num_output_tokens=num_output_tokens, **settings)  # type: ignore[arg-type]


def _drain(engine: SimulatedEngine, now: float = 0.0) -> tuple[float, list[EngineEvent]]:
    """Run until nothing is left; returns when that is, and all events."""
    events: list[EngineEvent] = []
    while engine.has_work:
        duration_s, new = engine.step(now)
        engine.check_integrity()
        now += duration_s
        events += new
    return now, events


def _only(events: list[EngineEvent], kind: type, key: str = "") -> list[EngineEvent]:
    return [event for event in events if isinstance(event, kind) and key in ("", event.key)]


# -- random lives ----------------------------------------------------------------------------------------------------

SIZES = st.lists(st.sampled_from([1, 15, 16, 17, 40]), min_size=1, max_size=4).map(tuple)
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), SIZES, st.integers(1, 40), st.sampled_from(["", "x"]), st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("prefill"), st.lists(st.tuples(st.integers(0, 25), SIZES), max_size=4)),
        st.tuples(st.just("pin"), SIZES),
        st.tuples(st.just("step"), st.integers(1, 20)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(commands=COMMANDS, shares=st.booleans(), num_pages=st.integers(8, 40), budget=st.sampled_from([1, 16, 64]))
def test_every_request_ends_once_and_no_page_is_lost(
    commands: list[tuple[object, ...]], shares: bool, num_pages: int, budget: int
) -> None:
    engine = SimulatedEngine(
        A100_13B, num_slots=4, capacity_tokens=16 * num_pages, max_step_tokens=budget, prefix_cache=shares
    )
    requests: dict[str, SimulatedRequest] = {}
    events: list[EngineEvent] = []
    now = 0.0

    def run(num_steps: int) -> None:
        nonlocal now
        for _ in range(num_steps):
            duration_s, new = engine.step(now)
            engine.check_integrity()
            now += duration_s
            events.extend(new)

    for command in commands:
        match command:
            case ("submit", tuple(sizes), int(num), str(salt), bool(is_hurried)):
                key = str(len(requests))
                target_s = 0.02 if is_hurried else None
                requests[key] = _request(key, *sizes, num_output_tokens=num, salt=salt, tpot_target_s=target_s)
                engine.submit([requests[key]])
            case ("cancel", int(number)):
                engine.cancel([str(number)])
            case ("prefill", list(prefills)):
                engine.prefill([SimulatedPrefill(str(number), _path(*sizes)) for number, sizes in prefills])
            case ("pin", tuple(sizes)):
                engine.pin([_path(*sizes)[-1].hash])
            case ("step", int(num)):
                run(num)
        engine.check_integrity()
    engine.prefill([])
    for _ in range(100_000):
        if not engine.has_work:
            break
        run(1)
    assert not engine.has_work

    ends = Counter(event.key for event in events if isinstance(event, Finished | Failed))
    assert ends == dict.fromkeys(requests, 1)
    for finished in _only(events, Finished):
        assert isinstance(finished, Finished)
        request = requests[finished.key]
        tokens = [event.index for event in _only(events, Token, finished.key) if isinstance(event, Token)]
        assert tokens == list(range(request.num_output_tokens))
        assert 0 <= finished.num_prefilled_tokens <= finished.num_shared_tokens <= finished.num_prompt_tokens
    report = engine.report()
    assert report.num_free_pages + report.num_cached_pages == num_pages
    assert report.num_output_tokens == len(_only(events, Token))
    assert report.num_read_tokens <= report.num_flat_tokens
    assert report.step_s == pytest.approx(now)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=8), num_outputs=st.integers(1, 30))
def test_with_room_for_all_each_token_of_a_prefix_is_computed_once(
    sizes: list[tuple[int, ...]], num_outputs: int
) -> None:
    engine = SimulatedEngine(A100_7B, capacity_tokens=100_000)
    engine.submit([_request(str(i), *each, num_output_tokens=num_outputs) for i, each in enumerate(sizes)])
    _drain(engine)
    report = engine.report()
    prefixes = {each[: end + 1]: each[end] for each in sizes for end in range(len(each))}
    assert report.num_prompt_tokens - report.num_shared_tokens == sum(prefixes.values())
    assert report.num_preemptions == 0


# -- time ------------------------------------------------------------------------------------------------------------


def test_published_times_come_out() -> None:
    """7B: a prefill of 5,107 tokens takes 0.715 s; 13B: a token takes 15.9 ms and 1.76 us per resident token."""
    engine = SimulatedEngine(A100_7B, max_step_tokens=8192)
    engine.submit([_request("a", 5107, num_output_tokens=1)])
    now, _ = _drain(engine)
    assert now == pytest.approx(0.715, rel=1e-3)
    step_s = A100_13B.step_s(num_read_tokens=6144, num_reread_tokens=0, num_prefill_tokens=0)
    assert step_s == pytest.approx(15.9e-3 + 6144 * 1.76e-6)


def test_few_tokens_of_prompts_cost_nothing_beside_outputs() -> None:
    """The weights are read for both at once."""
    idle_s = A100_13B.step_s(num_read_tokens=0, num_reread_tokens=0, num_prefill_tokens=0)
    free = A100_13B.max_prefill_tokens(duration_s=idle_s + 1e-9, num_read_tokens=0, num_reread_tokens=0)
    assert 30 < free < 64
    assert A100_13B.step_s(num_read_tokens=0, num_reread_tokens=0, num_prefill_tokens=free) == pytest.approx(idle_s)
    assert A100_13B.step_s(num_read_tokens=0, num_reread_tokens=0, num_prefill_tokens=2 * free) > 1.5 * idle_s


def test_cascade_reads_a_shared_prefix_once() -> None:
    times = {}
    for cascade in (True, False):
        engine = SimulatedEngine(A100_7B, cascade=cascade)
        engine.submit([_request(str(i), 4096, 16 + i, num_output_tokens=64) for i in range(16)])
        times[cascade], _ = _drain(engine)
        report = engine.report()
        assert (report.num_read_tokens < report.num_flat_tokens) is cascade
    assert times[True] < times[False]


def test_a_reader_who_waits_keeps_steps_short() -> None:
    model = LatencyModel(base_s=0.010, prefill_s=0.001)
    engine = SimulatedEngine(model, max_step_tokens=1000)
    engine.submit([_request("reader", 16, num_output_tokens=10, tpot_target_s=0.050)])
    durations, ends = [engine.step(0.0)[0]], False
    engine.submit([_request("long", 2000, name="q")])
    while not ends:
        duration_s, events = engine.step(0.0)
        durations.append(duration_s)
        ends = bool(_only(events, Finished, "reader"))
    assert len(durations) == 10
    assert max(durations) <= 0.050
    assert engine.report().num_computed_tokens > 10 * 16, "the long prompt is read meanwhile"


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_an_output_is_found_by_the_prompt_that_continues_it() -> None:
    engine = SimulatedEngine(ROUND)
    first = _request("a", 100, num_output_tokens=20, output_hash="a:out")
    engine.submit([first])
    _drain(engine)
    segments = (*first.segments, SimulatedSegment("a:out", 20), SimulatedSegment("a:next", 10))
    engine.submit([SimulatedRequest(key="b", segments=segments, num_output_tokens=1)])
    _, events = _drain(engine)
    assert _only(events, Started) == [Started("b", 130, 120, 0)]


def test_salts_and_a_cache_that_is_off_share_nothing() -> None:
    salted = SimulatedEngine(ROUND)
    salted.submit([_request("a", 100, salt="one"), _request("b", 100, salt="two")])
    unshared = SimulatedEngine(ROUND, prefix_cache=False)
    unshared.submit([_request("a", 100), _request("b", 100)])
    for engine in (salted, unshared):
        _drain(engine)
        assert engine.report().num_shared_tokens == 0
    assert unshared.report().num_cached_pages == 0


def test_what_nobody_needs_is_evicted_first() -> None:
    engine = SimulatedEngine(ROUND, capacity_tokens=10 * 16)
    for name in ("pinned", "free"):
        engine.submit([_request(name, 64, name=name, num_output_tokens=1)])
        _drain(engine)
    engine.pin([_path(64, name="pinned")[0].hash])
    engine.submit([_request("new", 64, name="new", num_output_tokens=1)])
    engine.submit([_request("again", 64, name="pinned", num_output_tokens=1)])
    _, events = _drain(engine)
    assert Started("again", 64, 64, 0) in events
    assert engine.report().num_evicted_pages == 4


def test_a_preempted_request_goes_on_where_it_was() -> None:
    engine = SimulatedEngine(ROUND, capacity_tokens=8 * 16, num_slots=4)
    engine.submit([_request(str(i), 16, name=str(i), num_output_tokens=60) for i in range(4)])
    _, events = _drain(engine)
    assert engine.report().num_preemptions > 0
    assert len(_only(events, Finished)) == 4
    for key in "0123":
        assert len(_only(events, Started, key)) == 1
        assert len(_only(events, Token, key)) == 60


def test_a_continuation_generates_only_the_rest() -> None:
    engine = SimulatedEngine(ROUND)
    engine.submit([_request("a", 32, num_output_tokens=10, num_continued_tokens=7)])
    _, events = _drain(engine)
    assert [event.index for event in _only(events, Token) if isinstance(event, Token)] == [7, 8, 9]
    assert engine.report().num_computed_tokens == 32 + 7 + 2


# -- ahead -----------------------------------------------------------------------------------------------------------


def test_what_was_prefilled_ahead_is_shared_and_counted() -> None:
    engine = SimulatedEngine(ROUND)
    engine.prefill([SimulatedPrefill("a", _path(100))])
    _, events = _drain(engine)
    assert events == [Prefilled("a")]
    engine.submit([_request("a", 100, 10)])
    _, events = _drain(engine)
    assert _only(events, Started) == [Started("a", 110, 100, 100)]


def test_prefilling_ahead_gives_way() -> None:
    engine = SimulatedEngine(ROUND, capacity_tokens=10 * 16, max_step_tokens=16)
    engine.prefill([SimulatedPrefill("later", _path(144))])
    engine.step(0.0)
    engine.submit([_request("now", 128, name="now")])
    _, events = _drain(engine)
    assert [type(event) for event in events if not isinstance(event, Token)] == [Started, Finished, Prefilled]


def test_a_prefill_in_work_is_taken_over_by_its_request() -> None:
    engine = SimulatedEngine(ROUND, max_step_tokens=16)
    engine.prefill([SimulatedPrefill("a", _path(64))])
    engine.step(0.0)
    engine.submit([_request("a", 64)])
    engine.prefill([])
    _, events = _drain(engine)
    assert _only(events, Started) == [Started("a", 64, 16, 16)]


# -- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda engine: engine.cancel(["a"]), TaskCancelled),
        (lambda engine: engine.submit([_request("late", 16, deadline=-1.0)]), DeadlineExceeded),
        (lambda engine: engine.submit([_request("long", 1_000_000)]), ContextLengthExceeded),
    ],
)
def test_failures_are_events(spoil: Callable[[SimulatedEngine], None], error: type[Exception]) -> None:
    engine = SimulatedEngine(ROUND)
    engine.submit([_request("a", 64)])
    spoil(engine)
    _, events = _drain(engine)
    assert [type(event.error) for event in events if isinstance(event, Failed)] == [error]


def test_tokens_are_four_characters() -> None:
    assert [count_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
