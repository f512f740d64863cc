from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.support import load_tiny, random_model, with_adapters
from tunesmith.errors import ValidationFailed
from tunesmith.finetune.adapters import save_adapter
from tunesmith.finetune.lora import adapted_layers, add_adapters
from tunesmith.finetune.parameters import FinetuneParameters


def test_all_linear_layers_but_the_head() -> None:
    model = random_model("llama")
    names = add_adapters(model, FinetuneParameters(apply_lora=True))
    assert len(names) == 14
    assert "lm_head" not in names
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {
        f"{name}.lora_{part}" for name in names for part in "AB"
    }


def test_chosen_layers_and_a_wrong_name() -> None:
    assert (
        len(
            add_adapters(
                random_model("llama"), FinetuneParameters(apply_lora=True, lora_target_modules="q_proj, v_proj")
            )
        )
        == 4
    )
    with pytest.raises(ValidationFailed) as caught:
        add_adapters(random_model("llama"), FinetuneParameters(apply_lora=True, lora_target_modules="q_porj"))
    assert 'did you mean "q_proj"?' in str(caught.value)


def test_a_fresh_adapter_changes_nothing() -> None:
    ids = torch.arange(20)[None]
    plain = random_model("llama")(ids).logits
    model = random_model("llama")
    add_adapters(model, FinetuneParameters(apply_lora=True, use_dora=True))
    torch.testing.assert_close(model(ids).logits, plain)


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing.:FutureWarning"
)  # PEFT asks transformers by the old name
@pytest.mark.parametrize(
    "values",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_target_modules": "q_proj,down_proj"}],
    ids=["lora", "rslora", "dora", "chosen"],
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_peft_loads_it_and_computes_the_same(family: Any, values: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel

    model = with_adapters(load_tiny(family, tmp_path), **values)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            if layer.magnitude is not None:
                layer.magnitude.mul_(1.1)
    parameters = FinetuneParameters(**{"apply_lora": True, "lora_alpha": 16, **values})
    folder = save_adapter(model, tmp_path / "adapter", parameters, "tiny")
    ids = torch.arange(30)[None]
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(load_tiny(family, tmp_path), str(folder))(ids).logits
        torch.testing.assert_close(model(ids).logits, theirs, rtol=1e-4, atol=1e-5)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8


def test_dropout_is_only_for_training() -> None:
    model = with_adapters(random_model("llama"), lora_dropout=0.5)
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)
