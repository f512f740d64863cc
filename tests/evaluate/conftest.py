"""A tiny package and prepared conversations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny import Family, tiny_conversations, tiny_model
from tunesmith.chat.prepare import prepare
from tunesmith.chat.prepared import Prepared
from tunesmith.models import ModelPackage, import_model

Packages = Callable[[Family], ModelPackage]
PreparedFor = Callable[[Family], Prepared]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The package of a tiny model of a family, made once."""
    made: dict[str, ModelPackage] = {}
    folder = tmp_path_factory.mktemp("packages")

    def package(family: Family) -> ModelPackage:
        if family not in made:
            source = tiny_model(family, folder / f"{family}-source")
            made[family] = import_model(str(source), folder / family, downloads=folder / "downloads", name=family)
        return made[family]

    return package


@pytest.fixture(scope="session")
def prepared_for(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> PreparedFor:
    """Twelve conversations prepared for a family's tokenizer, made once."""
    made: dict[str, Prepared] = {}
    folder = tmp_path_factory.mktemp("prepared")
    source = tiny_conversations(folder / "test.jsonl", 12)

    def prepared(family: Family) -> Prepared:
        if family not in made:
            made[family] = prepare(source, packages(family).tokenizer(), folder / family, context_length=512)
        return made[family]

    return prepared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for results."""
    return tmp_path / "evaluation_result"
