"""Packages of tiny models, and what transformers itself answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.tiny import Family, tiny_model
from tunesmith.generate.engines.transformers_engine import TransformersEngine
from tunesmith.generate.opening import open_engine
from tunesmith.models import ModelPackage, import_model, load_model


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], ModelPackage]:
    """The package of a tiny model of a family, made once."""
    made: dict[str, ModelPackage] = {}
    folder = tmp_path_factory.mktemp("packages")

    def package(family: Family) -> ModelPackage:
        if family not in made:
            source = tiny_model(family, folder / f"{family}-source")
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
    return out[0, len(prompt) :].tolist()
