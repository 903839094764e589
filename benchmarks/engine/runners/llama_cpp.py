"""llama.cpp through its bindings: sequences decoded together, a common prefix computed once and given to all."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import llama_cpp  # type: ignore[import-not-found]
import numpy as np

from benchmarks.engine.runners.base import Job, serve
from benchmarks.engine.workloads import Generate, TokenIds, common_prefix

CACHE_TYPES = {"float32": llama_cpp.GGML_TYPE_F32, "bfloat16": llama_cpp.GGML_TYPE_F16}
STREAM_TOKENS = 256  # A stream's room is a multiple of this.


class Row(NamedTuple):
    """One token of a batch; `has_logits` where the next token is asked for."""

    token: int
    position: int
    sequence: int
    has_logits: bool


class Room(NamedTuple):
    """How the cache is laid out. Unified: one buffer that sequences share, and each token is compared with all of it.
    Else each sequence has its own, and a prefix is copied into each."""

    num_sequences: int
    num_tokens: int
    is_unified: bool


class Context:
    """A cache, and a batch that is filled and decoded."""

    def __init__(self, model: object, room: Room, job: Job) -> None:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = room.num_tokens
        options.n_seq_max = room.num_sequences
        options.n_batch = options.n_ubatch = job.options["max_batch_tokens"]
        options.n_threads = options.n_threads_batch = job.num_threads
        options.type_k = options.type_v = CACHE_TYPES[job.dtype]
        options.flash_attn_type = job.options["flash_attention"]
        options.kv_unified = room.is_unified
        self.room = room
        self.max_batch_tokens = options.n_batch
        self.context = llama_cpp.llama_init_from_model(model, options)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def close(self) -> None:
        """Give the memory back."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(self.memory, False)

    def prefill_shared(self, prefix: TokenIds) -> None:
        """Compute a prefix in sequence 0 and give it to the others."""
        self.run([Row(token, position, 0, False) for position, token in enumerate(prefix)])
        for sequence in range(1, self.room.num_sequences):
            llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def run(self, rows: Sequence[Row]) -> list[int]:
        """Compute rows, packed into batches; the likeliest next token of each that has logits."""
        tokens: list[int] = []
        for start in range(0, len(rows), self.max_batch_tokens):
            tokens += self._run_batch(rows[start : start + self.max_batch_tokens])
        return tokens

    def _run_batch(self, rows: Sequence[Row]) -> list[int]:
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, row in enumerate(rows):
            batch.token[index] = row.token
            batch.pos[index] = row.position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row.sequence
            batch.logits[index] = row.has_logits
        if status := llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        return self._likeliest(sum(row.has_logits for row in rows))

    def _likeliest(self, num_logits: int) -> list[int]:
        if not num_logits:
            return []
        logits = ctypes.cast(llama_cpp.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        tokens: list[int] = np.ctypeslib.as_array(logits, (num_logits, self.vocab_size)).argmax(axis=1).tolist()
        return tokens


def load(job: Job) -> Generate:
    """Load the GGUF file."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(job.model.encode(), llama_cpp.llama_model_default_params())
    current: list[Context] = []

    def enter(room: Room) -> Context:
        """The context of that layout, empty; another one is closed."""
        if current and current[0].room != room:
            current.pop().close()
        if not current:
            current.append(Context(model, room, job))
        current[0].clear()
        return current[0]

    def generate(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        prefix = common_prefix(prompts) if len(prompts) > 1 else []
        context = enter(_choose_room(prompts, num_new, len(prefix), job))
        if prefix:
            context.prefill_shared(prefix)
        tokens = context.run(
            [
                Row(token, position, sequence, position == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for position, token in enumerate(prompt[len(prefix) :], len(prefix))
            ]
        )
        steps = [tokens]
        for index in range(num_new - 1):
            rows = [Row(token, len(prompts[at]) + index, at, True) for at, token in enumerate(steps[-1])]
            steps.append(context.run(rows))
        return [list(output) for output in zip(*steps, strict=True)]

    return generate


def _choose_room(prompts: list[TokenIds], num_new: int, num_shared: int, job: Job) -> Room:
    """Unified where most of the prompts is shared: it was faster there, and slower elsewhere."""
    longest = max(map(len, prompts)) + num_new
    if num_shared > longest // 2:
        return Room(len(prompts), job.num_cache_tokens, True)
    stream = -(-longest // STREAM_TOKENS) * STREAM_TOKENS
    return Room(len(prompts), len(prompts) * stream, False)


if __name__ == "__main__":
    serve(load, "llama-cpp-python")
