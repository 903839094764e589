"""How far running generations are, in pieces that a heartbeat has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parrot_mq.messages import Generation, GenerationProgress

__all__ = ["Progress"]

_TOKEN_BYTES = 5  # of a number below 2**32, in MessagePack
_ENTRY_BYTES = 96  # names, counts and headers of an entry, its key not counted


@dataclass(slots=True)
class _Course:
    """One generation.

    Attributes:
        attempt: Which attempt at it.
        output_ids: Its tokens, those of earlier attempts too.
        num_told: Of these, tokens that need not be told.
        num_prompt_tokens: Tokens of its prompt; 0 until it is read.
        started_at: When its prompt had been read, seconds since 1970.
    """

    attempt: int
    output_ids: list[int]
    num_told: int
    num_prompt_tokens: int = 0
    started_at: float = 0.0


class Progress:
    """The tokens of running generations, and what of them has been told. Unknown keys are ignored.

    What there is no room for is told first the next time, so everything is told in the end.
    """

    def __init__(self) -> None:
        self._courses: dict[str, _Course] = {}
        self._changed: dict[str, None] = {}  # in the order in which they are to be told

    @property
    def has_news(self) -> bool:
        """Whether something has not been told yet."""
        return bool(self._changed)

    def accept(self, generation: Generation) -> None:
        """A generation was assigned. Whoever did that knows the tokens that came with it."""
        output_ids = list(generation.output_ids)
        self._courses[generation.key] = _Course(generation.attempt, output_ids, len(output_ids))

    def start(self, key: str, *, num_prompt_tokens: int, now: float) -> None:
        """Its prompt has been read."""
        if course := self._courses.get(key):
            course.num_prompt_tokens = num_prompt_tokens
            course.started_at = now
            self._changed[key] = None

    def extend(self, key: str, output_ids: Sequence[int]) -> None:
        """There are more tokens of it."""
        if output_ids and (course := self._courses.get(key)):
            course.output_ids += output_ids
            self._changed[key] = None

    def complete(self, key: str, output_ids: Sequence[int]) -> None:
        """These are all its tokens."""
        if course := self._courses.get(key):
            self.extend(key, output_ids[len(course.output_ids) :])

    def forget(self, key: str) -> None:
        """It does not run here any more."""
        self._courses.pop(key, None)
        self._changed.pop(key, None)

    def started_at(self, key: str) -> float:
        """When its prompt had been read, seconds since 1970; 0 if it has not been, or is not known here."""
        course = self._courses.get(key)
        return 0.0 if course is None else course.started_at

    def tell_again(self) -> None:
        """Everything is to be told from its beginning: messages may have been lost, or a reader is new."""
        for key, course in self._courses.items():
            if course.num_prompt_tokens or course.output_ids:
                course.num_told = 0
                self._changed[key] = None

    def take(self, max_bytes: int) -> list[GenerationProgress]:
        """What has not been told, as much as fits into so many bytes of MessagePack; it counts as told."""
        taken: list[GenerationProgress] = []
        while self._changed:
            key = next(iter(self._changed))
            course = self._courses[key]
            max_bytes -= _ENTRY_BYTES + len(key.encode())
            num = min(len(course.output_ids) - course.num_told, max_bytes // _TOKEN_BYTES)
            if max_bytes < 0 or (num == 0 and course.num_told < len(course.output_ids)):
                break
            begin, end = course.num_told, course.num_told + num
            taken.append(
                GenerationProgress(
                    key=key,
                    attempt=course.attempt,
                    begin=begin,
                    output_ids=course.output_ids[begin:end],
                    num_prompt_tokens=course.num_prompt_tokens,
                )
            )
            max_bytes -= num * _TOKEN_BYTES
            course.num_told = end
            if end < len(course.output_ids):
                break
            del self._changed[key]
        return taken
