"""A Hugging Face model folder or a model package on this machine."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import InvalidModel
from tunesmith.models.facts import read_config
from tunesmith.models.files import copy_hashed, require_room, sha256_of
from tunesmith.models.package import MANIFEST_FILE, FileEntry, Manifest, ModelPackage, Origin, tree_sha256
from tunesmith.models.sources.base import FetchContext, Fetched
from tunesmith.models.weights import INDEX_FILE, PICKLED_SUFFIXES, WEIGHTS_FILE, read_tensors, weight_files

CONFIG_PATTERNS = ("config.json", "generation_config.json")
TOKENIZER_PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
PAPER_PATTERNS = ("LICENSE*", "NOTICE*", "README.md", "USE_POLICY*")
MORE_TEMPLATES = "additional_chat_templates"
"""Templates beside the first, such as one for tools."""
WANTED = (*CONFIG_PATTERNS, *TOKENIZER_PATTERNS, *PAPER_PATTERNS, f"{MORE_TEMPLATES}/*.jinja")
"""What a package takes from a folder beside its weights. No code, no pickles."""


def wanted(name: str) -> bool:
    """Whether a file, by its path in the folder, belongs into a package, weights apart."""
    return any(name.count("/") == p.count("/") and fnmatch.fnmatchcase(name, p) for p in WANTED)


def wanted_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that belong into a package by the names they get, weights apart."""
    there = [*folder.iterdir(), *folder.glob(f"{MORE_TEMPLATES}/*.jinja")]
    names = {path.relative_to(folder).as_posix(): path for path in sorted(there) if path.is_file()}
    return {name: path for name, path in names.items() if wanted(name)}


def license_of(readme: Path) -> str:
    """The licence named in the front matter of a model card, or an empty string."""
    if not readme.is_file():
        return ""
    head = readme.read_text(encoding="utf-8", errors="replace")[:4000]
    front = re.match(r"^---\s*\n(.*?)\n---", head, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.\-+ ]+)", front[1], re.MULTILINE) if front else None
    return found[1].strip() if found else ""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Files are copied, never linked: what happens to the folder afterwards does not reach the package."""

    text: str
    path: Path

    def _files(self) -> dict[str, Path]:
        """The files to take by the name they get. Weights come from ``path``, a lone weight file gets the usual
        name."""
        weights = weight_files(self.path)
        files = wanted_files(self.path)
        if len(weights) == 1 and not (self.path / INDEX_FILE).is_file():
            files[WEIGHTS_FILE] = self.path / weights[0]
        else:
            files[INDEX_FILE] = self.path / INDEX_FILE
            files.update({name: self.path / name for name in weights})
        return files

    def matches(self, manifest: Manifest, context: FetchContext) -> bool:
        """Whether the folder still has the content that the package was made from."""
        if (self.path / MANIFEST_FILE).is_file():
            return ModelPackage.open(self.path).sha256 == manifest.sha256
        return content_sha256(self._files()) == manifest.origin.sha256

    def fetch(self, into: Path, context: FetchContext) -> Fetched:
        """Check the folder, then copy what a package needs."""
        if (self.path / MANIFEST_FILE).is_file():
            return self._fetch_package(into, context)
        read_config(self.path)  # the plainest fault first
        read_tensors(self.path)
        files = self._files()
        self._say_what_stays(files, context)
        hashes = copy_files(files, into, context)
        return Fetched(
            origin=Origin(source=self.text, sha256=content_sha256(files, hashes)),
            license=license_of(into / "README.md"),
            hashes=hashes,
        )

    def _fetch_package(self, into: Path, context: FetchContext) -> Fetched:
        package = ModelPackage.open(self.path)
        hashes = copy_files({name: self.path / name for name in package.manifest.files}, into, context)
        for name, entry in package.manifest.files.items():
            if hashes[name] != entry.sha256:
                raise InvalidModel(
                    f"{name} of the package is damaged: its sha256 is not the manifest's",
                    target=str(self.path / name),
                    way_out="import the model again from its first source",
                )
        origin = package.manifest.origin
        return Fetched(origin=origin, license=package.manifest.license, hashes=hashes, packaged=True)

    def _say_what_stays(self, files: dict[str, Path], context: FetchContext) -> None:
        taken = set(files.values())
        left = [path for path in sorted(self.path.iterdir()) if path.is_file() and path not in taken]
        pickled = [path.name for path in left if path.suffix in PICKLED_SUFFIXES]
        code = [path.name for path in left if path.suffix == ".py"]
        for code_name, names, what in (
            ("PickledFilesLeft", pickled, "pickled files beside the safetensors"),
            ("CodeLeft", code, "files with code, which is never run"),
        ):
            if names:
                context.reporter.notice(
                    code_name,
                    f"{len(names)} {what} were not taken: {', '.join(names[:4])}",
                    level="info",
                    count=len(names),
                )


def copy_files(files: dict[str, Path], into: Path, context: FetchContext) -> dict[str, str]:
    """Copy ``files`` (new name: path) into the folder; the sha256 of each by its new name."""
    total = sum(path.stat().st_size for path in files.values())
    require_room(into, total, f"the model {context.name!r}")
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        context.reporter.progress("copy", done, total, unit="bytes")

    hashes = {}
    for name, path in files.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        hashes[name] = copy_hashed(path, into / name, advance)
    return hashes


def content_sha256(files: Mapping[str, Path], known: Mapping[str, str] | None = None) -> str:
    """One hash over files by the names they get; ``known`` has the hashes of those that were read already."""
    entries = {
        name: FileEntry(sha256=(known or {}).get(name) or sha256_of(path), bytes=path.stat().st_size)
        for name, path in files.items()
    }
    return tree_sha256(entries)
