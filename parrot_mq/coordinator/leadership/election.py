"""Who may lead: what one candidate knows of the lease, and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from parrot_mq.messages import CoordinatorLease

__all__ = ["MARGIN", "Election"]

MARGIN = 0.1
"""Part of a lease at its end in which its holder does not act any more: so differently may two clocks run."""

_NEVER = float("-inf")


@dataclass(slots=True, kw_only=True)
class Election:
    """One candidate's view of the lease. No clock is compared with that of another machine.

    The holder counts its time from before it sent the record that was stored, the others from when they first saw it:

        holder     sent ├───────── acts ─────────┤ margin │
        another           seen ├──────────────── waits ────────────────┤ takes

    The server stores a record only if nobody has written since the writer has read it, so of those that take at the
    same time one wins, and a holder whose record was replaced cannot renew.

    Attributes:
        me: This candidate; unique for ever.
        lease_s: For how long its own leases hold.
        record: The newest record that it saw; None if there was none.
        sequence: Where that stood; 0 if there was none.
    """

    me: str
    lease_s: float
    record: CoordinatorLease | None = field(default=None, init=False)
    sequence: int = field(default=0, init=False)
    _seen_at: float = field(default=_NEVER, init=False)
    _acts_until: float = field(default=_NEVER, init=False)

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        """Who has the lease as far as is known, though it may have ended; empty if nobody has."""
        return self.record.holder if self.record is not None else ""

    @property
    def may_take_at(self) -> float:
        """When the lease may be taken, in monotonic seconds, if its record does not change until then."""
        if self.record is None:  # perhaps there was one, and the server has lost it
            return self._seen_at + self.lease_s
        if self.record.holder in ("", self.me):
            return _NEVER
        return self._seen_at + self.record.lease_s

    @property
    def acts_until(self) -> float:
        """Until when this candidate may act, in monotonic seconds."""
        return self._acts_until

    def may_act(self, now: float) -> bool:
        """Whether this candidate may act now."""
        return now < self._acts_until

    def next_record(self, *, since: float) -> CoordinatorLease:
        """What to write to take the lease."""
        term = self.record.term + 1 if self.record is not None else 1
        return CoordinatorLease(holder=self.me, lease_s=self.lease_s, term=term, since=since)

    # -- what happens ------------------------------------------------------------------------------------------------

    def read(self, record: CoordinatorLease | None, sequence: int, now: float) -> None:
        """The record stands like this; `sequence` is 0 if there is none."""
        if sequence != self.sequence:
            self.record, self.sequence, self._seen_at = record, sequence, now

    def wrote(self, record: CoordinatorLease, sequence: int, *, sent_at: float, now: float) -> None:
        """Our record was stored; it was sent at `sent_at`."""
        self.record, self.sequence, self._seen_at = record, sequence, now
        self._acts_until = sent_at + record.lease_s * (1 - MARGIN) if record.holder == self.me else _NEVER

    def stop(self) -> None:
        """This candidate acts no more, whatever the record says."""
        self._acts_until = _NEVER
