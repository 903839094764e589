"""Decode steps as CUDA graphs: all kernels of a forward pass in one launch.

In a decode step the kernels are short, and launching them one by one takes a multiple of the time they run. A graph
replays them with the same sizes and at the same addresses; what changes from step to step is copied to fixed places
first. So there is a graph for each `GraphShape`, and a step takes the smallest that it fits into, with padding rows.
The attention plan of a step is made outside of the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import structlog
import torch

from parrot_workers.attention import ALWAYS, AttentionBackend, AttentionPlan, SequenceSpan, build_plan
from parrot_workers.attention.graph_shape import NODE_BUCKETS, ROW_BUCKETS, GraphShape, find_shape, round_up_rows
from parrot_workers.kv_cache import OWN, Segment

__all__ = ["CudaRecorder", "DecodeGraphs", "Forward", "Recorder", "usual_shapes"]

log = structlog.get_logger(__name__)

MAX_GRAPHS: Final = 160
"""Each graph takes some megabytes of the device; shapes beyond this many run kernel by kernel."""

MIN_USES: Final = 2
"""A shape is captured when it occurs for this time: a batch that grows or shrinks passes through many only once."""

Forward: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, AttentionBackend], torch.Tensor]
"""A forward pass: input ids, positions and slots, each of shape [num_rows], int64, and the backend, which has its plan;
returns the logits of all rows, shape [num_rows, vocab_size]."""


class Recorder(Protocol):
    """Records what a function launches."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Call `function`, possibly several times, and return what launches the same again on the same memory."""
        ...


class CudaRecorder:
    """Captures CUDA graphs that share one pool of memory, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture what `function` launches.

        Raises:
            RuntimeError: It does what cannot be captured, such as waiting for the device.
        """
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(current):  # to be on it again, whatever happens in between
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                function()  # what libraries set up at their first call cannot be captured
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Only this thread is forbidden what breaks a capture: others know nothing of it.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                function()
        return graph.replay


class DecodeGraph(NamedTuple):
    """One captured shape."""

    backend: AttentionBackend
    replay: Callable[[], None]


class DecodeGraphs:
    """Runs decode steps by replaying graphs.

    Everything goes to the current stream, so steps may be launched before those before them are done.

    Args:
        forward: What is captured. It must not wait for the device, nor decide by what a tensor holds.
        make_backend: Makes a backend for one shape, whose arrays stay in place from plan to plan.
        recorder: Captures.
        device: Where it all runs.
        max_rows: Most rows of a decode step. There are no graphs for more than `ROW_BUCKETS` has.
        page_size: Tokens in a page of the pool.
        min_uses: A shape is captured when it occurs for this time.
    """

    def __init__(
        self,
        forward: Forward,
        make_backend: Callable[[GraphShape], AttentionBackend],
        recorder: Recorder,
        *,
        device: torch.device,
        max_rows: int,
        page_size: int,
        min_uses: int = MIN_USES,
    ) -> None:
        self._forward = forward
        self._make_backend = make_backend
        self._recorder = recorder
        self._max_rows = round_up_rows(max_rows)
        self._page_size = page_size
        self._min_uses = min_uses
        # input_ids, positions, slots; what padding rows find in the first two is a valid token and place of some step.
        self._inputs = torch.zeros(3, self._max_rows, dtype=torch.int64, device=device)
        self._logits: torch.Tensor | None = None
        self._graphs: dict[GraphShape, DecodeGraph] = {}
        self._num_uses: Counter[GraphShape] = Counter()
        self._can_capture = True

    @property
    def num_graphs(self) -> int:
        """Graphs that were captured."""
        return len(self._graphs)

    @torch.inference_mode()
    def run(
        self, plan: AttentionPlan, input_ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor
    ) -> torch.Tensor | None:
        """Run a step, if there is a graph for it, or if it is time to capture one.

        Args:
            plan: What its attention reads.
            input_ids: Tokens of the rows, shape [num_rows], int64, on any device, as the others.
            positions: Places of the rows in their sequences.
            slots: Where their keys and values go.

        Returns:
            Logits of all rows in the order of the plan, shape [num_rows, vocab_size], valid until the next call; none
            if the step is to be run kernel by kernel.
        """
        shape = find_shape(plan, max_rows=self._max_rows, page_size=self._page_size)
        if shape is None or not self._is_worth_it(shape):
            return None
        self._fill(shape, input_ids, positions, slots)
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._capture(shape, plan)
        else:
            graph.backend.plan(plan)
        if graph is None:
            return None
        graph.replay()
        assert self._logits is not None
        return self._logits[: plan.num_rows]

    @torch.inference_mode()
    def warm_up(self, shapes: Iterable[GraphShape], report: Callable[[float], None] = lambda share: None) -> None:
        """Capture graphs before there is work, the largest first, so that smaller ones find room in its memory.

        Args:
            shapes: What to capture.
            report: Is told the share that is done.
        """
        todo = sorted({shape for shape in shapes if shape.num_rows <= self._max_rows}, reverse=True)
        for num_done, shape in enumerate(todo):
            report(num_done / len(todo))
            if shape not in self._graphs and self._has_room:
                self._inputs.zero_()
                self._capture(shape, _small_plan(shape, self._page_size))
        report(1.0)

    @property
    def _has_room(self) -> bool:
        return self._can_capture and len(self._graphs) < MAX_GRAPHS

    def _is_worth_it(self, shape: GraphShape) -> bool:
        if shape in self._graphs:
            return True
        self._num_uses[shape] += 1
        return self._has_room and self._num_uses[shape] >= self._min_uses

    def _fill(self, shape: GraphShape, *values: torch.Tensor) -> None:
        num_rows = len(values[0])
        for target, value in zip(self._inputs, values, strict=True):
            target[:num_rows].copy_(value, non_blocking=True)
        self._inputs[2, num_rows : shape.num_rows].zero_()  # padding rows write to the dummy page

    def _capture(self, shape: GraphShape, plan: AttentionPlan) -> DecodeGraph | None:
        """Capture with a plan that fits into the shape. What runs meanwhile writes K/V that the step writes anyway."""
        backend = self._make_backend(shape)
        backend.plan(plan)
        try:
            replay = self._recorder.record(lambda: self._run_forward(shape, backend))
        except RuntimeError as error:  # a model that waits for the device, or no memory: all goes on without graphs
            log.warning("graph_capture_failed", num_rows=shape.num_rows, num_nodes=shape.num_nodes, cause=str(error))
            self._can_capture = False
            return None
        graph = self._graphs[shape] = DecodeGraph(backend, replay)
        return graph

    def _run_forward(self, shape: GraphShape, backend: AttentionBackend) -> None:
        input_ids, positions, slots = self._inputs[:, : shape.num_rows]
        logits = self._forward(input_ids, positions, slots, backend)
        if self._logits is None:
            self._logits = logits.new_zeros(self._max_rows, logits.shape[1])
        # One place for the logits of all graphs: what a graph allocates itself is free for others once it is captured.
        self._logits[: shape.num_rows].copy_(logits)


def usual_shapes(max_rows: int, *, has_levels: bool) -> list[GraphShape]:
    """The shapes that are worth capturing before there is work.

    Args:
        max_rows: Sequences that run at a time.
        has_levels: Whether shared prefixes are read in a level of their own.
    """
    rows = [num_rows for num_rows in ROW_BUCKETS if num_rows <= round_up_rows(max_rows)]
    shapes = [GraphShape(num_rows) for num_rows in rows]
    if has_levels:
        shapes += [GraphShape(num_rows, (num_nodes,)) for num_rows in rows[2:] for num_nodes in NODE_BUCKETS[:2]]
    return shapes


def _small_plan(shape: GraphShape, page_size: int) -> AttentionPlan:
    """A plan that fits into a shape and reads nothing but the dummy page: every row one token after a common prefix."""
    page = np.zeros(1, dtype=np.int32)
    num_shared = len(shape.num_nodes)
    shared = [Segment(key, page, key * page_size, page_size, page_size) for key in range(num_shared)]
    begin = num_shared * page_size
    span = SequenceSpan(segments=(*shared, Segment(OWN, page, begin, 1, 0)), begin=begin, end=begin + 1)
    return build_plan([span] * shape.num_rows, page_size=page_size, cost=ALWAYS)
