"""The engine with no dependency of its own: transformers' models under our own continuous batching.

Any causal language model whose attention goes through transformers' attention interface can be served. Every sampling
field is honoured, each request by its own values; ``response_format`` other than text is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import InvalidModel
from tunesmith.generate.engines.base import BatchedEngine
from tunesmith.generate.engines.cache import ATTENTION, Draft, Pass, Piece, Shape, attend
from tunesmith.generate.engines.jobs import Limits
from tunesmith.generate.engines.lora import AdapterStack
from tunesmith.generate.engines.lora_torch import attach_adapters
from tunesmith.generate.engines.rotations import rotation_switch
from tunesmith.generate.engines.torch_runner import TorchRunner
from tunesmith.generate.types import EngineDescription

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersEngine(BatchedEngine):
    """Serves one model. Made by ``open_engine``, or from a model in memory.

    ``model`` becomes the engine's: its attention is replaced. ``max_answers`` are generated at once, further ones wait;
    ``cache_bytes`` bounds the memory that admitted requests may come to need for keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: ChatTokenizer,
        description: EngineDescription,
        *,
        max_answers: int,
        cache_bytes: int,
        adapters: AdapterStack | None = None,
    ) -> None:
        config = model.config.get_text_config()
        if not getattr(model, "_supports_attention_backend", False):
            raise InvalidModel(
                f"{type(model).__name__} does not use transformers' attention interface, which this engine needs",
                way_out="models that do: Llama, Mistral, Phi-3, Phi-4, Qwen, Gemma 3 and most others that are current",
            )
        torch.nn.Module.eval(model)
        _register()
        model.set_attn_implementation(ATTENTION)
        self._model: PreTrainedModel | None = model
        self._adapters_of_pass = attach_adapters(model, adapters) if adapters is not None else None
        heads = config.num_attention_heads
        shape = Shape(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=model.dtype,
            device=model.device,
        )
        self._try(shape)
        super().__init__(
            TorchRunner(self._forward, shape, rotation_switch=rotation_switch(config)),
            tokenizer,
            description,
            Limits(max_answers=max_answers, cache_bytes=cache_bytes, context_length=description.context_length),
            tuple(adapters.adapters) if adapters is not None else (),
        )

    def close(self) -> None:
        """Stop and free the model."""
        super().close()
        self._model = None

    def _try(self, shape: Shape) -> None:
        """One token through the model, so that what cannot be served shows now and not at the first request."""
        first = torch.tensor([0], device=shape.device)
        try:
            self._forward(first, first, first, Pass([], [Piece(Draft(shape, 1), 0, 1, 0)]))
        except (NotImplementedError, TypeError) as error:
            raise InvalidModel(
                f"{type(self._model).__name__} cannot be served by this engine: {error}",
                way_out="models that can: Llama, Mistral, Phi-3, Phi-4, Qwen, Gemma 3 and most others that are current",
            ) from error

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, shelves: Pass) -> torch.Tensor:
        model = self._model
        assert model is not None
        if self._adapters_of_pass is not None:
            self._adapters_of_pass.set(shelves.adapters)
        with torch.inference_mode():
            out: Any = model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=wanted,
                shelves=shelves,
            )
        logits: torch.Tensor = out.logits[0]
        return logits


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
