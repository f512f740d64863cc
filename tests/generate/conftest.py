"""Packages of tiny models, and what transformers itself answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tiny import Family, tiny_model
from tunesmith.generate.engines.transformers_engine import TransformersEngine
from tunesmith.generate.opening import open_engine
from tunesmith.models import ModelPackage, import_model, load_model

Packages = Callable[[Family], ModelPackage]
Engines = Callable[..., TransformersEngine]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], ModelPackage]:
    """The package of a tiny model of a family, made once."""
    made: dict[str, ModelPackage] = {}
    folder = tmp_path_factory.mktemp("packages")

    def package(family: Family) -> ModelPackage:
        if family not in made:
            source = stir(tiny_model(family, folder / f"{family}-source"))
            made[family] = import_model(str(source), folder / family, downloads=folder / "downloads", name=family)
        return made[family]

    return package


@pytest.fixture
def engines(packages: Callable[[Family], ModelPackage]) -> Iterator[Callable[..., TransformersEngine]]:
    """Opens engines in float32 and closes them."""
    opened: list[TransformersEngine] = []

    def engine(family: Family = "llama", **options: object) -> TransformersEngine:
        found = open_engine(packages(family), precision="32", **options)  # type: ignore[arg-type]
        assert isinstance(found, TransformersEngine)
        opened.append(found)
        return found

    yield engine
    for item in opened:
        item.close()


def stir(folder: Path) -> Path:
    """Untie the embeddings of a tiny model: tied and random, it only repeats its last token."""
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    if config.get("tie_word_embeddings"):
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
        weights = load_file(folder / "model.safetensors")
        torch.manual_seed(0)
        weights["lm_head.weight"] = 0.02 * torch.randn_like(weights["model.embed_tokens.weight"])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def reference(package: ModelPackage, prompt: list[int], max_tokens: int) -> list[int]:
    """The greedy answer of transformers' own ``generate`` in float32, the end-of-turn token included."""
    import torch

    model = load_model(package, dtype="float32")
    tokenizer = package.tokenizer()
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=list(tokenizer.contract.eos_token_ids),
        pad_token_id=tokenizer.pad_id,
    )
    ids: list[int] = out[0, len(prompt) :].tolist()
    return ids
