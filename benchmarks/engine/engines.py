"""The engines that are compared, and how each is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["ABLATIONS", "ENGINES", "OURS", "PEERS", "REFERENCE", "Entry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One engine in one setting.

    Attributes:
        name: On the command line and in results.
        title: In tables.
        runner: Module of `benchmarks.engine.runners`.
        environment: Key of `environments.ENVIRONMENTS`; none is the environment of the benchmark itself.
        format: Of the model: `checkpoint`, `openvino` or `gguf`.
        options: Of the runner.
    """

    name: str
    title: str
    runner: str
    environment: str | None = None
    format: str = "checkpoint"
    options: dict[str, Any] = field(default_factory=dict)


OURS: Final = "parrot"
REFERENCE: Final = "generate"
"""Whose outputs in float32 the others are compared with."""

PEERS: Final = ("vllm", "openvino", "llamacpp")
"""Each in an environment of its own."""

ABLATIONS: Final = ("no-sharing", "no-cascade", "no-chunking")

# What is set for a peer is what was fastest over the four workloads where its default was not.
_ENTRIES: Final = (
    Entry(name=OURS, title="parrot-mq", runner="parrot"),
    Entry(name="no-sharing", title="parrot-mq, sharing off", runner="parrot", options={"share_prefixes": False}),
    Entry(name="no-cascade", title="parrot-mq, cascade off", runner="parrot", options={"cascade": False}),
    Entry(
        name="no-chunking", title="parrot-mq, chunked prefill off", runner="parrot", options={"chunked_prefill": False}
    ),
    Entry(name=REFERENCE, title="transformers generate, padded", runner="transformers_generate"),
    Entry(
        name="generate_batch",
        title="transformers generate_batch",
        runner="transformers_batch",
        options={"block_size": 32, "max_batch_tokens": 1024},
    ),
    Entry(
        name="vllm",
        title="vLLM, prefix cache, compiled",
        runner="vllm_cpu",
        environment="vllm",
        options={"block_size": 32},
    ),
    Entry(
        name="openvino",
        title="OpenVINO GenAI, prefix cache",
        runner="openvino_genai",
        environment="openvino",
        format="openvino",
        options={"max_batch_tokens": 1024},
    ),
    Entry(
        name="llamacpp",
        title="llama.cpp, shared prefix",
        runner="llama_cpp",
        environment="llamacpp",
        format="gguf",
        options={"max_batch_tokens": 512, "flash_attention": 0},
    ),
)
ENGINES: Final = {entry.name: entry for entry in _ENTRIES}
