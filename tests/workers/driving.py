"""Run an engine to its end and sort what it told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
from parrot_workers.engine import Delta, Engine, EngineEvent, Failed, Finished, GenerationRequest, Prefilled, Started

from parrot_mq.errors import ParrotError
from parrot_mq.types import Sampling

__all__ = ["check_story", "ends", "make_request", "run"]

_MAX_STEPS = 10_000


def make_request(
    key: str, prompt: str = "hello", *, seed: int = 0, deadline: float = 1e18, **sampling: object
) -> GenerationRequest:
    """A request; `sampling` names fields of `Sampling`."""
    return GenerationRequest(
        key=key, prompt=prompt, sampling=msgspec.convert(sampling, Sampling), seed=seed, deadline=deadline
    )


def run(engine: Engine, requests: Sequence[GenerationRequest] = ()) -> list[EngineEvent]:
    """Submit requests and step until nothing is left to do. Returns: all events."""
    engine.submit(requests)
    events: list[EngineEvent] = []
    for _ in range(_MAX_STEPS):
        if not engine.has_work:
            return events
        events += engine.step()
    raise AssertionError("the engine does not come to an end")


def ends(events: Iterable[EngineEvent]) -> dict[str, Finished | ParrotError]:
    """How each request ended, by key: its `Finished`, or the error it failed with."""
    found: dict[str, Finished | ParrotError] = {}
    for event in events:
        if isinstance(event, Finished | Failed):
            assert event.key not in found, f"{event.key} ended twice"
            found[event.key] = event.error if isinstance(event, Failed) else event
    return found


def check_story(events: Iterable[EngineEvent], keys: Iterable[str], *, num_begun: int | None = 0) -> None:
    """Every request tells: at most one start, deltas without a gap, then one end; and nothing after it.

    Args:
        events: All of them.
        keys: Of the requests.
        num_begun: Characters that an earlier attempt had written; None if that is not known.
    """
    stories: dict[str, list[EngineEvent]] = {key: [] for key in keys}
    for event in events:
        if not isinstance(event, Prefilled):
            stories[event.key].append(event)
    for key, story in stories.items():
        assert story, f"{key} was never heard of"
        assert isinstance(story[-1], Finished | Failed), f"{key} did not end"
        assert not any(isinstance(event, Finished | Failed) for event in story[:-1]), f"{key} ended early"
        assert not any(isinstance(event, Started) for event in story[1:]), f"{key} started late or twice"
        deltas = [event for event in story if isinstance(event, Delta)]
        assert all(delta.text for delta in deltas)
        assert not deltas or deltas[0].offset == num_begun or num_begun is None
        assert all(b.offset == a.offset + len(a.text) for a, b in pairwise(deltas))
        if isinstance(story[-1], Finished):
            assert isinstance(story[0], Started)
            text = "".join(delta.text for delta in deltas)
            begin = deltas[0].offset if deltas else len(story[-1].text) if num_begun is None else num_begun
            assert story[-1].text[begin:] == text
            told = [token_id for delta in deltas for token_id in delta.output_ids]
            assert num_begun != 0 or list(story[-1].output_ids[: len(told)]) == told
