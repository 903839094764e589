"""What a task is made of: steps, each of which fills one variable as soon as what it reads is set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from parrot_mq.coordinator.sessions.ready import Known, ReadyGeneration
from parrot_mq.messages import BlobRef, ErrorInfo, TaskAddress, Value, VariableAddress, VariableRef
from parrot_mq.program import Standing, chain_digests, segment_digest
from parrot_mq.program.transforms import Transform
from parrot_mq.types import Sampling, VariableId

__all__ = [
    "Items",
    "PlannedCall",
    "PlannedGeneration",
    "PlannedList",
    "PlannedMap",
    "PlannedTransform",
    "Segment",
    "Step",
    "fill",
]


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a list variable stand here, with a separator between them."""

    variable: VariableId
    separator: str


Segment = str | VariableRef | Items
"""A constant text, a variable whose value stands here, or a list whose items do."""


@dataclass(frozen=True, slots=True)
class PlannedGeneration:
    """A text to generate: the variable that it fills, how it is sampled, and what its prompt is made of."""

    writes: VariableId
    sampling: Sampling
    segments: tuple[Segment, ...]

    @property
    def reads(self) -> tuple[VariableId, ...]:
        """The variables it waits for, each once, in the order of the prompt."""
        return _variables_in(self.segments)

    def known_prefixes(self, values: Mapping[VariableId, Value], *, after: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Hash of all content up to and including each of the leading segments that are known, up to the first list.

        Args:
            values: The variables that are set; those that failed are never known.
            after: The first hashes, if they were found before.
        """
        return (*after, *chain_digests(self._known_digests(values, len(after)), after=after[-1] if after else ""))

    def known_segments(self, values: Mapping[VariableId, Value], num: int) -> tuple[Known, ...]:
        """The first `num` segments, which must be known."""
        known = (_value(segment, values) for segment in self.segments[:num])
        return tuple(segment for segment in known if segment is not None)

    def awaits(self, num_known: int) -> VariableId | None:
        """The variable that stands next after the leading segments that are known."""
        following = self.segments[num_known] if num_known < len(self.segments) else None
        return None if following is None or isinstance(following, str) else VariableId(following.variable)

    def _known_digests(self, values: Mapping[VariableId, Value], begin: int) -> Iterator[bytes]:
        for segment in islice(self.segments, begin, None):
            value = _value(segment, values)
            if value is None:
                return
            yield _digest(value)

    def to_ready(
        self,
        task: TaskAddress,
        model: str,
        deadline: float,
        segments: tuple[Known, ...],
        *,
        standing: Standing = Standing(),
        salt: str = "",
    ) -> ReadyGeneration:
        """With the segments of its whole prompt, all known."""
        return ReadyGeneration(
            address=VariableAddress(task.tenant, task.session, self.writes),
            task=task.task,
            model=model,
            segments=segments,
            prefix_hashes=tuple(chain_digests(map(_digest, segments))),
            sampling=self.sampling,
            deadline=deadline,
            standing=standing,
            salt=salt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call of a native function.

    Attributes:
        writes: The variable that the answer fills.
        function: The function's name, or the variable that says it.
        choices: What that variable may say.
        arguments: The arguments by name, each made of segments.
        outputs: Names of the results.
        attempt_timeout_s: Seconds that one attempt may take.
        max_attempts: How often it is attempted at most.
    """

    writes: VariableId
    function: str | VariableRef
    choices: tuple[str, ...]
    arguments: Mapping[str, tuple[Segment, ...]]
    outputs: tuple[str, ...]
    attempt_timeout_s: float
    max_attempts: int

    @property
    def reads(self) -> tuple[VariableId, ...]:
        """The variables it waits for, each once."""
        return _variables_in([self.function, *(each for argument in self.arguments.values() for each in argument)])


@dataclass(frozen=True, slots=True)
class PlannedTransform:
    """Something to be made of a text."""

    writes: VariableId
    source: VariableId
    transforms: tuple[Transform, ...]

    @property
    def reads(self) -> tuple[VariableId, ...]:
        """The text."""
        return (self.source,)


@dataclass(frozen=True, slots=True)
class PlannedList:
    """A list to be gathered of its items."""

    writes: VariableId
    reads: tuple[VariableId, ...]


@dataclass(frozen=True, slots=True)
class PlannedMap:
    """A list whose items are made by steps that are planned as soon as the lists are known that are gone through."""

    writes: VariableId
    reads: tuple[VariableId, ...]


Step = PlannedGeneration | PlannedCall | PlannedTransform | PlannedList | PlannedMap
"""One step of a task: `writes` is the variable that it fills, `reads` what it waits for."""


def fill(
    segments: Iterable[Segment], values: Mapping[VariableId, Value], lists: Mapping[VariableId, Sequence[str]]
) -> tuple[Known, ...]:
    """Put texts where variables stand, and items where lists do; all of them must be known."""
    filled: list[Known] = []
    for segment in segments:
        if isinstance(segment, Items):
            for index, item in enumerate(lists[segment.variable]):
                filled += [segment.separator, item] if index else [item]
        else:
            known = _value(segment, values)
            assert known is not None, f"{segment} is read, and not known"
            filled.append(known)
    return tuple(filled)


def _variables_in(segments: Iterable[Segment]) -> tuple[VariableId, ...]:
    names = (VariableId(segment.variable) for segment in segments if not isinstance(segment, str))
    return tuple(dict.fromkeys(names))


def _value(segment: Segment, values: Mapping[VariableId, Value]) -> Known | None:
    """What stands where one segment is, if it is one text and known."""
    if isinstance(segment, str):
        return segment
    value = None if isinstance(segment, Items) else values.get(VariableId(segment.variable))
    return None if isinstance(value, ErrorInfo) else value


def _digest(segment: Known) -> bytes:
    return bytes.fromhex(segment.digest) if isinstance(segment, BlobRef) else segment_digest(segment)
