"""A stream in memory: what is stored, in order, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from parrot_mq.bus.base import Delivery
from parrot_mq.bus.matching import matches
from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.messages.subjects import STREAM_DEAD, STREAM_LEASES

__all__ = ["MemoryStream"]

Reader = Callable[[Delivery], None]


@dataclass(slots=True)
class MemoryStream:
    """What `parrot_mq.bus.streams` asks a server for, without expiry.

    Attributes:
        name: Its name.
        last_sequence: Sequence of the newest message it ever stored.
        followers: Called with each message as it is stored.
        holder: Name of the one who holds the queue; empty if nobody does.
        holder_reader: Called with each message, addressed to the holder.
        end_holder: Called when another takes over.
    """

    name: str
    last_sequence: int = 0
    followers: list[Reader] = field(default_factory=list)
    holder: str = ""
    holder_reader: Reader | None = None
    end_holder: Callable[[], None] | None = None
    _by_sequence: dict[int, Delivery] = field(default_factory=dict)
    _by_subject: dict[str, int] = field(default_factory=dict)

    @property
    def pattern(self) -> str:
        """The subjects it keeps."""
        return SUBJECTS[self.name]

    @property
    def is_write_once(self) -> bool:
        """Whether the first message of a subject wins."""
        return self.name not in (STREAM_DEAD, STREAM_LEASES)

    @property
    def keeps_newest(self) -> bool:
        """Whether the last message of a subject takes the place of the one before."""
        return self.name == STREAM_LEASES

    def store(self, delivery: Delivery, timestamp: float) -> Delivery | None:
        """Keep a message; None if its subject is taken."""
        if self.is_write_once and delivery.subject in self._by_subject:
            return None
        if self.keeps_newest:
            self.remove(self._by_subject.get(delivery.subject, 0))
        self.last_sequence += 1
        stored = replace(delivery, reply="", sequence=self.last_sequence, timestamp=timestamp)
        self._by_sequence[stored.sequence] = stored
        self._by_subject[stored.subject] = stored.sequence
        for reader in list(self.followers):
            reader(stored)
        if self.holder_reader is not None:
            self.holder_reader(self._for_holder(stored))
        return stored

    def last(self, subject: str) -> Delivery | None:
        """What stands on a subject."""
        sequence = self._by_subject.get(subject)
        return None if sequence is None else self._by_sequence[sequence]

    def newest(self, pattern: str) -> Delivery | None:
        """The last message on the subjects of `pattern`."""
        stored = reversed(self._by_sequence.values())
        return next((each for each in stored if matches(pattern, each.subject)), None)

    def after(self, sequence: int) -> Iterator[Delivery]:
        """What is stored after a place, in order."""
        return (stored for number, stored in self._by_sequence.items() if number > sequence)

    def for_holder(self) -> list[Delivery]:
        """All that is not acknowledged, addressed to the holder."""
        return [self._for_holder(stored) for stored in self._by_sequence.values()]

    def _for_holder(self, stored: Delivery) -> Delivery:
        facts = f"1.{stored.sequence}.{stored.sequence}.{int(stored.timestamp * 1e9)}.0"
        return replace(stored, reply=f"$JS.ACK.{self.name}.{self.holder}.{facts}")

    def holds(self, pattern: str) -> bool:
        """Whether anything stands on the subjects of `pattern`."""
        if pattern in self._by_subject:
            return True
        return any(matches(pattern, subject) for subject in self._by_subject)

    def remove(self, sequence: int) -> None:
        """Remove one message, if it is there."""
        stored = self._by_sequence.pop(sequence, None)
        if stored is not None and self._by_subject.get(stored.subject) == sequence:
            del self._by_subject[stored.subject]

    def settle(self, sequence: int, holder: str) -> None:
        """Remove a message that was acknowledged, if it is still `holder` who holds the queue."""
        if self.holder == holder:
            self.remove(sequence)

    def purge(self, pattern: str) -> int:
        """Remove what matches; returns how many."""
        going = [number for number, stored in self._by_sequence.items() if matches(pattern, stored.subject)]
        for sequence in going:
            self.remove(sequence)
        return len(going)
