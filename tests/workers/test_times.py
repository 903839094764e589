"""How long generations take, and how they end."""

from __future__ import annotations

from parrot_workers.times import GenerationTimes

from parrot_mq.observability import Distribution


def _total(seen: Distribution) -> tuple[int, float]:
    return seen.num_values, round(seen.total, 9)


def test_a_generation_has_a_first_token_a_pace_and_an_end() -> None:
    times = GenerationTimes()
    times.accept("a", now=10.0)
    times.begin("a", now=10.5)
    times.begin("a", now=11.0)  # more text
    times.finish("a", num_output_tokens=5, now=12.5)
    found = times.statistics()
    assert _total(found.first_token) == (1, 0.5)
    assert _total(found.output_token) == (1, 0.5)
    assert {code: _total(seen) for code, seen in found.duration.items()} == {"": (1, 2.5)}
    assert found.num_failed == {}


def test_a_text_that_comes_all_at_once_or_not_at_all_has_no_pace() -> None:
    times = GenerationTimes()
    for key, num in (("empty", 1), ("none", 0)):
        times.accept(key, now=1.0)
        times.finish(key, num_output_tokens=num, now=2.0)
    found = times.statistics()
    assert _total(found.first_token) == (2, 2.0)
    assert found.output_token.num_values == 0


def test_failures_are_told_apart_by_their_code() -> None:
    times = GenerationTimes()
    for key, code in (("a", "task_cancelled"), ("b", "task_cancelled"), ("c", "engine_failure")):
        times.accept(key, now=0.0)
        times.fail(key, code, now=1.0)
    found = times.statistics()
    assert found.num_failed == {"task_cancelled": 2, "engine_failure": 1}
    assert found.duration["engine_failure"].num_values == 1
    assert found.duration[""].num_values == 0


def test_a_generation_ends_once_and_unknown_ones_are_ignored() -> None:
    times = GenerationTimes()
    times.accept("a", now=0.0)
    times.finish("a", num_output_tokens=2, now=1.0)
    before = times.statistics()
    times.fail("a", "internal", now=2.0)
    times.finish("a", num_output_tokens=2, now=3.0)
    times.begin("b", now=3.0)
    times.finish("b", num_output_tokens=1, now=3.0)
    assert times.statistics() == before
