"""What kind of file this is, and what is wrong with its bytes: told before anything is parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import orjson

from tunesmith.errors import Fault, InvalidData

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
BOM = b"\xef\xbb\xbf"
"""The mark that some programs put before UTF-8."""

_BOMS: Sequence[tuple[bytes, str]] = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_MAGIC: Sequence[tuple[bytes, str, str]] = (
    (b"\x1f\x8b", "a gzip archive", "decompress it first: gunzip -k FILE"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV (UTF-8)"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "decompress it first: unzstd FILE"),
    (b"BZh", "a bzip2 archive", "decompress it first: bunzip2 -k FILE"),
    (b"%PDF", "a PDF", "give a file of conversations"),
    (b"\x89PNG", "an image", "give a file of conversations"),
    (b"\xff\xd8\xff", "an image", "give a file of conversations"),
    (b"SQLite format 3", "an SQLite database", "export the conversations as JSON lines"),
    (b"ARROW1", "an Arrow file", "save it as Parquet: pyarrow.parquet.write_table(table, PATH)"),
    (b"GGUF", "a GGUF model", "give a file of conversations"),
)


def sniff(head: bytes, path: Path, *, name: str) -> FileFormat:
    """The format of a file from its first bytes (64 KiB will do) and its extension.

    Raises ``InvalidData`` for what cannot be one: an empty file, UTF-16, an archive, another binary file.
    """
    if not head:
        raise InvalidData("the file is empty", target=name, way_out="give a file with at least one conversation")
    if head.startswith(b"PAR1"):
        return "parquet"
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            raise InvalidData(
                f"the file is {encoding}, not UTF-8",
                target=name,
                way_out=f"convert it: iconv -f {encoding} -t UTF-8 OLD > NEW",
            )
    for magic, what, way_out in _MAGIC:
        if head.startswith(magic):
            raise InvalidData(f"the file is {what}", target=name, way_out=way_out)
    if b"\x00" in head:
        raise _binary(head[:4096], name)
    extension = EXTENSIONS.get(path.suffix.lower())
    if extension == "parquet":
        raise InvalidData(
            "the file has the extension .parquet and is none",
            target=name,
            way_out="give it the extension of what it is",
        )
    body = head.removeprefix(BOM).lstrip()
    if not body:
        raise InvalidData(
            "the file holds white space only", target=name, way_out="give a file with at least one conversation"
        )
    if extension in ("csv", "tsv"):
        return extension
    if body.startswith(b"["):
        return "json"
    if body.startswith(b"{"):
        first, newline, rest = body.partition(b"\n")
        if extension == "jsonl" or (newline and rest.strip() and _is_json(first)):
            return "jsonl"  # one object a line, whatever the extension says
        return "json" if extension == "json" else "jsonl"
    if extension == "jsonl":
        return extension
    if extension == "json":
        raise InvalidData(
            f"a .json file begins with [ or {{, this one with {body[:1].decode('utf-8', 'replace')!r}",
            target=name,
            way_out="give a JSON array of conversations, or one JSON object a line",
        )
    raise InvalidData(
        "cannot tell what kind of file this is",
        target=name,
        way_out=f"give it one of the extensions {', '.join(EXTENSIONS)}",
    )


def _binary(sample: bytes, name: str) -> InvalidData:
    """UTF-16 without its mark has a zero in nearly every second byte."""
    for begin, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if sample[begin::2].count(0) > len(sample) // 3 and sample[1 - begin :: 2].count(0) < len(sample) // 8:
            return InvalidData(
                f"the file is {encoding} (without a mark), not UTF-8",
                target=name,
                way_out=f"convert it: iconv -f {encoding} -t UTF-8 OLD > NEW",
            )
    return InvalidData(
        "the file is binary, not text", target=name, way_out=f"give a {', '.join(FORMATS)} file in UTF-8"
    )


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def encoding_fault(data: bytes, place: str) -> Fault | None:
    """What is wrong with bytes that are not UTF-8; ``None`` if they are."""
    try:
        data.decode("utf-8")
        return None
    except UnicodeDecodeError as error:
        begin = data.rfind(b"\n", 0, error.start) + 1
        byte = data[error.start]
        letter = bytes([byte]).decode("cp1252", "replace")
        word = data[max(begin, error.start - 12) : error.start + 12].decode("cp1252", "replace").strip()
        return Fault(
            f"not UTF-8: byte 0x{byte:02x} at column {error.start - begin + 1}; "
            f"it looks like Windows-1252 (Latin-1): {letter!r} in {word!r}",
            place,
            "Encoding",
            "convert the file: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
        )
