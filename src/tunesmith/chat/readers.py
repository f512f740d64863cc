"""Rows of data files, one by one, in bounded memory: JSON lines, JSON arrays, CSV, TSV and Parquet.

A row is a mapping as the file has it; what it means is the business of ``formats.py``. Every row knows its place
(``file:line``; for Parquet the number of the row, from 1). A row that cannot be read is a fault with its place and
the way out, and reading goes on with the next where the file allows that.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from tunesmith.chat.json_array import JsonArray, KeyTwice, key_twice, no_key_twice, too_large
from tunesmith.chat.sniffing import BOM, EXTENSIONS, FORMATS, FileFormat, encoding_fault, sniff
from tunesmith.chat.tables import read_table
from tunesmith.errors import Fault, InvalidData, NotFound, TooLarge, UserError

MAX_ROW_BYTES = 16 * 1024 * 1024
"""The longest row that is read; a longer one is a fault, and is skipped without being held in memory."""
_CHUNK = 1 << 20
_PARQUET_BATCH = 256


class Row:
    """One row: ``data``, or ``fault`` that says why there is none; ``line`` and ``location`` are its place, ``number``
    counts from 0, ``raw`` is its JSON text where the file has one line a row.
    """

    __slots__ = ("data", "fault", "line", "location", "number", "raw")

    def __init__(
        self,
        data: dict[str, Any] | None,
        location: str,
        line: int,
        number: int,
        fault: Fault | None = None,
        raw: bytes | None = None,
    ) -> None:
        self.data = data
        self.location = location
        self.line = line
        self.number = number
        self.fault = fault
        self.raw = raw

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return len(self.raw) if self.raw is not None else _characters(self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        """Text is quicker to send to another process, and to read there again, than objects."""
        if self.raw is not None and self.data is not None:
            return _reread, (self.raw, self.location, self.line, self.number)
        return Row, (self.data, self.location, self.line, self.number, self.fault, self.raw)


def _reread(raw: bytes, location: str, line: int, number: int) -> Row:
    return Row(orjson.loads(raw), location, line, number, None, raw)


def _characters(value: Any) -> int:
    kind = type(value)
    if kind is str:
        return len(value)
    if kind is dict:
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if kind is list else 8


def find_files(path: Path) -> list[Path]:
    """The data files at a path: the file itself, or those of a folder, by name.

    Raises ``NotFound`` with the closest names there are, ``InvalidData`` for a folder without data files.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS and file.is_file())
        if not files:
            raise InvalidData(
                "no data files in this folder",
                target=str(path),
                way_out=f"give a file, or a folder with {', '.join(EXTENSIONS)} files",
            )
        return files
    if path.exists():
        return [path]
    if not path.parent.is_dir():
        raise NotFound("no such file, nor its folder", target=str(path), way_out="check the path")
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3, cutoff=0.5)
    meant = " or ".join(str(path.parent / name) for name in near)
    raise NotFound("no such file", target=str(path), way_out=f"did you mean {meant}?" if near else "check the path")


def read_rows(path: Path | str, *, format: FileFormat | Literal["auto"] = "auto") -> Iterator[Row]:
    """The rows of a file or of a folder's files. Raises ``InvalidData`` (or ``TooLarge``) at the first that cannot be
    read.
    """
    for file in find_files(Path(path)):
        for row in RowReader(file, format=format):
            if row.fault is not None:
                raise as_error(row.fault)
            yield row


def as_error(fault: Fault) -> InvalidData | TooLarge:
    """The exception of a fault of a file."""
    kind = TooLarge if fault.code == "RowTooLarge" else InvalidData
    return kind(fault.message, target=fault.target, way_out=fault.way_out)


class RowReader:
    """Reads one file; iterate over it once.

    ``bytes_read`` of ``total_bytes`` tells how far it is. Rows with a ``fault`` are given out as well. Raises
    ``InvalidData`` when made for something that is no data file (see ``sniffing.sniff``).
    """

    def __init__(
        self,
        path: Path,
        *,
        format: FileFormat | Literal["auto"] = "auto",
        max_row_bytes: int = MAX_ROW_BYTES,
    ) -> None:
        if format != "auto" and format not in FORMATS:
            raise UserError(
                f"no such file format: {format!r}", target="format", way_out=f"one of auto, {', '.join(FORMATS)}"
            )
        self.path = path
        self.name = str(path)
        self.max_row_bytes = max_row_bytes
        self.bytes_read = 0
        try:
            self.total_bytes = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(1 << 16)
        except OSError as error:
            raise InvalidData(f"cannot read the file: {error.strerror}", target=self.name) from error
        self.format: FileFormat = sniff(head, path, name=self.name) if format == "auto" else format

    def __iter__(self) -> Iterator[Row]:
        readers: dict[FileFormat, Callable[[], Iterator[Row]]] = {
            "jsonl": self._json_lines,
            "json": self._json_array,
            "csv": lambda: self._table(","),
            "tsv": lambda: self._table("\t"),
            "parquet": self._parquet,
        }
        try:
            yield from readers[self.format]()
        except OSError as error:
            raise InvalidData(f"cannot read the file: {error.strerror or error}", target=self.name) from error

    def _place(self, line: int) -> str:
        return f"{self.name}:{line}"

    def _advance(self, count: int) -> None:
        self.bytes_read += count

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
        """Lines with their numbers; ``None`` for one that is longer than a row may be."""
        limit = self.max_row_bytes + 1
        number = 0
        while line := file.readline(limit):
            number += 1
            self.bytes_read += len(line)
            if len(line) < limit or line.endswith(b"\n"):
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK)
                self.bytes_read += len(line)
            yield number, None

    def _json_lines(self) -> Iterator[Row]:
        loads = orjson.loads
        prefix = f"{self.name}:"
        number = 0
        with self.path.open("rb") as file:
            for line_number, line in self._lines(file):
                place = f"{prefix}{line_number}"
                if line is None:
                    yield Row(None, place, line_number, number, too_large(self.max_row_bytes, place))
                    number += 1
                    continue
                if line_number == 1:
                    line = line.removeprefix(BOM)
                try:
                    data = loads(line)
                except orjson.JSONDecodeError as error:
                    if not line.strip():
                        continue  # an empty line
                    yield Row(None, place, line_number, number, json_fault(line, place, error))
                    number += 1
                    continue
                fault = None
                if type(data) is not dict:
                    fault = not_an_object(data, place)
                elif _keys_written(line) > _count_keys(data) and (key := _find_key_twice(line)) is not None:
                    fault = key_twice(key, place)
                yield Row(data if fault is None else None, place, line_number, number, fault, line)
                number += 1

    def _json_array(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            array = JsonArray(file, place=self._place, max_bytes=self.max_row_bytes, advance=self._advance)
            for number, (line, value) in enumerate(array):
                place = self._place(line)
                if isinstance(value, Fault):
                    yield Row(None, value.target or place, line, number, value)
                elif isinstance(value, dict):
                    yield Row(value, place, line, number)
                else:
                    yield Row(None, place, line, number, not_an_object(value, place))

    def _table(self, delimiter: str) -> Iterator[Row]:
        with self.path.open("rb") as file:
            rows = read_table(self._lines(file), delimiter=delimiter, place=self._place, max_bytes=self.max_row_bytes)
            for number, (line, value) in enumerate(rows):
                if isinstance(value, Fault):
                    yield Row(None, value.target or self._place(line), line, number, value)
                else:
                    yield Row(value, self._place(line), line, number)

    def _parquet(self) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as source:
                total = max(1, source.metadata.num_rows)
                for batch in source.iter_batches(batch_size=_PARQUET_BATCH, use_threads=False):
                    for data in batch.to_pylist():
                        yield Row(data, self._place(number + 1), number + 1, number)
                        number += 1
                    self.bytes_read = self.total_bytes * number // total
        except (pa.ArrowException, OSError) as error:
            place = self._place(number + 1) if number else self.name
            fault = Fault(
                f"the Parquet file cannot be read{' from here on' if number else ''}: {_first_line(error)}",
                place,
                "InvalidParquet",
                "copy or download the file again",
            )
            yield Row(None, place, number + 1, number, fault)


# ── one line of JSON


def _keys_written(line: bytes) -> int:
    """How many keys a JSON text has: quotes with a colon behind them, less those that a string escapes."""
    count = line.count
    return count(b'":') - count(b'\\":') + count(b'" :') - count(b'\\" :')


def _count_keys(value: dict[str, Any]) -> int:
    """How many keys were read; fewer than were written if one was there twice."""
    total = len(value)
    for item in value.values():
        kind = type(item)
        if kind is list:
            for part in item:
                if type(part) is dict:
                    total += _count_keys(part)
                elif type(part) is list:
                    total += _count_keys({"": part}) - 1
        elif kind is dict:
            total += _count_keys(item)
    return total


def _find_key_twice(line: bytes) -> str | None:
    try:
        json.loads(line, object_pairs_hook=no_key_twice)
    except KeyTwice as twice:
        return twice.key
    except ValueError:
        return None
    return None


def json_fault(line: bytes, place: str, error: Exception) -> Fault:
    """What is wrong with a line that is not JSON, as exactly as can be told."""
    if (wrong := encoding_fault(line, place)) is not None:
        return wrong
    text = line.decode("utf-8").rstrip()
    try:
        json.loads(text)
    except RecursionError:
        return Fault("nested too deep", place, "InvalidJson", "one conversation a line")
    except json.JSONDecodeError as exact:
        cut = exact.pos >= len(text) or exact.msg.startswith("Unterminated")
        return Fault(
            f"not valid JSON: {exact.msg.removesuffix(' at')} at column {exact.pos + 1}"
            + ("; the row is cut short" if cut else ""),
            place,
            "InvalidJson",
            _json_way_out(line.strip()),
        )
    # What Python takes and the standard does not: NaN, and half of a surrogate pair.
    message = str(error).split(":")[0]
    return Fault(f"not valid JSON: {message}", place, "InvalidJson", "write the row with a JSON library, without NaN")


def _json_way_out(line: bytes) -> str:
    if line.startswith((b"{'", b"[{'")):
        return "this is Python's way to print a dict, with single quotes: write the row with json.dumps"
    if line in (b"[", b"{", b"]", b"}", b"],", b"},"):
        return "this seems to be indented JSON: give the file the extension .json"
    return "each line must be one whole JSON object"


def not_an_object(data: Any, place: str) -> Fault:
    """The fault of a row that is a list, a text, a number."""
    kinds = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}
    return Fault(
        f"a row must be a JSON object, not {kinds.get(type(data), 'null')}",
        place,
        "NotAnObject",
        'write the row as {"messages": [...]}' if isinstance(data, list) else "write one conversation as one object",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
