"""``tunesmith compare``."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, emit, table
from tunesmith.cli.talking import Answer, Message, Target, parameters, printable, stream
from tunesmith.errors import Failure, InvalidData, NotFound, TunesmithError, UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tunesmith.client import Workspace


def add_to(app: typer.Typer) -> None:
    """Put the command at the root of ``app``."""
    app.command()(compare)


@dataclass(slots=True)
class Side:
    """One of the two, answering one prompt."""

    target: Target
    answer: Answer
    error: TunesmithError | None = None
    done: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        body: dict[str, Any] = {"target": str(self.target)}
        if self.error is not None:
            return body | self.error.to_dict()
        return body | {
            "text": self.answer.text,
            "finish_reason": self.answer.finish_reason,
            "tokens": self.answer.tokens,
            "seconds": round(self.answer.seconds, 4),
            "first_text_seconds": None if self.answer.first is None else round(self.answer.first, 4),
            "tokens_per_second": round(self.answer.tokens_per_second, 2),
        }


def compare(
    a: Annotated[str, typer.Argument(help="ENDPOINT or ENDPOINT/DEPLOYMENT.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="What the user says.", show_default=False)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts: a line each, or conversations as messages JSONL.", show_default=False),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message for prompts without one.", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Repeats answers.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write a JSON line for each prompt.", show_default=False)
    ] = None,
) -> None:
    """Ask two endpoints or deployments the same, and show both answers side by side with their speed.

    Prompts are arguments, lines of --prompts, or lines of standard input. Of a conversation everything up to its last
    assistant's turn is asked.
    """
    sides = (Target.parse(a, "A"), Target.parse(b, "B"))
    asked = read_prompts(prompt or [], prompts, system)
    ws = connect()
    for target in sides:
        ws.endpoints.get(target.endpoint)
    given = parameters(max_tokens, temperature, None, seed)
    pairs = []
    file = out.open("w", encoding="utf-8") if out is not None else None
    try:
        for number, messages in enumerate(asked, start=1):
            pair = _ask(ws, sides, messages, given, f"{number}/{len(asked)}")
            pairs.append(pair)
            if file is not None:
                line = {"messages": messages, "a": pair[0].to_dict(), "b": pair[1].to_dict()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
    finally:
        if file is not None:
            file.close()
    _sum_up(asked, pairs)
    if any(side.error is not None for pair in pairs for side in pair):
        raise typer.Exit(1)


def read_prompts(given: Sequence[str], path: Path | None, system: str | None) -> list[list[Message]]:
    """The conversations to continue. Raises ``UserError`` where there are none or two sources."""
    if given and path is not None:
        raise UserError("give prompts as arguments or with --prompts, not both", target="--prompts")
    found: list[list[Message]] = [[{"role": "user", "content": text}] for text in given]
    if not found:
        if path is not None and not path.is_file():
            raise NotFound(f"there is no file {path}", target="--prompts")
        if path is None and sys.stdin.isatty():
            raise UserError("there is nothing to ask", target="PROMPT", way_out='tunesmith compare A B "Hello"')
        lines = sys.stdin if path is None else path.read_text(encoding="utf-8").splitlines()
        found = [
            _conversation(line, f"{path or 'standard input'}:{number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if not found:
        raise UserError("there are no prompts in it", target=str(path or "standard input"))
    if system is not None:
        head: Message = {"role": "system", "content": system}
        found = [messages if messages[0].get("role") == "system" else [head, *messages] for messages in found]
    return found


def _conversation(line: str, place: str) -> list[Message]:
    """A line that is an object with messages, a JSON string, or text as it stands."""
    text = line.strip()
    if text[0] not in '{"':
        return [{"role": "user", "content": text}]
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidData(f"looks like JSON and is none: {error}", target=place) from None
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    messages = value.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise InvalidData("needs messages, a list of objects with role and content", target=place)
    while messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    if not messages:
        raise InvalidData("has nothing that could be answered", target=place)
    return messages


def _ask(
    ws: Workspace, targets: Sequence[Target], messages: list[Message], given: dict[str, Any], count: str
) -> tuple[Side, Side]:
    sides = [Side(target, Answer()) for target in targets]
    changed = threading.Event()

    def run(side: Side) -> None:
        try:
            for _ in stream(ws, side.target, messages, given, side.answer):
                changed.set()
        except TunesmithError as error:
            side.error = error
        except Exception as error:  # nobody else would hear of it: the thread would end with half an answer
            side.error = Failure(f"{type(error).__name__}: {error}")
        finally:
            side.done = True
            changed.set()

    threads = [threading.Thread(target=run, args=(side,), daemon=True) for side in sides]
    for thread in threads:
        thread.start()
    question = printable(str(messages[-1].get("content", "")))
    if options.json:
        for thread in threads:
            thread.join()
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(console=console(), refresh_per_second=12, vertical_overflow="visible") as live:
            while not all(side.done for side in sides):
                changed.wait(0.5)
                changed.clear()
                live.update(_columns(sides, question, count))
            live.update(_columns(sides, question, count))
    else:
        for thread in threads:
            thread.join()
        print(f"[{count}] {question}")
        for letter, side in zip("AB", sides, strict=True):
            print(f"{letter} {side.target} ({_state(side)})\n{_text(side)}\n", flush=True)
    return sides[0], sides[1]


def _text(side: Side) -> str:
    return str(side.error) if side.error is not None else printable(side.answer.text)


def _state(side: Side) -> str:
    if side.error is not None:
        return "failed"
    return side.answer.describe() if side.done else "…"


def _columns(sides: Sequence[Side], question: str, count: str) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in sides:
        grid.add_column(ratio=1)
    panels = [
        Panel(
            Text(_text(side), style="red" if side.error is not None else ""),
            title=Text(str(side.target), style="bold"),
            subtitle=Text(_state(side), style="dim"),
            title_align="left",
            subtitle_align="left",
        )
        for side in sides
    ]
    grid.add_row(*panels)
    return Group(Text(f"[{count}] {question}", style="bold"), grid)


def _sum_up(asked: Sequence[list[Message]], pairs: Sequence[tuple[Side, Side]]) -> None:
    same = sum(a.error is None and b.error is None and a.answer.text == b.answer.text for a, b in pairs)
    rows = []
    totals = []
    for place, letter in enumerate("AB"):
        sides = [pair[place] for pair in pairs]
        good = [side.answer for side in sides if side.error is None]
        tokens, seconds = sum(answer.tokens for answer in good), sum(answer.seconds for answer in good)
        first = [answer.first for answer in good if answer.first is not None]
        total = {
            "target": str(sides[0].target),
            "answers": len(good),
            "failed": len(sides) - len(good),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 2) if seconds else 0.0,
            "first_text_seconds": round(sum(first) / len(first), 4) if first else None,
        }
        totals.append(total)
        rows.append((letter, *total.values()))
    if options.json:
        emit(
            {
                "prompts": [
                    {"messages": messages, "a": a.to_dict(), "b": b.to_dict()}
                    for messages, (a, b) in zip(asked, pairs, strict=True)
                ],
                "a": totals[0],
                "b": totals[1],
                "same_text": same,
            }
        )
        return
    table(None, ("", "target", "answers", "failed", "tokens", "tokens/s", "first text s"), rows, empty="")
    print(f"The same text: {same} of {len(pairs)}.")
