"""A GGUF file, dequantised to safetensors with its tokenizer given back.

The weights become bfloat16 (float16 or float32 where the whole file is stored so, which loses nothing): quantised
weights carry 4 to 8 bits of information, so rounding to bfloat16 adds less error than the quantisation made. Neither
torch nor transformers is needed; memory holds one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import InvalidModel
from tunesmith.models.files import require_room, sha256_of
from tunesmith.models.package import Manifest, Origin
from tunesmith.models.sources.base import FetchContext, Fetched
from tunesmith.models.sources.gguf_config import (
    ROTARY_TENSORS,
    Family,
    expected_tensors,
    family_of,
    make_config,
    restore,
)
from tunesmith.models.sources.gguf_reader import GgufFile, GgufTensor, read_gguf
from tunesmith.models.weights import DTYPE_BYTES, DTYPE_NAMES, WEIGHTS_FILE, SafetensorsWriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS_AT_ONCE = 16_384
"""Rows dequantised in one go: bounds memory for large embeddings."""


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A ``.gguf`` file on this machine."""

    text: str
    path: Path

    def matches(self, manifest: Manifest, context: FetchContext) -> bool:
        """Whether the file is still the one that the package was made from."""
        return sha256_of(self.path) == manifest.origin.sha256

    def fetch(self, into: Path, context: FetchContext) -> Fetched:
        """Convert the file."""
        converted = convert_gguf(self.path, into, context)
        if context.expected_sha256 not in (None, converted.sha256):
            raise InvalidModel(
                f"the file is not the one that was pinned: its sha256 is {converted.sha256}, "
                f"{context.expected_sha256} was expected",
                target=str(self.path),
                way_out="fetch the file again from a place that you trust",
            )
        origin = Origin(source=self.text, sha256=converted.sha256, conversion=converted.conversion)
        return Fetched(origin=origin, license=converted.license, hashes=converted.hashes)


@dataclass(frozen=True, slots=True)
class Converted:
    """What was made of a GGUF file."""

    sha256: str
    """Of the GGUF file."""
    conversion: str
    license: str
    hashes: Mapping[str, str] = field(default_factory=dict)


def convert_gguf(path: Path, into: Path, context: FetchContext, *, shown: Path | None = None) -> Converted:
    """Write ``model.safetensors``, ``config.json`` and the tokenizer's files into the folder ``into``.

    ``shown`` is the path that errors name, where the file was unpacked from an archive. Raises ``InvalidModel`` for a
    file that is cut short, of an unknown architecture, or with tensors that are missing or unknown.
    """
    target = str(shown or path)
    try:
        return _convert(path, into, context)
    except InvalidModel as error:
        if error.target is None:
            error.target = target
        raise


def _convert(path: Path, into: Path, context: FetchContext) -> Converted:
    from tunesmith.models.sources.gguf_tokenizer import write_tokenizer

    file = read_gguf(path)
    meta, tensors = file.metadata, file.tensors
    family = family_of(meta)
    tied = "output.weight" not in tensors
    if "token_embd.weight" not in tensors:
        raise InvalidModel("the GGUF file has no token_embd.weight", way_out="this file holds no whole chat model")
    vocab_size = tensors["token_embd.weight"].shape[0]
    kinds = sorted({tensor.kind.name for tensor in tensors.values() if len(tensor.shape) > 1})
    dtype = {("F32",): "F32", ("F16",): "F16"}.get(tuple(kinds), "BF16")
    rotary = {name: _floats(file, tensors[name])[0] for name in ROTARY_TENSORS if name in tensors}
    config = make_config(meta, family, vocab_size=vocab_size, tied=tied, rotary=rotary, dtype=DTYPE_NAMES[dtype])
    names = expected_tensors(family, config["num_hidden_layers"], tied=tied)
    missing = [name for name in names if name not in tensors]
    unknown = [name for name in tensors if name not in names and name not in ROTARY_TENSORS]
    if missing or unknown:
        parts = [f"{len(missing)} tensors are missing ({', '.join(missing[:3])})"] if missing else []
        parts += [f"{len(unknown)} tensors are not known ({', '.join(unknown[:3])})"] if unknown else []
        raise InvalidModel(
            f"the file does not have the tensors of a {family.architecture}: {' and '.join(parts)}",
            way_out="import the model's Hugging Face folder instead of this GGUF file",
        )
    write_tokenizer(meta, into, context_length=config["max_position_embeddings"])
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    announced = [(names[n], dtype, tensors[n].shape) for n in names]
    total = sum(tensors[name].elements for name in names) * DTYPE_BYTES[dtype]
    require_room(into, total, f"the model {context.name!r}")
    done = 0
    with SafetensorsWriter(into / WEIGHTS_FILE, announced) as writer:
        for name in names:
            writer.write(names[name], _encoded(file, tensors[name], dtype, family, config))
            done += tensors[name].elements * DTYPE_BYTES[dtype]
            context.reporter.progress("convert", done, total, unit="bytes")
    quantised = not {*kinds} <= {"F32", "F16", "BF16"}
    return Converted(
        sha256=sha256_of(path),
        conversion=f"{'dequantised' if quantised else 'converted'} from GGUF {', '.join(kinds)} to "
        f"{DTYPE_NAMES[dtype]}",
        license=str(meta.get("general.license", "")),
        hashes={WEIGHTS_FILE: writer.sha256},
    )


def _floats(file: GgufFile, tensor: GgufTensor, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    """Rows ``start`` to ``stop`` of a tensor, dequantised; a vector is one row."""
    from gguf import dequantize

    try:
        weights: NDArray[np.float32] = dequantize(file.data(tensor, start, stop), tensor.kind)
    except NotImplementedError as error:
        raise InvalidModel(
            f"the tensor {tensor.name} is stored as {tensor.kind.name}, which cannot be dequantised here",
            way_out="use a GGUF file of another quantisation (Q8_0, Q6_K, Q4_K, F16), or the Hugging Face folder",
        ) from error
    return weights


def _encoded(
    file: GgufFile, tensor: GgufTensor, dtype: str, family: Family, config: Mapping[str, Any]
) -> Iterator[memoryview]:
    """The tensor's bytes in ``dtype``, a block of rows at a time where no row depends on another."""
    rows = tensor.elements // tensor.shape[-1]
    step = ROWS_AT_ONCE if rows > ROWS_AT_ONCE else max(rows, 1)
    for start in range(0, rows, step):
        weights = restore(tensor.name, _floats(file, tensor, start, start + step), family, config)
        yield _bytes(weights, dtype, tensor.name)


def _bytes(weights: NDArray[np.float32], dtype: str, name: str) -> memoryview:
    import numpy as np

    if not np.isfinite(weights).all():
        raise InvalidModel(f"the tensor {name} has values that are not finite", way_out="download the file again")
    if dtype == "F32":
        return np.ascontiguousarray(weights, dtype="<f4").data.cast("B")
    if dtype == "F16":
        return np.ascontiguousarray(weights, dtype="<f2").data.cast("B")
    bits = np.array(weights, dtype="<f4", order="C").view("<u4")  # a copy: rounded in place
    bits += 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    return (bits >> 16).astype("<u2").data.cast("B")
