"""The step on the device: pages, plan, forward, sampled tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from parrot_workers.attention import AttentionBackend, AttentionPlan, CostModel, build_plan
from parrot_workers.attention.graph_shape import GraphShape
from parrot_workers.engine.batcher import Step
from parrot_workers.engine.cuda_graphs import CudaRecorder, DecodeGraphs, usual_shapes
from parrot_workers.engine.sampled import Sampled
from parrot_workers.engine.sampler import Sampler
from parrot_workers.engine.sampling_rows import SamplingRow
from parrot_workers.engine.sequence import Sequence
from parrot_workers.engine.transfer import to_device
from parrot_workers.kv_cache.pool import KVPool
from parrot_workers.models import ForwardContext, LoadedModel, forward

__all__ = ["Launched", "ModelRunner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A step under way.

    Attributes:
        step: The step.
        plan: What its attention reads.
        sampled: Whose token was sampled; `tokens` has a row for each.
        tokens: The tokens, on their way to the host.
        launched_at: When it was launched, on `time.perf_counter`.
    """

    step: Step
    plan: AttentionPlan
    sampled: list[Sequence]
    tokens: Sampled
    launched_at: float


class ModelRunner:
    """Runs steps. What is launched one after the other runs in that order, so nobody has to wait for the tokens of a
    step before launching the next: those not read yet are taken from the device.

    Args:
        model: What to run.
        pool: Where its keys and values are.
        backend: Its attention.
        cost_model: Which shared segments attention reads once for all.
        num_slots: Sequences that run at a time.
        lookahead: Steps that may be launched before the tokens of an earlier one are read.
        make_graph_backend: Attention of the decode steps that are captured in CUDA graphs; none to capture none.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        pool: KVPool,
        backend: AttentionBackend,
        cost_model: CostModel,
        num_slots: int,
        lookahead: int = 0,
        make_graph_backend: Callable[[GraphShape], AttentionBackend] | None = None,
    ) -> None:
        self.lookahead = lookahead
        self._num_slots = num_slots
        self._model = model
        self._pool = pool
        self._backend = backend
        self._cost_model = cost_model
        self._sampler = Sampler(vocab_size=model.vocab_size, eos_token_ids=model.eos_token_ids, device=model.device)
        self._last_tokens = torch.zeros(num_slots, dtype=torch.int64, device=model.device)
        self._all_rows = torch.arange(num_slots + 64, device=model.device)  # what graphs ask logits of: every row
        self._graphs = self._make_graphs(make_graph_backend) if make_graph_backend else None

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Start a step; on a GPU it may still run when this returns."""
        launched_at = time.perf_counter()
        self._pool.copy(step.copies)
        plan = build_plan(step.spans, page_size=self._pool.page_size, cost=self._cost_model)
        logit_rows, sampled = _last_rows(step, plan)
        logits = self._forward(self._input_ids(step, plan), plan, logit_rows)
        tokens = self._sample(logits, sampled).to_host()
        return Launched(
            step=step,
            plan=plan,
            sampled=sampled,
            tokens=tokens,
            launched_at=launched_at,
        )

    def close(self, sequence: Sequence) -> None:
        """Forget what was kept for a sequence that has ended."""
        if sequence.sampling_row is not None:
            self._sampler.close(sequence.sampling_row)
            sequence.sampling_row = None

    def capture(self, report: Callable[[float], None]) -> None:
        """Capture graphs of the usual decode steps, on a device that has them."""
        if self._graphs is not None:
            shapes = usual_shapes(self._num_slots, has_levels=self._cost_model.max_levels > 0)
            self._graphs.warm_up(shapes, report)

    def _forward(self, input_ids: torch.Tensor, plan: AttentionPlan, logit_rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Run the model. Returns: logits of the rows asked for, shape [len(logit_rows), vocab_size]."""
        positions, slots = self._upload(plan.positions), self._upload(plan.slots)
        if self._graphs and (logits := self._graphs.run(plan, input_ids, positions, slots)) is not None:
            return logits if len(logit_rows) == plan.num_rows else logits[self._upload(logit_rows)]
        self._backend.plan(plan)
        context = ForwardContext(pool=self._pool, backend=self._backend, slots=slots)
        return forward(self._model, input_ids, positions, self._upload(logit_rows), context)

    def _input_ids(self, step: Step, plan: AttentionPlan) -> torch.Tensor:
        """Tokens of the rows, shape [num_rows], int64; those that were sampled but not read come from the device."""
        token_ids = np.zeros(plan.num_rows, dtype=np.int64)
        pending_rows, pending_slots = [], []
        members = step.members
        begin = 0
        for index in plan.order:
            span = step.spans[index]
            known = members[index].token_ids[span.begin : span.end]
            end = begin + span.end - span.begin
            token_ids[begin : begin + len(known)] = known
            if begin + len(known) < end:
                pending_rows.append(end - 1)
                pending_slots.append(step.sequences[index].slot)
            begin = end
        input_ids = self._upload(token_ids)
        if pending_rows:
            input_ids[self._indices(pending_rows)] = self._last_tokens[self._indices(pending_slots)]
        return input_ids

    def _sample(self, logits: torch.Tensor, sequences: SequenceOf[Sequence]) -> Sampled:
        """Choose the next tokens; they stay on the device too, for the next step."""
        rows = self._sampler.rows([self._sampling_row(sequence) for sequence in sequences])
        sampled = self._sampler.sample(logits, rows, [sequence.num_output_tokens for sequence in sequences])
        if self.lookahead:
            self._last_tokens[self._indices([sequence.slot for sequence in sequences])] = sampled.token_ids
        return sampled

    def _sampling_row(self, sequence: Sequence) -> SamplingRow:
        if sequence.sampling_row is None:
            request, state = sequence.request, sequence.state
            sequence.sampling_row = self._sampler.open(
                request.sampling,
                seed=request.seed,
                prompt_ids=state.prompt_ids,
                output_ids=state.output_ids,
                mask=request.mask,
            )
        return sequence.sampling_row

    def _make_graphs(self, make_backend: Callable[[GraphShape], AttentionBackend]) -> DecodeGraphs:
        return DecodeGraphs(
            self._forward_all,
            make_backend,
            CudaRecorder(self._model.device),
            device=self._model.device,
            max_rows=self._num_slots,
            page_size=self._pool.page_size,
        )

    def _forward_all(
        self, input_ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, backend: AttentionBackend
    ) -> torch.Tensor:
        """What graphs capture: logits of all rows."""
        context = ForwardContext(pool=self._pool, backend=backend, slots=slots)
        return forward(self._model, input_ids, positions, self._all_rows[: len(input_ids)], context)

    def _indices(self, indices: list[int]) -> torch.Tensor:
        return self._upload(np.array(indices, dtype=np.int64))

    def _upload(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        return to_device(array, self._model.device)


def _last_rows(step: Step, plan: AttentionPlan) -> tuple[npt.NDArray[np.int64], list[Sequence]]:
    """The rows after which a token can be sampled, and whose they are, in packed order."""
    can_sample = set(step.sampled)
    places = [place for place, index in enumerate(plan.order) if index in can_sample]
    return plan.last_rows[places].astype(np.int64), [step.sequences[plan.order[place]] for place in places]
