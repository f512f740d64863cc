"""The metadata and the table of tensors of a GGUF file.

The format (version 2 and 3, little-endian): magic, version, tensor count, key count; keys with typed values; for each
tensor its name, shape, type and offset; then the data, aligned. Written out here because the ``gguf`` library reads
every token of a vocabulary through numpy, which takes many seconds for the vocabularies of today; the types and their
sizes are the library's.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import InvalidModel

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
STRING, ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of values by their number, as ``struct`` spells them."""
_TOO_MANY = 1 << 27
"""More entries than any file has: a count beyond it is a damaged one."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies and how it is stored."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as torch has it; GGUF writes the row's length first."""
    kind: GGMLQuantizationType
    offset: int
    """In bytes from the start of the file."""
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class GgufFile:
    """An opened file; ``data`` reads from the disk when it is asked."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def data(self, tensor: GgufTensor, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """The stored bytes of rows ``start`` to ``stop``, of shape (rows, bytes of a row)."""
        import numpy as np

        rows = tensor.elements // tensor.shape[-1] if tensor.elements else 0
        width = tensor.bytes // max(rows, 1)
        stop = rows if stop is None else min(stop, rows)
        where = tensor.offset + start * width
        flat = np.memmap(self.path, dtype=np.uint8, mode="r", offset=where, shape=((stop - start) * width,))
        return np.asarray(flat).reshape(stop - start, width)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_gguf(path: Path) -> GgufFile:
    """Read everything but the data; ``InvalidModel`` for a file that is cut short, damaged or of another kind."""
    if not is_gguf(path):
        raise InvalidModel(
            "this is no GGUF file: it does not begin with GGUF", way_out="give a file that ends in .gguf"
        )
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(content)
        try:
            metadata, tensors = _read(cursor)
        except (struct.error, UnicodeDecodeError, ValueError, KeyError, OverflowError) as error:
            raise InvalidModel(
                f"the GGUF file cannot be read beyond byte {cursor.at:,} of {size:,}: it was cut short or damaged "
                f"({error})",
                way_out="copy or download the file again",
            ) from error
    end = max((tensor.offset + tensor.bytes for tensor in tensors.values()), default=0)
    if end > size:
        raise InvalidModel(
            f"the GGUF file has {size:,} bytes and its tensors need {end:,}: it was cut short",
            way_out="copy or download the file again",
        )
    return GgufFile(path, metadata, tensors)


class _Cursor:
    """Reads values one after the other."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 4

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.content, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def count(self) -> int:
        value: int = self.scalar("Q")
        if value > _TOO_MANY:
            raise ValueError(f"a count of {value}")
        return value

    def text(self) -> str:
        length = self.count()
        raw = self.content[self.at : self.at + length]
        if len(raw) != length:
            raise ValueError(f"a text of {length} bytes")
        self.at += length
        return raw.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.scalar(_SCALARS[kind])
        inner = self.scalar("I")
        count = self.count()
        if inner in (STRING, ARRAY):
            return [self.value(inner) for _ in range(count)]
        code = f"<{count}{_SCALARS[inner]}"
        values = list(struct.unpack_from(code, self.content, self.at))
        self.at += struct.calcsize(code)
        return values


def _read(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    version = cursor.scalar("I")
    if version not in VERSIONS:
        raise ValueError(f"version {version}; versions {VERSIONS} are read, little-endian")
    tensor_count, key_count = cursor.count(), cursor.count()
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("I"))
    entries = []
    for _ in range(tensor_count):
        name = cursor.text()
        shape = tuple(cursor.count() for _ in range(cursor.scalar("I")))[::-1]
        entries.append((name, shape, GGMLQuantizationType(cursor.scalar("I")), cursor.scalar("Q")))
    alignment = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    if alignment < 1:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        block, width = GGML_QUANT_SIZES[kind]
        if not shape or shape[-1] % block:
            raise ValueError(f"the tensor {name} of shape {shape} as {kind.name}")
        bare = GgufTensor(name, shape, kind, start + offset, 0)
        tensors[name] = GgufTensor(name, shape, kind, start + offset, bare.elements // block * width)
    return metadata, tensors
