"""Which beginnings of prompts are computed ahead, and where: pure.

A generation qualifies while all that it waits for is being generated: then its turn comes soon, and what is known of
its prompt is worth computing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice

from parrot_mq.coordinator.dispatch.job import Prefix, measure, name_prefixes
from parrot_mq.coordinator.protocol import Expect
from parrot_mq.program import Standing

__all__ = ["Beginning", "PrefillPlanner"]

MAX_PLANNED = 16
"""Most beginnings that are planned in a round: the others come in the next one."""


@dataclass(slots=True, eq=False)
class Beginning:
    """What is known of a prompt.

    Attributes:
        expect: As the session told it.
        prefixes: Of the prompt, as far as it is known, the shortest first.
        ends: Characters up to the end of each.
        unmet: What it waits for and is not being generated now.
        worker: Who is to compute it.
        is_computed: Whether it has.
    """

    expect: Expect
    prefixes: tuple[Prefix, ...]
    ends: tuple[int, ...]
    unmet: set[str]
    worker: str | None = None
    is_computed: bool = False

    @property
    def key(self) -> str:
        """Names the generation."""
        return self.expect.key


@dataclass(slots=True)
class _Plan:
    """What one worker is to compute: keys of beginnings, and how many of them are not computed yet."""

    keys: dict[str, None] = field(default_factory=dict)
    num_pending: int = 0


class PrefillPlanner:
    """Keeps the plan of every worker up to date.

    What is expected, begins, or ends costs O(what it waits for, and what waits for it); a round costs O(what changed).

    Args:
        min_characters: Shorter beginnings are not worth a message.
        max_pending: Most beginnings that a worker has still to compute.
    """

    def __init__(self, *, min_characters: int, max_pending: int) -> None:
        self._min_characters = min_characters
        self._max_pending = max_pending
        self._beginnings: dict[str, Beginning] = {}
        self._readers: dict[str, dict[str, None]] = {}  # by what they wait for
        self._running: set[str] = set()
        self._homeless: dict[str, None] = {}  # they qualify, and have no worker
        self._plans: dict[str, _Plan] = {}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._beginnings)

    def get(self, key: str) -> Beginning | None:
        """What is known of a prompt that is expected."""
        return self._beginnings.get(key)

    # -- what happens ------------------------------------------------------------------------------------------------

    def expect(self, expect: Expect) -> None:
        """A generation is expected, or more of its prompt is known."""
        former = self._beginnings.get(expect.key)
        if former is not None and (former.expect.prefixes, former.expect.waits_for) == (
            expect.prefixes,
            expect.waits_for,
        ):
            former.expect = expect
            return
        self.forget(expect.key)
        unmet = {name for name in expect.waits_for if name not in self._running}
        beginning = Beginning(
            expect=expect,
            prefixes=name_prefixes(expect.salt, expect.prefixes),
            ends=measure(expect.segments),
            unmet=unmet,
        )
        self._beginnings[expect.key] = beginning
        for name in expect.waits_for:
            self._readers.setdefault(name, {})[expect.key] = None
        self._consider(beginning)

    def judge(self, key: str, standing: Standing) -> None:
        """Something else is wanted of a generation, if it is expected."""
        if (beginning := self._beginnings.get(key)) is not None:
            beginning.expect = replace(beginning.expect, standing=standing)

    def forget(self, key: str) -> None:
        """A generation is ready, or will not come."""
        beginning = self._beginnings.pop(key, None)
        if beginning is None:
            return
        self._unplan(beginning)
        for name in beginning.expect.waits_for:
            readers = self._readers.get(name)
            if readers is not None:
                readers.pop(key, None)
                if not readers:
                    del self._readers[name]

    def begin(self, key: str) -> None:
        """A generation is at a worker."""
        self._running.add(key)
        for reader in self._readers.get(key, ()):
            beginning = self._beginnings[reader]
            beginning.unmet.discard(key)
            self._consider(beginning)

    def end(self, key: str, *, is_finished: bool) -> None:
        """A generation is not at a worker any more; if it is finished, nobody waits for it longer."""
        self._running.discard(key)
        for reader in self._readers.get(key, ()):
            beginning = self._beginnings[reader]
            if is_finished:
                beginning.unmet.discard(key)
                self._consider(beginning)
            else:
                beginning.unmet.add(key)
                self._unplan(beginning)

    def compute(self, key: str, worker: str) -> Beginning | None:
        """A worker has computed a beginning. Returns it if that was planned."""
        beginning = self._beginnings.get(key)
        if beginning is None or beginning.worker != worker:
            return None
        if not beginning.is_computed:
            beginning.is_computed = True
            self._plans[worker].num_pending -= 1
        return beginning

    def lose(self, worker: str) -> None:
        """A worker is gone, began anew, or takes nothing more: others have to do what it was to do."""
        plan = self._plans.pop(worker, None)
        self._changed.discard(worker)
        for key in plan.keys if plan is not None else ():
            beginning = self._beginnings[key]
            beginning.worker, beginning.is_computed = None, False
            self._consider(beginning)

    # -- the plan ----------------------------------------------------------------------------------------------------

    def plan(self, choose: Callable[[Beginning], str | None]) -> list[Beginning]:
        """Find workers for what has none.

        Args:
            choose: The worker where a generation will most likely run, if it has room now.

        Returns:
            What was planned.
        """
        planned = []
        for key in list(islice(self._homeless, MAX_PLANNED)):
            beginning = self._beginnings[key]
            worker = choose(beginning)
            plan = self._plans.setdefault(worker, _Plan()) if worker is not None else None
            if worker is None or plan is None or plan.num_pending >= self._max_pending:
                self._homeless[key] = self._homeless.pop(key)  # another one is tried first the next time
                break
            del self._homeless[key]
            beginning.worker = worker
            plan.keys[key] = None
            plan.num_pending += 1
            self._changed.add(worker)
            planned.append(beginning)
        return planned

    def pop_changed(self) -> dict[str, list[Beginning]]:
        """The whole plans of those workers whose plan has changed, what somebody waits for first."""
        changed, self._changed = self._changed, set()
        plans = {worker: [self._beginnings[key] for key in self._plans[worker].keys] for worker in sorted(changed)}
        return {
            worker: sorted(plan, key=lambda each: not each.expect.standing.is_urgent) for worker, plan in plans.items()
        }

    def _consider(self, beginning: Beginning) -> None:
        """See whether a beginning qualifies now."""
        is_long = bool(beginning.ends) and beginning.ends[-1] >= self._min_characters
        is_known = len(beginning.ends) == len(beginning.prefixes) > 0
        if is_long and is_known and beginning.expect.waits_for and not beginning.unmet and beginning.worker is None:
            self._homeless[beginning.key] = None

    def _unplan(self, beginning: Beginning) -> None:
        self._homeless.pop(beginning.key, None)
        worker, beginning.worker = beginning.worker, None
        if worker is not None:
            plan = self._plans[worker]
            del plan.keys[beginning.key]
            plan.num_pending -= not beginning.is_computed
            self._changed.add(worker)
        beginning.is_computed = False

    def check_integrity(self) -> None:
        """Assert that what qualifies has a worker or waits for one, and nothing else does."""
        waited_for = {(name, key) for key, each in self._beginnings.items() for name in each.expect.waits_for}
        assert waited_for == {(name, key) for name, keys in self._readers.items() for key in keys}
        for key, each in self._beginnings.items():
            assert not each.unmet & self._running, key
            assert (key in self._homeless) + (each.worker is not None) <= (not each.unmet), key
        planned = {(key, worker) for worker, plan in self._plans.items() for key in plan.keys}
        assert planned == {(key, each.worker) for key, each in self._beginnings.items() if each.worker is not None}
        for plan in self._plans.values():
            assert plan.num_pending == sum(not self._beginnings[key].is_computed for key in plan.keys)
            assert plan.num_pending <= self._max_pending
