"""Which prefixes are needed most, against a model that counts anew each time."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator.dispatch.needs import MAX_COUNTED, MAX_PREFIXES, PrefixNeeds
from parrot_mq.program import prefix_hashes

keys = st.integers(0, 9).map(lambda number: f"t.s.v{number}")
prompts = st.lists(st.sampled_from("abc"), max_size=4)


class NeedsModel(RuleBasedStateMachine):
    """Holds the prefixes of each generation in a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.needs = PrefixNeeds()
        self.known: dict[str, list[str]] = {}

    @rule(key=keys, prompt=prompts)
    def set(self, key: str, prompt: list[str]) -> None:
        self.known[key] = prefix_hashes(prompt)
        self.needs.set(key, tuple(self.known[key]))

    @rule(key=keys)
    def remove(self, key: str) -> None:
        self.known.pop(key, None)
        self.needs.remove(key)

    @rule(num_wanted=st.integers(0, 12))
    def find(self, num_wanted: int) -> None:
        counts = Counter(prefix for prefixes in self.known.values() for prefix in prefixes)
        found = self.needs.most_needed(num_wanted)
        assert len(set(found)) == len(found) == min(num_wanted, len(counts))
        assert [counts[prefix] for prefix in found] == sorted(counts.values(), reverse=True)[:num_wanted]

    @invariant()
    def has_all(self) -> None:
        assert len(self.needs) == len(self.known)


TestNeeds = NeedsModel.TestCase
TestNeeds.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)


def test_of_equals_the_older_one_comes_first() -> None:
    needs = PrefixNeeds()
    for key in "abc":
        needs.set(key, (key,))
    needs.set("d", ("b",))
    assert needs.most_needed(3) == ("b", "a", "c")
    needs.set("a", ("a", "aa"))
    assert needs.most_needed(4) == ("b", "a", "aa", "c"), "what is known better later stays where it was"


def test_a_prompt_with_very_many_parts_counts_with_its_first() -> None:
    needs = PrefixNeeds()
    needs.set("a", tuple(f"{number}" for number in range(10_000)))
    assert needs.most_needed(10_000) == tuple(f"{number}" for number in range(MAX_PREFIXES))
    needs.remove("a")
    assert needs.most_needed(10_000) == ()


def test_of_very_many_generations_the_oldest_count() -> None:
    needs = PrefixNeeds()
    for number in range(3 * MAX_COUNTED):
        needs.set(f"{number}", ("root" if number < MAX_COUNTED else "late", f"{number}"))
    found = needs.most_needed(MAX_COUNTED)
    assert found[0] == "root"
    assert "late" not in found
    for number in range(MAX_COUNTED):
        needs.remove(f"{number}")
    assert needs.most_needed(1) == ("late",)
