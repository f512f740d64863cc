"""``tunesmith compare`` over a real endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.cli.conftest import Served
from tunesmith.cli.compare import _ask, read_prompts
from tunesmith.cli.talking import Target
from tunesmith.client import Workspace
from tunesmith.errors import UserError


def test_both_answer_each_prompt(served: Served, write: Callable[[str, list[str]], Path], tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "left out"}]
    prompts = write("prompts.jsonl", ["Bird.", json.dumps({"messages": talk}), '"quoted"', ""])
    out = tmp_path / "pairs.jsonl"
    done = served.run(
        "compare", "chat", "chat/blue", "--prompts", str(prompts), "--max-tokens", "6", "--out", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = [served.answer(text, max_tokens=6) for text in ("Bird.", "Hello", "quoted")]
    assert [(pair["a"]["text"], pair["b"]["text"]) for pair in found["prompts"]] == [(text, text) for text in wanted]
    assert found["same_text"] == 3
    assert (found["a"]["target"], found["a"]["answers"], found["b"]["failed"]) == ("chat", 3, 0)
    assert found["a"]["tokens"] == sum(pair["a"]["tokens"] for pair in found["prompts"]) > 0
    assert found["a"]["tokens_per_second"] > 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == ["Bird.", "Hello", "quoted"]


def test_in_a_pipe_it_is_text_and_a_side_that_fails_is_said(served: Served) -> None:
    done = served.run("compare", "chat", "chat/green", "--max-tokens", "4", stdin="Hello\n")
    assert done.returncode == 1
    assert done.stdout.startswith("[1/1] Hello\nA chat (")
    assert served.answer("Hello", max_tokens=4) in done.stdout
    assert "B chat/green (failed)" in done.stdout
    assert "The same text: 0 of 1." in done.stdout


def test_an_unforeseen_error_of_a_side_is_a_failure_of_that_side() -> None:
    def chat(endpoint: str, *given: Any, **parameters: Any) -> Any:
        if endpoint == "b":
            raise ValueError("no JSON")
        return iter(())

    ws = cast(Workspace, SimpleNamespace(endpoints=SimpleNamespace(chat=chat)))
    a, b = _ask(ws, (Target("a"), Target("b")), [{"role": "user", "content": "x"}], {}, "1/1")
    assert (a.done, a.error, b.done) == (True, None, True)
    assert b.to_dict() == {"target": "b", "error": {"code": "Failure", "message": "ValueError: no JSON"}}


@pytest.mark.parametrize(
    ("given", "lines", "said"),
    [
        (["Hello"], ["x"], "not both"),
        ([], ['{"messages": 3}'], r"prompts.jsonl:1: needs messages"),
        ([], ["", "{broken"], r"prompts.jsonl:2: looks like JSON"),
        ([], ['{"messages": [{"role": "assistant", "content": "x"}]}'], "nothing that could be answered"),
        ([], [""], "no prompts"),
    ],
)
def test_prompts_that_cannot_be_used_are_named(
    write: Callable[[str, list[str]], Path], given: list[str], lines: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read_prompts(given, write("prompts.jsonl", lines), None)


def test_a_system_message_is_put_before_prompts_without_one(write: Callable[[str, list[str]], Path]) -> None:
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "a"}]
    prompts = write("prompts.jsonl", [json.dumps({"messages": own}), "b"])
    assert read_prompts([], prompts, "Be kind.") == [
        own,
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "b"}],
    ]
