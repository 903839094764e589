"""The demo's application: a map-reduce over the records of a text file.

Map: every record is asked for a number and a label. Reduce: a tree of comparisons finds the largest number. Then all
numbers are compared with it, and the label of the record that has it is written in capitals, with the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parrot_mq.errors import ConfigurationError, GenerationAborted
from parrot_mq.program import Input, Output, SemanticVariable, semantic_function

__all__ = ["PEAKS", "Records", "expected_result", "find_largest", "read_records"]

PEAKS = Path(__file__).with_name("peaks.txt")


@semantic_function
def read_field(record: Input, field: Input, value: Output = Output(max_tokens=48, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{record}}

    Question: What is the {{field}}?
    Answer: {{value}}"""


@semantic_function
def larger(first: Input, second: Input, number: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Which number is larger?
    First: {{first}}
    Second: {{second}}
    Answer: {{number}}"""


@semantic_function
def is_same(first: Input, second: Input, answer: Output = Output(max_tokens=4, stop="\n")) -> None:
    """Are the two values the same? Answer yes or no.
    First: {{first}}
    Second: {{second}}
    Answer: {{answer}}"""


@semantic_function
def upper_case(text: Input, capitals: Output = Output(max_tokens=64, stop="\n")) -> None:
    """Write the text in upper case.
    Text: {{text}}
    Answer: {{capitals}}"""


@semantic_function
def join(first: Input, second: Input, both: Output = Output(max_tokens=96, stop="\n")) -> None:
    """Join the two texts with a space.
    First: {{first}}
    Second: {{second}}
    Answer: {{both}}"""


@dataclass(frozen=True)
class Records:
    """A file of records.

    Attributes:
        texts: Each record as it stands in the file.
        field: The field with the number.
        label: The field that names a record.
    """

    texts: tuple[str, ...]
    field: str
    label: str


async def find_largest(records: Records) -> SemanticVariable:
    """Submit the whole graph; returns the variable of the answer, which is not yet set.

    The two questions about a record follow each other, so the record is read once for both. Only the choice of the
    winner waits for answers here: a condition is ordinary Python.
    """
    fields = (records.field, records.label)
    read = [[read_field(record=text, field=field) for field in fields] for text in records.texts]
    numbers = [number for number, _ in read]
    largest = _reduce(numbers)
    matches = [is_same(first=number, second=largest) for number in numbers]
    for match, (_, label) in zip(matches, read, strict=True):
        if await match == "yes":
            return join(first=upper_case(text=label), second=largest)
    raise GenerationAborted("no record has the largest number; the model has made a mistake")


def _reduce(numbers: list[SemanticVariable]) -> SemanticVariable:
    """Compare in pairs, and the winners again, until one is left."""
    while len(numbers) > 1:
        winners = [larger(first=a, second=b) for a, b in zip(numbers[::2], numbers[1::2], strict=False)]
        numbers = winners + numbers[len(winners) * 2 :]
    return numbers[0]


def read_records(path: Path, *, field: str, label: str) -> Records:
    """Read records of `key: value` lines with empty lines between them.

    Raises:
        ConfigurationError: The file cannot be read, or a record lacks a field or a number; says which line.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"cannot read {str(path)!r}: {reason}; name a text file") from error
    texts = tuple(block.strip() for block in text.split("\n\n") if block.strip())
    for record in texts:
        where = f"{path}:{text[: text.index(record)].count(chr(10)) + 1}"
        fields = _fields(record)
        for name in (field, label):
            if name not in fields:
                known = ", ".join(fields) or "none; write them as `key: value` lines"
                raise ConfigurationError(f"{where}: the record has no field {name!r}; its fields: {known}")
        if not fields[field].isdigit():
            raise ConfigurationError(f"{where}: {field!r} is {fields[field]!r}; it must be a whole number")
    if not texts:
        raise ConfigurationError(f"{path}: there are no records; write `key: value` lines")
    return Records(texts, field, label)


def expected_result(records: Records) -> str:
    """What plain Python finds; the demo shows that the model's answer is the same."""
    best = max((_fields(text) for text in records.texts), key=lambda fields: int(fields[records.field]))
    return f"{best[records.label].upper()} {best[records.field]}"


def _fields(record: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in record.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
