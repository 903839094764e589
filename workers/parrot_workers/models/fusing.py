"""Replace the decoder layers of a transformers model by lean ones, each proven on the layer's own input.

What a layer is made of is seen from its parts: their names, types and shapes. How they are wired is tried: a candidate
is taken only if it gives what the layer gave, up to rounding, for hidden states from the middle of a real forward pass.
A layer for which there is no such candidate stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Any

import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional

from parrot_workers.cpu_kernels import load_kernels
from parrot_workers.models.lean_layer import (
    Attention,
    ForeignMlp,
    GatedMlp,
    HeadNorm,
    LeanKernels,
    LeanLayer,
    RmsNorm,
    TwoNorms,
)
from parrot_workers.models.memory import give_back
from parrot_workers.models.paged import LayerPass, LayerSpec
from parrot_workers.models.trial import Trial

__all__ = ["find_kernels", "fuse_layers", "make_norm"]

log = structlog.get_logger(__name__)

_INPUT, _ATTENTION = "input_layernorm", "post_attention_layernorm"
_NORMS = (  # before attention, after it, before the MLP, after it
    (_INPUT, None, _ATTENTION, None),
    (_INPUT, _ATTENTION, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    (_INPUT, "post_self_attn_layernorm", _ATTENTION, "post_mlp_layernorm"),
    (None, _ATTENTION, None, "post_feedforward_layernorm"),
)
_MAX_EXACT_ERROR = 1e-4
_MAX_KERNEL_ERROR = 0.05
_MAX_ERROR = 0.2
"""For a layer whose wiring is proven, in its own type: half types round after every operation."""


def find_kernels(device: torch.device, dtype: torch.dtype) -> LeanKernels | None:
    """Kernels for what lies between projections, if there are any for the device and the type of the weights."""
    if device.type == "cpu":
        return load_kernels(dtype)
    if device.type != "cuda":
        return None
    try:
        from parrot_workers.models.gpu_kernels import TritonKernels
    except ImportError as error:
        log.warning("kernels_missing", cause=str(error))
        return None
    return TritonKernels()


def fuse_layers(model: Any, specs: tuple[LayerSpec, ...], trial: Trial, *, kernels: LeanKernels | None = None) -> None:
    """Replace what can be replaced. The weights of one layer are the most that is ever in memory twice.

    Args:
        model: A model of transformers that calls our attention.
        specs: Its layers.
        trial: What it reads meanwhile.
        kernels: What lean layers may run by.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != len(specs):
        return
    prover = _Prover(specs, trial, kernels)
    hooks = [layer.register_forward_hook(prover.prove, with_kwargs=True) for layer in layers]
    try:
        trial.read_whole(model, specs)
    finally:
        for hook in hooks:
            hook.remove()
        for index, layer in enumerate(layers):
            layers[index] = prover.lean.get(layer, layer)
    if num_kept := len(layers) - len(prover.lean):
        log.info("layers_not_fused", model_class=type(model).__name__, num_kept=num_kept, num_layers=len(layers))


class _Prover:
    """Tries candidates as layers run.

    A wiring is proven in float32, where a wrong one cannot hide behind rounding, for the first layer of each kind; then
    each layer in its own type.
    """

    def __init__(self, specs: tuple[LayerSpec, ...], trial: Trial, kernels: LeanKernels | None) -> None:
        self.lean: dict[nn.Module, LeanLayer] = {}
        self._trial = trial
        self._kernels = kernels
        self._specs = specs
        self._exact = LayerPass(trial.make_context(specs, torch.float32), specs)
        self._wirings: dict[Hashable, int | None] = {}  # which candidate is right for a kind of layer
        self._num_seen = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Prover:
        return self  # a copied layer has our hook, too

    def prove(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook that runs after a layer; the candidate that is right takes its weights over."""
        index, self._num_seen = self._num_seen, self._num_seen + 1
        if not isinstance(output, Tensor) or len(args) != 1 or not isinstance(kwargs.get("parrot"), LayerPass):
            return
        kind = _kind(layer), self._specs[index]
        if kind not in self._wirings:
            self._wirings[kind] = self._find_wiring(index, layer, args[0], kwargs)
        wiring = self._wirings[kind]
        if wiring is None:
            return
        lean = next(islice(_candidates(index, self._specs[index], layer), wiring, None))
        if _gives(lean, args[0], kwargs, output, max_error=_MAX_ERROR):
            self._use_kernels(lean, args[0], kwargs)
            self.lean[layer] = lean.eval()
            for name, _ in list(layer.named_children()):
                setattr(layer, name, None)  # the pass still holds the layer, and it shall not hold its weights
            give_back()

    def _use_kernels(self, lean: LeanLayer, x: Tensor, kwargs: dict[str, Any]) -> None:
        """Let a layer run by the kernels; if they fail once they are not asked again."""
        if self._kernels is None:
            return
        expected = lean(x, **kwargs)
        lean.use(self._kernels)
        fresh = LayerPass(self._trial.make_context(self._specs, x.dtype), self._specs)  # nobody has written to it
        if not _gives(lean, x, {**kwargs, "parrot": fresh}, expected, max_error=_MAX_KERNEL_ERROR):
            log.warning("kernels_not_used", kernels=type(self._kernels).__name__)
            lean.use(None)
            self._kernels = None

    def _find_wiring(self, index: int, layer: nn.Module, x: Tensor, kwargs: dict[str, Any]) -> int | None:
        exact = {**kwargs, "parrot": self._exact}
        if embeddings := kwargs.get("position_embeddings"):
            exact["position_embeddings"] = tuple(embedding.float() for embedding in embeddings)
        layer, x = copy.deepcopy(layer).float(), x.float()
        output = layer.forward(x, **exact)  # not the call, which would run our hook
        for wiring, lean in enumerate(_candidates(index, self._specs[index], layer)):
            if _gives(lean, x, exact, output, max_error=_MAX_EXACT_ERROR):
                return wiring
        return None


def _kind(module: nn.Module) -> Hashable:
    """Equal for modules that differ in nothing but weights and the number of their layer."""
    facts = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str | None)}
    facts.pop("layer_idx", None)
    shapes = tuple(parameter.shape for parameter in module.parameters(recurse=False))
    children = tuple((name, _kind(child)) for name, child in module.named_children())
    return type(module), tuple(sorted(facts.items())), shapes, children


def _gives(lean: LeanLayer, x: Tensor, kwargs: dict[str, Any], output: Tensor, *, max_error: float) -> bool:
    """Compare what is added to the hidden states, allowing for the rounding of the sum."""
    try:
        result = lean(x, **kwargs)
    except Exception:  # parts that do not fit together are no candidate
        return False
    change, error = (output - x).float().norm(), (result - output).float().norm()
    rounding = torch.finfo(x.dtype).eps * output.float().norm()
    return bool(error <= max_error * change + rounding)


def _candidates(index: int, spec: LayerSpec, layer: nn.Module) -> Iterator[LeanLayer]:
    """Lean layers from the parts of a layer; they share all weights with it that need no joining."""
    children = {name for name, child in layer.named_children() if not isinstance(child, nn.Dropout)}
    wiring = next((names for names in _NORMS if {*names} - {None} | {"self_attn", "mlp"} == children), None)
    if wiring is None:
        return
    before_attention, after_attention, before_mlp, after_mlp = (
        make_norm(layer.get_submodule(name)) if name else None for name in wiring
    )
    attention, mlp = _make_attention(index, spec, layer.get_submodule("self_attn")), layer.get_submodule("mlp")
    if attention is None:
        return
    for is_rotated in (True, False):
        attention.is_rotated = is_rotated
        yield LeanLayer(
            attention=attention,
            mlp=_make_gated_mlp(mlp) or ForeignMlp(mlp),
            norms=(before_attention, after_attention, before_mlp, after_mlp),
            residual_scale=float(getattr(layer, "residual_multiplier", 1.0)),
        )


def _make_attention(index: int, spec: LayerSpec, module: nn.Module) -> Attention | None:
    parts = dict(module.named_children())
    sizes = [spec.num_qo_heads * spec.head_dim, *[spec.num_kv_heads * spec.head_dim] * 2]
    q_norm, k_norm, o_proj = parts.pop("q_norm", None), parts.pop("k_norm", None), parts.pop("o_proj", None)
    qkv_proj = _joined(parts, ("q_proj", "k_proj", "v_proj"), "qkv_proj", sum(sizes))
    if qkv_proj is None or type(o_proj) is not nn.Linear or o_proj.in_features != sizes[0]:
        return None
    head_norm: nn.Module | None = None
    if q_norm is not None and k_norm is not None:
        head_norm = _make_head_norm(spec, q_norm, k_norm)
    return Attention(layer=index, spec=spec, qkv_proj=qkv_proj, o_proj=o_proj, head_norm=head_norm)


def _make_gated_mlp(module: nn.Module) -> GatedMlp | None:
    parts = dict(module.named_children())
    activation, down_proj = parts.pop("act_fn", None) or parts.pop("activation_fn", None), parts.pop("down_proj", None)
    if activation is None or type(down_proj) is not nn.Linear:
        return None
    gate_up_proj = _joined(parts, ("gate_proj", "up_proj"), "gate_up_proj", 2 * down_proj.in_features)
    if gate_up_proj is None:
        return None
    is_silu = type(activation).__name__ == "SiLUActivation"
    return GatedMlp(gate_up_proj, down_proj, functional.silu if is_silu else activation)


def _joined(parts: dict[str, nn.Module], names: tuple[str, ...], joint: str, size: int) -> nn.Linear | None:
    """The projections `names`, or the one named `joint`, as one; none if there are other parts."""
    if set(parts) not in ({*names}, {joint}) or not all(type(part) is nn.Linear for part in parts.values()):
        return None
    linears = [part for name in (*names, joint) if isinstance(part := parts.get(name), nn.Linear)]
    if sum(linear.out_features for linear in linears) != size:
        return None
    return linears[0] if len(linears) == 1 else _join(linears)


def _join(linears: list[nn.Linear]) -> nn.Linear:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    joint = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    joint.weight = nn.Parameter(weight, requires_grad=False)
    if any(linear.bias is not None for linear in linears):
        biases = [_bias(linear) for linear in linears]
        joint.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return joint


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()


def make_norm(norm: nn.Module) -> nn.Module:
    """One operation where it is a root mean square norm; else the norm itself."""
    found = _rms_weight(norm)
    return norm if found is None else RmsNorm(*found)


def _make_head_norm(spec: LayerSpec, q_norm: nn.Module, k_norm: nn.Module) -> nn.Module:
    q, k = _rms_weight(q_norm), _rms_weight(k_norm)
    is_of_heads = all(p.numel() == spec.head_dim for norm in (q_norm, k_norm) for p in norm.parameters())
    if not is_of_heads or q is None or k is None or q[1] != k[1]:
        return TwoNorms(make_norm(q_norm), make_norm(k_norm), spec.num_qo_heads, is_of_heads=is_of_heads)
    weights: list[Tensor] = [q[0].expand(spec.num_qo_heads, -1), k[0].expand(spec.num_kv_heads, -1)]
    return HeadNorm(torch.cat(weights), q[1])


def _rms_weight(norm: nn.Module) -> tuple[Tensor, float] | None:
    """Weight and epsilon with which `rms_norm` gives what the module gives; none if there are none.

    Some families multiply by 1 + weight, in float32. In a half type the sum cannot be kept, so these stay modules.
    """
    weight, eps = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not isinstance(weight, Tensor) or weight.ndim != 1 or not isinstance(eps, float):
        return None
    x = torch.linspace(-1.0, 2.0, 3 * len(weight), device=weight.device).view(3, -1).to(weight.dtype)
    rounding = 4 * torch.finfo(weight.dtype).eps
    for candidate in (weight.detach(), *([1 + weight.detach()] if weight.dtype == torch.float32 else [])):
        if torch.allclose(functional.rms_norm(x, weight.shape, candidate, eps), norm(x), rtol=rounding, atol=rounding):
            return candidate, eps
    return None
