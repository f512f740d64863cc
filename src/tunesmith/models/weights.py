"""Safetensors files without torch: read and check headers, count parameters, write tensors as they come.

The format: 8 bytes little-endian header length, a JSON header ``{name: {dtype, shape, data_offsets}}``, then the data.
A file whose length is not what its header says was cut short or is still being copied.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tunesmith.errors import InvalidModel
from tunesmith.models.adapter_files import ADAPTER_CONFIG_FILE
from tunesmith.models.files import safe_relative

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What a package may be stored in, by the names of torch."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    """Safetensors' name, such as ``BF16``."""
    shape: tuple[int, ...]
    file: str

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors of one file; checks that the file is as long as its header says.

    Raises ``InvalidModel`` that names the file when it is cut short, too long or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _broken(path, f"it has {size} bytes, not even the 8 of its header length")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER:
            raise _broken(path, "its first bytes are no header length: this is no safetensors file")
        if 8 + length > size:
            raise _broken(path, f"its header needs {8 + length:,} bytes and the file has {size:,}: it was cut short")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        if not isinstance(header, dict):
            raise TypeError("the header is no object")
        header.pop("__metadata__", None)
        tensors = []
        end = 0
        for name, entry in header.items():
            dtype, shape, (begin, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if dtype not in DTYPE_BYTES:
                raise ValueError(f"tensor {name} has the unknown dtype {dtype!r}")
            if stop - begin != math.prod(shape) * DTYPE_BYTES[dtype] or begin < 0:
                raise ValueError(f"tensor {name} of shape {shape} does not fill its {stop - begin} bytes")
            end = max(end, stop)
            tensors.append(TensorInfo(name, dtype, shape, path.name))
    except (ValueError, TypeError, KeyError) as error:
        raise _broken(path, f"its header is damaged ({error})") from error
    if size != 8 + length + end:
        state = "it was cut short" if size < 8 + length + end else "something was added to it"
        raise _broken(path, f"its header promises {8 + length + end:,} bytes and the file has {size:,}: {state}")
    return tensors


def _broken(path: Path, cause: str) -> InvalidModel:
    return InvalidModel(
        f"{path.name} is not a whole safetensors file: {cause}",
        target=str(path),
        way_out="copy or download the file again",
    )


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files that hold the model in ``folder``, in order.

    Raises ``InvalidModel`` when there are none (saying which pickled files there are), when the index names a file
    that is not there, or when a lone file has another name.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted({safe_relative(str(name), where=index) for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidModel(
                f"{INDEX_FILE} cannot be read: {error}", target=str(index), way_out="copy or download the file again"
            ) from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InvalidModel(
                f"{len(missing)} of {len(names)} weight files named by {INDEX_FILE} are not there: "
                f"{', '.join(missing[:5])}",
                target=str(folder),
                way_out="copy or download the missing files into the folder",
            )
        return names
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        raise InvalidModel(
            "this folder is a LoRA adapter, not a whole model",
            target=str(folder),
            way_out="merge it into its base model first (convert step), and import the merged folder",
        )
    if len(others) == 1 and not others[0].startswith("adapter"):
        return others
    if others:
        raise InvalidModel(
            f"there are {len(others)} safetensors files and no {INDEX_FILE} that says how they belong together",
            target=str(folder),
            way_out=f"add {INDEX_FILE}, or save the model again with save_pretrained()",
        )
    pickled = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise InvalidModel(
            f"the weights are only there as pickled files ({', '.join(pickled[:3])}), which can run code when they "
            "are opened "
            "and are never loaded here",
            target=str(folder),
            way_out="convert them where you trust them: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER), which writes safetensors; then import NEW_FOLDER",
        )
    raise InvalidModel(
        "there are no weights in this folder",
        target=str(folder),
        way_out=f"a model folder has config.json, {WEIGHTS_FILE} and tokenizer.json",
    )


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a model folder by name; checks all files and, where there is an index, that they agree."""
    tensors: dict[str, TensorInfo] = {}
    for name in weight_files(folder):
        for tensor in read_header(folder / name):
            tensors[tensor.name] = tensor
    index = folder / INDEX_FILE
    if index.is_file():
        promised = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        missing = sorted(name for name in promised if name not in tensors)
        if missing:
            raise InvalidModel(
                f"{len(missing)} tensors named by {INDEX_FILE} are in no file: {', '.join(missing[:3])}",
                target=str(index),
                way_out="the index and the weight files are of different versions; download them together",
            )
    if not tensors:
        raise InvalidModel("the weight files hold no tensors", target=str(folder))
    return tensors


def stored_dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """The dtype that most of the numbers are stored in, by torch's name.

    Raises ``InvalidModel`` for integer and 8-bit weights, which belong to a quantised model.
    """
    totals: dict[str, int] = {}
    for tensor in tensors.values():
        totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.elements
    dtype = max(totals, key=lambda name: totals[name])
    if dtype not in DTYPE_NAMES:
        raise InvalidModel(
            f"the weights are stored as {dtype}, which belongs to a quantised model",
            way_out="import the model's unquantised weights (float32, float16 or bfloat16), or its GGUF file",
        )
    return DTYPE_NAMES[dtype]


class SafetensorsWriter(AbstractContextManager["SafetensorsWriter"]):
    """Writes one safetensors file tensor by tensor, in the order announced, so that memory holds one tensor.

    ``tensors`` announces name, dtype and shape of all; ``write`` then takes each one's bytes, little-endian, C order,
    in as many parts as suits.
    """

    def __init__(self, path: Path, tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._pending: Iterator[tuple[str, int]]
        sizes: list[tuple[str, int]] = []
        end = 0
        for name, dtype, shape in tensors:
            size = math.prod(shape) * DTYPE_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
            sizes.append((name, size))
            end += size
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-(8 + len(raw)) % 8)  # the data starts aligned to 8 bytes, as the format asks
        self._pending = iter(sizes)
        self._digest = hashlib.sha256()
        self._file: BinaryIO = path.open("xb")
        self._put(struct.pack("<Q", len(raw)))
        self._put(raw)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Append the next tensor; raises ``ValueError`` when it is not the one announced or has another size."""
        expected, size = next(self._pending, ("", 0))
        written = 0
        if name == expected:
            for part in parts:
                self._put(part)
                written += memoryview(part).nbytes
        if name != expected or written != size:
            raise ValueError(f"expected tensor {expected!r} of {size} bytes, got {name!r} of {written}")

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._digest.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and (left := next(self._pending, None)) is not None:
            raise ValueError(f"tensor {left[0]!r} was announced and not written")
