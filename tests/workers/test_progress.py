"""Progress: the tokens of every generation are told in order and without a gap, and no message is too large."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.progress import Progress

from parrot_mq.messages import Generation, GenerationProgress, WorkerStatus, encode
from parrot_mq.types import Sampling


def _generation(variable: str, output_ids: list[int] | None = None) -> Generation:
    return Generation(
        tenant="t",
        session="s",
        task="k",
        variable=variable,
        attempt=2,
        prompt=[],
        prefix_hashes=[],
        sampling=Sampling(),
        deadline=0.0,
        output_ids=output_ids or [],
    )


def _size_bytes(progress: list[GenerationProgress]) -> int:
    status = WorkerStatus(worker="w", model="m", state="ready", num_slots=1)
    return len(encode(WorkerStatus(worker="w", model="m", state="ready", num_slots=1, progress=progress))) - len(
        encode(status)
    )


def _make(*variables: str) -> Progress:
    progress = Progress()
    for variable in variables:
        progress.accept(_generation(variable))
    return progress


def test_only_what_is_new_is_told() -> None:
    progress = _make("a")
    assert not progress.has_news
    progress.start("t.s.a", num_prompt_tokens=5, now=7.0)
    assert progress.started_at("t.s.a") == 7.0
    assert progress.take(1000) == [GenerationProgress(key="t.s.a", attempt=2, num_prompt_tokens=5)]
    progress.extend("t.s.a", [1, 2])
    progress.extend("t.s.a", ())
    progress.extend("t.s.a", [3])
    told = GenerationProgress(key="t.s.a", attempt=2, output_ids=[1, 2, 3], num_prompt_tokens=5)
    assert progress.take(1000) == [told]
    progress.complete("t.s.a", [1, 2, 3, 4])
    assert progress.take(1000) == [
        GenerationProgress(key="t.s.a", attempt=2, begin=3, output_ids=[4], num_prompt_tokens=5)
    ]
    assert progress.take(1000) == []


def test_all_of_it_is_told_again_when_somebody_may_not_know_it() -> None:
    progress = _make("a", "waits")
    progress.extend("t.s.a", [1, 2])
    progress.take(1000)
    progress.tell_again()
    assert [(each.key, each.output_ids) for each in progress.take(1000)] == [("t.s.a", [1, 2])]


def test_what_came_with_the_assignment_is_known_already() -> None:
    progress = Progress()
    progress.accept(_generation("a", [8, 9]))
    progress.extend("t.s.a", [10])
    (told,) = progress.take(1000)
    assert (told.begin, told.output_ids) == (2, [10])
    progress.tell_again()
    (told,) = progress.take(1000)
    assert (told.begin, told.output_ids) == (0, [8, 9, 10])


def test_what_does_not_run_here_is_ignored() -> None:
    progress = _make("a")
    progress.extend("t.s.a", [1])
    progress.forget("t.s.a")
    progress.forget("t.s.a")
    progress.extend("t.s.a", [2])
    progress.start("t.s.a", num_prompt_tokens=1, now=1.0)
    progress.complete("t.s.a", [1, 2])
    progress.tell_again()
    assert (progress.has_news, progress.take(1000), progress.started_at("t.s.a")) == (False, [], 0.0)


@given(seed=st.integers(0, 10**9), max_bytes=st.integers(110, 600))
def test_messages_are_never_too_large_and_tell_everything_in_the_end(seed: int, max_bytes: int) -> None:
    rng = random.Random(seed)
    variables = [f"v{number}" for number in range(rng.randint(1, 6))]
    progress = _make(*variables)
    tokens: dict[str, list[int]] = {f"t.s.{variable}": [] for variable in variables}
    told: dict[str, list[int]] = {key: [] for key in tokens}

    def tell() -> None:
        taken = progress.take(max_bytes)
        assert taken or not progress.has_news
        assert _size_bytes(taken) <= max_bytes
        for each in taken:
            assert each.begin <= len(told[each.key]), "there is a gap"
            told[each.key][each.begin :] = each.output_ids

    for _ in range(rng.randint(1, 40)):
        key = rng.choice(list(tokens))
        new = [rng.randrange(2**31) for _ in range(rng.randint(0, 60))]
        tokens[key] += new
        progress.extend(key, new)
        if rng.random() < 0.1:
            progress.tell_again()
        if rng.random() < 0.5:
            tell()
    while progress.has_news:
        tell()
    assert told == tokens
