"""Measure exact match on held-out samples: ``python -m parrot_workers.tiny_model.evaluate --help``.

Answers are generated greedily, by plain ``generate`` of transformers, up to the first line break. No value, word or
number of more than one character in the samples was shown in training, field names included.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.tiny_model.records import RecordShape
from parrot_workers.tiny_model.tasks import TASKS, Sample
from parrot_workers.tiny_model.values import Split, Values

LINE_BREAK_ID: Final = ord("\n")
MAX_BATCH: Final = 32
SHORT: Final = RecordShape(max_bytes=150, max_fields=8, max_questions=1, fixed_questions=True)
DOCUMENT: Final = RecordShape(min_bytes=370, max_bytes=420, max_questions=1, fixed_questions=True)
CELLS: Final = ("canonical, short", "canonical, document", "varied, short", "varied, document")
ROWS: Final[dict[str, str]] = {
    "get": "get, one question",
    "get_fourth": "get, after three questions",
    "larger": "larger of two numbers",
    "upper": "upper case",
    "join": "join",
    "equal": "equal, yes or no",
}


class Case(NamedTuple):
    """A prompt with its right answer, and the figure that it counts for."""

    row: str
    cell: str
    prompt: str
    answer: str


class Score(NamedTuple):
    """Right answers out of all."""

    right: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.right / self.total:.1f} %"


Scores = dict[tuple[str, str], Score]
"""Scores by row and cell of the table."""


def draw_cases(num_samples: int, *, seed: int = 1, rows: Iterable[str] = ROWS) -> list[Case]:
    """Draw ``num_samples`` held-out cases for every cell of the table."""
    cases: list[Case] = []
    for row, cell in itertools.product(rows, CELLS):
        values = Values(random.Random(f"{seed}:{row}:{cell}"), Split.HELD_OUT)
        cases.extend(_draw_case(values, row, cell) for _ in range(num_samples))
    return cases


def _draw_case(values: Values, row: str, cell: str) -> Case:
    """Draw a case; in a document, a record is long and the other tasks stand after about 350 bytes of other samples."""
    canonical, is_document = cell.startswith("canonical"), cell.endswith("document")
    shape = DOCUMENT if is_document else SHORT
    if row.startswith("get"):
        if row == "get_fourth":
            shape = RecordShape(
                min_bytes=shape.min_bytes if is_document else 90,
                max_bytes=shape.max_bytes,
                max_questions=4,
                fixed_questions=True,
            )
        sample = TASKS["get"](values, shape, canonical)
        return Case(row, cell, *_last_prompt(sample))
    before = _samples_before(values, canonical) if is_document else ""
    prompt, answer = _last_prompt(TASKS[row](values, shape, canonical))
    return Case(row, cell, before + prompt, answer)


def _last_prompt(sample: Sample) -> tuple[str, str]:
    """Return the text before the last answer, and that answer."""
    answer = sample.turns[-1].answer
    return sample.text[: len(sample.text) - len(answer) - 1], answer


def _samples_before(values: Values, canonical: bool) -> str:
    text = ""
    while len(text.encode()) < 330:
        text += TASKS[values.rng.choice(("larger", "upper", "join", "equal"))](values, SHORT, canonical).text + "\n"
    return text


def generate_answers(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Generate greedily after prompts of equal length, up to the first line break."""
    import torch

    inputs = tokenizer(prompts, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=[model.config.eos_token_id, LINE_BREAK_ID],
            pad_token_id=model.config.pad_token_id,
        )
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.split("\n")[0] for text in texts]


def batches(cases: list[Case]) -> Iterator[list[Case]]:
    """Group cases whose prompts are equally long, in bytes and so in tokens."""
    by_length: defaultdict[int, list[Case]] = defaultdict(list)
    for case in cases:
        by_length[len(case.prompt.encode())].append(case)
    for _, group in sorted(by_length.items()):
        for start in range(0, len(group), MAX_BATCH):
            yield group[start : start + MAX_BATCH]


def evaluate(model: Any, tokenizer: Any, cases: list[Case]) -> tuple[Scores, list[tuple[Case, str]]]:
    """Score the model's answers; also return the wrong ones, each with its case."""
    wrong: list[tuple[Case, str]] = []
    totals: defaultdict[tuple[str, str], int] = defaultdict(int)
    rights: defaultdict[tuple[str, str], int] = defaultdict(int)
    for batch in batches(cases):
        answers = generate_answers(model, tokenizer, [case.prompt for case in batch])
        for case, answer in zip(batch, answers, strict=True):
            totals[case.row, case.cell] += 1
            rights[case.row, case.cell] += answer == case.answer
            if answer != case.answer:
                wrong.append((case, answer))
    return {key: Score(rights[key], total) for key, total in totals.items()}, wrong


def load_model(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Load model and tokenizer of a checkpoint, without network."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def figures(scores: Scores) -> str:
    """Return the table as Markdown."""
    lines = ["| task | " + " | ".join(CELLS) + " |", "|---|" + "---:|" * len(CELLS)]
    for row, title in ROWS.items():
        if (row, CELLS[0]) in scores:
            lines.append(f"| {title} | " + " | ".join(str(scores[row, cell]) for cell in CELLS) + " |")
    return "\n".join(lines)


def write_figures(card: Path, text: str) -> None:
    """Replace what stands between the marks for figures in the model card."""
    pattern = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)
    card.write_text(pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", card.read_text("utf-8")), "utf-8")


def print_table(console: Console, scores: Scores) -> None:
    """Print the scores."""
    table = Table("task", *CELLS)
    for row, title in ROWS.items():
        if (row, CELLS[0]) in scores:
            table.add_row(title, *(str(scores[row, cell]) for cell in CELLS))
    console.print(table)


def main() -> None:
    """Read the command line, evaluate, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m parrot_workers.tiny_model.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path(), help="folder of the checkpoint")
    parser.add_argument("--samples", type=int, default=200, help="samples for each figure")
    parser.add_argument("--seed", type=int, default=1, help="seed of the samples")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype to compute in")
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), default=tuple(ROWS), help="only these rows")
    parser.add_argument("--show-wrong", type=int, default=0, help="number of wrong answers to print")
    parser.add_argument("--write-card", action="store_true", help="write the figures into the checkpoint's README.md")
    options = parser.parse_args()
    console = Console()
    started = time.monotonic()
    model, tokenizer = load_model(options.checkpoint, options.dtype)
    scores, wrong = evaluate(model, tokenizer, draw_cases(options.samples, seed=options.seed, rows=options.rows))
    print_table(console, scores)
    console.print(f"{options.samples} samples for each figure, {time.monotonic() - started:.0f} s")
    for case, answer in wrong[: options.show_wrong]:
        console.print(f"--- {case.row}, {case.cell}: {answer!r} instead of {case.answer!r}", markup=False)
        console.print(case.prompt, markup=False, highlight=False)
    if options.write_card:
        dtype = options.dtype
        note = f"{options.samples} held-out samples for each figure, {dtype}, greedy."
        write_figures(options.checkpoint / "README.md", f"{figures(scores)}\n\n{note}")


if __name__ == "__main__":
    main()
