"""Give a model's modules their quick ``forward``; the modules, their names and their weights stay.

Only architectures in ``forward.TESTED`` are touched. What a module must have is checked, so that a change in
transformers' code leaves it slow instead of wrong.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from tunesmith.finetune.fast.allocator import keep_freed_memory
from tunesmith.finetune.fast.mlp import Activation, gated_mlp
from tunesmith.finetune.fast.norm import rms_norm
from tunesmith.finetune.fast.projection import LoraGroup, project
from tunesmith.finetune.fast.rotary_attention import AttentionShape, rotary_attention
from tunesmith.finetune.fast.tricks import Tricks
from tunesmith.finetune.lora import LoraLinear

_PLAIN_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "Phi3RMSNorm")
_OFFSET_NORMS = ("Gemma3RMSNorm",)
"""Norms whose weight is stored as the distance from 1."""
_PLAIN_LAYERS = tuple(f"{family}DecoderLayer" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Phi3"))
"""Layers of two halves, ``x + attention(norm(x))`` and ``x + mlp(norm(x))``."""


def apply_tricks(model: nn.Module, tricks: Tricks) -> dict[str, int]:
    """Change the forwards of ``model`` in place; how many modules each trick took."""
    counts = {"norm": 0, "attention": 0, "mlp": 0, "layer": 0}
    if tricks.allocator:
        keep_freed_memory()
    for module in model.modules():
        kind = type(module).__name__
        if tricks.norm and (kind in _PLAIN_NORMS or kind in _OFFSET_NORMS):
            _use(module, _offset_norm if kind in _OFFSET_NORMS else _plain_norm)
            counts["norm"] += 1
        elif tricks.attention and kind.endswith("Attention") and _set_attention(module, tricks):
            counts["attention"] += 1
        elif tricks.mlp and kind.endswith("MLP") and _set_mlp(module):
            counts["mlp"] += 1
    # Last, because a layer is made of what the others found.
    for module in model.modules():
        if tricks.layer and type(module).__name__ in _PLAIN_LAYERS and _set_layer(module):
            counts["layer"] += 1
    return counts


def _use(module: nn.Module, forward: Any) -> None:
    cast("Any", module).forward = MethodType(forward, module)


# ── norms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plain_norm(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _offset_norm(self: Any, x: Tensor) -> Tensor:
    # In fp32 throughout, as Gemma's own: the product is rounded once, at the end.
    return rms_norm(x.float(), 1.0 + self.weight.float(), self.eps).to(x.dtype)


# ── attention ────────────────────────────────────────────────────────────────────────────────────────────────────


def _plain_adapters(layers: list[Any]) -> bool:
    """Whether every layer has a plain adapter, and all the same scale."""
    return (
        all(isinstance(layer, LoraLinear) and type(layer.base) is nn.Linear for layer in layers)
        and all(layer.magnitude is None and layer.dropout == 0 for layer in layers)
        and len({layer.scaling for layer in layers}) == 1
    )


def _set_attention(module: Any, tricks: Tricks) -> bool:
    fused = hasattr(module, "qkv_proj")
    entering: list[Any] = (
        [module.qkv_proj] if fused else [getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    )
    if any(layer is None for layer in entering) or not hasattr(module, "o_proj"):
        return False
    config = module.config
    if getattr(config, "attention_dropout", 0.0) or getattr(module, "attn_logit_softcapping", None):
        return False
    if fused:
        window = getattr(config, "sliding_window", None)
    else:
        window = getattr(module, "sliding_window", None)
        if type(module).__name__ == "MistralAttention":
            window = getattr(config, "sliding_window", None)
    module.fast_shape = AttentionShape(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=module.head_dim,
        scaling=module.scaling,
        window=window,
    )
    module.fast_group = LoraGroup(entering) if tricks.projection and _plain_adapters(entering) else None
    _use(module, _attention)
    return True


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    *,
    documents: tuple[int, ...],
    **unused: Any,
) -> tuple[Tensor, None]:
    if self.fast_group is not None:
        qkv = project(hidden_states, self.fast_group)
    elif hasattr(self, "qkv_proj"):
        qkv = self.qkv_proj(hidden_states)
    else:
        qkv = torch.cat([self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)], -1)
    return self.o_proj(_attend(self, qkv, position_embeddings, documents)), None


def _attend(self: Any, qkv: Tensor, position_embeddings: tuple[Tensor, Tensor], documents: tuple[int, ...]) -> Tensor:
    """From queries, keys and values side by side, [1, tokens, …], to what the output projection reads."""
    shape: AttentionShape = self.fast_shape
    fresh = self.fast_group is not None and not hasattr(self, "q_norm")
    qkv = qkv.view(qkv.shape[1], -1)
    if hasattr(self, "q_norm"):
        heads = qkv.view(qkv.shape[0], -1, shape.head_dim)
        query, key, value = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)  # type: ignore[no-untyped-call]
        qkv = torch.cat([self.q_norm(query), self.k_norm(key), value], 1).view(qkv.shape[0], -1)
    cos, sin = position_embeddings
    return rotary_attention(qkv, cos[0], sin[0], documents, shape, fresh=fresh)[None]


# ── MLP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _activation(module: Any) -> Activation | None:
    function = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
    name = type(function).__name__
    if name in ("SiLUActivation", "SiLU"):
        return "silu"
    return "gelu_tanh" if name in ("GELUTanh", "PytorchGELUTanh") else None


def _set_mlp(module: Any) -> bool:
    entering: list[Any] = (
        [module.gate_up_proj]
        if hasattr(module, "gate_up_proj")
        else [
            getattr(module, "gate_proj", None),
            getattr(module, "up_proj", None),
        ]
    )
    leaving = getattr(module, "down_proj", None)
    kind = _activation(module)
    if leaving is None or kind is None or any(layer is None for layer in entering):
        return False
    if not _plain_adapters(entering) or not _plain_adapters([leaving]):
        return False
    module.fast_entering, module.fast_leaving, module.fast_kind = LoraGroup(entering), LoraGroup([leaving]), kind
    _use(module, _mlp)
    return True


def _mlp(self: Any, x: Tensor) -> Tensor:
    return gated_mlp(x, self.fast_entering, self.fast_leaving, self.fast_kind)


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _set_layer(module: Any) -> bool:
    attention, mlp = module.self_attn, module.mlp
    norms = [module.input_layernorm, module.post_attention_layernorm]
    if getattr(attention, "fast_group", None) is None or not hasattr(mlp, "fast_entering"):
        return False
    if not _plain_adapters([attention.o_proj]):
        return False
    if any(type(norm).__name__ not in _PLAIN_NORMS or norm.weight.requires_grad for norm in norms):
        return False
    dropouts = [getattr(module, name, None) for name in ("resid_attn_dropout", "resid_mlp_dropout")]
    if any(dropout is not None and dropout.p > 0 for dropout in dropouts):
        return False
    module.fast_leaving = LoraGroup([attention.o_proj])
    _use(module, _layer)
    return True


def _layer(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    documents: tuple[int, ...],
    **unused: Any,
) -> Tensor:
    attention, mlp = self.self_attn, self.mlp
    qkv = project(hidden_states, attention.fast_group, norm=_norm_of(self.input_layernorm))
    attended = _attend(attention, qkv, position_embeddings, documents)
    hidden_states = project(attended, self.fast_leaving, residual=hidden_states)
    norm = _norm_of(self.post_attention_layernorm)
    return gated_mlp(hidden_states, mlp.fast_entering, mlp.fast_leaving, mlp.fast_kind, norm=norm)


def _norm_of(module: Any) -> tuple[Tensor, float]:
    return module.weight.detach(), module.variance_epsilon
