"""Load a Hugging Face checkpoint for serving."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from parrot_mq.errors import CheckpointError, ConfigurationError, ParrotError
from parrot_workers.models.checkpoint import check_files
from parrot_workers.models.extra import import_extra
from parrot_workers.models.loaded_model import LoadedModel
from parrot_workers.models.memory import weights_apart
from parrot_workers.models.paged import Unsupported
from parrot_workers.models.progress import Report, report_weights, silent
from parrot_workers.models.rotary import freeze_rotary

if TYPE_CHECKING:
    import torch

__all__ = ["load_model"]

log = structlog.get_logger(__name__)

_FORWARD_ARGUMENTS = ("input_ids", "position_ids", "use_cache", "logits_to_keep")
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
_DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    path: Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    is_fused: bool = True,
    is_packed: bool = True,
    report: Report = silent,
) -> LoadedModel:
    """Load a checkpoint folder. Never asks the network, never runs code that comes with the checkpoint.

    Args:
        path: Folder as `save_pretrained` writes it.
        device: Where to run.
        dtype: Type of weights and cache, by name or as it is; `auto` or none takes float32 on a CPU, else as stored.
        is_fused: Replace decoder layers by lean ones where that is proven to change nothing.
        is_packed: On a CPU, keep weights in the layout that its kernels compute with.
        report: Is told the stage and how much of it is done, from 0 to 1. What it raises ends the loading.

    Raises:
        CheckpointError: The folder cannot be served; the sentence says why and what to do.
        ConfigurationError: torch or transformers is not installed, or device or type is none that there is.
    """
    report("files", 0.0)
    config = check_files(path)
    import_extra("torch")
    _check_architecture(path, config)
    dtype = _choose_dtype(dtype, device)
    with _quiet():
        with _as_checkpoint_error(path, "transformers could not load it"):
            tokenizer = _load_tokenizer(path)
            model = _load_weights(path, dtype, device, report)
        _check_model(path, model)
        model = _move(model, device).eval()
        return _prepare(path, model, tokenizer, report, is_fused=is_fused, is_packed=is_packed)


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


def _choose_dtype(dtype: str | torch.dtype | None, device: str) -> str:
    """The name that transformers takes: a type, or `auto` for that of the checkpoint."""
    name = str(dtype or "auto").removeprefix("torch.")
    if name not in ("auto", *_DTYPES):
        raise ConfigurationError(
            f"there is no type {name!r} of weights: use auto, {', '.join(_DTYPES)}", setting="dtype"
        )
    return "float32" if name == "auto" and device == "cpu" else name


def _load_tokenizer(path: Path) -> Any:
    auto = import_extra("transformers").AutoTokenizer
    return auto.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def _load_weights(path: Path, dtype: str, device: str, report: Report) -> Any:
    auto = import_extra("transformers").AutoModelForCausalLM
    # What goes to a GPU comes best from the mapped file, which is no memory of this process.
    with report_weights(report), weights_apart() if device == "cpu" else nullcontext():
        model, info = auto.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        problem = f"it lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}"
        raise CheckpointError(path=str(path), problem=problem, remedy="copy the checkpoint again")
    return model


def _prepare(path: Path, model: Any, tokenizer: Any, report: Report, **options: bool) -> LoadedModel:
    """Make a model of transformers one that runs over the paged cache."""
    from parrot_workers.models.prepare import prepare

    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    vocab_size, max_context_tokens = _vocab_size(path, model, tokenizer), _max_context_tokens(path, model)
    with _as_unsupported(path, model):
        layers, short_pass = prepare(model, vocab_size, max_context_tokens, report=report, **options)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=path.resolve().name,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        max_context_tokens=max_context_tokens,
        vocab_size=vocab_size,
        layers=layers,
        num_parameters=num_parameters,
        short_pass=short_pass,
    )


def _vocab_size(path: Path, model: Any, tokenizer: Any) -> int:
    """Token ids are below this. Tokens that were added to the tokenizer may be beyond; nobody has to use them."""
    vocab_size: int = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > vocab_size:
        problem = f"its tokenizer has {tokenizer.vocab_size} tokens, and its model knows {vocab_size}"
        raise CheckpointError(path=str(path), problem=problem, remedy="copy model and tokenizer from one checkpoint")
    return vocab_size


def _check_model(path: Path, model: Any) -> None:
    """The model takes packed tokens, and keeps nothing between steps but keys and values."""
    known = inspect.signature(model.forward).parameters
    lacking = [name for name in _FORWARD_ARGUMENTS if name not in known]
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - set(_ATTENTION_LAYERS)
    if model._is_stateful or layers or lacking:
        why = f"takes no {', '.join(lacking)}" if lacking else "keeps a state that is no attention cache"
        problem = f"its architecture {type(model).__name__} {why}"
        raise CheckpointError(path=str(path), problem=problem, remedy="give a model with attention layers only")


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
    rotary_limit = freeze_rotary(model)
    if rotary_limit is None or rotary_limit >= limit:
        return limit
    log.warning("context_limited", max_context_tokens=rotary_limit, max_position_embeddings=limit)
    return rotary_limit


@contextmanager
def _as_checkpoint_error(path: Path, doing: str) -> Iterator[None]:
    """Say of an error that nobody foresaw where it came from."""
    try:
        yield
    except ParrotError:
        raise
    except Exception as error:
        problem = f"{doing} ({type(error).__name__}: {error})"
        remedy = "copy the checkpoint again, or install what it asks for"
        raise CheckpointError(path=str(path), problem=problem, remedy=remedy) from error


@contextmanager
def _as_unsupported(path: Path, model: Any) -> Iterator[None]:
    """Say of an error that the model's code and ours do not go together."""
    try:
        yield
    except ParrotError:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, Unsupported) else f"could not be run ({type(error).__name__}: {error})"
        problem = f"its architecture {type(model).__name__} {why}"
        raise CheckpointError(path=str(path), problem=problem, remedy="give a model with plain attention") from error


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
