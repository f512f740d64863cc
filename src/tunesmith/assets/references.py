"""References: the ways in which Azure ML names a thing.

``parse_reference`` only reads; whether the thing exists is a service's business. The forms:

    azureml://registries/R/models/N/versions/V          an asset of a registry (also components, data, environments)
    azureml://registries/R/models/N/labels/L            … the version that a label points at
    azureml:N:V   azureml:N@L   N:V   N@L   N           an asset on the workspace's own shelf; without a version: latest
    azureml://jobs/J/outputs/O[/paths/P]                a job's output, or something in it
    azureml://datastores/D/paths/P                      a path in a datastore
    azureml://locations/…/workspaces/…/models/N/versions/V             long forms of the above; the workspace named
    azureml://subscriptions/…/workspaces/…/datastores/D/paths/P        there stands for this one
    /subscriptions/…/workspaces/…/models/N/versions/V   an ARM id
    https://…   file:///…   ./a/path   /a/path          a URL, a local path
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import unquote, urlsplit

from tunesmith.errors import UserError, ValidationFailed
from tunesmith.records.assets import WORKSPACE, AssetKind
from tunesmith.storage import names

KINDS: tuple[AssetKind, ...] = get_args(AssetKind)
LATEST = "latest"

FORMS = (
    "azureml:NAME:VERSION, azureml:NAME@latest, azureml://registries/REGISTRY/models/NAME/versions/VERSION, "
    "azureml://jobs/JOB/outputs/OUTPUT, azureml://datastores/DATASTORE/paths/PATH, or a path such as ./folder"
)


@dataclass(frozen=True, slots=True)
class AssetReference:
    """An asset: by version, by label, or (neither given) the latest."""

    name: str
    version: str | None = None
    label: str | None = None
    registry: str | None = None
    """``None``: the text names none; ``workspace``: the workspace's own shelf and no other."""
    kind: AssetKind | None = None
    """``None``: the text does not say; the place where it stands does."""

    def __str__(self) -> str:
        if self.registry is None or self.registry == WORKSPACE:
            if self.version is not None:
                return f"azureml:{self.name}:{self.version}"
            return f"azureml:{self.name}@{self.label or LATEST}"
        where = f"versions/{self.version}" if self.version is not None else f"labels/{self.label or LATEST}"
        return f"azureml://registries/{self.registry}/{self.kind or 'models'}/{self.name}/{where}"


@dataclass(frozen=True, slots=True)
class JobOutputReference:
    """An output of a job, or a path inside it."""

    job: str
    output: str
    path: str = ""

    def __str__(self) -> str:
        return f"azureml://jobs/{self.job}/outputs/{self.output}" + (f"/paths/{self.path}" if self.path else "")


@dataclass(frozen=True, slots=True)
class DatastoreReference:
    """A path in a datastore."""

    datastore: str
    path: str

    def __str__(self) -> str:
        return f"azureml://datastores/{self.datastore}/paths/{self.path}"


@dataclass(frozen=True, slots=True)
class UrlReference:
    """Something on the network, or in a cloud's store."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class PathReference:
    """A path on this machine, as it was written (``~`` expanded); relative ones start where the caller says."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Reference: TypeAlias = AssetReference | JobOutputReference | DatastoreReference | UrlReference | PathReference


def parse_reference(
    text: str,
    *,
    kind: AssetKind | None = None,
    bare: Literal["asset", "path"] = "asset",
    target: str | None = None,
) -> Reference:
    """What ``text`` names.

    Args:
        text: the reference.
        kind: the kind of asset that is wanted here; a text that names another is a fault.
        bare: what a text without any mark (``train.jsonl``, ``my-model:3``) is. Azure ML's YAML takes a path there,
            its SDK's ``get`` a name.
        target: the field that the text came from, for the error.

    Raises:
        ValidationFailed: naming the text, what is wrong with it and the right forms.
    """
    if not isinstance(text, str) or not text.strip():
        raise _fault(str(text), "it is empty", target)
    text = text.strip()
    if "\0" in text or "\n" in text:
        raise _fault(text, "it has a line break or a NUL", target)
    found = _parse(text, bare, target)
    if isinstance(found, AssetReference) and kind is not None:
        if found.kind is None:
            found = AssetReference(found.name, found.version, found.label, found.registry, kind)
        elif found.kind != kind:
            raise _fault(text, f"it names one of {found.kind}, and one of {kind} is wanted here", target)
    return found


def parse_asset(text: str, *, kind: AssetKind | None = None, target: str | None = None) -> AssetReference:
    """``parse_reference`` where only an asset will do."""
    found = parse_reference(text, kind=kind, target=target)
    if not isinstance(found, AssetReference):
        raise _fault(text, f"it does not name one of {kind or 'the assets'}", target)
    return found


def _parse(text: str, bare: str, target: str | None) -> Reference:
    if text.startswith("azureml://"):
        return _long(text, text.removeprefix("azureml://"), target)
    if text.startswith("azureml:"):
        inner = text.removeprefix("azureml:")
        if inner.startswith("azureml://"):
            return _long(text, inner.removeprefix("azureml://"), target)
        if _is_arm(inner):
            return _long(text, inner.lstrip("/"), target)
        return _short(text, inner, target)
    if _is_arm(text):
        return _long(text, text.lstrip("/"), target)
    if text.startswith("file:"):
        return _file(text, target)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", text):
        return UrlReference(text)
    if bare == "path" or text.startswith(("/", ".", "~")) or "/" in text or "\\" in text:
        return _path(text, target)
    return _short(text, text, target)


def _is_arm(text: str) -> bool:
    return text.lower().lstrip("/").startswith("subscriptions/") and text.startswith("/")


def _short(text: str, inner: str, target: str | None) -> AssetReference:
    if ":" in inner and "@" not in inner.split(":", 1)[0]:
        name, version = inner.split(":", 1)
        return AssetReference(_name(text, name, target), version=_version(text, version, target))
    if "@" in inner:
        name, label = inner.split("@", 1)
        return AssetReference(_name(text, name, target), label=_label(text, label, target))
    return AssetReference(_name(text, inner, target))


def _long(text: str, inner: str, target: str | None) -> Reference:
    parts = [unquote(part) for part in inner.split("/")]
    registry: str | None = None
    lowered = [part.lower() for part in parts]
    if lowered[0] in {"locations", "subscriptions"}:
        # …/workspaces/W/… or …/registries/R/…: what comes before only says where Azure keeps it.
        for shelf in ("workspaces", "registries"):
            if shelf in lowered[:-1]:
                at = lowered.index(shelf)
                registry = parts[at + 1] if shelf == "registries" else None
                parts, lowered = parts[at + 2 :], lowered[at + 2 :]
                break
        else:
            raise _fault(text, "it names neither a workspace nor a registry", target)
    elif lowered[0] == "registries":
        if len(parts) < 2:
            raise _fault(text, "the registry's name is missing", target)
        registry = parts[1]
        parts, lowered = parts[2:], lowered[2:]
    if not parts:
        raise _fault(text, "it ends before it names a thing", target)
    if registry is not None:
        _rule(text, names.REGISTRY_NAME, registry, target)
    head = lowered[0]
    if head in KINDS:
        return _asset(text, head, parts, lowered, registry, target)
    if registry is not None:
        raise _fault(text, f"a registry has {', '.join(KINDS)}, and no {parts[0][:40]!r}", target)
    if head == "jobs":
        return _job_output(text, parts, lowered, target)
    if head == "datastores":
        if len(parts) < 4 or lowered[2] != "paths":
            raise _fault(text, "after the datastore comes /paths/ and a path", target)
        _rule(text, names.PLAIN_NAME, parts[1], target)
        return DatastoreReference(parts[1], _inner(text, parts[3:], target))
    raise _fault(text, f"{parts[0][:40]!r} is no kind of thing that can be referred to", target)


def _asset(
    text: str, kind: AssetKind, parts: list[str], lowered: list[str], registry: str | None, target: str | None
) -> AssetReference:
    if len(parts) < 2:
        raise _fault(text, f"the name is missing after {parts[0]}", target)
    name = _name(text, parts[1], target)
    rest = parts[2:]
    if not rest:
        return AssetReference(name, registry=registry, kind=kind)
    if len(rest) != 2 or lowered[2] not in {"versions", "labels"}:
        raise _fault(text, "after the name comes /versions/VERSION or /labels/LABEL, and nothing more", target)
    if lowered[2] == "versions":
        return AssetReference(name, version=_version(text, rest[1], target), registry=registry, kind=kind)
    return AssetReference(name, label=_label(text, rest[1], target), registry=registry, kind=kind)


def _job_output(text: str, parts: list[str], lowered: list[str], target: str | None) -> JobOutputReference:
    if len(parts) < 4 or lowered[2] != "outputs":
        raise _fault(text, "after the job comes /outputs/ and the output's name", target)
    _rule(text, names.JOB_NAME, parts[1], target)
    _rule(text, names.PORT_NAME, parts[3], target)
    rest = parts[4:]
    if not rest or rest == [""]:
        return JobOutputReference(parts[1], parts[3])
    if rest[0].lower() == "paths":
        rest = rest[1:]
    return JobOutputReference(parts[1], parts[3], _inner(text, rest, target) if any(rest) else "")


def _file(text: str, target: str | None) -> PathReference:
    split = urlsplit(text)
    if split.netloc not in {"", "localhost"}:
        raise _fault(text, f"it names a file of another machine, {split.netloc[:80]!r}", target)
    return _path(unquote(split.path), target, written=text)


def _path(text: str, target: str | None, written: str | None = None) -> PathReference:
    if not text:
        raise _fault(written or text, "the path is empty", target)
    try:
        return PathReference(Path(text).expanduser())
    except RuntimeError:
        raise _fault(written or text, "there is no such user", target) from None


def _inner(text: str, parts: list[str], target: str | None) -> str:
    kept = [part for part in parts if part not in {"", "."}]
    if ".." in kept:
        raise _fault(text, "a path with '..' may leave its folder", target)
    if not kept:
        raise _fault(text, "the path is empty", target)
    return "/".join(kept)


def _name(text: str, name: str, target: str | None) -> str:
    return _rule(text, names.ASSET_NAME, name, target)


def _version(text: str, version: str, target: str | None) -> str:
    return _rule(text, names.ASSET_VERSION, version, target)


def _label(text: str, label: str, target: str | None) -> str:
    return _rule(text, names.LABEL, label, target)


def _rule(text: str, rule: names.Rule, part: str, target: str | None) -> str:
    if not rule.admits(part):
        raise _fault(text, f"{part[:80]!r} is not a {rule.what} ({rule.words})", target)
    return part


def _fault(text: str, why: str, target: str | None) -> UserError:
    return ValidationFailed(f"{text[:300]!r} is not a reference: {why}", target=target, way_out=f"right forms: {FORMS}")
