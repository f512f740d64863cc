"""From a transformers model to an OpenVINO model, without optimum.

The model is traced once, on a row of tokens without a cache. What is saved is a plain graph with OpenVINO's
``ScaledDotProductAttention`` in every layer; paged attention takes its place when it is loaded
(``openvino_model.py``).

Only the process that exports imports this: it needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunesmith.errors import InvalidModel
from tunesmith.generate.engines.openvino_import import ov
from tunesmith.generate.engines.openvino_model import LayerFacts, ModelFacts

ATTENTION = "tunesmith_export"
"""The name under which transformers knows ``attend``."""
TRACED_TOKENS = 3


@dataclass(eq=False)
class _Seen:
    """What the layers' attention was called with, by layer."""

    layers: dict[int, LayerFacts] = field(default_factory=dict)


def trace(model: Any, rotation_switch: int | None) -> tuple[ov.Model, ModelFacts]:
    """The OpenVINO model of a transformers model on the CPU, which is spoiled by it.

    Inputs ``input_ids`` and ``position_ids`` (``[1, tokens]``) and ``wanted`` (``[wanted]``, the tokens whose logits
    are returned); output ``logits`` (``[1, wanted, vocabulary]``). Raises ``InvalidModel`` for an attention that
    cannot be exported.
    """
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        raise InvalidModel(f"{type(model).__name__} does not use transformers' attention interface")
    AttentionInterface.register(ATTENTION, attend)
    model.set_attn_implementation(ATTENTION)
    if rotation_switch is not None:
        model.base_model.rotary_emb = _LongRotation(model.config.get_text_config(), rotation_switch)
    seen = _Seen()
    example = (
        torch.zeros(1, TRACED_TOKENS, dtype=torch.int64),
        torch.arange(TRACED_TOKENS)[None],
        torch.tensor([0, TRACED_TOKENS - 1]),
    )
    traced = _Traced(model, seen)
    with torch.no_grad():
        try:
            traced(*example)  # the tracer would wrap what it raises
        except (NotImplementedError, TypeError) as error:
            raise InvalidModel(f"{type(model).__name__} cannot be exported: {error}") from error
        graph = ov.convert_model(traced, example_input=example)
    for port, name, shape in zip(
        graph.inputs, ("input_ids", "position_ids", "wanted"), ([1, -1], [1, -1], [-1]), strict=True
    ):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    graph.outputs[0].get_tensor().set_names({"logits"})
    graph.validate_nodes_and_infer_types()
    layers = tuple(seen.layers[number] for number in sorted(seen.layers))
    return graph, ModelFacts(layers, rotation_switch)


class _Traced(nn.Module):
    def __init__(self, model: Any, seen: _Seen) -> None:
        super().__init__()
        self.model = model
        self._seen = seen

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=wanted, seen=self._seen
        ).logits
        return logits.float()


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    seen: _Seen,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface, in the form that ``openvino_model.make_paged`` looks for."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    layer: int = module.layer_idx  # type: ignore[assignment]
    heads, kv_heads, head_dim = query.shape[1], key.shape[1], key.shape[3]
    seen.layers[layer] = LayerFacts(int(heads), int(kv_heads), int(head_dim), float(scaling), sliding_window)
    if heads != kv_heads:
        key, value = _repeat(key, heads // kv_heads), _repeat(value, heads // kv_heads)
    answer = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return answer.transpose(1, 2), None


def _repeat(tensor: torch.Tensor, repeats: int) -> torch.Tensor:
    """Each head of keys or values so many times; ``make_paged`` undoes it."""
    _, heads, tokens, size = tensor.shape
    return tensor[:, :, None].expand(1, heads, repeats, tokens, size).reshape(1, heads * repeats, tokens, size)


class _LongRotation(nn.Module):
    """Rotations that depend on the longest position of a pass (longrope), as a graph without branches."""

    short: torch.Tensor
    long: torch.Tensor

    def __init__(self, config: Any, switch: int) -> None:
        super().__init__()
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        make: Any = ROPE_INIT_FUNCTIONS["longrope"]
        short, self.scaling = make(config, torch.device("cpu"), seq_len=switch)
        long, _ = make(config, torch.device("cpu"), seq_len=switch + 1)
        self.register_buffer("short", short.float(), persistent=False)
        self.register_buffer("long", long.float(), persistent=False)
        self.switch = switch

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        beyond = position_ids.max() >= self.switch
        angles = position_ids[..., None].float() * torch.where(beyond, self.long, self.short)
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * self.scaling).to(x.dtype), (angles.sin() * self.scaling).to(x.dtype)
