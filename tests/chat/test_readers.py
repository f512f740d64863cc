"""Rows of every kind of file with their places, and what faulty files get."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.chat.readers import Row, RowReader, find_files, read_rows
from tunesmith.errors import Fault, InvalidData, NotFound, TooLarge

ROW = {"messages": [{"role": "user", "content": 'ä "x": 1\n'}, {"role": "assistant", "content": "b"}]}


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def all_rows(path: Path, **settings: int) -> list[Row]:
    return list(RowReader(path, **settings))  # type: ignore[arg-type]


def only_fault(path: Path, **settings: int) -> Fault:
    (fault,) = [row.fault for row in all_rows(path, **settings) if row.fault is not None]
    return fault


# ── what can be read


def test_json_lines_with_their_places(tmp_path: Path) -> None:
    line = json.dumps(ROW, ensure_ascii=False)
    path = write(tmp_path / "a.jsonl", f"{line}\n\n{line}\r\n{line}")
    rows = list(read_rows(path))
    assert [row.location for row in rows] == [f"{path}:{n}" for n in (1, 3, 4)]
    assert [row.number for row in rows] == [0, 1, 2]
    assert all(row.data == ROW for row in rows)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays_with_their_places(indent: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps([ROW, ROW], indent=indent))
    rows = list(read_rows(path))
    assert [row.data for row in rows] == [ROW, ROW]
    assert [row.line for row in rows] == ([1, 1] if indent is None else [2, 14])


def test_one_object_and_objects_without_an_array(tmp_path: Path) -> None:
    one = write(tmp_path / "one.json", json.dumps(ROW, indent=1))
    two = write(tmp_path / "two.json", json.dumps(ROW, indent=1) + "\n" + json.dumps(ROW, indent=1))
    assert [row.data for row in read_rows(one)] == [ROW]
    assert [row.data for row in read_rows(two)] == [ROW, ROW]


def test_json_lines_with_the_extension_of_an_array(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", (json.dumps(ROW) + "\n") * 2)
    reader = RowReader(path)
    assert reader.format == "jsonl"
    assert len(list(reader)) == 2


def test_a_mark_before_utf_8_is_skipped(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert [row.data for row in read_rows(write(tmp_path / "a.jsonl", mark + json.dumps(ROW).encode()))] == [ROW]
    assert [row.data for row in read_rows(write(tmp_path / "a.json", mark + json.dumps([ROW]).encode()))] == [ROW]
    table = write(tmp_path / "a.csv", mark + b"prompt,completion\na,b\n")
    assert [row.data for row in read_rows(table)] == [{"prompt": "a", "completion": "b"}]


def test_tables(tmp_path: Path) -> None:
    csv_file = write(tmp_path / "a.csv", 'prompt,completion\n"a,\n""b""",c\n\nd,e\n')
    rows = list(read_rows(csv_file))
    assert [row.data for row in rows] == [{"prompt": 'a,\n"b"', "completion": "c"}, {"prompt": "d", "completion": "e"}]
    assert [row.line for row in rows] == [2, 5]
    tsv_file = write(tmp_path / "a.tsv", "prompt\tcompletion\na, b\tc\n")
    assert [row.data for row in read_rows(tsv_file)] == [{"prompt": "a, b", "completion": "c"}]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ROW] * 600), path)
    rows = list(read_rows(path))
    assert len(rows) == 600
    assert rows[599].data == ROW
    assert rows[599].location == f"{path}:600"


def test_a_folder_is_its_data_files_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path / name, json.dumps(ROW))
    write(tmp_path / "notes.txt", "no data")
    assert [file.name for file in find_files(tmp_path)] == ["a.jsonl", "b.jsonl"]
    assert len(list(read_rows(tmp_path))) == 2
    with pytest.raises(InvalidData, match="no data files"):
        find_files(write_folder(tmp_path / "empty"))


def write_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_format_is_told_by_the_content_where_there_is_no_extension(tmp_path: Path) -> None:
    assert RowReader(write(tmp_path / "a", json.dumps(ROW))).format == "jsonl"
    assert RowReader(write(tmp_path / "b", json.dumps([ROW]))).format == "json"
    with pytest.raises(InvalidData, match="cannot tell what kind of file"):
        RowReader(write(tmp_path / "c", "hello"))


@settings(max_examples=30)
@given(
    values=st.lists(
        st.dictionaries(
            st.text(max_size=5), st.one_of(st.text(), st.integers(), st.lists(st.text(max_size=3))), max_size=4
        ),
        min_size=1,
        max_size=6,
    ),
    indent=st.sampled_from([None, 1]),
)
def test_arrays_are_read_as_the_json_module_does(
    values: list[dict[str, object]], indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("json") / "a.json", json.dumps(values, indent=indent))
    assert [row.data for row in read_rows(path)] == values


def test_objects_that_cross_the_reading_window(tmp_path: Path) -> None:
    """Texts of two and three bytes a character, longer than a block that is read at once."""
    values = [{"messages": "ä€" * 300_000 + str(n)} for n in range(6)]
    path = write(tmp_path / "a.json", json.dumps(values, ensure_ascii=False))
    reader = RowReader(path)
    assert [row.data for row in reader] == values
    assert reader.bytes_read == reader.total_bytes == path.stat().st_size


# ── what cannot


def test_a_missing_file_names_the_closest(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "{}")
    with pytest.raises(NotFound) as caught:
        find_files(tmp_path / "trian.jsonl")
    assert caught.value.way_out == f"did you mean {tmp_path / 'train.jsonl'}?"
    with pytest.raises(NotFound, match="nor its folder"):
        find_files(tmp_path / "nowhere" / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "name", "message", "way_out"),
    [
        (b"", "a.jsonl", "the file is empty", "at least one"),
        (b" \n\t\n", "a.jsonl", "white space only", "at least one"),
        (b"\x1f\x8b\x08\x00rest", "a.jsonl", "gzip", "gunzip"),
        (b"PK\x03\x04rest", "a.csv", "Excel", "CSV"),
        (b"GGUF\x03\x00", "a.json", "GGUF", "conversations"),
        (bytes(range(256)) * 4, "a.jsonl", "binary", "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "a.jsonl", "UTF-16, not UTF-8", "iconv -f UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "a.jsonl", "UTF-16LE", "iconv -f UTF-16LE"),
        ('{"a": 1}'.encode("utf-16-be"), "a.jsonl", "UTF-16BE", "iconv -f UTF-16BE"),
        ('{"a": 1}'.encode("utf-32"), "a.jsonl", "UTF-32", "iconv -f UTF-32"),
        (b"hello", "a.json", r"begins with \[ or \{, this one with 'h'", "JSON array"),
        (b"hello", "a.parquet", "and is none", "extension"),
    ],
)
def test_files_that_are_no_data(content: bytes, name: str, message: str, way_out: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InvalidData, match=message) as caught:
        RowReader(path)
    assert caught.value.target == str(path)
    assert way_out in str(caught.value.way_out)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "code", "message", "way_out"),
    [
        (b'{"messages": [{"role": "us', "InvalidJson", "Unterminated string.*cut short", "one whole JSON object"),
        (b'{"messages": [}', "InvalidJson", "at column 15", "one whole JSON object"),
        (b"{'messages': []}", "InvalidJson", "double quotes", "single quotes"),
        (b"{", "InvalidJson", "at column 2", "indented JSON"),
        (b"[1, 2]", "NotAnObject", "not a list", "messages"),
        (b'"text"', "NotAnObject", "not a text", "one object"),
        (b"12", "NotAnObject", "not a number", "one object"),
        (b"null", "NotAnObject", "not null", "one object"),
        (b'{"a": NaN}', "InvalidJson", "not valid JSON", "without NaN"),
        (b'{"a": "\\ud800"}', "InvalidJson", "not valid JSON", "JSON library"),
        (b"[" * 5000 + b"]" * 5000, "InvalidJson", "nested too deep", "one"),
        (
            '{"a": "café"}'.encode("latin-1"),
            "Encoding",
            "byte 0xe9 at column 11.*Latin-1.*'é'",
            "WINDOWS-1252",
        ),
        (b'{"role": "a", "role": "b"}', "DuplicateKey", "the key 'role' twice", "keep one"),
        (b'{"messages": [{"content": "a", "content": "\\": x"}]}', "DuplicateKey", "'content' twice", "keep one"),
    ],
)
def test_faulty_lines_are_told_and_the_next_is_read(
    line: bytes, code: str, message: str, way_out: str, tmp_path: Path
) -> None:
    good = json.dumps(ROW).encode()
    path = write(tmp_path / "a.jsonl", good + b"\n" + line + b"\n" + good + b"\n")
    rows = all_rows(path)
    assert [row.data for row in rows] == [ROW, None, ROW]
    fault = rows[1].fault
    assert fault is not None
    assert (fault.target, fault.code) == (f"{path}:2", code)
    assert way_out in str(fault.way_out)
    with pytest.raises(InvalidData, match=message):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("content", "line", "code", "message"),
    [
        ('[{"a": 1}, {"b": ', 1, "InvalidJson", "cut short"),
        ('[{"a": 1},\n{"b": 2}', 2, "InvalidJson", "not closed"),
        ('[{"a": 1}\n {"b": 2}]', 2, "InvalidJson", "comma is missing"),
        ('[{"a": 1},\n {"b" 2}, {"c": 3, "filler": 45678}]', 2, "InvalidJson", "at column 7.*not read"),
        ('[{"a": 1}] x', 1, "InvalidJson", "after the end"),
        ('[{"a": 1},\n 5, {"b": 2}]', 2, "NotAnObject", "not a number"),
        ('[{"a": 1},\n {"b": {"c": 1, "c": 2}}, {"b": 2}]', 2, "DuplicateKey", "'c' twice"),
        ('[{"a": 1},\n {"b": "\\ud800"}, {"b": 2}]', 2, "InvalidText", "surrogate"),
        (b'[{"a": 1},\n {"b": "caf\xe9"}, {"b": 2}]', 2, "Encoding", "Windows-1252"),
    ],
)
def test_faulty_arrays(content: str | bytes, line: int, code: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", content)
    fault = only_fault(path)
    assert (fault.target, fault.code) == (f"{path}:{line}", code)
    with pytest.raises(InvalidData, match=message):
        list(read_rows(path))
    if code in ("NotAnObject", "DuplicateKey", "InvalidText"):  # one object's fault; the others are read
        assert [row.data for row in all_rows(path)] == [{"a": 1}, None, {"b": 2}]


@pytest.mark.parametrize(
    ("content", "line", "code"),
    [
        ("a,b\n1\n2,3\n", 2, "WrongFieldCount"),
        ("a,a\n1,2\n", 1, "DuplicateKey"),
        ("prompt;completion\na;b\n", 1, "WrongDelimiter"),
        ('a,b\n1,"2\n3,4\n', 2, "InvalidCsv"),
        ('a,b\n1,"2"x\n', 2, "InvalidCsv"),
        (b"a,b\n1,caf\xe9\n", 2, "Encoding"),
    ],
)
def test_faulty_tables(content: str | bytes, line: int, code: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", content)
    fault = only_fault(path)
    assert (fault.target, fault.code) == (f"{path}:{line}", code)
    assert fault.way_out


def test_a_parquet_file_cut_short(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.Table.from_pylist([ROW] * 50), whole)
    path = write(tmp_path / "cut.parquet", whole.read_bytes()[:-50])
    assert only_fault(path).code == "InvalidParquet"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_rows_that_are_too_long(name: str, tmp_path: Path) -> None:
    long = "x" * 5000
    content = {
        "a.jsonl": '{"a": 1}\n{"a": "' + long + '"}\n{"a": 2}\n',
        "a.json": '[{"a": 1},\n{"a": "' + long + '"},\n{"a": 2}]',
        "a.csv": 'a,b\n1,2\n"' + long + '",3\n4,5\n',
    }[name]
    path = write(tmp_path / name, content)
    if name == "a.json":  # the window reads a block before it looks at the limit
        path.write_text('[{"a": 1},\n{"a": "' + long * 500 + '"},\n{"a": 2}]')
    fault = only_fault(path, max_row_bytes=2000)
    assert fault.code == "RowTooLarge"
    assert fault.target == f"{path}:{3 if name == 'a.csv' else 2}"
    if name == "a.jsonl":
        assert [row.data for row in all_rows(path, max_row_bytes=2000)] == [{"a": 1}, None, {"a": 2}]


def test_a_line_of_100_mb_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"messages": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + json.dumps(ROW).encode())
    # In a process of its own: the peak of this one is that of other tests.
    script = (
        "import resource, sys; from pathlib import Path; from tunesmith.chat.readers import RowReader\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); rows = list(RowReader(Path(sys.argv[1])))\n"
        "print([row.fault.message if row.fault else '' for row in rows], peak() - before, sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    messages, grown_kb = run.stdout.splitlines()
    assert messages == "['a row of more than 16 MiB', '']"
    assert int(grown_kb) < 64 * 1024
    with pytest.raises(TooLarge):
        list(read_rows(path))
