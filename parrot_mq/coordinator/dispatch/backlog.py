"""The work of one model in numbers, by class and by tenant: pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from parrot_mq.coordinator.dispatch.job import Job, Prefix
from parrot_mq.messages import Usage
from parrot_mq.program import Standing

__all__ = ["Amount", "Backlog", "Kind"]

Kind = Literal["latency", "throughput"]
KINDS: tuple[Kind, Kind] = ("latency", "throughput")


@dataclass(slots=True)
class Amount:
    """An amount of work.

    Attributes:
        num: Generations.
        num_prompt: Characters of their prompts that have to be computed. In `arrived` and `finished`: tokens.
        num_output: Tokens that they may generate at most. In `arrived` and `finished`: tokens as expected, or in fact.
    """

    num: int = 0
    num_prompt: float = 0.0
    num_output: float = 0.0


@dataclass(slots=True)
class _Entry:
    """One generation.

    Attributes:
        num_output: Tokens that it may still generate.
        num_prompt_tokens: What was counted as arrived.
        num_output_tokens: What was counted as arrived.
    """

    tenant: str
    kind: Kind
    prefixes: tuple[Prefix, ...]
    num_output: int
    is_running: bool = False
    num_prompt_tokens: float = 0.0
    num_output_tokens: float = 0.0


@dataclass(slots=True)
class _Share:
    """The end of a prefix, after its parent.

    Attributes:
        num_characters: How long it is.
        is_held: A worker had it when somebody came who begins with it.
        num_running: Generations at workers that begin with it: it is there, or on its way.
        num_latency: Generations that wait, begin with it, and that somebody waits for.
        num_throughput: The others that wait and begin with it.
    """

    num_characters: int
    is_held: bool = False
    num_running: int = 0
    num_latency: int = 0
    num_throughput: int = 0

    @property
    def payer(self) -> Kind | None:
        """Whose work it is to compute it; None if it is nobody's."""
        if self.is_held or self.num_running:
            return None
        if self.num_latency:
            return "latency"
        return "throughput" if self.num_throughput else None

    @property
    def is_used(self) -> bool:
        """Whether anybody begins with it."""
        return self.num_running + self.num_latency + self.num_throughput > 0


class Backlog:
    """Counts what is ready and what runs, as it comes and goes: each change costs O(segments of a prompt).

    What several prompts share counts once, and not at all when a worker has it. That a worker has given up a prefix
    while somebody waited who needs it is not noticed.

    Args:
        is_held: Whether a worker probably holds a prefix.
    """

    def __init__(self, is_held: Callable[[Prefix], bool]) -> None:
        self._is_held = is_held
        self._entries: dict[str, _Entry] = {}
        self._shares: dict[Prefix, _Share] = {}
        self._since: OrderedDict[str, float] = OrderedDict()  # those that are ready, by how long
        self.ready: dict[Kind, Amount] = {kind: Amount() for kind in KINDS}
        self.running: dict[Kind, Amount] = {kind: Amount() for kind in KINDS}
        self.arrived = Amount()
        self.finished = Amount()
        self.tenants_ready: Counter[str] = Counter()
        self.tenants_running: Counter[str] = Counter()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def keys_ready(self) -> set[str]:
        """Those that wait."""
        return set(self._since)

    @property
    def keys_running(self) -> set[str]:
        """Those that a worker has."""
        return self._entries.keys() - self._since.keys()

    def oldest_wait_s(self, now: float) -> float:
        """How long the one that waits longest has waited."""
        return max(0.0, now - next(iter(self._since.values()))) if self._since else 0.0

    # -- what happens ------------------------------------------------------------------------------------------------

    def add(self, job: Job, *, characters_per_token: float, output_share: float, now: float) -> None:
        """A job has become ready; one of the same name, if it is here, is no more."""
        self._drop(job.key)
        before = self._num_prompt
        entry = _Entry(job.tenant, _kind(job.standing), job.prefixes, _num_left(job))
        self._entries[job.key] = entry
        self._hold(job)
        self._since[job.key] = now
        self._count(entry, 1)
        entry.num_prompt_tokens = max(0.0, self._num_prompt - before) / characters_per_token
        entry.num_output_tokens = entry.num_output * output_share
        self.arrived.num += 1
        self.arrived.num_prompt += entry.num_prompt_tokens
        self.arrived.num_output += entry.num_output_tokens

    def start(self, key: str) -> None:
        """A job is at a worker."""
        entry = self._entries.get(key)
        if entry is not None and not entry.is_running:
            self._count(entry, -1)
            entry.is_running = True
            del self._since[key]
            self._count(entry, 1)

    def queue_again(self, job: Job, now: float) -> None:
        """A job came back from a worker, maybe with some of its output."""
        entry = self._entries.get(job.key)
        if entry is not None and entry.is_running:
            self._count(entry, -1)
            entry.is_running = False
            entry.num_output = _num_left(job)
            self._since[job.key] = now
            self._hold(job)
            self._count(entry, 1)

    def judge(self, key: str, standing: Standing) -> None:
        """Something else is wanted of a job; one that is not here is ignored."""
        entry = self._entries.get(key)
        if entry is not None and entry.kind != _kind(standing):
            self._count(entry, -1)
            entry.kind = _kind(standing)
            self._count(entry, 1)

    def end(self, key: str, usage: Usage | None = None) -> None:
        """A job is finished, or nobody wants it any more. What it cost counts, if that is known."""
        entry = self._drop(key)
        if entry is None:
            return
        self.finished.num += 1
        if usage is None:
            self.finished.num_prompt += entry.num_prompt_tokens
            self.finished.num_output += entry.num_output_tokens
        else:
            self.finished.num_prompt += max(0, usage.num_prompt_tokens - usage.num_shared_tokens)
            self.finished.num_output += usage.num_output_tokens

    @property
    def _num_prompt(self) -> float:
        return self.ready["latency"].num_prompt + self.ready["throughput"].num_prompt

    # -- how it is counted -------------------------------------------------------------------------------------------

    def _hold(self, job: Job) -> None:
        """Note the ends of a job's prefixes, and which of them a worker has now."""
        num_held = len(job.prefixes)
        while num_held and not self._is_held(job.prefixes[num_held - 1]):
            num_held -= 1
        begin = 0
        for index, (prefix, end) in enumerate(zip(job.prefixes, job.ends, strict=True)):
            share = self._shares.get(prefix)
            if share is None:
                share = self._shares[prefix] = _Share(end - begin)
            if index < num_held and not share.is_held:
                former = share.payer
                share.is_held = True
                self._pay(share, former)
            begin = end

    def _drop(self, key: str) -> _Entry | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._since.pop(key, None)
            self._count(entry, -1)
            for prefix in entry.prefixes:
                if not self._shares[prefix].is_used:
                    del self._shares[prefix]
        return entry

    def _count(self, entry: _Entry, sign: int) -> None:
        tenants = self.tenants_running if entry.is_running else self.tenants_ready
        tenants[entry.tenant] += sign
        if not tenants[entry.tenant]:
            del tenants[entry.tenant]
        amount = (self.running if entry.is_running else self.ready)[entry.kind]
        amount.num += sign
        amount.num_output += sign * entry.num_output
        for prefix in entry.prefixes:
            share = self._shares[prefix]
            former = share.payer
            if entry.is_running:
                share.num_running += sign
            elif entry.kind == "latency":
                share.num_latency += sign
            else:
                share.num_throughput += sign
            self._pay(share, former)

    def _pay(self, share: _Share, former: Kind | None) -> None:
        """Somebody else may have to compute it now."""
        payer = share.payer
        if payer == former:
            return
        if former is not None:
            self.ready[former].num_prompt -= share.num_characters
        if payer is not None:
            self.ready[payer].num_prompt += share.num_characters

    # -- integrity ---------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert that the counts are those of what is here."""
        ready = {key for key, entry in self._entries.items() if not entry.is_running}
        assert ready == self._since.keys()
        for is_running, amounts in ((False, self.ready), (True, self.running)):
            for kind, amount in amounts.items():
                entries = [each for each in self._all() if (each.is_running, each.kind) == (is_running, kind)]
                assert amount.num == len(entries)
                assert amount.num_output == sum(each.num_output for each in entries)
        for kind in KINDS:
            paid = sum(share.num_characters for share in self._shares.values() if share.payer == kind)
            assert self.ready[kind].num_prompt == paid
        assert self._shares.keys() == {prefix for each in self._all() for prefix in each.prefixes}
        assert sum(self.tenants_ready.values()) == len(ready)
        assert sum(self.tenants_running.values()) == len(self._entries) - len(ready)
        assert self.arrived.num - self.finished.num >= len(self._entries)

    def _all(self) -> Iterator[_Entry]:
        yield from self._entries.values()


def _kind(standing: Standing) -> Kind:
    return "latency" if standing.objective.kind == "latency" else "throughput"


def _num_left(job: Job) -> int:
    return max(1, job.generation.sampling.max_tokens - len(job.generation.output_ids))
