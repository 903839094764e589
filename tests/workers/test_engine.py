"""PagedEngine: every request ends once, a failure stays with those it concerns, a text is the same in any company."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from parrot_workers.config import EngineConfig
from parrot_workers.engine import (
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    Prefilled,
    PrefillRequest,
    Started,
    model_runner,
)
from parrot_workers.engine.assembly import assemble
from parrot_workers.models import LoadedModel, forward

from parrot_mq.errors import (
    CapacityExhausted,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailure,
    ParrotError,
    TaskCancelled,
    UnknownToken,
)
from tests.workers.driving import check_story, ends, make_request, run

_PREFIX = "All of these prompts begin with the same sentence. "


@pytest.fixture
def model(loaded: Callable[[str], LoadedModel]) -> LoadedModel:
    return loaded("llama")


def _finished(events: list[EngineEvent], key: str) -> Finished:
    end = ends(events)[key]
    assert isinstance(end, Finished), end
    return end


# -- sharing ---------------------------------------------------------------------------------------------------------


def test_the_first_of_a_group_pays_for_the_prefix(model: LoadedModel) -> None:
    engine = assemble(model)
    prefix = _PREFIX[:48]  # three pages
    events = run(engine, [make_request(f"r{i}", f"{prefix}{i}", max_tokens=2) for i in range(3)])
    shared = [event.num_shared_tokens for event in events if isinstance(event, Started)]
    assert sorted(shared) == [0, 48, 48]
    statistics = engine.statistics()
    assert statistics.num_prompt_tokens == 3 * 49
    assert statistics.num_shared_tokens == 2 * 48
    assert statistics.num_output_tokens == 6
    assert statistics.num_computed_tokens == 3 * 50 - 2 * 48


def test_a_shared_prefix_goes_through_the_model_once(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the very step in which the first computes it, the others go on behind it."""
    seen: list[int] = []

    def spy(model: LoadedModel, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(input_ids))
        return forward(model, input_ids, *rest)

    monkeypatch.setattr(model_runner, "forward", spy)
    prefix = _PREFIX[:48]
    run(assemble(model), [make_request(f"r{i}", f"{prefix}{'x' * i}", max_tokens=3) for i in range(1, 5)])
    assert seen == [48 + 1 + 2 + 3 + 4, 4, 4]


def test_a_prompt_that_parts_inside_a_page_computes_only_what_is_new(model: LoadedModel) -> None:
    engine = assemble(model)
    run(engine, [make_request("a", f"{_PREFIX}and this one goes on", max_tokens=1)])
    before = engine.statistics().num_computed_tokens
    run(engine, [make_request("b", f"{_PREFIX}but that one", max_tokens=1)])
    assert engine.statistics().num_computed_tokens - before == len("but that one")
    assert engine.statistics().num_copied_tokens == len(_PREFIX) % 16


def test_a_continuation_computes_only_what_is_new(model: LoadedModel) -> None:
    """A chat turn meets the prompt and the answer of the turn before it."""
    engine = assemble(model)
    first = _finished(run(engine, [make_request("a", _PREFIX, max_tokens=20)]), "a")
    token_ids = (*_PREFIX.encode(), *first.output_ids)
    before = engine.statistics().num_computed_tokens
    run(engine, [replace(make_request("b", max_tokens=1), prompt=(*token_ids, 65, 66))])
    assert engine.statistics().num_computed_tokens - before == 3  # the last token of the answer, and the two new ones


def test_a_continuation_as_text_keeps_the_tokens_of_the_output(model: LoadedModel) -> None:
    engine = assemble(model)
    first = _finished(run(engine, [make_request("a", _PREFIX, max_tokens=20)]), "a")
    text = _PREFIX + first.text
    request = make_request("b", text + " more", max_tokens=1)
    request = replace(request, prefix_hashes=("h",), prefix_ends=(len(text),))
    before = engine.statistics().num_computed_tokens
    run(engine, [request])
    assert engine.statistics().num_computed_tokens - before == 1 + len(" more")


def test_tenants_share_nothing(model: LoadedModel) -> None:
    engine = assemble(model)
    run(engine, [replace(make_request(salt, _PREFIX, max_tokens=1), salt=salt) for salt in "ab"])
    assert engine.statistics().num_computed_tokens == 2 * len(_PREFIX)


def _prefill(key: str, prompt: str, *prefixes: str) -> PrefillRequest:
    """Some leading parts of the prompt have a name: their text."""
    return PrefillRequest(key=key, prompt=prompt, prefix_hashes=prefixes, prefix_ends=tuple(map(len, prefixes)))


def test_a_prompt_that_is_known_in_part_is_computed_in_part_before_it_comes(model: LoadedModel) -> None:
    engine = assemble(model)
    engine.prefill([_prefill("a", _PREFIX), _prefill("b", _PREFIX + "More.")])
    assert run(engine) == [Prefilled("a"), Prefilled("b")]
    assert engine.statistics().num_prefilled_tokens == engine.statistics().num_computed_tokens == len(_PREFIX) + 5
    events = run(engine, [make_request("a", _PREFIX + "1", max_tokens=2), make_request("c", _PREFIX, max_tokens=2)])
    assert Started("a", 52, 51, 51) in events
    assert Started("c", 51, 50) in events, "it was not computed for this one"
    assert _finished(events, "a").num_prefilled_tokens == 51
    assert engine.statistics().num_prompt_tokens - engine.statistics().num_shared_tokens == 2
    engine.check_integrity()


def test_of_what_two_have_in_common_ahead_the_first_is_the_one_it_was_computed_for(model: LoadedModel) -> None:
    engine = assemble(model)
    engine.prefill([_prefill("a", _PREFIX), _prefill("b", _PREFIX + "More.")])
    run(engine)
    events = run(engine, [make_request("b", _PREFIX + "More. 1", max_tokens=2)])
    assert Started("b", 58, 56, 5) in events


def test_what_was_computed_ahead_can_be_pinned(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig(cache_tokens=160))
    engine.prefill([_prefill("a", _PREFIX, _PREFIX[:20], _PREFIX)])
    engine.pin([_PREFIX])
    run(engine)
    assert engine.statistics().num_pinned_pages >= 3
    for number in range(6):
        run(engine, [make_request(f"other{number}", str(number) * 90, max_tokens=2)])
    events = run(engine, [make_request("a", _PREFIX + "!", max_tokens=2)])
    assert Started("a", 52, 48, 48) in events


def test_a_prefill_that_cannot_be_computed_is_nobodys_failure(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig(cache_tokens=64))
    bad = [PrefillRequest(key="ids", prompt=(1, 10**6)), PrefillRequest(key="none", prompt=())]
    engine.prefill([*bad, _prefill("long", "x" * 1000), _prefill("good", "abc")])
    assert run(engine) == [Prefilled("good")]


def test_without_sharing_nothing_is_computed_ahead(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig(share_prefixes=False))
    engine.prefill([_prefill("a", _PREFIX)])
    assert not engine.has_work


def test_an_exception_in_a_forward_ends_a_prefill(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = assemble(model)
    engine.prefill([_prefill("a", _PREFIX), _prefill("b", "Another one.")])
    with monkeypatch.context() as patch:

        def explode(*args: Any) -> None:
            raise RuntimeError("the device is on fire")

        patch.setattr(model_runner, "forward", explode)
        assert engine.step() == []
    engine.check_integrity()
    assert run(engine) == [Prefilled("b")]
    assert _finished(run(engine, [make_request("a", _PREFIX, max_tokens=2)]), "a").num_prefilled_tokens == 0


def test_a_pinned_prefix_outlives_the_others(model: LoadedModel) -> None:
    """The cache has room for three prompts; the first is needed again, so the second goes."""
    engine = assemble(model, EngineConfig(cache_tokens=160))
    prompts = {key: key * 48 for key in "abcd"}
    requests = {
        key: replace(make_request(key, prompt + "?", max_tokens=1), prefix_hashes=(key,), prefix_ends=(48,))
        for key, prompt in prompts.items()
    }
    engine.pin(["a"])
    for key in "abcd":
        run(engine, [requests[key]])
    before = engine.statistics().num_computed_tokens
    run(engine, [requests["a"]])
    assert engine.statistics().num_computed_tokens - before == 1
    run(engine, [requests["b"]])
    assert engine.statistics().num_computed_tokens - before == 1 + 49


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sampled_text_does_not_depend_on_the_batch(loaded: Callable[[str], LoadedModel], family: str) -> None:
    model = loaded(family)
    requests = [
        make_request(f"r{i}", _PREFIX * (i % 2) + "x" * i, seed=i, max_tokens=24, temperature=0.9, top_p=0.95, top_k=40)
        for i in range(6)
    ]
    together = run(assemble(model), requests)
    for request in requests:
        alone = run(assemble(model), [request])
        assert _finished(alone, request.key).text == _finished(together, request.key).text


def test_the_seed_decides_the_text(model: LoadedModel) -> None:
    requests = [make_request(f"r{i}", "same", seed=i // 2, max_tokens=16, temperature=1.0) for i in range(4)]
    events = run(assemble(model), requests)
    texts = [_finished(events, request.key).text for request in requests]
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_a_stop_string_ends_the_text_before_it(model: LoadedModel) -> None:
    full = _finished(run(assemble(model), [make_request("a", "hello", max_tokens=40)]), "a").text
    stop = full[10:13]
    events = run(assemble(model), [make_request("a", "hello", max_tokens=40, stop=[stop])])
    check_story(events, ["a"])
    end = _finished(events, "a")
    assert end.text == full[: full.index(stop)]
    assert end.finish_reason == "stop"
    assert end.num_output_tokens < 40


def test_a_stop_string_that_never_comes_costs_no_text(model: LoadedModel) -> None:
    full = _finished(run(assemble(model), [make_request("a", "hello", max_tokens=20)]), "a").text
    stop = full[-2:] + "never"
    end = _finished(run(assemble(model), [make_request("a", "hello", max_tokens=20, stop=[stop])]), "a")
    assert (end.text, end.finish_reason) == (full, "length")


def test_an_empty_prompt_begins_with_the_token_that_begins_a_text(model: LoadedModel) -> None:
    end = _finished(run(assemble(model), [make_request("a", "", max_tokens=3)]), "a")
    assert (end.num_prompt_tokens, end.num_output_tokens) == (1, 3)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_refused_at_once(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig(max_context_tokens=100))
    assert engine.max_context_tokens == 100
    requests = [make_request("fits", "x" * 90, max_tokens=10), make_request("long", "x" * 91, max_tokens=10)]
    engine.submit(requests)
    events = engine.step()
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.key for event in failed] == ["long"]
    assert isinstance(failed[0].error, ContextLengthExceeded)
    assert failed[0].error.facts == {"num_prompt_tokens": 91, "max_tokens": 10, "limit": 100}
    assert isinstance(ends(events + run(engine))["fits"], Finished)


def test_the_model_bounds_the_context(model: LoadedModel) -> None:
    assert assemble(model).max_context_tokens == 512
    assert assemble(model, EngineConfig(max_context_tokens=100_000)).max_context_tokens == 512


def test_the_longest_context_runs_to_its_end(model: LoadedModel) -> None:
    end = _finished(run(assemble(model), [make_request("a", "x" * 500, max_tokens=12)]), "a")
    assert end.num_output_tokens == 12


def test_a_request_past_its_deadline_is_not_started(model: LoadedModel) -> None:
    clock = [100.0]
    engine = assemble(model, EngineConfig(num_slots=1), now=lambda: clock[0])
    engine.submit([make_request("first", max_tokens=5, deadline=101), make_request("late", deadline=102)])
    events = engine.step()
    clock[0] = 103.0
    events += engine.step()
    late = ends(events)["late"]
    assert isinstance(late, DeadlineExceeded)
    assert late.timeout_s == 2
    assert isinstance(ends(events + run(engine))["first"], Finished)  # it had started


def test_a_token_beyond_the_vocabulary_fails_its_request_alone(model: LoadedModel) -> None:
    small = replace(model, vocab_size=200)
    found = ends(run(assemble(small), [make_request("bad", "🦜"), make_request("good", max_tokens=2)]))
    assert isinstance(bad := found["bad"], EngineFailure)
    assert bad.message.startswith("the engine failed: token 2")
    assert isinstance(found["good"], Finished)


def test_a_prompt_that_cannot_be_tokenized_fails_alone(model: LoadedModel) -> None:
    found = ends(run(assemble(model), [make_request("bad", "\ud800"), make_request("good", max_tokens=2)]))
    assert isinstance(found["bad"], EngineFailure)
    assert isinstance(found["good"], Finished)


@pytest.mark.parametrize(
    "request_fields", [{"logit_bias": {9999: 1.0}}, {"stop_token_ids": [9999]}], ids=["logit_bias", "stop_token_ids"]
)
def test_sampling_that_names_an_unknown_token_fails_alone(model: LoadedModel, request_fields: dict[str, Any]) -> None:
    found = ends(run(assemble(model), [make_request("bad", **request_fields), make_request("good", max_tokens=2)]))
    assert isinstance(found["bad"], UnknownToken)
    assert isinstance(found["good"], Finished)


def test_unknown_tokens_of_an_earlier_attempt_fail_alone(model: LoadedModel) -> None:
    bad = replace(make_request("bad", repetition_penalty=1.2), output_ids=(9999,))
    found = ends(run(assemble(model), [bad, make_request("good", max_tokens=2)]))
    assert isinstance(found["bad"], EngineFailure)
    assert isinstance(found["good"], Finished)


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ZeroDivisionError("by zero"), EngineFailure),
        (torch.OutOfMemoryError("CUDA out of memory"), CapacityExhausted),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), CapacityExhausted),
        (MemoryError(), CapacityExhausted),
    ],
)
def test_an_exception_in_a_forward_fails_its_step_alone(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[ParrotError]
) -> None:
    """Who waits for a slot meanwhile runs afterwards, and no page is lost."""
    engine = assemble(model, EngineConfig(num_slots=2))
    engine.submit([make_request(key, _PREFIX + key, max_tokens=20) for key in ("bad1", "bad2", "other")])
    events = engine.step()

    def fail(*_: Any) -> torch.Tensor:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(model_runner, "forward", fail)
        events += engine.step()
    engine.check_integrity()
    events += run(engine, [make_request("next", _PREFIX + "bad1", max_tokens=2)])
    found = ends(events)
    check_story(events, ["other", "bad1", "bad2", "next"])
    assert isinstance(found["bad1"], expected)
    assert isinstance(found["bad2"], expected)
    alone = run(assemble(model), [make_request("other", _PREFIX + "other", max_tokens=20)])
    assert _finished(events, "other").text == _finished(alone, "other").text
    assert isinstance(found["next"], Finished)


def test_a_row_whose_logits_are_not_numbers_fails_alone(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def poison(*arguments: Any) -> torch.Tensor:
        logits = forward(*arguments)
        logits[0] = float("nan")
        return logits

    engine = assemble(model)
    engine.submit([make_request("a", "a", max_tokens=5), make_request("b", "b", max_tokens=5)])
    events = engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(model_runner, "forward", poison)
        events += engine.step()
    events += run(engine)
    found = ends(events)
    check_story(events, ["a", "b"])
    assert isinstance(found["a"], EngineFailure)
    expected = _finished(run(assemble(model), [make_request("b", "b", max_tokens=5)]), "b")
    assert found["b"] == expected


# -- life of requests ------------------------------------------------------------------------------------------------


def test_a_cancelled_row_leaves_before_the_next_forward(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig(num_slots=2))
    engine.submit([make_request(key, _PREFIX + key, max_tokens=30) for key in "abc"])
    events = engine.step()
    engine.cancel(["a", "unknown"])
    assert engine.statistics().num_running == 1
    events += engine.step()
    assert next(event for event in events if isinstance(event, Failed)).key == "a"
    assert any(isinstance(event, Started) and event.key == "c" for event in events)  # it has the free slot
    engine.submit([make_request("a", _PREFIX + "a", max_tokens=2)])  # a cancelled key may be used again
    later = run(engine)
    check_story([event for event in later if event.key == "a"], ["a"])
    expected = _finished(run(assemble(model), [make_request("b", _PREFIX + "b", max_tokens=30)]), "b")
    assert _finished(later, "b").text == expected.text


def test_a_key_cancelled_and_submitted_again_between_steps_starts_afresh(model: LoadedModel) -> None:
    engine = assemble(model)
    engine.submit([make_request("a", max_tokens=4)])
    engine.step()
    engine.cancel(["a"])
    engine.submit([make_request("a", max_tokens=4)])
    events = run(engine)
    assert isinstance(events[0], Failed)
    check_story(events[1:], ["a"])


def test_no_more_run_than_there_are_slots(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig(num_slots=3))
    engine.submit([make_request(f"r{i}", max_tokens=1 + i % 4) for i in range(10)])
    while engine.has_work:
        engine.step()
        assert engine.statistics().num_running <= 3
    assert engine.statistics().num_waiting == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_whatever_comes_every_request_ends_once(loaded: Callable[[str], LoadedModel], family: str, seed: int) -> None:
    """Random submissions and cancellations; those that finish have the text they have alone."""
    rng = random.Random(seed)
    engine = assemble(loaded(family), EngineConfig(num_slots=rng.randint(1, 6)))
    requests: dict[str, GenerationRequest] = {}
    cancelled: set[str] = set()
    events: list[EngineEvent] = []
    for _ in range(30):
        new = [_random_request(f"r{len(requests) + i}", rng) for i in range(rng.choice([0, 0, 0, 1, 5]))]
        requests.update((request.key, request) for request in new)
        engine.submit(new)
        if requests and rng.random() < 0.2:
            victims = rng.sample(sorted(requests), min(2, len(requests)))
            cancelled.update(victims)
            engine.cancel(victims)
        events += engine.step()
    events += run(engine)
    check_story(events, requests)
    for key, end in ends(events).items():
        if isinstance(end, Finished):
            alone = _finished(run(assemble(loaded(family)), [requests[key]]), key)
            assert (end.text, end.num_output_tokens) == (alone.text, alone.num_output_tokens)
        else:
            assert isinstance(end, TaskCancelled)
            assert key in cancelled
    statistics = engine.statistics()
    assert (statistics.num_running, statistics.num_waiting) == (0, 0)


def _random_request(key: str, rng: random.Random) -> GenerationRequest:
    prompt = rng.choice(["", _PREFIX, _PREFIX + _PREFIX]) + "abc"[: rng.randint(1, 3)] * rng.randint(1, 12)
    temperature = rng.choice([0.0, 0.8])
    return make_request(key, prompt, seed=rng.randint(0, 9), max_tokens=rng.randint(1, 12), temperature=temperature)
