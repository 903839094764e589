"""Training rows: samples of several tasks, one after the other, with a weight for every byte."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from parrot_workers.tiny_model.records import RecordShape
from parrot_workers.tiny_model.tasks import TASKS, Sample
from parrot_workers.tiny_model.tokenizer import EOS_ID
from parrot_workers.tiny_model.values import Split, Values

_CANONICAL_SHARE = 0.4
_EOS_SHARE = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What a stage of training is made of.

    Attributes:
        weights: How often each task is drawn, relative to the others.
        shape: Shape of the records.
        row_tokens: Length of a row, in tokens.
        rows: Rows per step.
        rest_weight: Weight in the loss of tokens that are no answer.
    """

    weights: dict[str, float]
    shape: RecordShape = field(default_factory=RecordShape)
    row_tokens: int = 256
    rows: int = 32
    rest_weight: float = 0.1


class Row(NamedTuple):
    """Token ids and their weights in the loss, equally long."""

    ids: list[int]
    weights: list[float]


def draw_sample(values: Values, mixture: Mixture) -> Sample:
    """Draw a sample of a task chosen by weight."""
    name = values.rng.choices(list(mixture.weights), list(mixture.weights.values()))[0]
    return TASKS[name](values, mixture.shape, values.rng.random() < _CANONICAL_SHARE)


def draw_row(values: Values, mixture: Mixture) -> Row:
    """Fill a row with samples; the first begins at position 0, the last may be cut."""
    row = Row([], [])
    while len(row.ids) < mixture.row_tokens:
        _append(row, draw_sample(values, mixture), mixture.rest_weight)
        _append_separator(row, values.rng, mixture.rest_weight)
    return Row(row.ids[: mixture.row_tokens], row.weights[: mixture.row_tokens])


def draw_batch(seed: int, step: int, mixture: Mixture) -> list[Row]:
    """Draw the rows of one step; the same for the same seed and step."""
    values = Values(random.Random(f"{seed}:{step}"), Split.TRAIN)
    return [draw_row(values, mixture) for _ in range(mixture.rows)]


def _append(row: Row, sample: Sample, rest_weight: float) -> None:
    for turn in sample.turns:
        prompt, answer = turn.prompt.encode(), f"{turn.answer}\n".encode()
        row.ids.extend((*prompt, *answer))
        row.weights.extend([rest_weight] * len(prompt) + [1.0] * len(answer))


def _append_separator(row: Row, rng: random.Random, rest_weight: float) -> None:
    """End a sample by the end token, by an empty line, or by nothing more than its line break."""
    separator = [EOS_ID] if rng.random() < _EOS_SHARE else [ord("\n")] if rng.random() < 0.5 else []
    row.ids.extend(separator)
    row.weights.extend([rest_weight] * len(separator))
