"""The tiny model: its tasks are right, its tokenizer is lossless, and its checkpoint answers."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.tiny_model.documents import Mixture, draw_batch
from parrot_workers.tiny_model.evaluate import CELLS, Case, draw_cases, evaluate, load_model
from parrot_workers.tiny_model.records import RecordShape, draw_record
from parrot_workers.tiny_model.tasks import TASKS, Sample
from parrot_workers.tiny_model.tokenizer import SPECIAL_TOKENS
from parrot_workers.tiny_model.values import Split, Values, in_split, is_held_out

MAX_CHECKPOINT_BYTES = 6 * 2**20


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """The model and the tokenizer of the shipped checkpoint."""
    return load_model(checkpoint_path(), "float32")


def _make_samples(task: str, num_samples: int, *, canonical: bool) -> list[Sample]:
    values = Values(random.Random(f"test {task}"), Split.HELD_OUT)
    return [TASKS[task](values, RecordShape(), canonical) for _ in range(num_samples)]


def _after(prompt: str, label: str) -> str:
    """The rest of the line after the last ``label``."""
    return prompt.rsplit(label, 1)[1].split("\n")[0]


@pytest.mark.parametrize("task", TASKS)
def test_samples_are_the_same_for_the_same_seed(task: str) -> None:
    assert _make_samples(task, 20, canonical=False) == _make_samples(task, 20, canonical=False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("canonical", [True, False])
def test_answers_are_one_line_and_short(task: str, canonical: bool) -> None:
    for sample in _make_samples(task, 200, canonical=canonical):
        for turn in sample.turns:
            assert turn.answer
            assert "\n" not in turn.answer
            assert len(turn.answer.encode()) <= 64


def test_get_answers_with_the_field_of_the_record() -> None:
    for sample in _make_samples("get", 200, canonical=True):
        body = sample.turns[0].prompt.split("Record:\n")[1].split("\n\n")[0]
        fields = dict(line.split(": ", 1) for line in body.split("\n"))
        for turn in sample.turns:
            assert turn.answer == fields[_after(turn.prompt, "What is the ").removesuffix("?")]


def test_varied_records_contain_every_value() -> None:
    values = Values(random.Random(2), Split.TRAIN)
    for _ in range(200):
        record = draw_record(values, RecordShape(), canonical=False)
        assert all(value in record.text for value in record.fields.values())


def test_records_keep_to_their_size() -> None:
    values = Values(random.Random(3), Split.TRAIN)
    shape = RecordShape(min_bytes=370, max_bytes=420, max_fields=14)
    for _ in range(100):
        fields = draw_record(values, shape, canonical=True).fields
        assert 3 <= len(fields) <= 14
        assert sum(len(f"{name}: {value}\n".encode()) for name, value in fields.items()) <= 420


def test_larger_chooses_the_maximum() -> None:
    for (turn,) in (sample.turns for sample in _make_samples("larger", 200, canonical=True)):
        assert int(turn.answer) == max(int(_after(turn.prompt, "First: ")), int(_after(turn.prompt, "Second: ")))


def test_upper_and_join_and_copy_use_the_given_texts() -> None:
    for (turn,) in (sample.turns for sample in _make_samples("upper", 200, canonical=True)):
        assert turn.answer == _after(turn.prompt, "Text: ").upper()
    for (turn,) in (sample.turns for sample in _make_samples("join", 200, canonical=True)):
        joint = ", " if "comma" in turn.prompt.split("\n")[0] else " "
        assert turn.answer == _after(turn.prompt, "First: ") + joint + _after(turn.prompt, "Second: ")
    for (turn,) in (sample.turns for sample in _make_samples("copy", 200, canonical=True)):
        assert turn.answer == _after(turn.prompt, "Text: ")


def test_equal_is_yes_for_about_half_and_only_for_equal_values() -> None:
    turns = [sample.turns[0] for sample in _make_samples("equal", 400, canonical=True)]
    for turn in turns:
        assert (turn.answer == "yes") == (_after(turn.prompt, "First: ") == _after(turn.prompt, "Second: "))
    assert 0.4 < sum(turn.answer == "yes" for turn in turns) / len(turns) < 0.65


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_values_stay_in_their_split(seed: int) -> None:
    for split in Split:
        values = Values(random.Random(seed), split)
        drawn = [values.number(), values.word(), values.code(), values.date(), values.number_near("5642")]
        assert all(in_split(text, split) for text in drawn)
    assert is_held_out("5642") == (not in_split("5642", Split.TRAIN))


def test_rows_have_a_weight_for_each_token_and_answers_weigh_most() -> None:
    mixture = Mixture(weights={"get": 1, "upper": 1}, row_tokens=700, rows=4)
    rows = draw_batch(0, 5, mixture)
    assert rows == draw_batch(0, 5, mixture)
    for row in rows:
        assert len(row.ids) == len(row.weights) == 700
        assert row.weights[0] == mixture.rest_weight
        assert 1.0 in row.weights


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_tokenizer_is_lossless_on_any_text(text: str) -> None:
    tokenizer = _tokenizer()
    for special in SPECIAL_TOKENS:
        text = text.replace(special, "")
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_special_tokens_follow_the_bytes() -> None:
    assert _tokenizer().convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(SPECIAL_TOKENS.values())


@functools.cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint_path(), local_files_only=True)


def test_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in Path(checkpoint_path()).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= set(files)
    assert sum(files.values()) < MAX_CHECKPOINT_BYTES


def test_checkpoint_has_the_shape_that_kernels_take(loaded: tuple[Any, Any]) -> None:
    config = loaded[0].config
    assert (config.head_dim, config.num_attention_heads, config.num_key_value_heads) == (64, 4, 2)
    assert loaded[0].generation_config.eos_token_id == SPECIAL_TOKENS["<eos>"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("row", "max_wrong_share"),
    # Most unequal values are near misses, the known weakness of "equal" (see the model card).
    [("get", 0.05), ("get_fourth", 0.05), ("larger", 0.05), ("upper", 0.05), ("join", 0.05), ("equal", 0.15)],
)
def test_checkpoint_answers_held_out_canonical_questions(
    row: str, max_wrong_share: float, loaded: tuple[Any, Any]
) -> None:
    cases: list[Case] = [case for case in draw_cases(20, seed=7, rows=[row]) if case.cell in CELLS[:2]]
    _, wrong = evaluate(*loaded, cases)
    assert len(wrong) <= max_wrong_share * len(cases), wrong
