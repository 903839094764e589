"""Batcher: everybody ends, nobody reads what is not there, what is common is computed once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot_workers.engine import PrefillRequest
from parrot_workers.engine.batcher import Step
from parrot_workers.engine.prefills import PrefillQueue

from tests.workers.batching import PAGE_SIZE, Simulation, make_sequence

_PREFIX = list(range(100, 132))


def _submit(simulation: Simulation, prompts: list[list[int]], *, max_tokens: int = 4) -> None:
    for order, prompt in enumerate(prompts):
        simulation.submit(make_sequence(f"r{order}", prompt, order=order, max_tokens=max_tokens))


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_a_prefix_is_computed_once_by_those_that_come_together() -> None:
    """All eight go into the first step: one computes the prefix, the others begin behind it."""
    simulation = Simulation(max_step_tokens=100)
    _submit(simulation, [[*_PREFIX, i] for i in range(8)])
    step = simulation.step()
    assert [span.end - span.begin for span in step.spans] == [33] + [1] * 7
    assert simulation.batcher.num_running == 8


def test_a_prefix_that_the_second_prompt_reveals_is_computed_once() -> None:
    """The first prompt is one segment until the second parts from it, inside a page, in the middle of the step."""
    simulation = Simulation(max_step_tokens=200)
    _submit(simulation, [[*_PREFIX, *[i] * 10] for i in range(4)])
    step = simulation.step()
    assert [span.end - span.begin for span in step.spans] == [42, 10, 10, 10]


def test_a_later_prompt_meets_what_is_cached() -> None:
    simulation = Simulation(max_step_tokens=100)
    _submit(simulation, [[*_PREFIX, 1]])
    simulation.run()
    simulation.submit(make_sequence("later", [*_PREFIX, 2]))
    step = simulation.step()
    assert step.num_rows == 1


def test_a_prompt_that_parts_inside_a_page_copies_what_is_common() -> None:
    simulation = Simulation(max_step_tokens=100)
    _submit(simulation, [[*_PREFIX, 1, 2, 3, 4, 5]])
    simulation.run()
    simulation.submit(make_sequence("later", [*_PREFIX, 1, 2, 9, 9, 9]))
    step = simulation.step()
    assert [copy.num_tokens for copy in step.copies] == [2]
    assert step.num_rows == 3


def test_a_continuation_meets_its_own_output() -> None:
    simulation = Simulation(max_step_tokens=100)
    sequence = make_sequence("a", _PREFIX, max_tokens=9)
    simulation.submit(sequence)
    simulation.run()
    simulation.submit(make_sequence("b", [*sequence.token_ids, 7]))
    step = simulation.step()
    assert step.num_rows == 2  # the last token of the output was never computed, and the new one


def test_long_prompts_are_read_in_chunks_beside_outputs() -> None:
    simulation = Simulation(max_step_tokens=16)
    simulation.submit(make_sequence("short", [1, 2], max_tokens=10))
    simulation.step()
    simulation.submit(make_sequence("long", _PREFIX, order=1))
    rows = [{s.key: n.end - n.begin for s, n in zip(x.sequences, x.spans, strict=True)} for x in _steps(simulation, 3)]
    assert rows == [{"short": 1, "long": 15}, {"short": 1, "long": 15}, {"short": 1, "long": 2}]


def test_without_chunks_a_prompt_is_read_at_once() -> None:
    simulation = Simulation(max_step_tokens=16, is_chunked=False)
    simulation.submit(make_sequence("long", _PREFIX))
    assert simulation.step().num_rows == 32


def test_without_sharing_everything_is_computed() -> None:
    simulation = Simulation(max_step_tokens=200, is_sharing=False)
    _submit(simulation, [[*_PREFIX, i] for i in range(4)], max_tokens=1)
    simulation.run()
    assert simulation.num_computed == 4 * 33


def test_another_tenant_computes_the_prefix_again() -> None:
    simulation = Simulation(max_step_tokens=200)
    simulation.submit(make_sequence("a", _PREFIX, salt="a"))
    simulation.submit(make_sequence("b", _PREFIX, salt="b", order=1))
    assert simulation.step().num_rows == 64


def test_a_cancelled_prefix_is_finished_by_the_next() -> None:
    """The first has computed half of the prefix when it is cancelled; the second goes on from there."""
    simulation = Simulation(max_step_tokens=16)
    _submit(simulation, [[*_PREFIX, 1], [*_PREFIX, 2]], max_tokens=1)
    simulation.step()
    simulation.cancel("r0")
    simulation.run()
    assert simulation.ended == ["r1"]
    assert simulation.num_computed == 33


# -- ahead -----------------------------------------------------------------------------------------------------------


def _prefilled(step: Step) -> list[int]:
    return [span.end - span.begin for span in step.prefill_spans]


def test_a_prompt_that_was_computed_ahead_is_not_computed_again() -> None:
    simulation = Simulation(max_step_tokens=100)
    simulation.prefill(("a", _PREFIX))
    simulation.run()
    assert (simulation.prefilled, simulation.num_prefilled, simulation.prefills.has_work) == (["a"], 32, False)
    simulation.submit(make_sequence("a", [*_PREFIX, 7]))
    assert simulation.step().num_rows == 1
    assert simulation.prefills.take_computed("a", 32) == 32
    assert simulation.prefills.take_computed("a", 32) == 0, "it is told once"


def test_prompts_are_computed_ahead_in_pieces_one_after_the_other() -> None:
    """A quarter of what a step could take: whoever comes meanwhile waits for its end."""
    simulation = Simulation(max_step_tokens=40)
    simulation.prefill(("a", _PREFIX), ("b", [*_PREFIX, 1, 2, 3]))
    assert [_prefilled(simulation.step()) for _ in range(6)] == [[10], [10], [10], [2], [3], []]
    assert simulation.prefilled == ["a", "b"]


def test_only_what_is_left_of_a_step_is_used() -> None:
    simulation = Simulation(num_pages=200, max_step_tokens=40)
    simulation.submit(make_sequence("long", range(75)))
    simulation.prefill(("a", _PREFIX))
    assert [(step.num_rows, _prefilled(step)) for step in _steps(simulation, 3)] == [(40, []), (40, [5]), (11, [10])]


def test_nothing_is_computed_ahead_at_the_cost_of_a_reader() -> None:
    simulation = Simulation(num_pages=200, max_step_tokens=400)
    _teach(simulation, 0.001)
    simulation.submit(make_sequence("reader", [1, 2], max_tokens=5, tpot_target_s=0.01))
    simulation.step()
    simulation.prefill(("a", _PREFIX))
    assert sum(_prefilled(simulation.step())) <= 9
    _teach(simulation, 0.1)
    assert _prefilled(simulation.step()) == []


def test_what_is_not_named_any_more_is_given_up_and_what_was_computed_stays() -> None:
    simulation = Simulation(max_step_tokens=40)
    simulation.prefill(("a", _PREFIX), ("b", [9] * 8))
    simulation.step()
    simulation.prefill(("b", [9] * 8))
    simulation.run()
    assert (simulation.prefilled, simulation.num_prefilled) == (["b"], 18)
    simulation.submit(make_sequence("a", _PREFIX))
    assert simulation.step().num_rows == 22
    assert simulation.prefills.take_computed("a", 10) == 10


def test_what_is_computed_is_not_computed_again_while_it_is_named() -> None:
    simulation = Simulation(max_step_tokens=100)
    for _ in range(3):
        simulation.prefill(("a", _PREFIX))
        simulation.run()
    assert (simulation.prefilled, simulation.num_prefilled) == (["a"], 32)
    simulation.prefill()
    simulation.prefill(("a", [*_PREFIX, 1]))
    simulation.run()
    assert (simulation.prefilled, simulation.num_prefilled) == (["a", "a"], 33)


def test_a_request_that_comes_in_the_middle_goes_on_itself() -> None:
    simulation = Simulation(max_step_tokens=40)
    simulation.prefill(("a", _PREFIX))
    simulation.step()
    simulation.submit(make_sequence("a", [*_PREFIX, 1], max_tokens=1))
    simulation.run()
    assert (simulation.prefilled, simulation.num_computed, simulation.num_prefilled) == ([], 33, 10)
    assert simulation.prefills.take_computed("a", 10) == 10


def test_what_is_pinned_or_runs_is_not_given_up_for_what_may_not_come() -> None:
    """Of 16 pages 8 are pinned and 3 run; the last prompt needs more than the five that are left."""
    simulation = Simulation(num_pages=17, max_step_tokens=100)
    simulation.prefill(("pinned", _PREFIX))
    simulation.cache.pin(["pinned"])
    simulation.run()
    assert simulation.cache.statistics().num_pinned_pages == 8
    simulation.submit(make_sequence("runs", [1] * 9, max_tokens=3))
    simulation.step()
    simulation.prefill(("large", [3] * 24))
    _steps(simulation, 1)
    assert simulation.num_prefilled == 32 + 20 or not simulation.prefills.has_work
    assert simulation.batcher.num_preemptions == 0
    assert simulation.cache.resident()[0] == "pinned"
    simulation.run()
    assert simulation.ended == ["runs"]
    assert "pinned" in simulation.cache.resident()


def test_without_room_nothing_is_tried_until_there_may_be_some() -> None:
    simulation = Simulation(num_pages=9, max_step_tokens=100)
    simulation.prefill(("pinned", range(32)))
    simulation.cache.pin(["pinned"])
    simulation.run()
    simulation.prefill(("other", range(50, 60)))
    assert not simulation.step().num_rows
    assert not simulation.prefills.has_work, "or the engine would never come to rest"
    simulation.cache.pin([])
    simulation.prefills.unblock()
    simulation.run()
    assert simulation.prefilled == ["pinned", "other"]


def test_who_waits_for_pages_gets_them_first() -> None:
    simulation = Simulation(num_pages=9, max_step_tokens=100)
    simulation.submit(make_sequence("a", [1] * 20, max_tokens=4))
    simulation.step()
    simulation.submit(make_sequence("b", [2] * 20, max_tokens=4, order=1))
    simulation.prefill(("c", [3] * 4))
    assert _prefilled(simulation.step()) == []
    simulation.run()
    assert (simulation.ended, simulation.prefilled) == (["a", "b"], ["c"])


def test_what_others_take_the_pages_of_again_and_again_is_left_out() -> None:
    simulation = Simulation(num_pages=9, max_step_tokens=40)
    simulation.prefill(("a", [9] * 30))
    for number in range(20):
        simulation.submit(make_sequence(f"r{number}", [number] * 28, max_tokens=1, order=number))
        simulation.step()
        simulation.step()
    simulation.run()
    assert simulation.num_prefilled <= 2 * 30 + 10
    assert len(simulation.ended) == 20


def test_a_step_that_fails_leaves_out_what_was_computed_ahead() -> None:
    simulation = Simulation(max_step_tokens=40)
    simulation.prefill(("a", _PREFIX), ("b", [9] * 8))
    step = simulation.batcher.schedule()
    (failed,) = step.prefills
    simulation.batcher.abandon(failed)
    simulation.cache.check_integrity()
    simulation.run()
    assert simulation.prefilled == ["b"]


def test_what_cannot_be_read_is_left_out() -> None:
    def read(request: PrefillRequest) -> tuple[list[int], list[tuple[str, int]]]:
        if request.key == "bad":
            raise ValueError("no text")
        return [1, 2], []

    queue = PrefillQueue(read)
    queue.replace([PrefillRequest(key="bad", prompt="x"), PrefillRequest(key="good", prompt="y")])
    found = queue.next()
    assert found is not None
    assert (found.request.key, len(queue)) == ("good", 1)


@given(ranges=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted)), num_shared=st.integers(0, 20))
def test_of_the_shared_tokens_those_computed_ahead_are_counted_once(ranges: list[list[int]], num_shared: int) -> None:
    queue = PrefillQueue(lambda _: ([0] * 20, []))
    queue.replace([PrefillRequest(key="a", prompt="x")])
    prefill = queue.next()
    assert prefill is not None
    for begin, end in ranges:
        queue.note(prefill, begin, end)
    expected = {position for begin, end in ranges for position in range(begin, end) if position < num_shared}
    assert queue.take_computed("a", num_shared) == len(expected)


# -- time ------------------------------------------------------------------------------------------------------------


def _steps(simulation: Simulation, num: int) -> list[Step]:
    return [simulation.step() for _ in range(num)]


def _teach(simulation: Simulation, seconds_per_row: float) -> None:
    rng = random.Random(0)
    for _ in range(50):
        rows = rng.randint(1, 500)
        simulation.step_time.observe(num_rows=rows, num_read_tokens=0, duration_s=rows * seconds_per_row)


def test_a_reader_bounds_the_step() -> None:
    """While somebody reads along, a prompt goes in smaller chunks; when nobody does, the step is full."""
    simulation = Simulation(num_pages=2000, max_step_tokens=400)
    _teach(simulation, 0.001)
    simulation.submit(make_sequence("reader", [1, 2], max_tokens=5, tpot_target_s=0.1))
    simulation.step()
    simulation.submit(make_sequence("long", [5] * 1000, order=1))
    rows = [step.num_rows for step in _steps(simulation, 6)]
    assert all(85 <= num <= 92 for num in rows[:4])
    assert rows[4] == 400


def test_reading_goes_on_however_tight_the_target() -> None:
    simulation = Simulation(num_pages=2000, max_step_tokens=400)
    _teach(simulation, 0.1)
    simulation.submit(make_sequence("reader", [1, 2], max_tokens=50, tpot_target_s=0.01))
    simulation.step()
    simulation.submit(make_sequence("long", [5] * 100, order=1))
    assert [step.num_rows for step in _steps(simulation, 3)] == [17, 17, 17]


def test_where_outputs_alone_miss_the_target_prompts_are_read_all_the_same() -> None:
    """A slow machine: the weights alone take longer than a token may. Then reading may take as long as writing does."""
    simulation = Simulation(num_pages=2000, max_step_tokens=400)
    for rows in range(1, 50):
        simulation.step_time.observe(num_rows=rows, num_read_tokens=0, duration_s=1.0 + rows * 0.01)
    simulation.submit(make_sequence("reader", [1, 2], max_tokens=5, tpot_target_s=0.2))
    simulation.step()
    simulation.submit(make_sequence("long", [5] * 400, order=1))
    simulation.prefill(("ahead", [7] * 100))
    steps = _steps(simulation, 3)
    assert all(100 <= step.num_rows <= 103 for step in steps)
    assert all(not step.prefills for step in steps)


def test_outputs_nobody_reads_take_turns_when_time_is_short() -> None:
    simulation = Simulation(num_pages=2000, num_slots=20, max_step_tokens=400)
    simulation.submit(make_sequence("reader", [1], max_tokens=100, tpot_target_s=0.1))
    for i in range(12):
        simulation.submit(make_sequence(f"w{i}", [i + 1, 7], max_tokens=8, order=i + 1))
    simulation.step()
    _teach(simulation, 0.02)
    counts = dict.fromkeys(simulation.sequences, 0)
    for step in _steps(simulation, 12):
        assert step.num_rows == 4
        for sequence in step.sequences:
            counts[sequence.key] += 1
    assert counts.pop("reader") == 12
    assert set(counts.values()) == {3}


# -- pages -----------------------------------------------------------------------------------------------------------


def test_the_last_to_come_is_preempted_and_comes_back() -> None:
    simulation = Simulation(num_pages=9, max_step_tokens=100)
    _submit(simulation, [[i + 1] * 11 for i in range(2)], max_tokens=16)
    simulation.run()
    assert simulation.ended == ["r0", "r1"]
    assert simulation.batcher.num_preemptions > 0


@pytest.mark.parametrize("lookahead", [0, 1])
@settings(max_examples=150)
@given(seed=st.integers(0, 10**9))
def test_everybody_ends_in_a_tiny_cache(lookahead: int, seed: int) -> None:
    """Arrivals, cancels, shared beginnings, tenants, readers, preemptions, pins and prefills, in any order."""
    rng = random.Random(seed)
    num_pages = rng.randint(8, 40)
    simulation = Simulation(
        num_pages=num_pages,
        num_slots=rng.randint(1, 6),
        max_step_tokens=rng.randint(1, 40),
        is_chunked=rng.random() < 0.8,
        lookahead=lookahead,
        seed=seed,
    )
    longest = (num_pages - 1) * PAGE_SIZE
    has_prefills = rng.random() < 0.7
    submitted, cancelled = [], set()
    for order in range(rng.randint(1, 12)):
        max_tokens = rng.randint(1, min(12, longest // 2))
        prompt = [rng.randrange(2) if rng.random() < 0.3 else 0 for _ in range(rng.randint(1, longest - max_tokens))]
        target = rng.choice([None, None, 0.01])
        if has_prefills:
            _look_ahead(simulation, rng, order, longest)
        sequence = make_sequence(
            f"r{order}", prompt, max_tokens=max_tokens, order=order, salt=rng.choice("aab"), tpot_target_s=target
        )
        simulation.submit(sequence)
        submitted.append(sequence.key)
        for _ in range(rng.randint(0, 6)):
            simulation.step()
        if rng.random() < 0.2:
            cancelled.add(key := rng.choice(submitted))
            simulation.cancel(key)
    simulation.run()
    assert set(simulation.ended) | cancelled == set(submitted)
    assert len(simulation.ended) == len(set(simulation.ended))


def _look_ahead(simulation: Simulation, rng: random.Random, order: int, longest: int) -> None:
    """Name some of the prompts that may come, perhaps pinned, perhaps none, perhaps too long for the cache."""
    simulation.prefill(
        *(
            (f"r{order + number}", [rng.choice((0, 0, 0, 1)) for _ in range(rng.randint(1, longest + 5))])
            for number in range(rng.randint(0, 3))
        )
    )
    if rng.random() < 0.3:
        simulation.cache.pin(f"r{rng.randint(0, 12)}" for _ in range(rng.randint(0, 4)))
        simulation.prefills.unblock()
