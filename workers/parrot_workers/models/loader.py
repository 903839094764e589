"""Load a Hugging Face checkpoint for serving."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parrot_mq.errors import CheckpointError, ConfigurationError
from parrot_workers.models.checkpoint import check_files
from parrot_workers.models.extra import import_extra
from parrot_workers.models.loaded_model import LoadedModel
from parrot_workers.models.paged import LayerSpec
from parrot_workers.models.probe import Unsupported, learn_layers

if TYPE_CHECKING:
    import torch

__all__ = ["load_model"]

# What the engine passes to a model. Without positions, a padded row reads another text than a row alone.
_FORWARD_ARGUMENTS = ("input_ids", "position_ids", "attention_mask", "past_key_values", "logits_to_keep")
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")


def load_model(path: Path, *, device: str = "cpu", dtype: str | torch.dtype | None = None) -> LoadedModel:
    """Load a checkpoint folder. Never asks the network, never runs code that comes with the checkpoint.

    Args:
        path: Folder as `save_pretrained` writes it.
        device: Where to run.
        dtype: Type of weights and cache, by name or as it is; `auto` or none takes float32 on a CPU, else as stored.

    Raises:
        CheckpointError: The folder cannot be served; the sentence says why and what to do.
        ConfigurationError: torch or transformers is not installed, or the device is not there.
    """
    config = check_files(path)
    import_extra("torch")
    _check_architecture(path, config)
    try:
        with _quiet():
            return _load(path, device, dtype)
    except ConfigurationError:
        raise
    except Exception as error:
        problem = f"transformers could not load it ({type(error).__name__}: {error})"
        remedy = "copy the checkpoint again, or install what it asks for"
        raise CheckpointError(path=str(path), problem=problem, remedy=remedy) from error


def _check_architecture(path: Path, config: dict[str, Any]) -> None:
    """It is a decoder-only language model that transformers itself has the code of."""
    known = import_extra("transformers").CONFIG_MAPPING
    served = import_extra("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    model_type, named = config["model_type"], (config.get("architectures") or [""])[0]
    if model_type not in known:
        problem = f"transformers does not know its architecture {model_type!r}"
        remedy = "install a newer transformers"
        if "auto_map" in config:
            problem, remedy = problem + " (trust_remote_code)", "code that comes with a checkpoint is never run"
        raise CheckpointError(path=str(path), problem=problem, remedy=remedy)
    names = served.get(model_type, ())
    if (
        not names
        or (named and named not in ([names] if isinstance(names, str) else names))
        or config.get("is_encoder_decoder")
    ):
        problem = f"its architecture {named or model_type!r} is not a decoder-only language model"
        raise CheckpointError(path=str(path), problem=problem, remedy="give a model of the kind ...ForCausalLM")


def _load(path: Path, device: str, dtype: str | torch.dtype | None) -> LoadedModel:
    transformers = import_extra("transformers")
    if dtype in (None, "auto"):
        dtype = "float32" if device == "cpu" else "auto"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        problem = f"it lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}"
        raise CheckpointError(path=str(path), problem=problem, remedy="copy the checkpoint again")
    _check_model(path, model)
    model = _move(model, device).eval()
    max_context_tokens = _max_context_tokens(path, model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=path.resolve().name,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        max_context_tokens=max_context_tokens,
        vocab_size=model.get_input_embeddings().num_embeddings,
        layers=_learn_layers(path, model, max_context_tokens),
        has_sliding_window=_has_sliding_window(model),
    )


def _check_model(path: Path, model: Any) -> None:
    """The model can run in a padded batch over a cache that can be repeated and cut by rows."""
    known = inspect.signature(model.forward).parameters
    lacking = [name for name in _FORWARD_ARGUMENTS if name not in known]
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - set(_ATTENTION_LAYERS)
    if model._is_stateful or layers or lacking:
        why = f"takes no {', '.join(lacking)}" if lacking else "keeps a state that is no attention cache"
        problem = f"its architecture {type(model).__name__} {why}"
        raise CheckpointError(path=str(path), problem=problem, remedy="give a model with attention layers only")


def _learn_layers(path: Path, model: Any, max_context_tokens: int) -> tuple[LayerSpec, ...]:
    try:
        return learn_layers(model, max_context_tokens)
    except Unsupported as error:
        problem = f"its architecture {type(model).__name__} {error}"
        raise CheckpointError(path=str(path), problem=problem, remedy="give a model with plain attention") from error


def _move(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        sentence = f"the model cannot be moved to device {device!r}: {error}; choose another with `device`"
        raise ConfigurationError(sentence, setting="device") from error


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """What `generate` stops at; the tokenizer's token where the checkpoint names none."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


def _max_context_tokens(path: Path, model: Any) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 2:
        problem = "its config.json does not say how many tokens it takes"
        raise CheckpointError(path=str(path), problem=problem, remedy="set max_position_embeddings")
    return limit


def _has_sliding_window(model: Any) -> bool:
    return any(layer.is_sliding for layer in import_extra("transformers").DynamicCache(config=model.config).layers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the progress bars and warnings of transformers."""
    logging = import_extra("transformers.utils.logging")
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
