"""From a micro-batch to its loss, through transformers' own model classes.

Two paths lead there. ``documents``: one sequence, no padding, attention document by document, logits only where a
label is. ``plain``: for architectures we have not tested, a padded batch with the model's own attention and head;
slower, the same numbers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.finetune import attention
from tunesmith.finetune.batches import MicroBatch
from tunesmith.finetune.fast import Tricks, apply_tricks
from tunesmith.finetune.loss import Head, predictions, summed_cross_entropy
from tunesmith.reporting import NullReporter, Reporter

TESTED = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Phi3ForCausalLM",
    "Gemma3ForCausalLM",
)
"""Architectures whose documents path is tested against the plain one."""

Path = Literal["documents", "sdpa", "eager", "plain"]


@dataclass(frozen=True, slots=True)
class Predicted:
    """What an evaluation batch gave: the summed loss, and the likeliest token at each label."""

    loss: float
    tokens: Tensor


class ChatForward:
    """A model with the way its loss is computed.

    ``wanted`` is the ``attention`` parameter. ``path`` says what is used: ``documents``, ``sdpa`` or ``eager`` over a
    packed row, or ``plain``.
    """

    def __init__(
        self,
        model: Any,
        *,
        wanted: str = "auto",
        neftune_noise_alpha: float = 0.0,
        reporter: Reporter | None = None,
        tricks: Tricks | None = None,
    ) -> None:
        self.model = model
        self.path = _choose(model, wanted, reporter or NullReporter())
        self._noise = neftune_noise_alpha
        self.packs = self.path != "plain"
        if self.path == "documents":
            model.set_attn_implementation(attention.register())
        elif self.path in ("sdpa", "eager"):
            model.set_attn_implementation(self.path)
        if tricks is None:
            tricks = Tricks() if self.device.type == "cpu" else Tricks.none()
        if self.path != "documents":
            tricks = replace(tricks, attention=False)
        self.tricks = Tricks.none() if self.path == "plain" else tricks
        self.took = apply_tricks(model, self.tricks)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def head(self) -> Head:
        """The output layer as it is now."""
        config = self.model.config.get_text_config()
        output = self.model.get_output_embeddings()
        return Head(
            weight=output.weight,
            bias=getattr(output, "bias", None),
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def loss(self, batch: MicroBatch) -> Tensor:
        """The summed loss of the trained tokens, differentiable."""
        if batch.trained == 0:
            raise ValueError(f"no token of rows {list(batch.rows)} carries loss")
        batch = batch.to(self.device)
        if self.path == "plain":
            logits = self._plain_logits(batch)
            return nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        return summed_cross_entropy(self._hidden(batch), batch.labels, self.head())

    @torch.no_grad()
    def predict(self, batch: MicroBatch) -> Predicted:
        """The summed loss and the likeliest token at each label."""
        batch = batch.to(self.device)
        if self.path == "plain":
            logits = self._plain_logits(batch)
            loss = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
            return Predicted(float(loss), logits.argmax(-1))
        loss, best = predictions(self._hidden(batch), batch.labels, self.head())
        return Predicted(float(loss), best)

    def _hidden(self, batch: MicroBatch) -> Tensor:
        keywords: dict[str, Any] = {"documents": batch.documents} if self.path == "documents" else {}
        output = self.model.base_model(
            **self._entering(batch.ids[None], batch.documents),
            position_ids=batch.positions[None],
            use_cache=False,
            **keywords,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden.index_select(0, batch.label_positions)

    def _plain_logits(self, batch: MicroBatch) -> Tensor:
        bounds = batch.documents
        lengths = [end - start for start, end in itertools.pairwise(bounds)]
        width = max(lengths)
        ids = batch.ids.new_zeros((len(lengths), width))
        mask = torch.zeros_like(ids)
        for index, (start, length) in enumerate(zip(bounds[:-1], lengths, strict=True)):
            ids[index, :length] = batch.ids[start : start + length]
            mask[index, :length] = 1
        logits = self.model(**self._entering(ids, None), attention_mask=mask, use_cache=False).logits
        flat = logits[mask.bool()]
        picked: Tensor = flat.index_select(0, batch.label_positions).float()
        return picked

    def _entering(self, ids: Tensor, documents: tuple[int, ...] | None) -> dict[str, Tensor]:
        """The ids, or their embeddings with NEFTune's noise while training (Jain et al. 2023)."""
        if self._noise <= 0 or not self.model.training:
            return {"input_ids": ids}
        embedded = self.model.get_input_embeddings()(ids)
        width = embedded.shape[-1]
        if documents is None:
            reach = embedded.new_full((1, 1, 1), self._noise / (ids.shape[1] * width) ** 0.5)
        else:
            lengths = torch.tensor(documents, device=ids.device).diff()
            reach = (
                (self._noise / (lengths * width).sqrt()).repeat_interleave(lengths)[None, :, None].to(embedded.dtype)
            )
        return {"inputs_embeds": embedded + torch.empty_like(embedded).uniform_(-1.0, 1.0) * reach}


def _choose(model: Any, wanted: str, reporter: Reporter) -> Path:
    name = type(model).__name__
    config = model.config.get_text_config()
    if name not in TESTED:
        reporter.notice(
            "PlainPath",
            f"{name} is not among the architectures that are trained document by document ({', '.join(TESTED)}): "
            "rows are padded, not packed, and the model's own attention is used; "
            "the numbers are the same, the speed is not",
        )
        return "plain"
    if wanted in ("sdpa", "eager"):
        return "sdpa" if wanted == "sdpa" else "eager"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "use_bidirectional_attention", False):
        reporter.notice(
            "EagerAttention",
            f"this {name} caps its attention's scores: the model's own attention is used on the packed row",
        )
        return "eager"
    return "documents"
