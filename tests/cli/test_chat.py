"""``tunesmith chat`` over a real endpoint: through a pipe, and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Served
from tests.support.house import until
from tunesmith.cli.talking import Target, printable
from tunesmith.errors import UserError


def test_a_pipe_is_a_conversation(served: Served, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    lines = ["Hello", "", "//and a slash", f"/save {saved}", "/reset", "Hello", "/quit", "never asked"]
    done = served.run("chat", "chat", "--max-tokens", "6", "--temperature", "0", stdin="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    first = served.answer("Hello", max_tokens=6)
    row = json.loads(saved.read_text())
    assert [(message["role"], message["content"]) for message in row["messages"][:3]] == [
        ("user", "Hello"),
        ("assistant", first),
        ("user", "/and a slash"),
    ]
    second = row["messages"][3]["content"]
    assert done.stdout == "".join(printable(text) + "\n" for text in (first, second, first))
    assert f"Saved 4 messages to {saved}." in done.stderr


def test_json_lines_a_system_message_and_a_deployment(served: Served) -> None:
    done = served.run(
        "chat",
        "chat/blue",
        "--json",
        "--system",
        "Be kind.",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        stdin="Hello\n",
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    whole = served.ws.endpoints.chat("chat", messages, max_tokens=4, temperature=0)
    assert (line["content"], line["finish_reason"]) == (whole.text, whole.finish_reason)
    assert line["usage"]["completion_tokens"] == whole.usage["completion_tokens"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["nowhere"], "Hello\n", "nowhere"),
        (["chat"], "/sing\n", "there is no command /sing"),
        (["chat", "--temperature", "9"], "Hello\n", "between 0 and 2"),
    ],
)
def test_what_is_wrong_is_said_and_ends_a_pipe(served: Served, arguments: list[str], stdin: str, said: str) -> None:
    done = served.run("chat", *arguments, stdin=stdin)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert said in " ".join(done.stderr.split())


def _take_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling terminal
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job, which these tests may be, ignores it


class Terminal:
    """``tunesmith chat`` on a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self._end, inner = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
            preexec_fn=_take_terminal,
        )
        os.close(inner)
        self.shown = ""

    def wait_for(self, text: str, *, pressing: str | None = None) -> None:
        """Read until ``text`` is shown beyond what was waited for before; with ``pressing``, type that until it is."""
        end = time.monotonic() + 150
        while text not in self.shown:
            assert time.monotonic() < end, f"waited for {text!r}: {self.shown!r}"
            if pressing is not None:
                self.type(pressing)
            if select.select([self._end], [], [], 3.0)[0]:
                self.shown += os.read(self._end, 65536).decode(errors="replace")
        self.shown = self.shown[self.shown.index(text) + len(text) :]

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


def test_ctrl_c_stops_the_answer_and_not_the_program(served: Served, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {served.ws.endpoints.keys('chat').primary_key}"}
    terminal = Terminal(served.command("chat", "chat", "--max-tokens", "5", "--temperature", "0"))

    def ask_and_stop(text: str) -> None:
        served.instance.suspend()  # so that the answer is under way for as long as the test wants
        try:
            with served.server.http as http:

                def in_flight(count: int) -> bool:
                    page = http.get("/endpoints/chat/metrics", headers=headers).text
                    told = re.search(r"^tunesmith_in_flight\S* (\d+)", page, re.MULTILINE)
                    return (int(told[1]) if told else 0) == count  # nothing is told before the first request

                until(lambda: in_flight(0), "earlier requests to be over")
                terminal.type(text + "\n")
                until(lambda: in_flight(1), "the request to be in flight")
            terminal.type("\x03")
            terminal.wait_for("(stopped)")
        finally:
            served.instance.resume()
        terminal.wait_for("\n> ")

    def type_until(text: str, shown: str) -> None:
        terminal.type(text + "\n")
        terminal.wait_for(shown)
        terminal.wait_for("\n> ")

    saved = tmp_path / "talk.jsonl"
    try:
        terminal.wait_for("\n> ")
        type_until("/help", "/retry")
        # Between the prompt and the first wait for a key, readline keeps an interrupt until the next key.
        terminal.wait_for("/quit or Ctrl-D leaves", pressing="\x03")
        terminal.wait_for("\n> ")
        ask_and_stop("Hello")
        type_until(f"/save {saved}", "there is nothing to save yet")
        type_until("/retry", "tokens/s")
        ask_and_stop("never answered")
        type_until("Bird.", "tokens/s")
        type_until(f"/save {tmp_path}/none/talk.jsonl", "/save: cannot be written: No such file")
        type_until(f"/save {saved}", "Saved 4 messages")
        terminal.type("/quit\n")
        assert terminal.process.wait(30) == 0
        (line,) = saved.read_text(encoding="utf-8").splitlines()
        first, _, second, _ = messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 2
        assert (first["content"], second["content"]) == ("Hello", "Bird.")
    finally:
        terminal.close()


def test_targets_and_controls() -> None:
    assert Target.parse("chat/blue", "A") == Target("chat", "blue")
    assert str(Target.parse("chat", "A")) == "chat"
    with pytest.raises(UserError, match="neither"):
        Target.parse("a/b/c", "A")
    assert printable("a\x1b[31mb\tc\n\x07") == "a[31mb\tc\n"
