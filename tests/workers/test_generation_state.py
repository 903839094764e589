"""Tokens become events: what ends an output, what is told of it, and how an earlier attempt is continued."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.base import Delta, EngineEvent, Finished, FinishReason, GenerationRequest, Started
from parrot_workers.engine.generation_state import GenerationState
from parrot_workers.engine.logits_mask import LogitsMask

from parrot_mq.types import Sampling, TokenLogprob
from tests.workers.masks import NumberMask

_EOS = 256
_texts = st.text(st.sampled_from("ab\n é🦜"), max_size=12)


def _decode(token_ids: list[int]) -> str:
    return bytes(token_id for token_id in token_ids if token_id < 256).decode(errors="replace")


def _make_state(sampling: Sampling, output_ids: Sequence[int] = (), mask: LogitsMask | None = None) -> GenerationState:
    request = GenerationRequest(key="k", prompt="p", sampling=sampling, output_ids=tuple(output_ids), mask=mask)
    return GenerationState(request, [112], decode=_decode, eos_token_ids=frozenset([_EOS]))


def _run(state: GenerationState, token_ids: Sequence[int]) -> list[EngineEvent]:
    """Append tokens until one ends the output."""
    events: list[EngineEvent] = state.finish() if state.is_finished else []
    for token_id in token_ids:
        if not state.is_finished:
            events += state.append(token_id)
    return events


def _end(sampling: Sampling, token_ids: Sequence[int]) -> tuple[str, FinishReason, int]:
    finished = _run(_make_state(sampling), token_ids)[-1]
    assert isinstance(finished, Finished)
    return finished.text, finished.finish_reason, finished.num_output_tokens


@pytest.mark.parametrize(
    ("sampling", "token_ids", "expected"),
    [
        (Sampling(), [*b"ab", _EOS, 99], ("ab", "eos", 3)),
        (Sampling(max_tokens=2), b"abc", ("ab", "length", 2)),
        (Sampling(stop=("b",)), b"abc", ("a", "stop", 2)),
        (Sampling(stop_token_ids=(99, 100)), b"abdc", ("ab", "stop", 3)),
        (Sampling(stop_token_ids=(_EOS,)), [97, _EOS], ("a", "eos", 2)),
        (Sampling(ignore_eos=True, max_tokens=3), [97, _EOS, 98, 99], ("ab", "length", 3)),
        (Sampling(ignore_eos=True, stop_token_ids=(_EOS,)), [97, _EOS], ("a", "stop", 2)),
        (Sampling(stop=("xy",)), [*b"ax", _EOS], ("ax", "eos", 3)),
        (Sampling(), [*"é".encode()[:1], _EOS], ("\ufffd", "eos", 2)),
        (Sampling(stop=("\ufffd",)), ["é".encode()[0], _EOS], ("", "stop", 2)),
    ],
)
def test_what_ends_an_output(sampling: Sampling, token_ids: Sequence[int], expected: tuple[str, str, int]) -> None:
    assert _end(sampling, token_ids) == expected


@pytest.mark.parametrize(
    ("min_tokens", "text"),
    [(0, "a"), (1, "a"), (2, "ab-a"), (3, "ab-a"), (4, "ab-a"), (5, "ab-ab-a")],
)
def test_a_stop_string_ends_no_output_before_min_tokens(min_tokens: int, text: str) -> None:
    """One that begins before and ends after does."""
    assert _end(Sampling(stop=("b",), min_tokens=min_tokens), b"ab-ab-ab")[0] == text


def test_a_stop_string_of_the_beginning_does_not_hide_in_what_is_held_back() -> None:
    sampling = Sampling(stop=("ab", "-ab+"), min_tokens=3, max_tokens=5)
    assert _end(sampling, b"-abcd") == ("-abcd", "length", 5)


@given(
    text=_texts,
    stop=st.lists(_texts.filter(bool), max_size=2),
    num_given=st.integers(0, 20),
    min_tokens=st.integers(0, 6),
    has_eos=st.booleans(),
)
def test_a_continuation_tells_what_one_attempt_would_have_told(
    text: str, stop: list[str], num_given: int, min_tokens: int, has_eos: bool
) -> None:
    max_tokens = max(1, len(text.encode()))
    sampling = Sampling(max_tokens=max_tokens, min_tokens=min(min_tokens, max_tokens), stop=tuple(stop))
    token_ids = [*text.encode(), *([_EOS] if has_eos else [])]
    whole = _run(_make_state(sampling), token_ids)
    state = _make_state(sampling, token_ids[:num_given])
    continued = _run(state, token_ids[num_given:])
    for events in (whole, continued):
        deltas = [event for event in events if isinstance(event, Delta)]
        assert all(delta.text for delta in deltas)
        assert all(b.offset == a.offset + len(a.text) for a, b in pairwise(deltas))
        assert [type(event) for event in events].count(Started) == (1 if events else 0)
        assert all(isinstance(event, Started) == (number == 0) for number, event in enumerate(events))
        assert not any(isinstance(event, Finished) for event in events[:-1])
    if state.is_finished:
        assert continued[-1] == whole[-1]
        assert isinstance(finished := whole[-1], Finished)
        assert list(finished.output_ids) == token_ids[: finished.num_output_tokens]
        deltas = [event for event in continued if isinstance(event, Delta)]
        assert not deltas or finished.text[deltas[0].offset :] == "".join(event.text for event in deltas)
        told = [delta for delta in whole if isinstance(delta, Delta)]
        assert not told or (told[0].offset, "".join(delta.text for delta in told)) == (0, finished.text)


@given(text=_texts, stop=st.lists(_texts.filter(bool), max_size=2), data=st.data())
def test_who_has_the_tokens_of_some_deltas_goes_on_just_behind_their_text(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    sampling = Sampling(max_tokens=max(1, len(text.encode())), stop=tuple(stop))
    deltas = [event for event in _run(_make_state(sampling), text.encode()) if isinstance(event, Delta)]
    told = deltas[: data.draw(st.integers(0, len(deltas)))]
    output_ids = [token_id for delta in told for token_id in delta.output_ids]
    state = _make_state(sampling, output_ids)
    continued = [event for event in _run(state, text.encode()[len(output_ids) :]) if isinstance(event, Delta)]
    assert not continued or continued[0].offset == sum(len(delta.text) for delta in told)


def test_an_earlier_attempt_may_have_ended_the_output() -> None:
    state = _make_state(Sampling(stop=("b",)), b"abc")
    assert state.is_finished
    finished = Finished(
        key="k",
        text="a",
        finish_reason="stop",
        num_prompt_tokens=1,
        num_shared_tokens=0,
        num_output_tokens=2,
        output_ids=(97, 98),
    )
    assert state.finish() == [Started("k", 1, 0, text="a"), finished]


def test_the_text_of_an_earlier_attempt_is_not_told_again() -> None:
    state = _make_state(Sampling(), b"ab")
    assert (state.num_output_tokens, state.is_finished) == (2, False)
    assert state.append(99) == [Started("k", 1, 0, text="ab"), Delta("k", "c", 2, output_ids=(99,))]
    assert state.append(100) == [Delta("k", "d", 3, output_ids=(100,))]


# -- constraints -----------------------------------------------------------------------------------------------------


def test_a_constraint_is_told_every_token_and_may_end_the_output() -> None:
    mask = NumberMask(eos_token_id=None, max_digits=3)
    state = _make_state(Sampling(), b"-1", mask)
    assert state.needs_known_tokens
    events = _run(state, b"234")
    assert isinstance(finished := events[-1], Finished)
    assert (finished.text, finished.finish_reason, mask.is_finished) == ("-123", "stop", True)


def test_a_constraint_is_not_told_the_end_of_the_text() -> None:
    state = _make_state(Sampling(), mask=NumberMask(eos_token_id=_EOS))
    assert isinstance(finished := _run(state, [*b"12", _EOS])[-1], Finished)
    assert (finished.text, finished.finish_reason) == ("12", "eos")


# -- log probabilities -----------------------------------------------------------------------------------------------


def test_log_probabilities_come_with_the_text_and_all_in_the_end() -> None:
    state = _make_state(Sampling(stop=("cd",), logprobs=1), b"z")
    told = [TokenLogprob(token_id, -float(number)) for number, token_id in enumerate([*b"abc!", _EOS])]
    events = [event for each in told for event in state.append(each.token_id, each)]
    deltas = [(event.text, event.logprobs) for event in events if isinstance(event, Delta)]
    assert deltas == [("a", (told[0],)), ("b", (told[1],)), ("c!", (told[2], told[3]))]
    assert isinstance(finished := events[-1], Finished)
    assert finished.logprobs == tuple(told)
