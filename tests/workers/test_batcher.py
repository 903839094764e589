"""Batcher: everybody ends, nobody reads what is not there, what is common is computed once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot_workers.engine.batcher import Step

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
    """Arrivals, cancels, shared beginnings, tenants, readers and preemptions, in any order."""
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
    submitted, cancelled = [], set()
    for order in range(rng.randint(1, 12)):
        max_tokens = rng.randint(1, min(12, longest // 2))
        prompt = [rng.randrange(2) if rng.random() < 0.3 else 0 for _ in range(rng.randint(1, longest - max_tokens))]
        target = rng.choice([None, None, 0.01])
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
