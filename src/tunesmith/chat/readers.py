"""Rows of data files, one by one, in bounded memory: JSON lines, JSON arrays, CSV, TSV and Parquet.

A row is a mapping as the file has it; what it means is the business of ``formats.py``. Every row knows its place
(``file:line``; for Parquet the row's number, from 1). A row that cannot be read is a fault with its place and the way
out, and reading goes on with the next where the file allows that.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from tunesmith.errors import Fault, InvalidData, NotFound, TooLarge, TunesmithError, UserError

FileFormat = Literal["jsonl", "json", "csv", "tsv", "parquet"]
FORMATS: tuple[FileFormat, ...] = ("jsonl", "json", "csv", "tsv", "parquet")
EXTENSIONS: Mapping[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}

MAX_ROW_BYTES = 16 * 1024 * 1024
"""The longest row that is read; a longer one is a fault, and is skipped without being held in memory."""
_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"


class Row:
    """One row: ``data`` (``None`` if ``fault`` says why not), its place, its number in the file from 0, and its JSON
    text if that is known.
    """

    __slots__ = ("data", "fault", "location", "number", "raw")

    def __init__(
        self,
        data: dict[str, Any] | None,
        location: str,
        number: int,
        *,
        fault: Fault | None = None,
        raw: bytes | None = None,
    ) -> None:
        self.data = data
        self.location = location
        self.number = number
        self.fault = fault
        self.raw = raw


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
    if path.is_file():
        return [path]
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3, cutoff=0.5)
    raise NotFound(
        "no such file" if path.parent.is_dir() else f"no such folder: {path.parent}",
        target=str(path),
        way_out=f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else "check the path",
    )


def read_rows(path: Path | str, *, format: FileFormat | Literal["auto"] = "auto") -> Iterator[Row]:
    """The rows of a file or of a folder's files. Raises ``InvalidData`` at the first that cannot be read."""
    for file in find_files(Path(path)):
        for row in RowReader(file, format=format):
            if row.fault is not None:
                kind = TooLarge if row.fault.code == "RowTooLarge" else InvalidData
                raise kind(row.fault.message, target=row.fault.target, way_out=row.fault.way_out)
            yield row


class RowReader:
    """Reads one file; iterate over it once.

    ``bytes_read`` of ``total_bytes`` tells how far it is. Rows with a ``fault`` are given out as well: ``check``
    counts them.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: FileFormat | Literal["auto"] = "auto",
        max_row_bytes: int = MAX_ROW_BYTES,
        name: str | None = None,
    ) -> None:
        self.path = path
        self.name = str(path) if name is None else name
        self.max_row_bytes = max_row_bytes
        self.bytes_read = 0
        try:
            self.total_bytes = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(1 << 16)
        except OSError as error:
            raise InvalidData(f"cannot read the file: {error.strerror}", target=self.name) from error
        if format != "auto" and format not in FORMATS:
            raise UserError(
                f"no such file format: {format!r}", target="format", way_out=f"one of auto, {', '.join(FORMATS)}"
            )
        self.format: FileFormat = sniff(head, path, name=self.name) if format == "auto" else format
        self.has_bom = head.startswith(_BOM)

    def __iter__(self) -> Iterator[Row]:
        read = {
            "jsonl": self._json_lines,
            "json": self._json_array,
            "csv": lambda: self._table(","),
            "tsv": lambda: self._table("\t"),
            "parquet": self._parquet,
        }[self.format]
        try:
            yield from read()
        except OSError as error:
            raise InvalidData(f"cannot read the file: {error.strerror or error}", target=self.name) from error

    def _place(self, line: int) -> str:
        return f"{self.name}:{line}"

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
        """Lines with their numbers; ``None`` for one that is longer than a row may be."""
        limit = self.max_row_bytes + 1
        number = 0
        while line := file.readline(limit):
            number += 1
            self.bytes_read += len(line)
            if len(line) < limit:
                yield number, line
                continue
            while not line.endswith(b"\n") and (line := file.readline(_CHUNK)):
                self.bytes_read += len(line)
            yield number, None

    def _too_large(self, line: int) -> Fault:
        return Fault(
            f"a row of more than {self.max_row_bytes // (1024 * 1024)} MiB; it was skipped",
            target=self._place(line),
            code="RowTooLarge",
            way_out="one conversation a line; if the file is one JSON array, give it the extension .json",
        )

    # ── JSON lines

    def _json_lines(self) -> Iterator[Row]:
        loads = orjson.loads
        name = self.name
        number = 0
        with self.path.open("rb") as file:
            for line_number, line in self._lines(file):
                if line is None:
                    yield Row(None, self._place(line_number), number, fault=self._too_large(line_number))
                    number += 1
                    continue
                if line_number == 1 and line.startswith(_BOM):
                    line = line[len(_BOM) :]
                try:
                    data = loads(line)
                except orjson.JSONDecodeError as error:
                    if not line.strip():
                        continue  # an empty line
                    yield Row(None, self._place(line_number), number, fault=self._json_fault(line, line_number, error))
                    number += 1
                    continue
                if type(data) is dict:
                    yield Row(data, f"{name}:{line_number}", number, raw=line)
                else:
                    yield Row(
                        None, self._place(line_number), number, fault=_not_an_object(data, self._place(line_number))
                    )
                number += 1

    def _json_fault(self, line: bytes, line_number: int, error: Exception) -> Fault:
        place = self._place(line_number)
        if (wrong := encoding_fault(line, place)) is not None:
            return wrong
        try:
            json.loads(line)
        except RecursionError:
            return Fault("nested too deep", target=place, code="InvalidJson", way_out="one conversation a line")
        except json.JSONDecodeError as exact:
            cut = exact.pos >= len(line.decode("utf-8").rstrip()) or exact.msg.startswith("Unterminated")
            return Fault(
                f"not valid JSON at column {exact.pos + 1}: {exact.msg}" + ("; the row is cut short" if cut else ""),
                target=place,
                code="InvalidJson",
                way_out="each line must be one whole JSON object" + _json_hint(line),
            )
        # Python reads NaN and lone surrogates, the standard does not.
        return Fault(
            f"not valid JSON: {error}", target=place, code="InvalidJson", way_out="write the row with a JSON library"
        )

    # ── a JSON array

    def _json_array(self) -> Iterator[Row]:
        """Objects of an array, decoded one by one from a window of text that grows only while an object is longer
        than it.
        """
        decoder = json.JSONDecoder(object_pairs_hook=_no_key_twice)
        with self.path.open("rb") as file:
            window = _Window(self, file)
            if (fault := window.fill()) is not None:
                yield Row(None, fault.target or self.name, 0, fault=fault)
                return
            window.skip_white_space()
            single = window.text[window.position : window.position + 1] == "{"
            if not single:
                window.position += 1  # the bracket; sniff() has seen it
            number = 0
            while True:
                window.skip_white_space()
                if window.position >= len(window.text):
                    if (fault := window.fill()) is not None:
                        yield Row(None, fault.target or self.name, number, fault=fault)
                        return
                    if window.ended and window.position >= len(window.text):
                        if single and number:
                            return
                        yield Row(
                            None,
                            self._place(window.line),
                            number,
                            fault=self._cut(window.line, "the array is not closed"),
                        )
                        return
                    continue
                first = window.text[window.position]
                if first == "]" and not single:
                    window.position += 1
                    yield from self._after_array(window, number)
                    return
                if first == "," and number:
                    window.position += 1
                    continue
                line = window.line
                try:
                    data, end = decoder.raw_decode(window.text, window.position)
                except _KeyTwice as twice:
                    # The object was read before the hook told; read it again without the hook to know where it ends.
                    data, end = json.JSONDecoder().raw_decode(window.text, window.position)
                    window.position = end
                    yield Row(None, self._place(line), number, fault=key_twice(twice.key, self._place(line)))
                    number += 1
                    continue
                except RecursionError:
                    yield Row(
                        None,
                        self._place(line),
                        number,
                        fault=Fault("nested too deep", self._place(line), "InvalidJson"),
                    )
                    return
                except json.JSONDecodeError as error:
                    unfinished = error.msg.startswith("Unterminated") or error.pos >= len(window.text) - 16
                    if unfinished and not window.ended:
                        if len(window.text) - window.position > self.max_row_bytes:
                            yield Row(None, self._place(line), number, fault=self._too_large(line))
                            return
                        if (fault := window.fill()) is not None:
                            yield Row(None, fault.target or self.name, number, fault=fault)
                            return
                        continue
                    yield Row(None, self._place(line), number, fault=self._array_fault(window, error, unfinished))
                    return
                # A number or a word at the end of the window may go on in the next.
                if end == len(window.text) and not window.ended and not isinstance(data, (dict, list, str)):
                    if (fault := window.fill()) is not None:
                        yield Row(None, fault.target or self.name, number, fault=fault)
                        return
                    continue
                window.position = end
                if isinstance(data, dict):
                    yield Row(data, f"{self.name}:{line}", number)
                else:
                    yield Row(None, self._place(line), number, fault=_not_an_object(data, self._place(line)))
                number += 1

    def _after_array(self, window: _Window, number: int) -> Iterator[Row]:
        while True:
            window.skip_white_space()
            if window.position < len(window.text):
                place = self._place(window.line)
                yield Row(
                    None,
                    place,
                    number,
                    fault=Fault(
                        "text after the end of the array",
                        place,
                        "InvalidJson",
                        "one JSON array a file, or one object a line",
                    ),
                )
                return
            if window.ended:
                return
            if (fault := window.fill()) is not None:
                yield Row(None, fault.target or self.name, number, fault=fault)
                return

    def _cut(self, line: int, message: str) -> Fault:
        return Fault(
            f"the file is cut short: {message}",
            self._place(line),
            "InvalidJson",
            "copy or download the file again; rows before this place were read",
        )

    def _array_fault(self, window: _Window, error: json.JSONDecodeError, unfinished: bool) -> Fault:
        line = window.line + window.text.count("\n", window.position, error.pos)
        if unfinished and window.ended:
            return self._cut(line, error.msg)
        column = error.pos - window.text.rfind("\n", 0, error.pos)
        return Fault(
            f"not valid JSON at column {column}: {error.msg}; the rest of the file was not read",
            self._place(line),
            "InvalidJson",
            "correct the place; one JSON object a line (.jsonl) lets the rest be checked in spite of one faulty row",
        )

    # ── CSV and TSV

    def _table(self, delimiter: str) -> Iterator[Row]:
        csv.field_size_limit(max(csv.field_size_limit(), self.max_row_bytes))
        problems: list[Fault] = []
        with self.path.open("rb") as file:
            texts = self._text_lines(file, problems)
            reader = csv.reader(texts, delimiter=delimiter, strict=True)
            try:
                header = next(reader, None)
            except csv.Error as error:
                header = None
                problems.append(self._csv_fault(error, 1))
            if problems or header is None:
                fault = (
                    problems[0]
                    if problems
                    else Fault("the file is empty", self.name, "EmptyFile", "give a file with rows")
                )
                yield Row(None, fault.target or self.name, 0, fault=fault)
                return
            names = [name.strip() for name in header]
            if (fault := self._header_fault(names, delimiter)) is not None:
                yield Row(None, self._place(1), 0, fault=fault)
                return
            number = 0
            line = reader.line_num + 1
            while True:
                try:
                    values = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    yield Row(None, self._place(line), number, fault=self._csv_fault(error, line))
                    break
                if problems:
                    break
                place = self._place(line)
                line = reader.line_num + 1
                if not values:
                    continue
                if len(values) != len(names):
                    fault = Fault(
                        f"{len(values)} fields where the header has {len(names)}",
                        place,
                        "WrongFieldCount",
                        "put fields that hold the delimiter or line breaks into double quotes",
                    )
                    yield Row(None, place, number, fault=fault)
                else:
                    yield Row(dict(zip(names, values, strict=True)), place, number)
                number += 1
            for fault in problems:
                yield Row(None, fault.target or self.name, number, fault=fault)

    def _text_lines(self, file: IO[bytes], problems: list[Fault]) -> Iterator[str]:
        """Lines as text for the csv module; stops at the first that is none, and says so in ``problems``."""
        for number, line in self._lines(file):
            if line is None:
                problems.append(self._too_large(number))
                return
            if number == 1 and line.startswith(_BOM):
                line = line[len(_BOM) :]
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                fault = encoding_fault(line, self._place(number))
                assert fault is not None
                problems.append(
                    Fault(f"{fault.message}; the rest was not read", fault.target, fault.code, fault.way_out)
                )
                return

    def _header_fault(self, names: Sequence[str], delimiter: str) -> Fault | None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            return Fault(
                f"the header names {', '.join(map(repr, twice))} twice",
                self._place(1),
                "DuplicateKey",
                "rename a column",
            )
        if len(names) == 1 and (
            other := next((mark for mark in "\t;,|" if mark != delimiter and mark in names[0]), None)
        ):
            return Fault(
                f"one column only; the fields seem to be separated by {other!r}, not {delimiter!r}",
                self._place(1),
                "WrongDelimiter",
                "give a file with tabs the extension .tsv, and separate fields of a .csv by commas",
            )
        return None

    def _csv_fault(self, error: csv.Error, line: int) -> Fault:
        large = "field larger than field limit" in str(error)
        if large:
            return self._too_large(line)
        return Fault(
            f"not valid {self.format.upper()}: {error}; the rest of the file was not read",
            self._place(line),
            "InvalidCsv",
            "close the double quotes; write a double quote inside a field twice",
        )

    # ── Parquet

    def _parquet(self) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            source = pq.ParquetFile(self.path, pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            fault = Fault(
                f"not a whole Parquet file: {error}", self.name, "InvalidParquet", "copy or download the file again"
            )
            yield Row(None, self.name, 0, fault=fault)
            return
        with source:
            total = max(1, source.metadata.num_rows)
            number = 0
            try:
                for batch in source.iter_batches(batch_size=256, use_threads=False):
                    for data in batch.to_pylist():
                        yield Row(data, self._place(number + 1), number)
                        number += 1
                        self.bytes_read = self.total_bytes * number // total
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                place = self._place(number + 1)
                fault = Fault(
                    f"cannot be read from here on: {error}", place, "InvalidParquet", "copy or download the file again"
                )
                yield Row(None, place, number, fault=fault)


class _Window:
    """A stretch of a file's text that moves forward, with the line of its reading position."""

    def __init__(self, reader: RowReader, file: IO[bytes]) -> None:
        self._reader = reader
        self._file = file
        self._rest = b""
        self._counted = 0
        self._lines = 1
        self.text = ""
        self.position = 0
        self.ended = False

    @property
    def line(self) -> int:
        """The line of ``position``, from 1."""
        self._lines += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._lines

    def skip_white_space(self) -> None:
        """Move to the next character that is none."""
        match = _WHITE_SPACE.match(self.text, self.position)
        if match:
            self.position = match.end()

    def fill(self) -> Fault | None:
        """Drop what was read and read on; the window at least doubles while nothing can be dropped."""
        line = self.line
        kept = self.text[self.position :]
        data = self._file.read(max(_CHUNK, len(kept)))
        self._reader.bytes_read += len(data)
        self.ended = not data
        data = self._rest + data
        if self._lines == 1 and data.startswith(_BOM):
            data = data[len(_BOM) :]
        try:
            new = data.decode("utf-8")
            self._rest = b""
        except UnicodeDecodeError as error:
            if self.ended or error.start < len(data) - 3:
                before = line + kept.count("\n") + data.count(b"\n", 0, error.start)
                return encoding_fault(data, self._reader._place(before))
            new = data[: error.start].decode("utf-8")
            self._rest = data[error.start :]
        self.text = kept + new
        self.position = self._counted = 0
        return None


_WHITE_SPACE = re.compile(r"[ \t\r\n]+")


class _KeyTwice(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        raise _KeyTwice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return data


def find_key_twice(raw: bytes) -> str | None:
    """The first key that an object of a JSON text has twice. Slow; call it on suspicion."""
    try:
        json.loads(raw, object_pairs_hook=_no_key_twice)
    except _KeyTwice as twice:
        return twice.key
    except ValueError:
        return None
    return None


def key_twice(key: str, place: str) -> Fault:
    """The fault of an object that has a key twice: readers would take either."""
    return Fault(f"an object has the key {key!r} twice", place, "DuplicateKey", "keep one of them")


def _not_an_object(data: Any, place: str) -> Fault:
    kinds = {
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return Fault(
        f"a row must be a JSON object, not {kinds.get(type(data), type(data).__name__)}",
        place,
        "NotAnObject",
        'write the row as {"messages": [...]}'
        if isinstance(data, list)
        else "write one conversation as one JSON object",
    )


def _json_hint(line: bytes) -> str:
    text = line.strip()
    if text.startswith((b"{'", b"[{'")):
        return "; this one is written with single quotes, as Python prints it: write it with json.dumps"
    if text in (b"[", b"{", b"]", b"}"):
        return "; this file seems to be indented JSON: give it the extension .json"
    return ""


def encoding_fault(data: bytes, place: str) -> Fault | None:
    """What is wrong with bytes that are not UTF-8, or ``None`` if they are."""
    try:
        data.decode("utf-8")
        return None
    except UnicodeDecodeError as error:
        begin = data.rfind(b"\n", 0, error.start) + 1
        byte = data[error.start]
        letter = data[error.start : error.start + 1].decode("cp1252", "replace")
        word = data[max(begin, error.start - 12) : error.start + 12].decode("cp1252", "replace").strip()
        guess = f"looks like Windows-1252 (Latin-1): {letter!r} in {word!r}" if byte >= 0x80 else "broken text"
        return Fault(
            f"not UTF-8: byte 0x{byte:02x} at column {error.start - begin + 1}; {guess}",
            place,
            "Encoding",
            "convert the file: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
        )


_MAGIC: Sequence[tuple[bytes, str, str]] = (
    (b"\x1f\x8b", "a gzip archive", "decompress it first: gunzip -k FILE"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV (UTF-8)"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "decompress it first: unzstd FILE"),
    (b"BZh", "a bzip2 archive", "decompress it first: bunzip2 -k FILE"),
    (b"%PDF", "a PDF", "give a file of conversations"),
    (b"\x89PNG", "an image", "give a file of conversations"),
    (b"SQLite format 3", "an SQLite database", "export the conversations as JSON lines"),
    (b"ARROW1", "an Arrow file", "save it as Parquet: pyarrow.parquet.write_table(table, PATH)"),
    (b"GGUF", "a GGUF model", "give a file of conversations"),
)


def sniff(head: bytes, path: Path, *, name: str) -> FileFormat:
    """The format of a file from its first bytes and its extension.

    Raises ``InvalidData`` for what cannot be one: an empty file, UTF-16, an archive, another binary file.
    """

    def wrong(message: str, way_out: str) -> TunesmithError:
        return InvalidData(message, target=name, way_out=way_out)

    if not head:
        raise wrong("the file is empty", "give a file with at least one conversation")
    if head.startswith(b"PAR1"):
        return "parquet"
    for bom, encoding in (
        (b"\xff\xfe\x00\x00", "UTF-32"),
        (b"\x00\x00\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
    ):
        if head.startswith(bom):
            raise wrong(f"the file is {encoding}, not UTF-8", f"convert it: iconv -f {encoding} -t UTF-8 OLD > NEW")
    for magic, what, way_out in _MAGIC:
        if head.startswith(magic):
            raise wrong(f"the file is {what}", way_out)
    if b"\x00" in head:
        sample = head[:4096]
        for begin, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
            if sample[begin::2].count(0) > len(sample) // 3:
                raise wrong(
                    f"the file is {encoding} without a mark, not UTF-8",
                    f"convert it: iconv -f {encoding} -t UTF-8 OLD > NEW",
                )
        raise wrong("the file is binary, not text", f"give a {', '.join(FORMATS)} file in UTF-8")
    extension = EXTENSIONS.get(path.suffix.lower())
    if extension == "parquet":
        raise wrong("the file has the extension .parquet and is none", "give it the extension of what it is")
    body = head.removeprefix(_BOM).lstrip()
    if not body:
        raise wrong("the file holds white space only", "give a file with at least one conversation")
    if extension in ("csv", "tsv"):
        return extension
    if body.startswith(b"["):
        return "json"
    if body.startswith(b"{"):
        first = body.split(b"\n", 1)[0].strip()
        if extension == "jsonl" or (first.endswith(b"}") and _is_json(first) and len(first) < len(body.rstrip())):
            return "jsonl"  # JSON lines, whatever the extension says
        return "json" if extension == "json" else "jsonl"
    if extension is not None:
        return extension if extension == "jsonl" else _refuse_json(body, name)
    raise wrong(
        "cannot tell what kind of file this is",
        f"give it one of the extensions {', '.join(EXTENSIONS)}",
    )


def _refuse_json(body: bytes, name: str) -> FileFormat:
    raise InvalidData(
        f"a .json file begins with [ or {{, this one with {body[:1].decode('utf-8', 'replace')!r}",
        target=name,
        way_out="give a JSON array of conversations, or one JSON object a line",
    )


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
