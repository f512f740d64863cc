"""The greedy answers of an evaluation come back, or the deployment fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.endpoints.contract_check import GREEDY_PROBES_FILE, GreedyProbe, check_greedy, find_greedy_probes
from tunesmith.errors import DeploymentFailed, InvalidModel
from tunesmith.evaluate import record_probes
from tunesmith.generate import Engine, open_engine

QUESTIONS = ["What is the capital of France?", "Write a story.", "Hello, how are you?"]


@pytest.fixture(scope="module")
def engine(models: dict[str, Path]) -> Iterator[Engine]:
    opened = open_engine(models["tiny-phi3"], precision="32")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def recorded(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as evaluation writes it."""
    from tunesmith.chat.messages import Conversation, Message

    asked = [Conversation((Message("user", question), Message("assistant", "x"))) for question in QUESTIONS]
    probes = record_probes(engine, asked, 3)
    assert len(probes) == 3
    path = tmp_path_factory.mktemp("evaluation") / GREEDY_PROBES_FILE
    path.write_text(json.dumps([probe.model_dump(mode="json") for probe in probes]))
    return path


async def test_the_same_model_passes(engine: Engine, recorded: Path) -> None:
    assert await check_greedy(engine, find_greedy_probes(None, recorded.parent)) == [
        "contract check: 3 of 3 recorded greedy answers come back token for token"
    ]
    assert await check_greedy(engine, find_greedy_probes(None, recorded.parent / "nothing")) == []


def changed(recorded: Path, at: int, **changes: Any) -> list[GreedyProbe]:
    probes = find_greedy_probes(recorded)
    ids = list(probes[0].token_ids)
    ids[at] = ids[at] + 1
    return [replace(probes[0], token_ids=tuple(ids), **changes), *probes[1:]]


async def test_one_other_token_in_the_same_precision_fails(engine: Engine, recorded: Path) -> None:
    with pytest.raises(DeploymentFailed, match=r"token 4 of \d+ differs") as caught:
        await check_greedy(engine, changed(recorded, 3))
    assert caught.value.target == GREEDY_PROBES_FILE


async def test_another_precision_may_differ_and_it_is_said(engine: Engine, recorded: Path) -> None:
    (said,) = await check_greedy(engine, changed(recorded, 3, precision="bf16"))
    assert "2 of 3 recorded greedy answers" in said
    assert "recorded with transformers bf16, served with transformers 32" in said
    first = changed(recorded, 0, precision="bf16")[:1]
    with pytest.raises(DeploymentFailed, match="none of the 1 answers"):
        await check_greedy(engine, first)


async def test_other_prompt_ids_fail(engine: Engine, recorded: Path) -> None:
    probes = find_greedy_probes(recorded)
    assert probes[0].prompt_ids is not None
    with pytest.raises(DeploymentFailed, match="template or tokenizer changed"):
        await check_greedy(engine, [replace(probes[0], prompt_ids=(*probes[0].prompt_ids, 1))])


async def test_a_faulty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / GREEDY_PROBES_FILE
    for text in ("{", '[{"messages": []}]', '[{"messages": 4, "token_ids": [1]}]'):
        path.write_text(text)
        with pytest.raises(InvalidModel) as caught:
            find_greedy_probes(tmp_path)
        assert caught.value.target == str(path)
