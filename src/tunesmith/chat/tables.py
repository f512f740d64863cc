"""Rows of CSV and TSV files: the first line names the columns; quoted fields may hold line breaks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tunesmith.chat.json_array import too_large
from tunesmith.chat.sniffing import BOM, encoding_fault
from tunesmith.errors import Fault


def read_table(
    lines: Iterable[tuple[int, bytes | None]], *, delimiter: str, place: Callable[[int], str], max_bytes: int
) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """Rows with the line they begin at, or faults. ``lines`` are numbered; ``None`` is a line that is too long."""
    if csv.field_size_limit() < max_bytes:
        csv.field_size_limit(max_bytes)
    problem: list[Fault] = []
    reader = csv.reader(_texts(lines, problem, place, max_bytes), delimiter=delimiter, strict=True)
    line = 1
    names: list[str] | None = None
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield line, _csv_fault(error, place(line), max_bytes)
            return
        if values is None or problem:
            break
        begin, line = line, reader.line_num + 1
        if not values:
            continue  # an empty line
        if names is None:
            names = [name.strip() for name in values]
            if (fault := _header_fault(names, delimiter, place(begin))) is not None:
                yield begin, fault
                return
        elif len(values) != len(names):
            yield (
                begin,
                Fault(
                    f"{len(values)} fields where the header has {len(names)}",
                    place(begin),
                    "WrongFieldCount",
                    "put fields that hold the delimiter or line breaks into double quotes",
                ),
            )
        else:
            yield begin, dict(zip(names, values, strict=True))
    if problem:
        yield line, problem[0]


def _texts(
    lines: Iterable[tuple[int, bytes | None]], problem: list[Fault], place: Callable[[int], str], max_bytes: int
) -> Iterator[str]:
    """Lines as text for the csv module; ends at the first that is none, with the reason in ``problem``."""
    for number, line in lines:
        if line is None:
            problem.append(too_large(max_bytes, place(number)))
            return
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            fault = encoding_fault(line, place(number))
            assert fault is not None
            message = f"{fault.message}; the rest of the file was not read"
            problem.append(Fault(message, fault.target, fault.code, fault.way_out))
            return


def _header_fault(names: Sequence[str], delimiter: str, place: str) -> Fault | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        shown = ", ".join(map(repr, twice))
        return Fault(f"the header names {shown} twice", place, "DuplicateKey", "rename a column")
    other = next((mark for mark in "\t;,|" if mark != delimiter and len(names) == 1 and mark in names[0]), None)
    if other is not None:
        return Fault(
            f"one column only; the fields seem to be separated by {other!r}, not by {delimiter!r}",
            place,
            "WrongDelimiter",
            "separate the fields of a .csv by commas; give a file with tabs the extension .tsv",
        )
    return None


def _csv_fault(error: csv.Error, place: str, max_bytes: int) -> Fault:
    if "field larger than field limit" in str(error):
        return too_large(max_bytes, place)
    return Fault(
        f"not valid CSV: {error}; the rest of the file was not read",
        place,
        "InvalidCsv",
        "close the double quotes; write a double quote inside a field twice",
    )
