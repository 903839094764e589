"""Settings of an engine and of its worker. The only module of the worker that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from parrot_mq.errors import ConfigurationError
from parrot_mq.types import WorkerId, check_name, fresh_id

__all__ = ["ATTENTION", "DTYPES", "ENVIRONMENT_PREFIX", "EngineConfig", "WorkerConfig"]

ENVIRONMENT_PREFIX = "PARROT_MQ_WORKER_"
INVOCATION = "INVOCATION_ID"
"""Set by systemd for what it runs."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("auto", "reference", "cpu", "flashinfer")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How an engine runs. The switches turn off one mechanism each, to see what it is worth.

    Attributes:
        num_slots: Generations that run at a time.
        max_context_tokens: Most tokens of prompt and output together; 0 takes what the model can.
        max_step_tokens: Most tokens that go through the model at once; 0 takes 512 on a CPU, whose caches hold what
            lies between the layers of so many, and 4096 on a GPU.
        cache_tokens: Tokens whose keys and values are kept; 0 takes what `memory_fraction` allows.
        memory_fraction: Share of the memory that the cache may take: on a GPU of what is free when the model is loaded
            and has its working memory, on a CPU of all there is. 0 takes 0.9 and 0.25.
        page_size: Tokens of a page.
        attention: `auto`, `reference` (slow, exact), `cpu` or `flashinfer`.
        share_prefixes: Whether what prompts have in common is computed and kept once.
        cascade: Whether it is also read once, for all sequences of a step.
        chunked_prefill: Whether long prompts are read in pieces, beside outputs.
        fused_layers: Whether layers of known structure run in fewer, larger operations.
        cuda_graphs: Whether a GPU gets the kernels of a decode step in one launch.
    """

    num_slots: int = 64
    max_context_tokens: int = 0
    max_step_tokens: int = 0
    cache_tokens: int = 0
    memory_fraction: float = 0.0
    page_size: int = 16
    attention: str = "auto"
    share_prefixes: bool = True
    cascade: bool = True
    chunked_prefill: bool = True
    fused_layers: bool = True
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("num_slots", "page_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number from 1")
        for name in ("max_context_tokens", "max_step_tokens", "cache_tokens"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number from 0")
        _require(0 <= self.memory_fraction <= 1, "memory_fraction", self.memory_fraction, "a number from 0 to 1")
        _require(self.attention in ATTENTION, "attention", self.attention, f"one of {', '.join(ATTENTION)}")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(EngineConfig):
    """How one worker runs. Each field, those of `EngineConfig` too, can be set by the environment: `PARROT_MQ_WORKER_`
    and its name in capitals.

    Attributes:
        model_path: Folder of a Hugging Face checkpoint.
        model_name: Name the model is served as; empty takes the name of the folder.
        worker_id: Names the worker on the bus; unique.
        device: `auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.
        dtype: Type of weights and cache: `auto` (float32 on a CPU, else as stored), `float32`, `bfloat16`, `float16`.
        num_threads: Threads of torch on a CPU; 0 takes one for a small model and else leaves it to torch.
        heartbeat_s: Seconds between two heartbeats.
        max_step_s: A step that takes longer means that the engine is stuck.
        max_stage_s: Loading that gets no further for longer is stuck.
        drain_s: Seconds that running generations get to finish when the worker is stopped.
        latency_tpot_ms: Milliseconds that each token of an output may take that somebody waits for, if nothing else is
            said of it; five tokens a second are as fast as most people read. 0 sets no target.
        invocation: Names this run of its unit, if systemd runs it, so that an autoscaler finds its unit.
    """

    model_path: Path
    model_name: str = ""
    worker_id: WorkerId = field(default_factory=lambda: WorkerId(fresh_id("worker")))
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 0
    heartbeat_s: float = 1.0
    max_step_s: float = 120.0
    max_stage_s: float = 180.0
    drain_s: float = 30.0
    latency_tpot_ms: float = 200.0
    invocation: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("worker", self.worker_id)
        if not self.model_name:
            object.__setattr__(self, "model_name", self.model_path.resolve().name)
        _require(0 < len(self.model_name) <= 256, "model_name", self.model_name, "1 to 256 characters")
        _require(self.num_threads >= 0, "num_threads", self.num_threads, "a whole number from 0")
        _require(self.dtype in DTYPES, "dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        kind, _, index = self.device.partition(":")
        is_device = self.device in ("auto", "cpu", "cuda") or (kind == "cuda" and index.isdecimal())
        _require(is_device, "device", self.device, "auto, cpu, cuda or cuda:N")
        for name in ("heartbeat_s", "max_step_s", "max_stage_s", "drain_s"):
            value = getattr(self, name)
            _require(0 < value < float("inf"), name, value, "a number of seconds above 0")
        is_right = 0 <= self.latency_tpot_ms < float("inf")
        _require(is_right, "latency_tpot_ms", self.latency_tpot_ms, "a number of milliseconds from 0")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /, **settings: object) -> Self:
        """Read the environment; what is given in `settings` wins over it.

        Raises:
            ConfigurationError: A value is missing or malformed; the sentence names the variable.
        """
        environ = os.environ if environ is None else environ
        for one in fields(cls):
            variable = ENVIRONMENT_PREFIX + one.name.upper()
            if one.name not in settings and environ.get(variable):
                settings[one.name] = _read(variable, environ[variable], _READERS[str(one.type)])
        settings.setdefault("invocation", environ.get(INVOCATION, ""))
        if "model_path" not in settings:
            sentence = f"{ENVIRONMENT_PREFIX}MODEL_PATH is not set: expected the folder of a checkpoint"
            raise ConfigurationError(sentence, setting="model_path")
        return cls(**settings)  # type: ignore[arg-type]  # each reader gives what its field takes


def _read_bool(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.lower()]


_READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "Path": (Path, "a path"),
    "WorkerId": (str, "a name"),
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (_read_bool, "true or false"),
}


def _read(variable: str, text: str, reader: tuple[Callable[[str], object], str]) -> object:
    convert, expected = reader
    try:
        return convert(text)
    except (ValueError, KeyError):
        raise ConfigurationError(f"{variable}={text!r}: expected {expected}", setting=variable) from None


def _require(is_right: bool, name: str, value: object, expected: str) -> None:
    if not is_right:
        sentence = f"worker setting {name}={value!r} ({ENVIRONMENT_PREFIX}{name.upper()}): expected {expected}"
        raise ConfigurationError(sentence, setting=name)
