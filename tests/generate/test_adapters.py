"""Several LoRA adapters over one base: each answers as its merged model alone would, whatever stands beside it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.generate.conftest import Packages, reference
from tests.models.adapters import random_adapter
from tests.support.exports import export_here
from tunesmith.chat.messages import Message
from tunesmith.errors import InvalidModel, NotFound, UnsupportedField
from tunesmith.generate import GenerateRequest, collect, open_engine
from tunesmith.generate.engines.lora import Adapter, AdapterStack, read_adapter
from tunesmith.models import ModelPackage, merge_adapter

TEXTS = ["Hello, how are you?", "What is the capital of France?"]


@pytest.fixture(scope="module")
def adapters(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    base = packages("qwen2")
    return {
        "french": random_adapter(base, folder / "french", seed=1, target_modules=["q_proj", "v_proj", "down_proj"]),
        "poet": random_adapter(
            base, folder / "poet", seed=2, r=8, use_rslora=True, target_modules=["o_proj", "q_proj"]
        ),
    }


@pytest.fixture(scope="module")
def wanted(packages: Packages, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What transformers says for the base and for each merged model."""
    folder = tmp_path_factory.mktemp("merged")
    base = packages("qwen2")
    models: dict[str | None, ModelPackage] = {None: base}
    for name, adapter in adapters.items():
        merge_adapter(base, adapter, folder / name)
        models[name] = ModelPackage.open(folder / name)
    prompts = [base.tokenizer().encode_prompt([Message("user", text)]) for text in TEXTS]
    return {name: [reference(model, prompt, 16) for prompt in prompts] for name, model in models.items()}


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
async def test_each_name_answers_as_its_merged_model(
    engine: str,
    packages: Packages,
    adapters: dict[str, Path],
    wanted: dict[Any, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    exports = export_here(packages("qwen2"), tmp_path_factory.getbasetemp() / "adapter-exports")
    opened = open_engine(packages("qwen2"), engine=engine, precision="32", exports=exports, adapters=adapters)
    try:
        assert opened.capabilities().adapters == ("french", "poet")
        asked = [
            GenerateRequest((Message("user", text),), temperature=0, max_tokens=16, adapter=name)
            for text in TEXTS
            for name in (None, "french", "poet")
        ]
        alone = [await collect(opened.generate(request)) for request in asked]
        together = await asyncio.gather(*(collect(opened.generate(request)) for request in asked))
        with pytest.raises(NotFound) as caught:
            await collect(opened.generate(GenerateRequest((Message("user", "x"),), adapter="german")))
        assert caught.value.target == "adapter"
        assert "french, poet" in str(caught.value)
    finally:
        opened.close()
    right = [wanted[name][number] for number in range(len(TEXTS)) for name in (None, "french", "poet")]
    assert [list(result.choices[0].token_ids) for result in alone] == right
    assert [list(result.choices[0].token_ids) for result in together] == right
    assert len({tuple(ids) for ids in right[:3]}) == 3


async def test_an_engine_without_adapters_refuses_the_field(packages: Packages) -> None:
    engine = open_engine(packages("qwen2"), engine="transformers", precision="32")
    with pytest.raises(UnsupportedField) as caught:
        await collect(engine.generate(GenerateRequest((Message("user", "x"),), adapter="french")))
    engine.close()
    assert caught.value.target == "adapter"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "it uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "it uses modules_to_save"),
        ({"bias": "all"}, "it has biases"),
        ({"peft_type": "IA3"}, "it is 'IA3', not LORA"),
    ],
)
def test_what_cannot_be_served_beside_others_is_refused(
    change: dict[str, Any], message: str, adapters: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters["french"], tmp_path / "changed"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InvalidModel, match=message) as caught:
        read_adapter("french", folder, {})
    assert caught.value.target == "adapters.french"
    assert "merge it" in str(caught.value)


def test_an_adapter_of_another_base_is_refused_by_layer(adapters: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"the base has no linear layer model\.layers\.0\."):
        read_adapter("french", adapters["french"], {})
    shapes = {
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): (value.shape[1] + 1, 64)
        for key, value in load_file(str(adapters["french"] / "adapter_model.safetensors")).items()
    }
    with pytest.raises(InvalidModel, match="the layer is"):
        read_adapter("french", adapters["french"], shapes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidModel, match=r"it has no adapter_config\.json"):
        read_adapter("french", tmp_path / "empty", {})


def test_scales_follow_patterns_and_bfloat16_is_widened(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    down, up = torch.ones(2, 3, dtype=torch.bfloat16), torch.full((4, 2), 0.5, dtype=torch.bfloat16)
    save_torch(
        {
            "base_model.model.a.x_proj.lora_A.weight": down,
            "base_model.model.a.x_proj.lora_B.weight": up,
            "base_model.model.b.y_proj.lora_A.weight": down.clone(),
            "base_model.model.b.y_proj.lora_B.weight": up.clone(),
        },
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {"x_proj": 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_adapter("one", tmp_path, {"a.x_proj": (3, 4), "b.y_proj": (3, 4)})
    assert (adapter.modules["a.x_proj"][1] == 0.5).all()  # alpha 2 over rank 2
    assert (adapter.modules["b.y_proj"][1] == 2.0).all()  # alpha 8 over rank 2
    assert adapter.rank == 2


def test_a_file_in_bfloat16_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {
        f"base_model.model.layers.{layer}.q.lora_{side}.weight": torch.full(shape, layer, dtype=torch.bfloat16)
        for layer in range(6)
        for side, shape in (("A", (2, 3)), ("B", (4, 2)))
    }
    save_torch(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    read: list[int] = []
    deserialize = safetensors.deserialize

    def counted(data: bytes) -> Any:
        read.append(len(data))
        return deserialize(data)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(safetensors, "deserialize", counted)
    adapter = read_adapter("one", tmp_path, {f"layers.{layer}.q": (3, 4) for layer in range(6)})
    assert [float(adapter.modules[f"layers.{layer}.q"][0][0, 0]) for layer in range(6)] == [0, 1, 2, 3, 4, 5]
    assert len(read) == 1


def test_adapters_stand_side_by_side() -> None:
    one = Adapter("one", {"a": (np.ones((2, 3), np.float32), np.ones((4, 2), np.float32))})
    two = Adapter("two", {"b": (np.ones((1, 3), np.float32), np.ones((4, 1), np.float32))})
    stack = AdapterStack([one, two])
    assert (stack.rank, stack.modules, "a" in stack, "c" in stack) == (3, ["a", "b"], True, False)
    down, up = stack.matrices("b")
    assert down.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert up.tolist() == [[0, 0, 1]] * 4
    assert stack.mask(["two", None, "one"]).tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_a_matrix_that_is_none_of_lora_is_named(adapters: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapters["french"], tmp_path / "more"))
    weights = load_file(str(folder / "adapter_model.safetensors"))
    save_file(
        {**weights, "base_model.model.lm_head.weight": np.ones((2, 2), np.float32)},
        str(folder / "adapter_model.safetensors"),
    )
    with pytest.raises(InvalidModel, match=r"base_model\.model\.lm_head\.weight"):
        read_adapter("french", folder, {})
