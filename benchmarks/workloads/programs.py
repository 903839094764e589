"""What a workload is made of: programs of calls, with the numbers of their tokens. Pure; nothing here runs anything.

Lengths are all that matters to a simulated worker, so the texts are made up: equal names give equal texts, and
different names share nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = ["CHARS_PER_TOKEN", "Call", "Part", "Program", "Read", "Text", "write_text"]

CHARS_PER_TOKEN = 4
"""Characters of made-up text for each token; the simulated workers count by it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A part of a prompt that is known from the start.

    Attributes:
        name: Equal names (and lengths) are equal texts.
        num_tokens: How long it is.
        is_input: Whether the program passes it in; otherwise it stands in the template.
    """

    name: str
    num_tokens: int
    is_input: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """A part of a prompt that another call of the program generates.

    Attributes:
        output: That call's output.
    """

    output: str


Part = Text | Read


@dataclass(frozen=True, slots=True)
class Call:
    """One generation.

    Attributes:
        output: Its name in the program.
        prompt: What the prompt is made of, in order; prefixes can be shared at the boundaries.
        num_output_tokens: How many tokens it generates: always exactly so many, as in the paper's runs.
        tpot_ms: Milliseconds that each token may take, if the program says so; only ours can be told.
    """

    output: str
    prompt: tuple[Part, ...]
    num_output_tokens: int
    tpot_ms: float | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Outputs that must be there before it can run, each once."""
        return tuple(dict.fromkeys(part.output for part in self.prompt if isinstance(part, Read)))


@dataclass(frozen=True, slots=True)
class Program:
    """An application: calls that read each other's outputs.

    Attributes:
        name: Its name in the workload.
        kind: Which kind of application; figures are given by kind.
        calls: In an order in which each reads earlier ones only.
        arrival_s: When its client begins, seconds from the start.
        is_background: Nobody waits for it: the workload ends with the others.
    """

    name: str
    kind: str
    calls: tuple[Call, ...]
    arrival_s: float = 0.0
    is_background: bool = False
    _sizes: dict[str, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for call in self.calls:
            unknown = [name for name in call.reads if name not in sizes]
            assert not unknown, f"{self.name}: {call.output} reads {unknown}, which no earlier call writes"
            assert call.output not in sizes, f"{self.name}: two calls write {call.output}"
            sizes[call.output] = call.num_output_tokens
        object.__setattr__(self, "_sizes", sizes)

    @property
    def num_output_tokens(self) -> int:
        """Of all calls."""
        return sum(self._sizes.values())

    def num_prompt_tokens(self, call: Call) -> int:
        """Tokens of a call's prompt."""
        return sum(self.part_tokens(call))

    def part_tokens(self, call: Call) -> Iterator[int]:
        """Tokens of each part of a call's prompt."""
        for part in call.prompt:
            yield part.num_tokens if isinstance(part, Text) else self._sizes[part.output]

    def wanted(self) -> tuple[str, ...]:
        """Outputs that no call reads: what the client waits for."""
        read = {name for call in self.calls for name in call.reads}
        return tuple(call.output for call in self.calls if call.output not in read)


@lru_cache(maxsize=65_536)
def write_text(text: Text) -> str:
    """The characters of a constant; equal constants are the same object."""
    seed = hashlib.blake2b(f"{text.name}/{text.num_tokens}".encode(), digest_size=8).hexdigest() + " "
    num_chars = text.num_tokens * CHARS_PER_TOKEN
    return (seed * -(-num_chars // len(seed)))[:num_chars]


def total_tokens(programs: Sequence[Program]) -> tuple[int, int]:
    """Prompt and output tokens of all calls, nothing shared."""
    prompts = sum(program.num_prompt_tokens(call) for program in programs for call in program.calls)
    return prompts, sum(program.num_output_tokens for program in programs)
