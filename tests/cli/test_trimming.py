"""The command tree without what is not asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tunesmith.cli.app import app
from tunesmith.cli.trimming import trimmed


def names() -> dict[str | None, int]:
    """The groups, each with the number of its commands."""
    return {
        group.name: len(group.typer_instance.registered_commands) if group.typer_instance else 0
        for group in app.registered_groups
    }


def test_only_the_group_that_is_named_keeps_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = names()
    assert min(whole.values()) > 0
    with trimmed(app, ["--workspace", "somewhere", "jobs", "show", "x"]):
        assert names() == {name: count if name == "jobs" else 0 for name, count in whole.items()}
    assert names() == whole
    monkeypatch.setenv("_TUNESMITH_COMPLETE", "complete_bash")
    with trimmed(app, ["jobs"]):
        assert names() == whole


def test_help_still_names_every_group_and_a_group_its_commands() -> None:
    def run(*arguments: str) -> str:
        environment = {**os.environ, "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-m", "tunesmith", *arguments], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout

    told = run("--help")
    for group in app.registered_groups:
        assert f"  {group.name} " in told
        assert str(group.help)[:16] in told
    assert "explain" in run("jobs", "--help")
