"""One file format to another: every row read, set right where that is possible, and written in one shape."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, get_args

import orjson

from tunesmith.chat.fitting import one_of
from tunesmith.chat.formats import parse_row
from tunesmith.chat.messages import Conversation, Message
from tunesmith.chat.parsing import NOTES
from tunesmith.chat.readers import RowReader, find_files
from tunesmith.errors import AlreadyExists, Fault, InvalidData, UserError, ValidationFailed
from tunesmith.reporting import NullReporter, Reporter

Target = Literal["openai", "sharegpt"]
OnFaulty = Literal["fail", "drop"]
"""Rows that are faulty: stop and name them, or leave them out, counted."""
FAULTS_SHOWN = 20
_PARQUET_ROWS = 2048


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What was written."""

    path: Path
    rows: int
    dropped: int
    """Faulty rows left out."""
    notes: Mapping[str, int]
    """What was set right or lost, by code, in how many rows."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "path": str(self.path)}


def convert(
    source: Path | str | Sequence[Path | str],
    destination: Path | str,
    *,
    to: Target = "openai",
    take_chosen: bool = False,
    fold_system: bool = False,
    on_faulty: OnFaulty = "fail",
    reporter: Reporter | None = None,
) -> ConvertResult:
    """Convert files of conversations to one file, told by its extension: ``.jsonl``, ``.json`` (an array) or
    ``.parquet``.

    ``take_chosen`` makes conversations with the chosen answer of preference data. ``fold_system`` puts system
    messages into the user message that follows, for models without a system role. ``on_faulty="drop"`` leaves faulty
    rows out.

    Raises ``NotFound``, ``AlreadyExists`` (nothing is written over), ``ValidationFailed`` with the first faulty rows.
    """
    destination = Path(destination)
    one_of("to", to, get_args(Target))
    one_of("on_faulty", on_faulty, get_args(OnFaulty))
    if destination.suffix not in _WRITERS:
        raise UserError(
            f"cannot write a {destination.suffix or 'file without extension'}",
            target=str(destination),
            way_out=f"give the file one of the extensions {', '.join(_WRITERS)}",
        )
    if destination.exists():
        raise AlreadyExists(
            "the file exists; nothing is written over", target=str(destination), way_out="give another name"
        )
    paths = [source] if isinstance(source, Path | str) else source
    files = [file for path in paths for file in find_files(Path(path))]
    run = _Conversion(files, to, take_chosen, fold_system, on_faulty)
    with written_aside(destination) as aside, _WRITERS[destination.suffix](aside) as writer:
        rows = 0
        for body in run.bodies():
            writer.write(body)
            rows += 1
        run.finish()
        if not rows:
            raise InvalidData("no row to write", target=str(paths[0]), way_out="see `tunesmith data check FILE`")
    reporter = reporter or NullReporter()
    for code, count in run.notes.items():
        text = _LOST.get(code) or NOTES.get(code, code)
        reporter.notice(code, f"{text}: {count:,} rows", level="warning" if code in _LOST else "info", count=count)
    if run.dropped:
        reporter.notice("RowsFaulty", f"{run.dropped:,} faulty rows were left out", count=run.dropped)
    return ConvertResult(destination, rows, run.dropped, dict(run.notes))


_LOST = {
    "WeightsLost": "weights of messages were left out: ShareGPT has none",
    "SystemFolded": "system messages were put into the user's",
}


class _Conversion:
    def __init__(
        self, files: Sequence[Path], to: Target, take_chosen: bool, fold_system: bool, on_faulty: OnFaulty
    ) -> None:
        self._files = files
        self._to = to
        self._take_chosen = take_chosen
        self._fold_system = fold_system
        self._on_faulty = on_faulty
        self._faults: list[Fault] = []
        self.dropped = 0
        self.notes: Counter[str] = Counter()

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The rows in the target's shape."""
        for file in self._files:
            for row in RowReader(file):
                parsed = parse_row(row, take_chosen=self._take_chosen)
                self.notes.update(parsed.notes)
                if parsed.conversation is None:
                    self.dropped += 1
                    self._faults += parsed.faults[: FAULTS_SHOWN - len(self._faults)]
                    continue
                conversation = parsed.conversation
                if self._fold_system:
                    conversation = self._folded(conversation)
                yield conversation.to_openai() if self._to == "openai" else self._sharegpt(conversation)

    def finish(self) -> None:
        """Raise ``ValidationFailed`` if there were faulty rows and they may not be left out."""
        if self._on_faulty == "fail" and self.dropped:
            raise ValidationFailed(
                f"{self.dropped:,} faulty rows; the first:",
                target=", ".join(map(str, self._files)),
                details=self._faults,
                way_out="correct them (`tunesmith data check FILE` lists every fault), "
                "or leave them out with on_faulty=drop",
            )

    def _folded(self, conversation: Conversation) -> Conversation:
        messages: list[Message] = []
        system: list[str] = []
        for message in conversation.messages:
            if message.role == "system":
                system.append(message.content)
            elif system and message.role == "user":
                messages.append(replace(message, content="\n\n".join([*system, message.content])))
                system = []
            else:
                messages.append(message)
        if len(messages) == len(conversation.messages) or system:
            return conversation
        self.notes["SystemFolded"] += 1
        return replace(conversation, messages=tuple(messages))

    def _sharegpt(self, conversation: Conversation) -> dict[str, Any]:
        turns: list[dict[str, Any]] = []
        if any(message.train is not None for message in conversation.messages):
            self.notes["WeightsLost"] += 1
        for message in conversation.messages:
            if message.content or not message.tool_calls:
                turns.append({"from": _SHAREGPT_ROLES[message.role], "value": message.content})
            if message.tool_calls:
                calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
                value = orjson.dumps(calls[0] if len(calls) == 1 else calls).decode()
                turns.append({"from": "function_call", "value": value})
        row: dict[str, Any] = {"conversations": turns}
        if conversation.tools:
            row["tools"] = orjson.dumps([tool.get("function", tool) for tool in conversation.tools]).decode()
        return row


_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


# ── writing


@contextlib.contextmanager
def written_aside(destination: Path) -> Iterator[Path]:
    """A path beside ``destination`` that gets its name when all went well, and is deleted when not."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    aside = destination.with_name(f".{destination.name}.{os.getpid()}.unfinished")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(destination)
    finally:
        aside.unlink(missing_ok=True)


class _Writer(Protocol):
    def __enter__(self) -> _Writer: ...
    def __exit__(self, *error: object) -> None: ...
    def write(self, body: dict[str, Any]) -> None:
        """Write a row."""


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, body: dict[str, Any]) -> None:
        """One line."""
        self._file.write(orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE))


class _JsonArray(_JsonLines):
    _mark = b"[\n"

    def write(self, body: dict[str, Any]) -> None:
        """One object of the array."""
        self._file.write(self._mark + orjson.dumps(body))
        self._mark = b",\n"

    def __exit__(self, *error: object) -> None:
        self._file.write(b"\n]\n" if self._mark == b",\n" else b"[]\n")
        super().__exit__(*error)


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


class _Parquet:
    """Messages as a list of structs, as the hub's data sets have them; what varies (tools, tool calls) as JSON text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def write(self, body: dict[str, Any]) -> None:
        """A row of the table."""
        row = dict(body)
        if isinstance(row.get("tools"), list):
            row["tools"] = _text(row["tools"])
        for message in row.get("messages", ()):
            if "tool_calls" in message:
                message["tool_calls"] = _text(message["tool_calls"])
        self._rows.append(row)
        if len(self._rows) >= _PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows and self._writer is not None:
            return
        text = pa.string()
        message = {"role": text, "content": text, "name": text, "tool_call_id": text, "tool_calls": text}
        message |= {"reasoning_content": text, "weight": pa.int8()}
        turn = {"from": text, "value": text}
        sharegpt = bool(self._rows) and "conversations" in self._rows[0]
        name, fields = ("conversations", turn) if sharegpt else ("messages", message)
        schema = pa.schema({name: pa.list_(pa.struct(list(fields.items()))), "tools": text})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=schema))
        self._rows = []


_WRITERS: Mapping[str, Any] = {".jsonl": _JsonLines, ".json": _JsonArray, ".parquet": _Parquet}
