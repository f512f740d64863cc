"""Fixtures of the tests of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat.families import FAMILIES, make_folder
from tunesmith.chat.tokens import ChatTokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face folder for each family."""
    root = tmp_path_factory.mktemp("families")
    return {name: make_folder(family, root / name) for name, family in FAMILIES.items()}


@pytest.fixture(scope="session")
def tokenizers(folders: dict[str, Path]) -> dict[str, ChatTokenizer]:
    """A tokenizer with its contract for each family."""
    return {name: ChatTokenizer.build(folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def chatml(tokenizers: dict[str, ChatTokenizer]) -> ChatTokenizer:
    """The plain one."""
    return tokenizers["chatml"]
