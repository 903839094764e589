"""What does bookkeeping cost per step? `python -m tests.kv_cache.bench_kv_cache` prints the numbers of the README.

CPU time, the best of several rounds, so that other processes on the machine count for little.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from parrot_workers.kv_cache import CacheManager, SequenceCache

NUM_SEQUENCES = 256
NUM_ROUNDS = 7
PREFIX_TOKENS = 1024
OWN_TOKENS = 32
PROMPT_TOKENS = 2000


class Stopwatch:
    """Best CPU time per operation of each kind."""

    def __init__(self) -> None:
        self._best_us: dict[str, float] = {}

    @contextmanager
    def measure(self, what: str, num: int) -> Iterator[None]:
        started = time.process_time()
        yield
        duration_us = 1e6 * (time.process_time() - started) / num
        self._best_us[what] = min(duration_us, self._best_us.get(what, duration_us))

    def repeat(self, what: str, num: int, work: Callable[[], object]) -> None:
        for _ in range(NUM_ROUNDS):
            with self.measure(what, num):
                work()

    def report(self) -> None:
        for what, duration_us in self._best_us.items():
            sys.stdout.write(f"{what}: {duration_us:.2f} µs\n")


def _tokens(rng: random.Random, num: int) -> list[int]:
    return [rng.randrange(1000, 100_000) for _ in range(num)]


def _copy(tokens: list[int]) -> list[int]:
    """Equal numbers that are other objects, as a second tokenization gives them."""
    return [int(str(token)) for token in tokens]


def measure_steps(watch: Stopwatch, rng: random.Random) -> None:
    """256 sequences that share a prefix decode."""
    manager = CacheManager(num_pages=20_000)
    prefix = _tokens(rng, PREFIX_TOKENS)
    caches: list[SequenceCache] = []
    for _ in range(NUM_SEQUENCES):
        acquired = manager.acquire(prefix + _tokens(rng, OWN_TOKENS))
        assert acquired is not None
        manager.mark_computed(acquired.cache, PREFIX_TOKENS + OWN_TOKENS)
        caches.append(acquired.cache)
    end = PREFIX_TOKENS + OWN_TOKENS
    watch.repeat("segments", NUM_SEQUENCES, lambda: [manager.segments(cache) for cache in caches])
    watch.repeat("extend inside a page", NUM_SEQUENCES, lambda: [manager.extend(cache, end) for cache in caches])
    for _ in range(NUM_ROUNDS):
        with watch.measure("mark_computed", NUM_SEQUENCES):
            for cache in caches:
                manager.mark_computed(cache, end)
    watch.repeat("num_computed", NUM_SEQUENCES, lambda: [manager.num_computed(cache) for cache in caches])
    for _ in range(NUM_ROUNDS):
        with watch.measure("extend by a page", NUM_SEQUENCES):
            end += 16
            for cache in caches:
                manager.extend(cache, end)


def measure_prompts(watch: Stopwatch, rng: random.Random, manager: CacheManager, label: str) -> None:
    """Prompts come and go: new ones, the same again, and some that diverge."""
    for _ in range(NUM_ROUNDS):
        prompts = [_tokens(rng, PROMPT_TOKENS) for _ in range(60)]
        _measure_prompts(watch, manager, prompts, f"acquire 2,000 new tokens{label}")
        _measure_prompts(watch, manager, [_copy(prompt) for prompt in prompts], f"acquire 2,000 known tokens{label}")
        diverging = [_copy(prompt[:1500]) + _tokens(rng, 500) for prompt in prompts]
        _measure_prompts(watch, manager, diverging, f"acquire 1,500 known and 500 new tokens{label}")


def _measure_prompts(watch: Stopwatch, manager: CacheManager, prompts: list[list[int]], what: str) -> None:
    with watch.measure(what, len(prompts)):
        acquired = [manager.acquire(prompt) for prompt in prompts]
    with watch.measure(f"release after {what}", len(prompts)):
        for each, prompt in zip(acquired, prompts, strict=True):
            assert each is not None
            manager.mark_computed(each.cache, len(prompt))
            manager.release(each.cache, prompt)


def measure_runs(num_sequences: int, num_pages: int, *, is_full: bool) -> float:
    """Runs of side-by-side pages per sequence after 512 generated tokens each."""
    rng = random.Random(1)
    manager = CacheManager(num_pages=num_pages)
    while is_full and not manager.statistics().num_evicted_pages:
        tokens = _tokens(rng, rng.randrange(200, 3000))
        acquired = manager.acquire(tokens)
        assert acquired is not None
        manager.mark_computed(acquired.cache, len(tokens))
        manager.release(acquired.cache, tokens)
    caches = [acquired.cache for _ in range(num_sequences) if (acquired := manager.acquire(_tokens(rng, 100)))]
    for num_tokens in range(101, 612):
        for cache in caches:
            assert manager.extend(cache, num_tokens)
    return sum(1 + int((np.diff(cache.pages) != 1).sum()) for cache in caches) / num_sequences


def main() -> None:
    rng = random.Random(0)
    watch = Stopwatch()
    gc.disable()
    measure_steps(watch, rng)
    measure_prompts(watch, rng, CacheManager(num_pages=300_000), "")
    measure_prompts(watch, rng, CacheManager(num_pages=20_000), ", cache full")
    watch.report()
    for num_sequences, num_pages, is_full in ((32, 8192, False), (32, 8192, True), (256, 32768, True)):
        num_runs = measure_runs(num_sequences, num_pages, is_full=is_full)
        state = "full of old text" if is_full else "empty"
        sys.stdout.write(f"{num_sequences} sequences in {num_pages} pages, {state}: {num_runs:.1f} runs of 33 pages\n")


if __name__ == "__main__":
    main()
