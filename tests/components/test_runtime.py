from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunesmith.components.steps.runtime import STOPPED, fresh, parse_arguments
from tunesmith.errors import UserError


@dataclass(frozen=True)
class Arguments:
    path: Path
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    text: str | None = None
    place: Path | None = None


def test_arguments() -> None:
    assert parse_arguments(Arguments, ["--path", "/a"]) == Arguments(Path("/a"))
    given = ["--path", "/a", "--count", "3", "--rate", "1e-3", "--flag", "true", "--text", "-x y", "--place", "b"]
    assert parse_arguments(Arguments, [f"{n}={v}" for n, v in zip(given[::2], given[1::2], strict=True)]) == Arguments(
        Path("/a"), 3, 0.001, True, "-x y", Path("b")
    )
    for wrong in (
        [],
        ["--path", "/a", "--cuont", "1"],
        ["--path", "/a", "--count", "x"],
        ["--path", "/a", "--flag", "1"],
    ):
        with pytest.raises(UserError):
            parse_arguments(Arguments, wrong)


def test_fresh_takes_away_an_empty_folder_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not fresh(tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()
    with pytest.raises(OSError):
        fresh(tmp_path / "b")


SCRIPT = """
import sys
from dataclasses import dataclass
from tunesmith.components.steps.runtime import Step, run
from tunesmith.errors import Failure, InvalidData
@dataclass(frozen=True)
class Arguments:
    what: str
def main(arguments, step):
    import time, pathlib
    step.reporter.log("begun")
    if arguments.what == "user": raise InvalidData("no turns", target="a:3", way_out="add one")
    if arguments.what == "failure": raise Failure("it broke")
    if arguments.what == "bug": raise KeyError("x")
    if arguments.what == "memory": raise MemoryError
    if arguments.what == "stop":
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally: print("cleaned")
    if arguments.what == "cooperate":
        stop = step.stop_cooperatively()
        print("ready", flush=True)
        while not stop(): time.sleep(0.01)
        print("stopped well")
run(Arguments, main)
"""


def start(tmp_path: Path, what: str) -> subprocess.Popen[str]:
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), "--what", what],
        env={"TUNESMITH_EVENTS": str(tmp_path / "events.jsonl"), "PATH": "/usr/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("what", "code", "error", "message"),
    [
        ("done", 0, None, None),
        ("user", 2, "InvalidData", "no turns"),
        ("failure", 1, "Failure", "it broke"),
        ("bug", 1, "Failure", "KeyError: 'x'"),
        ("memory", 1, "OutOfMemory", "the memory of this machine ran out"),
    ],
)
def test_exit_codes_and_error_events(
    tmp_path: Path, what: str, code: int, error: str | None, message: str | None
) -> None:
    process = start(tmp_path, what)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out.startswith("begun")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    errors = [event["error"] for event in events if event["kind"] == "error"]
    assert [(e["code"], e["message"]) for e in errors] == ([] if error is None else [(error, message)])
    assert ("Traceback" in err) == (what in ("bug", "memory"))


def test_sigterm(tmp_path: Path) -> None:
    process = start(tmp_path, "stop")
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["begun\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (STOPPED, "cleaned\n")


def test_sigterm_to_a_step_that_stops_by_itself(tmp_path: Path) -> None:
    process = start(tmp_path, "cooperate")
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["begun\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopped well\n")
