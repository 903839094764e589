"""A folder that cannot be served is refused before loading, with a sentence that says why and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from parrot_workers.models import LoadedModel, extra, load_model

from parrot_mq.errors import CheckpointError, ConfigurationError, EngineFailure, GenerationAborted
from tests.workers.checkpoints import FAMILIES, save_checkpoint, transformers


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return shutil.copytree(checkpoint("llama"), tmp_path / "model")


def _change(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; `None` removes one."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def _assert_refused(folder: Path, problem: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert problem in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.path == str(folder)


def test_a_checkpoint_is_loaded_for_serving(folder: Path) -> None:
    model = load_model(folder)
    assert model.name == "model"
    assert model.max_context_tokens == 512
    assert model.vocab_size == 264
    assert model.eos_token_ids == {257}
    assert [layer.window for layer in model.layers] == [None, None]
    assert not model.model.training
    assert model.model.dtype == torch.float32
    assert model.device == torch.device("cpu")
    assert model.decode(model.encode("né 🦜")) == "né 🦜"


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_sliding_window_is_seen(loaded: Callable[[str], LoadedModel], family: str) -> None:
    assert 24 in [layer.window for layer in loaded(family).layers]


def test_a_dtype_is_taken_by_name(folder: Path) -> None:
    assert load_model(folder, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_model(folder, dtype=torch.float16).model.dtype == torch.float16


@pytest.mark.parametrize(
    ("named", "expected"), [(257, {257}), ([257, 10], {10, 257}), (None, {257})], ids=["one", "several", "tokenizer's"]
)
def test_the_generation_config_says_what_ends_an_output(folder: Path, named: object, expected: set[int]) -> None:
    _change(folder / "generation_config.json", eos_token_id=named)
    _change(folder / "config.json", eos_token_id=named)
    assert load_model(folder).eos_token_ids == expected


def test_a_type_that_there_is_not_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no type 'int8' of weights: use auto, float32, bfloat16"):
        load_model(folder, dtype="int8")


def test_weights_are_stored_in_one_type_and_run_in_another(tmp_path: Path) -> None:
    config = FAMILIES["llama"]()
    config.dtype = torch.bfloat16
    folder = save_checkpoint(tmp_path / "model", config)
    assert {str(tensor.dtype) for tensor in _weights(folder).values()} == {"torch.bfloat16"}
    assert load_model(folder).dtype == torch.float32
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_weights_may_lie_in_several_files(folder: Path, tmp_path: Path) -> None:
    sharded = shutil.copytree(folder, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    whole, parts = load_model(folder), load_model(sharded)
    assert whole.num_parameters == parts.num_parameters
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, parts.model.state_dict()[name])


def test_tied_weights_are_kept_once(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("qwen3").model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    untied = loaded("llama").model
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    config = FAMILIES["llama"]()
    config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id = 200, 1, 2, 3
    save_checkpoint(folder, config)
    _assert_refused(folder, "its tokenizer has 256 tokens, and its model knows 200")


def test_added_tokens_may_be_beyond_the_model(folder: Path) -> None:
    """Nobody has to use them; a prompt that does fails alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<{index}>" for index in range(20)])
    tokenizer.save_pretrained(folder)
    model = load_model(folder)
    assert model.encode("hi") == [104, 105]
    with pytest.raises(EngineFailure, match="beyond the model's vocabulary of 264"):
        model.encode("<19>")


def test_weights_that_are_quantized_are_refused(folder: Path) -> None:
    _change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    _assert_refused(folder, "its weights are quantized (gptq)")


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[str, float]] = []
    load_model(folder, dtype="bfloat16", report=lambda stage, fraction: told.append((stage, fraction)))
    assert list(dict(told)) == ["files", "weights", "probe", "fuse layers", "pack weights"]
    weights = [fraction for stage, fraction in told if stage == "weights"]
    assert len(weights) > 10
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("stage", ["weights", "probe"])
def test_a_report_may_end_the_loading(folder: Path, stage: str) -> None:
    """As when the worker is stopped meanwhile: the error is not taken for one of the checkpoint."""

    def stop(now: str, fraction: float) -> None:
        if now == stage and fraction > 0.5:
            raise GenerationAborted("stopped")

    with pytest.raises(GenerationAborted):
        load_model(folder, report=stop)


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(folder)
    assert capfd.readouterr() == ("", "")


def test_no_such_folder_is_refused(tmp_path: Path) -> None:
    _assert_refused(tmp_path / "nowhere", "there is no such folder")


def test_a_file_is_refused(folder: Path) -> None:
    _assert_refused(folder / "config.json", "it is a file")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    _assert_refused(tmp_path, "it has no config.json")


@pytest.mark.parametrize("text", ["{", "\ufeff", ""])
def test_a_config_that_is_not_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    _assert_refused(folder, "its config.json is not JSON")


def test_a_config_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    _assert_refused(folder, "its config.json is not a JSON object")


def test_a_config_without_a_model_type_is_refused(folder: Path) -> None:
    _change(folder / "config.json", model_type=None)
    _assert_refused(folder, "names no model_type")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _assert_refused(folder, "it has no weights")


def test_a_missing_shard_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    _assert_refused(folder, "1 of 2 shards are missing, first model-00002-of-00002.safetensors")


def test_a_pointer_of_git_lfs_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    _assert_refused(folder, "model.safetensors is a pointer of git-lfs, not weights; run `git lfs pull` in it")


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    _assert_refused(folder, "it has no tokenizer")


def test_weights_that_are_cut_off_are_refused(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    _assert_refused(folder, "transformers could not load it")


def test_a_missing_weight_is_refused(folder: Path) -> None:
    """Transformers would make a random one, and say so in a warning only."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _assert_refused(folder, "it lacks 1 weights of LlamaForCausalLM, first model.layers.1.mlp.up_proj.weight")


def test_code_that_comes_with_a_checkpoint_is_not_run(folder: Path) -> None:
    _change(folder / "config.json", model_type="parrot9", auto_map={"AutoModelForCausalLM": "code.Parrot"})
    _assert_refused(folder, "does not know its architecture 'parrot9' (trust_remote_code); code that comes with")


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    _change(folder / "config.json", model_type="parrot9")
    _assert_refused(folder, "does not know its architecture 'parrot9'; install a newer transformers")


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("bert", "BertForMaskedLM"), ("t5", "T5ForConditionalGeneration"), ("clip", "CLIP")],
)
def test_what_is_no_decoder_is_refused(folder: Path, model_type: str, architecture: str) -> None:
    _change(folder / "config.json", model_type=model_type, architectures=[architecture])
    _assert_refused(folder, f"its architecture {architecture!r} is not a decoder-only language model")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            lambda: transformers.MambaConfig(vocab_size=264, hidden_size=16, num_hidden_layers=1, state_size=4),
            "MambaForCausalLM takes no position_ids",
        ),
        (
            lambda: transformers.BloomConfig(vocab_size=264, hidden_size=16, n_layer=1, n_head=2),
            "BloomForCausalLM takes no position_ids",
        ),
    ],
    ids=["state", "no positions"],
)
def test_an_architecture_that_cannot_run_in_a_batch_is_refused(
    tmp_path: Path, config: Callable[[], Any], problem: str
) -> None:
    _assert_refused(save_checkpoint(tmp_path / "model", config()), problem)


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be moved to device 'cuda:77'"):
        load_model(folder, device="cuda:77")


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_package_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(wanted: str) -> Any:
        if wanted == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(wanted)

    monkeypatch.setattr(extra, "import_module", fail)
    with pytest.raises(ConfigurationError, match=rf"needs {name}: install it with `pip install 'parrot-mq\[worker\]'`"):
        load_model(folder)


def test_the_network_is_never_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load_model(folder).vocab_size == 264
