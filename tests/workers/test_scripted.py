"""The scripted engine keeps the promises of an engine, without a model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine import (
    Delta,
    Failed,
    Finished,
    GenerationRequest,
    Prefilled,
    PrefillRequest,
    ScriptedEngine,
    Started,
)

from parrot_mq.errors import (
    CapacityExhausted,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailure,
    ParrotError,
    TaskCancelled,
)
from parrot_mq.program import prefix_hashes
from tests.workers.driving import check_story, ends, make_request, run


def _upper(request: GenerationRequest) -> str:
    return request.text.upper()


def test_an_answer_is_told_in_steps() -> None:
    engine = ScriptedEngine(_upper, tokens_per_step=3)
    engine.submit([make_request("a", "parrot")])
    assert engine.step() == [Started("a", 6, 0), Delta("a", "PAR", 0, output_ids=tuple(b"PAR"))]
    finished = Finished(
        key="a",
        text="PARROT",
        finish_reason="eos",
        num_prompt_tokens=6,
        num_shared_tokens=0,
        num_output_tokens=6,
        output_ids=tuple(b"PARROT"),
    )
    assert engine.step() == [Delta("a", "ROT", 3, output_ids=tuple(b"ROT")), finished]
    assert not engine.has_work
    assert engine.step() == []


@pytest.mark.parametrize(
    ("sampling", "text", "finish_reason"),
    [
        ({"max_tokens": 4}, "PARR", "length"),
        ({"max_tokens": 7}, "PARROTS", "length"),
        ({"max_tokens": 8}, "PARROTS", "eos"),
        ({"stop": ["OT", "RRO"]}, "PA", "stop"),
        ({"stop": ["OT"], "max_tokens": 5}, "PARRO", "length"),
        ({"stop": ["P"]}, "", "stop"),
    ],
)
def test_stop_strings_and_max_tokens_end_an_answer(sampling: dict[str, Any], text: str, finish_reason: str) -> None:
    events = run(ScriptedEngine(_upper), [make_request("a", "parrots", **sampling)])
    check_story(events, ["a"])
    end = ends(events)["a"]
    assert isinstance(end, Finished)
    assert (end.text, end.finish_reason) == (text, finish_reason)


@pytest.mark.parametrize("num_begun", [0, 1, 4, 6, 7])
def test_an_answer_goes_on_where_an_earlier_attempt_was(num_begun: int) -> None:
    engine = ScriptedEngine(_upper, tokens_per_step=2)
    request = replace(make_request("a", "parrot", max_tokens=6), output_ids=tuple(b"PARROTS"[:num_begun]))
    events = run(engine, [request])
    check_story(events, ["a"], num_begun=min(num_begun, 6))
    end = ends(events)["a"]
    assert isinstance(end, Finished)
    assert (end.text, end.output_ids, end.num_output_tokens) == ("PARROT", tuple(b"PARROT"), 6)
    assert engine.statistics().num_output_tokens == max(0, 6 - num_begun)


def test_what_an_earlier_attempt_wrote_stays() -> None:
    events = run(ScriptedEngine(_upper), [replace(make_request("a", "parrot"), output_ids=tuple(b"pa"))])
    assert [event.text for event in events if isinstance(event, Delta)] == ["RROT"]
    assert isinstance(end := ends(events)["a"], Finished)
    assert end.text == "paRROT"


def test_requests_wait_for_slots_in_order() -> None:
    engine = ScriptedEngine(_upper, num_slots=2, tokens_per_step=5)
    events = run(engine, [make_request(f"r{i}") for i in range(5)])
    check_story(events, [f"r{i}" for i in range(5)])
    assert [event.key for event in events if isinstance(event, Started)] == [f"r{i}" for i in range(5)]
    assert engine.statistics().num_batches == 3


# -- the cache that it stands for ------------------------------------------------------------------------------------


def _prompt(key: str, *segments: str, salt: str = "") -> GenerationRequest:
    """A request whose prompt is made of segments."""
    ends = tuple(accumulate(map(len, segments)))
    request = make_request(key, "".join(segments))
    return replace(request, prefix_hashes=tuple(prefix_hashes(segments)), prefix_ends=ends, salt=salt)


def _shared(engine: ScriptedEngine, *requests: GenerationRequest) -> dict[str, int]:
    events = run(engine, requests)
    return {event.key: event.num_shared_tokens for event in events if isinstance(event, Started)}


def test_prompts_share_the_prefixes_that_their_hashes_name() -> None:
    engine = ScriptedEngine(_upper)
    assert _shared(
        engine, _prompt("a", "prefix ", "one"), _prompt("b", "prefix ", "two"), _prompt("c", "other ", "one")
    ) == {"a": 0, "b": 7, "c": 0}
    assert _shared(engine, _prompt("d", "prefix ", "two", "!")) == {"d": 10}
    assert _shared(engine, _prompt("e", "prefix ", "two")) == {"e": 9}, "the last character is always computed"
    assert _shared(engine, _prompt("f", "prefix ", salt="another tenant")) == {"f": 0}
    statistics = engine.statistics()
    assert statistics.num_shared_tokens == 26
    assert statistics.num_computed_tokens == statistics.num_prompt_tokens - 26 + statistics.num_output_tokens


def test_what_was_used_longest_ago_is_evicted_and_what_is_pinned_last() -> None:
    engine = ScriptedEngine(_upper, num_pages=4, page_size=2)
    engine.pin(prefix_hashes(["aaaa"]))
    for key in ("aaaa", "bbbb", "cccc"):
        run(engine, [_prompt(key, key)])
    statistics = engine.statistics()
    assert (statistics.num_pages, statistics.num_free_pages, statistics.num_evicted_pages) == (4, 0, 2)
    assert (statistics.num_cached_pages, statistics.num_pinned_pages) == (4, 2)
    assert _shared(engine, _prompt("a", "aaaa", "x")) == {"a": 4}
    engine.pin([])
    assert engine.statistics().num_pinned_pages == 0
    assert _shared(engine, _prompt("d", "dddddddd"), _prompt("b", "bbbb", "x")) == {"d": 0, "b": 0}


def test_of_a_prompt_the_end_is_evicted_first() -> None:
    engine = ScriptedEngine(_upper, num_pages=3, page_size=4)
    run(engine, [_prompt("a", "aaaa", "bbbb", "cccc")])
    run(engine, [_prompt("d", "dddd")])
    assert _shared(engine, _prompt("a", "aaaa", "bbbb", "cccc")) == {"a": 8}


@given(
    prompts=st.lists(st.lists(st.sampled_from(["a", "bb", "cccc"]), min_size=1, max_size=4), max_size=20),
    pins=st.lists(st.lists(st.sampled_from(["a", "bb", "cccc"]), min_size=1, max_size=3), max_size=4),
    num_pages=st.integers(0, 8),
)
def test_the_pages_of_the_cache_add_up(prompts: list[list[str]], pins: list[list[str]], num_pages: int) -> None:
    engine = ScriptedEngine(_upper, num_pages=num_pages, page_size=2)
    for number, prompt in enumerate(prompts):
        if pins:
            engine.pin(prefix_hashes(pins[number % len(pins)]))
        run(engine, [_prompt(str(number), *prompt)])
        engine.prefill([_ahead("next", *prompt, "bb")])
        pinned = engine.statistics().num_pinned_pages
        run(engine)
        engine.check_integrity()
        found = engine.statistics()
        assert found.num_pinned_pages >= pinned
        assert 0 <= found.num_pinned_pages <= found.num_cached_pages <= num_pages
        assert found.num_cached_pages + found.num_free_pages == num_pages


def _ahead(key: str, *segments: str) -> PrefillRequest:
    request = _prompt(key, *segments)
    hashes, ends = request.prefix_hashes, request.prefix_ends
    return PrefillRequest(key=key, prompt=request.prompt, prefix_hashes=hashes, prefix_ends=ends)


def test_prompts_are_computed_ahead_one_in_a_step_and_when_nobody_waits() -> None:
    engine = ScriptedEngine(_upper, num_slots=1, tokens_per_step=3)
    engine.prefill([_ahead("a", "prefix "), _ahead("b", "prefix ", "two"), _ahead("c", "other")])
    assert [engine.step() for _ in range(2)] == [[Prefilled("a")], [Prefilled("b")]]
    events = run(engine, [_prompt("x", "abc"), _prompt("b", "prefix ", "two", "!"), _prompt("a", "prefix ", "one")])
    started = {event.key: event for event in events if isinstance(event, Started)}
    assert (started["b"].num_shared_tokens, started["b"].num_prefilled_tokens) == (10, 3)
    assert (started["a"].num_shared_tokens, started["a"].num_prefilled_tokens) == (7, 7)
    order = [event.key for event in events if isinstance(event, Started | Prefilled)]
    assert order.index("c") > order.index("a"), "nobody waited any more"
    statistics = engine.statistics()
    assert statistics.num_prefilled_tokens == 7 + 3 + 5
    assert statistics.num_computed_tokens == 15 + (3 + 1 + 3) + statistics.num_output_tokens


def test_what_is_pinned_is_not_given_up_for_what_may_not_come() -> None:
    engine = ScriptedEngine(_upper, num_pages=4, page_size=2)
    engine.pin(prefix_hashes(["aaaa"]))
    run(engine, [_prompt("a", "aaaa"), _prompt("b", "bbbb")])
    engine.prefill([_ahead("large", "cccccc"), _ahead("small", "dddd")])
    assert run(engine) == []
    assert not engine.has_work
    engine.pin([])
    assert run(engine) == [Prefilled("large"), Prefilled("small")]
    engine.check_integrity()


def test_what_is_not_named_any_more_or_has_come_is_not_computed_ahead() -> None:
    engine = ScriptedEngine(_upper, num_slots=1, tokens_per_step=1)
    engine.submit([_prompt("runs", "abc"), _prompt("waits", "abcd")])
    engine.prefill([_ahead("runs", "abc"), _ahead("waits", "abcd"), _ahead("x", "x")])
    engine.prefill([_ahead("waits", "abcd"), _ahead("y", "y")])
    assert [event for event in run(engine) if isinstance(event, Prefilled)] == [Prefilled("y")]


def test_steps_and_batches_are_counted() -> None:
    engine = ScriptedEngine(_upper, num_slots=2, tokens_per_step=5, step_s=0.001)
    run(engine, [make_request(f"r{i}") for i in range(3)])
    statistics = engine.statistics()
    assert (statistics.num_steps, statistics.num_batched, statistics.last_batch_size) == (2, 3, 1)
    assert statistics.step_s >= 0.002
    assert 0.001 <= statistics.last_step_s < statistics.step_s


def test_what_the_script_raises_fails_its_request_alone() -> None:
    def answer(request: GenerationRequest) -> str:
        if request.key == "full":
            raise CapacityExhausted("no room")
        return str(1 // len(request.text))

    events = run(ScriptedEngine(answer), [make_request("full"), make_request("bad", ""), make_request("good", "x")])
    found = ends(events)
    assert isinstance(found["full"], CapacityExhausted)
    assert isinstance(found["bad"], EngineFailure)
    assert isinstance(found["good"], Finished)


def test_cancelled_requests_end_at_the_next_step() -> None:
    engine = ScriptedEngine(_upper, num_slots=1, tokens_per_step=1)
    engine.submit([make_request("running"), make_request("waiting"), make_request("other")])
    engine.step()
    engine.cancel(["running", "waiting", "unknown"])
    events = engine.step()
    assert [(event.key, type(event.error)) for event in events if isinstance(event, Failed)] == [
        ("running", TaskCancelled),
        ("waiting", TaskCancelled),
    ]
    assert Started("other", 5, 0) in events
    events = [event for event in run(engine, [make_request("running")]) if event.key == "running"]
    check_story(events, ["running"])  # a cancelled key may be used again


def test_a_key_that_has_not_ended_is_taken_once() -> None:
    engine = ScriptedEngine(_upper)
    engine.submit([make_request("a")])
    check_story(run(engine, [make_request("a")]), ["a"])


def test_too_late_and_too_long_are_refused() -> None:
    clock = [100.0]
    engine = ScriptedEngine(_upper, num_slots=1, tokens_per_step=1, max_context_tokens=10, now=lambda: clock[0])
    engine.submit([make_request("long", "12345", max_tokens=6), make_request("first", "1234", max_tokens=6)])
    engine.submit([make_request("late", "12", max_tokens=8, deadline=110.0)])
    events = engine.step()
    clock[0] = 110.5
    events += engine.step()
    found: dict[str, Finished | ParrotError] = ends(events)
    assert isinstance(found["long"], ContextLengthExceeded)
    assert isinstance(late := found["late"], DeadlineExceeded)
    assert late.message == "the start of 'late' was not done within 10 s"
    assert isinstance(ends(run(engine))["first"], Finished)  # it had started


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, parrot_workers.engine, parrot_workers.bridge; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
