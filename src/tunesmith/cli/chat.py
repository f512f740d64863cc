"""``tunesmith chat``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.talking import Answer, Message, Target, parameters, printable, stream
from tunesmith.errors import TunesmithError, UserError

if TYPE_CHECKING:
    from tunesmith.client import Workspace

HELP = """\
/reset          forget the conversation
/system TEXT    what the model is told before it; without TEXT, show it
/retry          ask for another answer to the last message
/save FILE      append the conversation to FILE as one line, as training takes it
/quit           leave (so does Ctrl-D)
Ctrl-C stops an answer. A message that begins with a slash is written with two."""


def add_to(app: typer.Typer) -> None:
    """Put the command at the root of ``app``."""
    app.command()(chat)


def chat(
    endpoint: Annotated[str, typer.Argument(help="ENDPOINT, or ENDPOINT/DEPLOYMENT past the traffic split.")],
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.", show_default=False)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Share of the probability drawn from.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats an answer.", show_default=False)] = None,
) -> None:
    """Talk to an endpoint. Answers come as they are generated; /help lists the commands.

    Standard input may also be a pipe: each line is a message, and the answers are printed in order.
    """
    target = Target.parse(endpoint, "ENDPOINT")
    ws = connect()
    ws.endpoints.get(target.endpoint)
    talk = Talk(ws, target, system, parameters(max_tokens, temperature, top_p, seed))
    if sys.stdin.isatty():
        talk.converse()
    else:
        for line in sys.stdin:
            if line.strip() and not talk.take(line.rstrip("\r\n")):
                break


class Talk:
    """One conversation with an endpoint."""

    def __init__(self, ws: Workspace, target: Target, system: str | None, given: dict[str, Any]) -> None:
        self._ws = ws
        self._target = target
        self._given = given
        self._interactive = False
        self.system = system
        self.turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, the system message first."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def converse(self) -> None:
        """Read from the terminal until /quit or Ctrl-D."""
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - lets input() edit and remember lines
        self._interactive = True
        print(f"Talking to {self._target}. /help lists the commands, /quit leaves.")
        while True:
            try:
                line = input("\n> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n/quit or Ctrl-D leaves")
                continue
            try:
                if line.strip() and not self.take(line):
                    return
            except TunesmithError as error:
                from tunesmith.cli.output import show_error

                show_error(error)

    def take(self, line: str) -> bool:
        """A message or a command; False when the conversation is over."""
        if line.startswith("/") and not line.startswith("//"):
            return self._command(line)
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()  # stopped before there was an answer, and not asked again with /retry
        self.turns.append({"role": "user", "content": line[1:] if line.startswith("//") else line})
        self._answer()
        return True

    def _command(self, line: str) -> bool:
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name in ("quit", "exit"):
            return False
        if name == "help":
            self._tell(HELP)
        elif name == "reset":
            self.turns.clear()
            self._tell("The conversation is forgotten.")
        elif name == "system":
            self.system = rest or self.system
            self._tell(f"System message: {self.system or 'none'}")
        elif name == "retry":
            while self.turns and self.turns[-1]["role"] != "user":
                self.turns.pop()
            if not self.turns:
                raise UserError("there is no message to answer yet", target="/retry")
            self._answer()
        elif name == "save":
            self._save(rest)
        else:
            raise UserError(
                f"there is no command /{name}", target="/" + name, way_out="/help lists them; // begins a message"
            )
        return True

    def _save(self, name: str) -> None:
        if not name:
            raise UserError("needs a file", target="/save", way_out="/save conversation.jsonl")
        messages = self.messages
        if messages and messages[-1]["role"] == "user":
            messages.pop()  # it was stopped: training takes no conversation without an answer
        if not messages or messages[-1]["role"] != "assistant":
            raise UserError("there is nothing to save yet", target="/save")
        try:
            path = Path(name).expanduser()
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except (OSError, RuntimeError) as error:  # RuntimeError: ~ of nobody
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"cannot be written: {why}: {name}", target="/save", way_out="name another file") from None
        self._tell(f"Saved {len(messages)} messages to {path}.")

    def _answer(self) -> None:
        answer = Answer()
        try:
            self._show(stream(self._ws, self._target, self.messages, self._given, answer))
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            print("\n(stopped)")
        except TunesmithError:
            self.turns.pop()  # unanswered: it may be sent again
            raise
        if answer.text or answer.finish_reason:
            self.turns.append({"role": "assistant", "content": answer.text})
        if options.json:
            usage = {"completion_tokens": answer.tokens}
            line = {"role": "assistant", "content": answer.text, "finish_reason": answer.finish_reason, "usage": usage}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif self._interactive and answer.tokens:
            self._tell(f"({answer.describe()})")
        elif answer.finish_reason == "length":
            print("the answer was cut at the limit of tokens; --max-tokens raises it", file=sys.stderr)

    def _show(self, pieces: Iterator[str]) -> None:
        try:
            for piece in pieces:
                if not options.json:
                    sys.stdout.write(printable(piece))
                    sys.stdout.flush()
        finally:
            pieces.close()  # type: ignore[attr-defined]
        if not options.json:
            print(flush=True)

    def _tell(self, text: str) -> None:
        """Words of ours, apart from the model's."""
        if self._interactive and sys.stdout.isatty():
            from tunesmith.cli.output import console

            console().print(text, style="dim", markup=False)
        else:
            print(text, file=sys.stdout if self._interactive else sys.stderr)
