"""A random workload over a tiny cache: arrivals, cancels, shared beginnings, chat turns, other tenants, readers, and
prompts that are computed ahead.

After every step no page is lost; every output is what `transformers.generate` writes, or, where chance has a say, what
the same request gets alone. Run it for as long as you like, and again with the seed of a failure:

    python -m tests.workers.soak --minutes 10 --seed 1
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from parrot_workers.attention import ALWAYS
from parrot_workers.config import EngineConfig
from parrot_workers.engine import EngineEvent, Failed, Finished, GenerationRequest, PrefillRequest
from parrot_workers.engine.assembly import assemble
from parrot_workers.models import LoadedModel, load_model

from parrot_mq.errors import TaskCancelled
from parrot_mq.types import Sampling
from tests.workers.checkpoints import FAMILIES, load_plain, save_checkpoint
from tests.workers.driving import ends, run

__all__ = ["Oracle", "Soak"]

_EOS = frozenset(range(0, 264, 20))


class Oracle:
    """What an output has to be."""

    def __init__(self, model: LoadedModel, plain: Any) -> None:
        self._model = replace(model, eos_token_ids=_EOS)
        self._plain = plain

    def output_ids(self, request: GenerationRequest) -> list[int]:
        """Tokens of a request: of `generate` if it is greedy, else of an engine with nothing else to do."""
        if request.sampling.temperature == 0:
            return self._generate(request)
        config = EngineConfig(attention="reference", share_prefixes=False, num_slots=1)
        end = ends(run(assemble(self._model, config), [replace(request, tpot_target_s=None)]))[request.key]
        assert isinstance(end, Finished)
        return list(end.output_ids)

    def _generate(self, request: GenerationRequest) -> list[int]:
        input_ids = torch.tensor([request.prompt])
        output = self._plain.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=request.sampling.max_tokens,
            do_sample=False,
            eos_token_id=sorted(_EOS),
            pad_token_id=258,
        )
        token_ids: list[int] = output[0, input_ids.shape[1] :].tolist()
        return token_ids


@dataclass
class Soak:
    """Drives one engine, and checks it.

    Attributes:
        model: What it runs; some tokens end its outputs.
        oracle: What its outputs have to be.
        rng: Decides everything.
        num_checked: Outputs that were compared.
        num_cancelled: Requests that were cancelled.
    """

    model: LoadedModel
    oracle: Oracle
    rng: random.Random
    num_checked: int = 0
    num_cancelled: int = 0
    _requests: dict[str, GenerationRequest] = field(default_factory=dict)  # that have not ended
    _cancelled: set[str] = field(default_factory=set)
    _contexts: list[tuple[int, ...]] = field(default_factory=list)  # prompts and outputs to go on from
    _num_submitted: int = 0

    def __post_init__(self) -> None:
        rng = self.rng
        config = EngineConfig(
            num_slots=rng.randint(1, 8),
            max_step_tokens=rng.choice([1, 7, 32, 200]),
            cache_tokens=rng.choice([320, 480, 2000]),
            page_size=rng.choice([4, 16]),
            chunked_prefill=rng.random() < 0.9,
        )
        self.engine = assemble(
            replace(self.model, eos_token_ids=_EOS), config, cost_model=ALWAYS, lookahead=rng.randint(0, 1)
        )

    def step(self) -> None:
        """Let something happen, run a step, look at what came of it."""
        if self.rng.random() < 0.4:
            self._submit([self._request() for _ in range(self.rng.choice([1, 1, 2, 6]))])
        if self.rng.random() < 0.2:
            self.engine.prefill([self._beginning(number) for number in range(self.rng.randint(0, 3))])
        if self._requests and self.rng.random() < 0.05:
            self._cancel(self.rng.choice(sorted(self._requests)))
        self._look(self.engine.step())
        self.engine.check_integrity()

    def finish(self) -> None:
        """Run until nothing is left."""
        while self.engine.has_work:
            self._look(self.engine.step())
            self.engine.check_integrity()
        assert not self._requests, "requests have no end"
        assert not self._cancelled, "cancelled requests have no end"

    def _submit(self, requests: list[GenerationRequest]) -> None:
        self._requests.update((request.key, request) for request in requests)
        self.engine.submit(requests)

    def _cancel(self, key: str) -> None:
        del self._requests[key]
        self._cancelled.add(key)
        self.engine.cancel([key])

    def _beginning(self, number: int) -> PrefillRequest:
        """What the prompt of one of the next requests may begin with."""
        rng = self.rng
        begin = rng.choice(self._contexts) if self._contexts else (65,)
        prompt = (*begin[: rng.randint(1, 200)], *(rng.choice((65, 66)) for _ in range(rng.randint(0, 60))))
        return PrefillRequest(key=f"r{self._num_submitted + number}", prompt=prompt, salt=rng.choice("aaab"))

    def _request(self) -> GenerationRequest:
        rng = self.rng
        self._num_submitted += 1
        begin = rng.choice(self._contexts) if self._contexts and rng.random() < 0.5 else ()
        prompt = (*begin[: rng.randint(0, 200)], *(rng.choice((65, 66)) for _ in range(rng.randint(1, 60))))
        greedy = Sampling(max_tokens=rng.randint(1, 24))
        drawn = Sampling(max_tokens=rng.randint(1, 24), temperature=0.9, top_k=40, repetition_penalty=1.1)
        request = GenerationRequest(
            key=f"r{self._num_submitted}",
            prompt=prompt,
            sampling=drawn if rng.random() < 0.2 else greedy,
            seed=rng.randint(0, 3),
            salt=rng.choice("aaab"),
            tpot_target_s=rng.choice([None, None, 0.001]),
        )
        if rng.random() < 0.1:  # an earlier attempt had written some of it
            known = self.oracle.output_ids(request)[: rng.randint(0, 10)]
            if len(known) < request.sampling.max_tokens and not _EOS.intersection(known):
                return replace(request, output_ids=tuple(known))
        return request

    def _look(self, events: list[EngineEvent]) -> None:
        for event in events:
            if isinstance(event, Failed):
                assert isinstance(event.error, TaskCancelled), event.error
                self._cancelled.remove(event.key)
                self.num_cancelled += 1
            elif isinstance(event, Finished):
                self._check(self._requests.pop(event.key), event)

    def _check(self, request: GenerationRequest, end: Finished) -> None:
        expected = self.oracle.output_ids(replace(request, output_ids=()))
        assert list(end.output_ids) == expected, f"{request} became {end.output_ids}, not {expected}"
        self.num_checked += 1
        self._contexts = [*self._contexts[-20:], (*_ids(request), *end.output_ids)]


def _ids(request: GenerationRequest) -> tuple[int, ...]:
    assert isinstance(request.prompt, tuple)
    return request.prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="the first engine's; the next ones count on from it")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="llama")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder), FAMILIES[arguments.family]())
        model, plain = load_model(path), load_plain(path)
    until = time.monotonic() + 60 * arguments.minutes
    seed, num_checked, num_steps = arguments.seed, 0, 0
    while time.monotonic() < until:
        soak = Soak(model, Oracle(model, plain), random.Random(seed))
        for _ in range(200):
            soak.step()
        soak.finish()
        statistics = soak.engine.statistics()
        num_checked, num_steps = num_checked + soak.num_checked, num_steps + statistics.num_steps
        print(
            f"seed {seed}: {soak.num_checked} right, {soak.num_cancelled} cancelled, {statistics.num_steps} steps,"
            f" {statistics.num_preemptions} preemptions, {statistics.num_evicted_pages} pages evicted;"
            f" so far {num_checked} outputs in {num_steps} steps",
            flush=True,
        )
        seed += 1


if __name__ == "__main__":
    main()
