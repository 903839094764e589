"""A worker's settings come from the environment or the caller, and a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from parrot_workers.config import WorkerConfig

from parrot_mq.errors import ConfigurationError, InvalidName


def test_everything_but_the_model_has_a_default() -> None:
    config = WorkerConfig(model_path=Path("/models/parrot-1b"))
    assert config.model_name == "parrot-1b"
    assert config.worker_id.startswith("worker-")
    assert config.num_slots == 64
    assert config.worker_id != WorkerConfig(model_path=Path("/models/parrot-1b")).worker_id


def test_the_environment_sets_each_field() -> None:
    config = WorkerConfig.from_env(
        {
            "PARROT_MQ_WORKER_MODEL_PATH": "/models/x",
            "PARROT_MQ_WORKER_MODEL_NAME": "org/x",
            "PARROT_MQ_WORKER_WORKER_ID": "gpu-0",
            "PARROT_MQ_WORKER_NUM_SLOTS": "64",
            "PARROT_MQ_WORKER_DEVICE": "cuda:1",
            "PARROT_MQ_WORKER_DTYPE": "bfloat16",
            "PARROT_MQ_WORKER_HEARTBEAT_S": "0.5",
            "PARROT_MQ_WORKER_DRAIN_S": "",
        }
    )
    assert config == WorkerConfig(
        model_path=Path("/models/x"),
        model_name="org/x",
        worker_id=config.worker_id,
        num_slots=64,
        device="cuda:1",
        dtype="bfloat16",
        heartbeat_s=0.5,
    )
    assert config.worker_id == "gpu-0"


def test_what_systemd_says_names_the_run() -> None:
    config = WorkerConfig.from_env({"PARROT_MQ_WORKER_MODEL_PATH": "/a", "INVOCATION_ID": "5f0c"})
    assert config.invocation == "5f0c"
    assert WorkerConfig.from_env({"PARROT_MQ_WORKER_MODEL_PATH": "/a"}).invocation == ""


def test_what_the_caller_gives_wins() -> None:
    config = WorkerConfig.from_env({"PARROT_MQ_WORKER_MODEL_PATH": "/a"}, model_path=Path("/b"))
    assert config.model_path == Path("/b")


def test_a_missing_model_names_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="PARROT_MQ_WORKER_MODEL_PATH is not set: expected the folder"):
        WorkerConfig.from_env({})


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("0", False), ("False", False)])
def test_a_switch_is_read_from_the_environment(text: str, value: bool) -> None:
    environ = {"PARROT_MQ_WORKER_MODEL_PATH": "/a", "PARROT_MQ_WORKER_CASCADE": text}
    assert WorkerConfig.from_env(environ).cascade is value


def test_a_switch_that_is_neither_names_its_variable() -> None:
    environ = {"PARROT_MQ_WORKER_MODEL_PATH": "/a", "PARROT_MQ_WORKER_CASCADE": "perhaps"}
    with pytest.raises(ConfigurationError, match="PARROT_MQ_WORKER_CASCADE='perhaps': expected true or false"):
        WorkerConfig.from_env(environ)


def test_a_malformed_value_names_its_variable() -> None:
    environ = {"PARROT_MQ_WORKER_MODEL_PATH": "/a", "PARROT_MQ_WORKER_NUM_SLOTS": "many"}
    with pytest.raises(ConfigurationError, match="PARROT_MQ_WORKER_NUM_SLOTS='many': expected a whole number"):
        WorkerConfig.from_env(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_slots", 0),
        ("max_context_tokens", -1),
        ("max_step_tokens", -1),
        ("page_size", 0),
        ("cache_tokens", -1),
        ("memory_fraction", 1.5),
        ("attention", "magic"),
        ("num_threads", -1),
        ("dtype", "int4"),
        ("device", "tpu"),
        ("device", "cuda:"),
        ("heartbeat_s", 0.0),
        ("heartbeat_s", float("nan")),
        ("max_step_s", float("inf")),
        ("latency_tpot_ms", -1.0),
        ("model_name", "x" * 257),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"worker setting {name}=.*PARROT_MQ_WORKER_{name.upper()}"):
        WorkerConfig.from_env({}, model_path=Path("/a"), **{name: value})


def test_a_worker_id_is_one_token_of_a_subject() -> None:
    with pytest.raises(InvalidName):
        WorkerConfig.from_env({}, model_path=Path("/a"), worker_id="a.b")
