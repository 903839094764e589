"""Never do two candidates act at the same time, whatever is late, lost or stands still."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from parrot_mq.coordinator.leadership.election import Election
from parrot_mq.messages import CoordinatorLease

LEASE_S = 2.0
NUM_CANDIDATES = 3
candidates = st.integers(0, NUM_CANDIDATES - 1)


@dataclass
class _Write:
    """A write on its way to the server, or its answer on the way back."""

    candidate: int
    record: CoordinatorLease
    expected_sequence: int
    sent_at: float
    is_awaited: bool = True


@dataclass
class _Look:
    """What a candidate has read, on its way back."""

    candidate: int
    record: CoordinatorLease | None
    sequence: int


class Candidates(RuleBasedStateMachine):
    """Candidates that share a record; every message takes any time, may be lost, and answers may be, too.

    A candidate does one thing after another: once it goes on, it hears no answer to what it did before, but what it has
    written may still be stored.
    """

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.record: CoordinatorLease | None = None
        self.sequence = 0
        self.elections = [Election(me=f"c{number}", lease_s=LEASE_S) for number in range(NUM_CANDIDATES)]
        self.writes: list[_Write] = []
        self.answers: list[tuple[_Write, int]] = []
        self.looks: list[_Look] = []

    @rule(duration_s=st.sampled_from([0.01, 0.3, 1.0, 1.7, 2.0]))
    def wait(self, duration_s: float) -> None:
        self.now += duration_s

    # what takes no time, so that long stories are found soon

    @rule(candidate=candidates)
    def look_at_once(self, candidate: int) -> None:
        self._go_on(candidate)
        self.elections[candidate].read(self.record, self.sequence, self.now)

    @rule(candidate=candidates)
    def take_or_renew_at_once(self, candidate: int) -> None:
        self._go_on(candidate)
        election = self.elections[candidate]
        if election.may_act(self.now):
            assert election.record is not None
            record = election.record
        elif self.now >= election.may_take_at:
            record = election.next_record(since=self.now)
        else:
            return
        if election.sequence == self.sequence:
            self.record = record
            self.sequence += 1
            election.wrote(record, self.sequence, sent_at=self.now, now=self.now)

    # what takes any time

    @rule(candidate=candidates)
    def look(self, candidate: int) -> None:
        self._go_on(candidate)
        self.looks.append(_Look(candidate, self.record, self.sequence))

    @rule(data=st.data(), is_lost=st.booleans())
    def see(self, data: st.DataObject, is_lost: bool) -> None:
        if not self.looks:
            return
        look = self.looks.pop(data.draw(st.integers(0, len(self.looks) - 1)))
        if not is_lost:
            self.elections[look.candidate].read(look.record, look.sequence, self.now)

    @rule(candidate=candidates)
    def try_to_take(self, candidate: int) -> None:
        election = self.elections[candidate]
        if not election.may_act(self.now) and self.now >= election.may_take_at:
            self._send(candidate, election.next_record(since=self.now))

    @rule(candidate=candidates)
    def renew(self, candidate: int) -> None:
        election = self.elections[candidate]
        if election.may_act(self.now):
            assert election.record is not None
            self._send(candidate, election.record)

    @rule(candidate=candidates)
    def release(self, candidate: int) -> None:
        election = self.elections[candidate]
        if election.may_act(self.now):
            election.stop()
            assert election.record is not None
            if election.holder == election.me:
                self._send(candidate, CoordinatorLease(holder="", lease_s=LEASE_S, term=election.record.term, since=0))

    def _go_on(self, candidate: int) -> None:
        self.looks = [look for look in self.looks if look.candidate != candidate]
        self.answers = [answer for answer in self.answers if answer[0].candidate != candidate]
        for write in self.writes:
            write.is_awaited = write.is_awaited and write.candidate != candidate

    def _send(self, candidate: int, record: CoordinatorLease) -> None:
        self._go_on(candidate)
        self.writes.append(_Write(candidate, record, self.elections[candidate].sequence, self.now))

    @rule(data=st.data(), is_lost=st.booleans())
    def store(self, data: st.DataObject, is_lost: bool) -> None:
        if not self.writes:
            return
        write = self.writes.pop(data.draw(st.integers(0, len(self.writes) - 1)))
        if is_lost or write.expected_sequence != self.sequence:
            return
        self.record = write.record
        self.sequence += 1
        if write.is_awaited:
            self.answers.append((write, self.sequence))

    @rule(data=st.data(), is_lost=st.booleans())
    def hear(self, data: st.DataObject, is_lost: bool) -> None:
        if not self.answers:
            return
        write, sequence = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
        if not is_lost:
            election = self.elections[write.candidate]
            election.wrote(write.record, sequence, sent_at=write.sent_at, now=self.now)

    @invariant()
    def one_acts_at_most(self) -> None:
        acting = [election.me for election in getattr(self, "elections", ()) if election.may_act(self.now)]
        assert len(acting) <= 1, acting


TestCandidates = Candidates.TestCase
TestCandidates.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def _election(me: str = "me") -> Election:
    return Election(me=me, lease_s=LEASE_S)


def test_a_lease_that_nobody_has_is_taken_at_once() -> None:
    election = _election()
    election.read(None, 0, 100.0)
    assert election.may_take_at <= 100.0
    record = election.next_record(since=5.0)
    assert (record.holder, record.term, record.since) == ("me", 1, 5.0)
    assert not election.may_act(100.0)
    election.wrote(record, 1, sent_at=100.0, now=100.1)
    assert election.may_act(101.7)
    assert not election.may_act(101.9), "it stops before another begins"


def test_another_waits_for_the_time_of_the_holder_from_when_it_first_saw_the_record() -> None:
    election = _election()
    theirs = CoordinatorLease(holder="other", lease_s=5.0, term=7, since=0)
    election.read(theirs, 3, 100.0)
    election.read(theirs, 3, 104.0)
    assert election.may_take_at == 105.0
    election.read(theirs, 4, 104.5)
    assert election.may_take_at == 109.5
    assert election.next_record(since=0).term == 8


def test_a_lease_that_was_released_is_taken_at_once() -> None:
    election = _election()
    election.read(CoordinatorLease(holder="other", lease_s=2, term=1, since=0), 1, 100.0)
    election.read(CoordinatorLease(holder="", lease_s=2, term=1, since=0), 2, 100.1)
    assert election.may_take_at <= 100.1


def test_a_record_that_the_server_lost_is_waited_for_as_if_it_stood() -> None:
    election = _election()
    election.read(CoordinatorLease(holder="other", lease_s=2, term=1, since=0), 1, 100.0)
    election.read(None, 0, 101.0)
    assert election.may_take_at == 103.0


def test_who_took_it_and_was_not_told_may_take_it_again() -> None:
    election = _election()
    election.read(CoordinatorLease(holder="me", lease_s=2, term=1, since=0), 1, 100.0)
    assert not election.may_act(100.0)
    assert election.may_take_at <= 100.0
